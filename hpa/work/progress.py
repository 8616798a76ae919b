"""A progress bar on a terminal, and a line per minute elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from rich.progress import Task

_EVERY_S: Final = 60.0


class Advance(Protocol):
    """Says that some more work is done."""

    def __call__(self, steps: int, note: str = "") -> None:
        """Report steps.

        Parameters
        ----------
        steps
            Number of steps done since the last call.
        note
            What there is to say of them, such as a score; an empty text keeps the last note.
        """


@contextmanager
def progress(label: str, total: int, *, every_s: float = _EVERY_S) -> Iterator[Advance]:
    """Show on the standard error how far some work has come: a bar on a terminal, lines elsewhere.

    Both say how many steps are done, how many per second, how long the others will take, and the last note.

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
    Advance
        To be called when steps are done.
    """
    if not sys.stderr.isatty():
        yield _lines(label, total, every_s)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Steps per second."""

        def render(self, task: "Task") -> Text:
            """Return the rate of the last half a minute, or of the whole once it is done."""
            return Text(format_rate(task.finished_speed or task.speed or 0.0))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, note="")

        def advance(steps: int, note: str = "") -> None:
            """Move the bar by some steps."""
            bar.advance(task, steps)
            if note:
                bar.update(task, note=escape(note))

        yield advance


def format_rate(steps_per_s: float) -> str:
    """Return a rate as people read it, per second or, if it is slow, per minute.

    Examples
    --------
    >>> [format_rate(rate) for rate in (0, 0.05, 4.2, 1234.5)]
    ['', '3.0/min', '4.2/s', '1,234/s']
    """
    if steps_per_s <= 0:
        return ""
    if steps_per_s < 0.5:
        return f"{60 * steps_per_s:.1f}/min"
    return f"{steps_per_s:.1f}/s" if steps_per_s < 100 else f"{steps_per_s:,.0f}/s"


def format_left(seconds: float) -> str:
    """Return how long something will take, in the unit that people would use.

    Examples
    --------
    >>> [format_left(seconds) for seconds in (8, 300, 9000)]
    ['8 s left', '5 min left', '2.5 h left']
    """
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


def _lines(label: str, total: int, every_s: float) -> Advance:
    started = last = time.monotonic()
    done, at_start, said = 0, 0, ""

    def advance(steps: int, note: str = "") -> None:
        """Count some steps, and print a line now and then."""
        nonlocal done, last, said, at_start, started
        done += steps
        said = note or said
        now = time.monotonic()
        if done == steps and now - started < 1:  # what an earlier run had done already
            started, at_start = now, done
        if steps and done < total and now - last >= every_s:
            last = now
            rate = (done - at_start) / max(now - started, 1e-9)
            parts = [format_rate(rate), format_left((total - done) / rate)] if rate > 0 else []
            print(
                ", ".join([f"{label}: {done} of {total}", *parts, *([said] if said else [])]),
                file=sys.stderr,
                flush=True,
            )

    return advance
