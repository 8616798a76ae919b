"""Training the network of one fold: fit, loop, optimizer and history.

`classify.run` imports it, and `classify.inspect` reads the history.
"""
