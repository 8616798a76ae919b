"""Drawn cells for pretraining, in rounds: while a network trains on one, other processes draw the next."""

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, Protocol, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.work.files import write_bytes
from hpa.work.processes import worker_processes

Drawn = tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]
PART: Final = 512
"""Cells that a process draws at a time."""

_MOST_PARTS: Final = 4096  # of a round


class Draw(Protocol):
    """A function that draws cells, such as `crops.synthesize.draw_crops`."""

    def __call__(self, seed: int, n_cells: int, size_px: int, *, part: int) -> Iterator[Drawn]:
        """Yield crops (n, 4, S, S), own pixels (n, S, S) and classes (n, K); parts of a seed are independent."""


@dataclass(frozen=True)
class Cells:
    """Drawn cells with their true classes.

    Parameters
    ----------
    pixels
        Shape (n, 4, S, S), uint8.
    own
        Packed bits of each crop's own pixels, shape (n, ceil(S S / 8)), uint8.
    targets
        Shape (n, K), bool.
    """

    pixels: NDArray[np.uint8]
    own: NDArray[np.uint8]
    targets: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pixels)

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the own pixels of some crops, shape (len(rows), S, S)."""
        side = self.pixels.shape[2]
        bits = np.unpackbits(self.own[rows], axis=1, count=side * side)
        return bits.reshape(-1, side, side).view(bool)

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """Return the cells of all parts."""
        return cls(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.own for part in parts]),
            np.concatenate([part.targets for part in parts]),
        )

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a part; None if there is none or it is damaged."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return cls(stored["pixels"], stored["own"], stored["targets"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None


def draw_part(draw: Draw, path: Path, seed: int, part: int, n: int, size_px: int) -> None:
    """Draw `n` cells into a file, unless they are there."""
    if Cells.read(path) is not None:
        return
    pixels, own, targets = (np.concatenate(every)[:n] for every in zip(*draw(seed, n, size_px, part=part), strict=True))
    buffer = BytesIO()
    np.savez(buffer, pixels=pixels, own=np.packbits(own.reshape(n, -1), axis=1), targets=targets)
    write_bytes(path, buffer.getvalue())


class Rounds:
    """Rounds of drawn cells; at most two of them are on the disk at a time.

    Which cells a round has depends on its number and the seed alone, not on the number of processes.

    Parameters
    ----------
    executor
        Processes that draw.
    draw
        The function that draws, which other processes can import.
    folder
        Where the cells of unfinished rounds are.
    seed
        Seed of all cells.
    size_px
        Side of the crops.
    """

    def __init__(self, executor: ProcessPoolExecutor, draw: Draw, folder: Path, seed: int, size_px: int) -> None:
        self._executor = executor
        self._draw = draw
        self._folder = folder
        self._seed = seed
        self._size_px = size_px
        self._tasks: dict[int, list[Future[None]]] = {}

    def begin(self, number: int, n: int) -> None:
        """Start to draw the `n` cells of a round."""
        sizes = [min(PART, n - first) for first in range(0, n, PART)]
        self._tasks[number] = [
            self._executor.submit(
                draw_part,
                self._draw,
                self._path(number, part),
                self._seed,
                number * _MOST_PARTS + part,
                size,
                self._size_px,
            )
            for part, size in enumerate(sizes)
        ]

    def is_ready(self, number: int) -> bool:
        """Return whether a round that was begun is drawn."""
        return all(task.done() for task in self._tasks[number])

    def wait(self, number: int) -> Cells:
        """Return the cells of a round that was begun."""
        for task in self._tasks[number]:
            task.result()
        parts = [Cells.read(self._path(number, part)) for part in range(len(self._tasks[number]))]
        if any(part is None for part in parts):
            raise UserError(f"expected the cells just drawn in {self._folder}, found them removed or changed")
        return Cells.join([part for part in parts if part is not None])

    def discard(self, number: int) -> None:
        """Remove the cells of a round."""
        shutil.rmtree(self._path(number, 0).parent, ignore_errors=True)

    def _path(self, number: int, part: int) -> Path:
        return self._folder / f"round-{number:05d}" / f"part-{part:03d}.npz"


@contextmanager
def drawing(draw: Draw, folder: Path, seed: int, size_px: int, workers: int) -> Iterator[Rounds]:
    """Start the processes that draw rounds; they end with this context."""
    with worker_processes(workers) as executor:
        try:
            yield Rounds(executor, draw, folder, seed, size_px)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
