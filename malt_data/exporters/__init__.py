"""Exports: training sets from a forest, their formats, selection rules and checks."""
