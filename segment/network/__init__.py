"""The segmentation networks, compact and Cellpose: their weights, and the scale they work at.

All other rooms of `segment` import it.
"""
