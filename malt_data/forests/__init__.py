"""A forest as it is kept: parts on disk, and what can be asked of them."""
