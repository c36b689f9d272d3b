"""Grow a forest: single trees, and whole builds."""
