"""Reports on a data set: `explore` and `leaks`.

Only `hpa.__main__` and `pipeline` import it.
"""
