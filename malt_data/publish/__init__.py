"""Share a forest and its exports on the Hub: push, pull, and the dataset card."""
