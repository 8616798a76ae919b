"""The class losses, the training objective, triplets, and differentiable pooling.

`classify.inference` and `classify.training` import it.
"""
