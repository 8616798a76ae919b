"""From the planes of an image to masks: reduce, normalise, run the network.

`segment.training` and the stage's runs import it.
"""
