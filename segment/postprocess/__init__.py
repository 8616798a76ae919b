"""Turn the network output into label images of cells and nuclei.

The rooms `segment.inference` and `segment.training` import it, and so do the stage's runs.
"""
