"""Leak groups, near-duplicates, folds and the quality of splits.

`pipeline`, the stages and `hpa.reports` import it.
"""
