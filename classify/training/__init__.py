"""Fitting the network of one fold: loop, optimizer, history.

Only `classify.run` imports it.
"""
