"""Reading data folders of every known layout into one image table.

`pipeline` and `hpa.reports` import it.
"""
