"""Pool the probabilities of crops into scores of images, within each model, and join several runs.

All other rooms of `aggregate` may import this one.
"""
