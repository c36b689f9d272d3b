"""Training sets out of a forest: formats, selection, checks, proof, cards and the Hub."""
