"""What people look at: text, tables and figures of forests, exports and results."""
