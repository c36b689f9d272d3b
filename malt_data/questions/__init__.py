"""Questions: sources, what their rows say, and the checks before a tree is grown."""
