"""The work folder, atomic files, tables, and work mapped over images in chunks.

Any module may import it.
"""
