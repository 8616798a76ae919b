"""The 28 protein patterns of the atlas.

The scene, the labels and the montage of `hpa.atlas` import it.
"""
