"""The file that is handed in, in each competition's form.

`aggregate.external` and the stage's run import it.
"""
