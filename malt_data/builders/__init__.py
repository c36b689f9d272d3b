"""Growing a forest: one tree, and a whole build."""
