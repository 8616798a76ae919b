"""Training the network of one fold: fit, loop, optimizer, history and the log of single crops.

`classify.run` imports it, and `classify.inspect` reads the history and the log.
"""
