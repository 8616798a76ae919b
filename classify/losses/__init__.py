"""Class losses, triplets, pooling that is trained through, and their sum.

`classify.inference` and `classify.training` import it.
"""
