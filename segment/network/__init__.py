"""The segmentation networks: compact and Cellpose, their weights and their scale.

The other rooms of `segment` import it.
"""
