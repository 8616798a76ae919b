"""Write the submission file, in the format of each competition.

`aggregate.external` and `aggregate.run` may import this room.
"""
