"""Crops as training data: labels, channels, batches, augmentation and normalisation.

All rooms of `classify` import it.
"""
