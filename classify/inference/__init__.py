"""Running a trained network over crops: evaluation, prediction, test-time views.

`classify.training`, `classify.inspect` and the stage's runs import it.
"""
