"""Which channels the network sees: some of the store's, or the mean of several as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.crops import CropSource
from hpa.errors import UserError


@dataclass(frozen=True)
class ChannelSource:
    """A store of crops of which some channels are read.

    Parameters
    ----------
    source
        The store.
    picks
        For each channel that is seen, the positions of those in the store whose mean it is.
    """

    source: CropSource
    picks: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.source)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return copies of the crops at `rows`, shape (N, len(picks), S, S)."""
        read = self.source.pixels(rows)
        seen = np.empty((len(read), len(self.picks), *read.shape[2:]), dtype=np.uint8)
        for c, picks in enumerate(self.picks):
            total = read[:, list(picks)].sum(axis=1, dtype=np.uint16)
            seen[:, c] = (total + len(picks) // 2) // len(picks)
        return seen

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pixels are the own cell's, shape (N, S, S)."""
        return self.source.masks(rows)


def seen_channels(chosen: Sequence[str], available: Sequence[str]) -> list[str]:
    """Return the names of the channels that the network sees: `chosen`, or all that are available."""
    return list(chosen) or list(available)


def pick_channels(source: Any, chosen: Sequence[str], available: Sequence[str]) -> CropSource:
    """Let `source`, a store of the channels `available`, be read as the recipe wants it.

    Parameters
    ----------
    source
        A `CropSource`.
    chosen
        `ClassifySection.channels`: names, some joined by ``+``; empty takes all.
    available
        The store's channels, in their order.

    Raises
    ------
    UserError
        If a channel is not in the store.
    """
    seen = seen_channels(chosen, available)
    if seen == list(available):
        store: CropSource = source
        return store
    for name in seen:
        for part in name.split("+"):
            if part not in available:
                raise UserError(f"expected classify.channels among those cut ({', '.join(available)}), found {part!r}")
    return ChannelSource(source, tuple(tuple(available.index(p) for p in name.split("+")) for name in seen))
