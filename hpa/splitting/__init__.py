"""Leak groups, near-duplicates and folds.

`pipeline`, the stages and `hpa.reports` import it.
"""
