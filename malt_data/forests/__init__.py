"""Forests on disk: creating, reading, labelling, relabelling and verifying them."""
