"""Inspecting trained models: training curves, single crops, nearest neighbours and explanations of images.

Only `classify.__main__` imports it.
"""
