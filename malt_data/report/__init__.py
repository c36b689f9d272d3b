"""Reports for people: text, tables and figures of forests, exports and results."""
