"""Shared by all command lines: exit codes, one-sentence errors, and help that keeps its line breaks."""

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from hpa.errors import UserError

# A full disk, a quota, a missing permission, a file in the way or a name that is too long: the user can fix these, so
# they get a sentence and no traceback. NumPy raises an OSError without a number when it cannot write all of a file.
_USER_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EEXIST),
    *(errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    None,
}

Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads that networks compute with on the CPU; by default one per core that this process may use. A run"
        " that is resumed keeps its own number, because another gives other last digits.",
    ),
]
"""The option ``--threads`` of every command that trains or predicts."""

FigureFormat = Annotated[Literal["png", "pdf", "svg"], typer.Option("--figure-format", help="Format of the figures.")]
"""The option ``--figure-format`` of every command that draws figures into a folder (`hpa.pictures.FigureFormat`)."""

Code = Annotated[
    Path | None,
    typer.Option(
        help='Folder of your Python files that the recipe names, as in classify.loss = "my_module:my_loss". Their code'
        " is run, so use files that you trust; none is taken from anywhere else.",
    ),
]
"""The option ``--code`` of every command that makes or trains a network."""

_INTERRUPTED = 128 + 2  # by Ctrl+C


def new_app(runbook: str | None) -> typer.Typer:
    """Return a Typer application whose help is the runbook of the stage, line breaks included."""
    # Click rewraps every paragraph that does not start with this mark.
    kept = "\n\n".join(f"\b\n{block}" for block in (runbook or "").strip().split("\n\n"))
    return typer.Typer(
        help=kept, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
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
        The arguments after the program; None uses those of the process.

    Returns
    -------
    int
        0 done; 1 done, but more images failed than the recipe allows; 2 wrong usage or unusable input;
        130 interrupted by Ctrl+C.
    """
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name=program)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _USER_ERRORS:
            raise
        print(
            f"{program}: expected files that can be read and folders that can be written, with room on the disk, found:"
            f" {error}",
            file=sys.stderr,
        )
        return 2
    return 0
