"""Cellwise from Python: the few functions that a notebook needs."""
