"""The geometry of a field of view: outlines, cells and nuclei.

All other modules of `hpa.atlas` may import it.
"""
