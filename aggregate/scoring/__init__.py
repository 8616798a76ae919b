"""Metrics with bootstrap intervals, printed as tables and drawn as figures.

`aggregate.external` and `aggregate.run` may import this room.
"""
