"""Exceptions for problems with the user's input."""


class UserError(Exception):
    """A problem that the user can fix, described in one sentence: "expected ..., found ...".

    The command line prints the sentence without a traceback and exits with code 2.
    """


class ImageError(Exception):
    """One image that cannot be used, with the reason in plain words.

    The image is listed in ``failures.csv`` and the run continues.
    """
