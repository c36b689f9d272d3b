"""Training sets out of a forest: formats, selection, checks, and the proof of a row."""
