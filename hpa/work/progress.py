"""A progress bar on a terminal, and a line per minute elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_EVERY_S: Final = 60.0


@contextmanager
def progress(label: str, total: int, *, every_s: float = _EVERY_S) -> Iterator[Callable[[int], None]]:
    """Show on the standard error how far some work has come: a bar on a terminal, lines elsewhere.

    Parameters
    ----------
    label
        What is being done, for example ``"segment"``.
    total
        Number of steps.
    every_s
        Seconds between two lines where there is no terminal.

    Yields
    ------
    callable
        To be called with the number of steps done since the last call.
    """
    if not sys.stderr.isatty():
        yield _lines(label, total, every_s)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)


def _lines(label: str, total: int, every_s: float) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        if steps and done < total and time.monotonic() - last >= every_s:
            last = time.monotonic()
            print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)

    return advance
