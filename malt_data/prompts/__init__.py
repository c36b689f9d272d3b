"""Prompts: the templates of each role, and rendering a question with them."""
