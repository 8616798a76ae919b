"""Other people's tables, scores and predictions.

Only `aggregate.__main__` imports it.
"""
