"""Data folders of every supported layout, read into one image table.

`pipeline` and `hpa.reports` import it.
"""
