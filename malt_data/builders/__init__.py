"""Growing a forest: questions, prompts, the tree, values and labels, the build."""
