"""Calibrate scores, tune thresholds and turn scores into labels.

`aggregate.submission`, `aggregate.external` and `aggregate.run` may import this room.
"""
