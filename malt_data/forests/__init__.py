"""A forest as it is kept: values and labels, relabelling, verification, facts."""
