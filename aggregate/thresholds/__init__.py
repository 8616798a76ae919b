"""Tuning thresholds, calibrating, transferring and deciding.

`aggregate.submission`, `aggregate.external` and the stage's run import it.
"""
