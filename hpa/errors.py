"""Exceptions for problems with the user's input."""

from typing import Final

_MAX_CHARACTERS: Final = 1000
_KEPT_START: Final = 600
_KEPT_END: Final = 300  # where the remedy is


class _ShortError(Exception):
    """An exception whose message is shortened, because it quotes what a user's file contains, however long that is."""

    def __init__(self, message: str) -> None:
        if len(message) > _MAX_CHARACTERS:
            left_out = len(message) - _KEPT_START - _KEPT_END
            message = f"{message[:_KEPT_START]} [... {left_out:,} characters ...] {message[-_KEPT_END:]}"
        super().__init__(message)


class UserError(_ShortError):
    """A problem that the user can fix, described in one sentence: "expected ..., found ...".

    The command line prints the sentence without a traceback and exits with code 2.
    """


class ImageError(_ShortError):
    """One image that cannot be used, with the reason in plain words.

    The image is listed in ``failures.csv`` and the run continues.
    """
