"""Looking at what was trained: curves and nearest neighbours.

Only `classify.__main__` imports it.
"""
