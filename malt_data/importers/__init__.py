"""Import completions that something else sampled: a reader for each kind of file, one importer."""
