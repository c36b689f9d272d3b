"""Storage: atomic files, parts, read-only SQL, the Hub."""
