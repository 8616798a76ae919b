"""Score predictions and make submissions from tables of other origin.

Only `aggregate.__main__` may import this room.
"""
