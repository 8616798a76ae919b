"""From the network's output to label images of cells and nuclei.

`segment.inference` and what follows it import it.
"""
