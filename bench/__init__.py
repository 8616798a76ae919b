"""Measurements against peers and limits: `python -m bench.NAME`."""
