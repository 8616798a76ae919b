"""The network: model, backbones, layers and checkpoint.

`classify.losses`, `classify.inference`, `classify.training` and the stage's runs import it.
"""
