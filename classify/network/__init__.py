"""The network, its backbones, layers and checkpoint.

Every room of `classify` but `data` imports it.
"""
