"""The commands. Each parses its options, calls the library once and prints the result."""
