"""What each role is asked: templates, and how a question fills them."""
