"""What goes wrong because of what a user gave us."""


class UserError(Exception):
    """A mistake a user can mend, told in one sentence: "expected ..., found ...".

    The command line prints the sentence without a traceback and exits with 2.
    """


class ImageError(Exception):
    """One image that cannot be used, with the reason in plain words.

    It goes to ``failures.csv``; the run goes on.
    """
