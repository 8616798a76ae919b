"""Crops as a model is trained on them: labels, channels, sampling, augmentation, normalisation.

All rooms of `classify` import it.
"""
