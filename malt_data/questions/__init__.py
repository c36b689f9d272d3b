"""Questions: opening sources, reading their rows, and checking them before trees are grown."""
