"""From the probabilities of crops to scores of images, within each model and across joined runs.

All other rooms may import it.
"""
