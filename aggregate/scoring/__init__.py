"""Metrics with their bootstrap intervals, as tables and figures.

`aggregate.external` and the stage's run import it.
"""
