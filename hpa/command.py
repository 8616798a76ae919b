"""What every command line of the project shares: exit codes and one-sentence errors."""

import errno
import sys
from collections.abc import Sequence

import typer

from hpa.errors import UserError

# What a full disk, a quota, a missing permission or a file in the way looks like: the user's to mend, not a defect of
# ours. NumPy raises an OSError without a number when a file cannot be written in full.
_USERS_OWN = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EEXIST),
    None,
}


def new_app(runbook: str | None) -> typer.Typer:
    """Make a Typer application whose help is the runbook of the stage."""
    return typer.Typer(
        help=runbook, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )


def call(app: typer.Typer, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    app
        The application.
    program
        How the user calls it, for example ``"python -m segment"``.
    arguments
        What stands after the program; None takes the process's own.

    Returns
    -------
    int
        0 done; 1 done, but more images failed than the recipe allows; 2 wrong usage or unusable input.
    """
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name=program)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _USERS_OWN:
            raise
        print(
            f"{program}: expected a folder that can be written, with room on its disk, found: {error}", file=sys.stderr
        )
        return 2
    return 0
