"""Curves and points in the coordinates of small drawings, which the template draws as SVG.

Drawn by the page itself rather than by Matplotlib, so that they follow its colours, dark or light, and its letters stay
letters; 56 panels take a few hundred kilobytes and a fraction of a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

WIDTH: Final = 200
HEIGHT: Final = 140
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 6, 6, 24
_MAX_POINTS: Final = 120
"""Of a curve; more would be finer than a pixel."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Parameters
    ----------
    path
        Its points in px, as the attribute ``d`` of an SVG path.
    kind
        Class of its style.
    """

    path: str
    kind: str


@dataclass(frozen=True)
class Mark:
    """One point of a panel, in px, with what it says."""

    x: float
    y: float
    text: str
    kind: str = "mark"


@dataclass(frozen=True)
class Panel:
    """A small drawing with two axes.

    Parameters
    ----------
    title, note
        Heading, and a short text beside it.
    curves, marks
        What is drawn.
    x_ticks, y_ticks
        Places in px and their labels.
    x_label, y_label
        Names of the axes.
    text
        What it shows, in words.
    width, height
        Of the drawing, in px.
    """

    title: str
    note: str
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    y_label: str
    text: str
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the axes, in px."""
        return _LEFT, _TOP, self.width - _RIGHT, self.height - _BOTTOM


class Axes:
    """Ranges of two axes; turns values into the px of a panel.

    Parameters
    ----------
    x, y
        Lowest and highest value.
    width, height
        Of the drawing, in px.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], width: int = WIDTH, height: int = HEIGHT
    ) -> None:
        self._x, self._y = _widened(x), _widened(y)
        self.width, self.height = width, height

    def place(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the place of values, in px."""
        (x0, x1), (y0, y1) = self._x, self._y
        across = _LEFT + (np.asarray(x, dtype=np.float64) - x0) / (x1 - x0) * (self.width - _LEFT - _RIGHT)
        down = (
            self.height - _BOTTOM - (np.asarray(y, dtype=np.float64) - y0) / (y1 - y0) * (self.height - _TOP - _BOTTOM)
        )
        return across, down

    def curve(self, x: NDArray[Any], y: NDArray[Any], kind: str) -> Curve:
        """Return a line through points."""
        if len(x) > _MAX_POINTS:
            kept = np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).round().astype(int))
            x, y = x[kept], y[kept]
        places = zip(*self.place(x, y), strict=True)
        return Curve("M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places) if len(x) else "", kind)

    def mark(self, x: float, y: float, text: str, kind: str = "mark") -> Mark:
        """Return a point."""
        across, down = self.place(x, y)
        return Mark(round(float(across), 1), round(float(down), 1), text, kind)

    def panel(
        self,
        title: str,
        note: str,
        curves: Sequence[Curve],
        *,
        marks: Sequence[Mark] = (),
        x_label: str,
        y_label: str,
        text: str,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
    ) -> Panel:
        """Return a drawing with these curves, and ticks at round values."""
        xs = round_ticks(*self._x) if x_ticks is None else x_ticks
        ys = round_ticks(*self._y) if y_ticks is None else y_ticks
        across = tuple((round(float(self.place(value, self._y[0])[0]), 1), _label(value)) for value in xs)
        down = tuple((round(float(self.place(self._x[0], value)[1]), 1), _label(value)) for value in ys)
        return Panel(
            title, note, tuple(curves), tuple(marks), across, down, x_label, y_label, text, self.width, self.height
        )


def round_ticks(low: float, high: float) -> list[float]:
    """Return two to five round values between two others.

    Examples
    --------
    >>> round_ticks(0, 1)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    >>> round_ticks(1, 20)
    [5.0, 10.0, 15.0, 20.0]
    """
    span = high - low
    power = 10.0 ** np.floor(np.log10(span))
    step = next(power * factor for factor in (0.1, 0.2, 0.25, 0.5, 1, 2, 5) if span / (power * factor) <= 4.01)
    first = np.ceil(low / step - 1e-9)  # -0.0 for a range that begins at 0; adding 0.0 makes it 0.0
    return [float(round(k * step, 12)) + 0.0 for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    return (low, high) if high > low else (low, low + 1)


def _label(value: float) -> str:
    return f"{value:g}"
