"""Pipelines that are not MALT's."""

CRITICS = """
[[turns]]
role = "solver"
n = 2
[[turns]]
role = "critic"
judges = true
[[turns]]
role = "solver"
prompt = "again"
"""
"""A solver, its critic, and the solver again: the turns of a pipeline file, without prompts."""
