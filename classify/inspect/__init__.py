"""Inspecting trained models: training curves and nearest neighbours.

Only `classify.__main__` imports it.
"""
