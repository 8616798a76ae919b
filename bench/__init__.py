"""Measure the project against other tools and theoretical limits: `python -m bench.NAME`."""
