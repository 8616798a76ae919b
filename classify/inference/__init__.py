"""Running trained networks over crops: outputs, evaluation and prediction.

`classify.training`, `classify.inspect` and the stage's runs import it.
"""
