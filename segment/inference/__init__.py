"""Turn images into masks: find the scale, prepare the input, run the network.

The room `segment.training` imports it, and so do the stage's runs.
"""
