"""Write and open the shards of a store, which contain the pixels of its crops, plain or compressed.

``shard-00000.npy`` is uint8 of shape (n, C, S, S). ``shard-00000.mask.npy`` is uint8 of shape (n, ceil(S * S / 8)), the
packed bits of each crop's own pixels. ``numpy.load(..., mmap_mode="r")`` opens both. A compressed shard has two files
instead of the first: ``shard-00000.zst``, one Zstandard frame per crop (``zstd -d`` restores all bytes), and
``shard-00000.index.npy``, int64: C, S, S, then the offset of each of the n frames and the end of the last one.
"""

import io
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as arrow
from numpy.lib import format as npy
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.work.files import atomic_write, first_line

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

_HEADER_BYTES: Final = 128
_MAX_OPEN: Final = 128  # shards, where the system does not say how many files a process may open
_LEVEL: Final = 1  # higher levels take longer and save nothing on noisy microscopy images


class ShardWriter:
    """Write one shard, crop by crop. Its files appear complete or not at all, and only if there are crops.

    Parameters
    ----------
    folder
        The folder of the store.
    index
        Number of the shard.
    compress
        Write a compressed shard.
    """

    def __init__(self, folder: Path, index: int, *, compress: bool = False) -> None:
        self.n = 0
        self._folder = folder
        self._index = index
        self._codec = arrow.Codec("zstd", compression_level=_LEVEL) if compress else None
        self._offsets = [0]
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self._files: tuple[io.BufferedWriter, io.BufferedWriter] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def add(self, crops: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
        """Append crops, shape (n, C, S, S), and their masks, shape (n, S, S), bool."""
        if not len(crops):
            return
        packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
        self._shapes = (crops.shape[1:], packed.shape[1:])
        pixels, bits = self._files or self._begin()
        bits.write(np.ascontiguousarray(packed).data)
        crops = np.ascontiguousarray(crops)
        if self._codec is None:
            pixels.write(crops.data)
        else:
            for crop in crops:
                self._offsets.append(self._offsets[-1] + pixels.write(self._codec.compress(crop.data, asbytes=True)))
        self.n += len(crops)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._files and error is None:
            self._end(*self._files)
        self._open.__exit__(kind, error, trace)

    def _begin(self) -> tuple[io.BufferedWriter, io.BufferedWriter]:
        pixels_path = _frames_path if self._codec else shard_path
        # The pixels are renamed last, so that a shard with pixels is always complete.
        pixels = self._open.enter_context(atomic_write(pixels_path(self._folder, self._index)))
        bits = self._open.enter_context(atomic_write(mask_path(self._folder, self._index)))
        self._files = (
            self._open.enter_context(pixels.open("wb")),
            self._open.enter_context(bits.open("wb")),
        )
        for file in self._files[bool(self._codec) :]:
            file.write(bytes(_HEADER_BYTES))  # space for the header, which is written last, when n is known
        return self._files

    def _end(self, pixels: io.BufferedWriter, bits: io.BufferedWriter) -> None:
        _write_header(bits, (self.n, *self._shapes[1]))
        if self._codec is None:
            _write_header(pixels, (self.n, *self._shapes[0]))
            return
        index = np.array([*self._shapes[0], *self._offsets], dtype=np.int64)
        with atomic_write(_index_path(self._folder, self._index)) as partial:
            np.save(partial, index, allow_pickle=False)


def _write_header(file: io.BufferedWriter, shape: tuple[int, ...]) -> None:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert header.tell() == _HEADER_BYTES
    file.seek(0)
    file.write(header.getvalue())


Fetch = Callable[[int, NDArray[np.uint8]], None]
"""Copies one row of a shard, given by its number, into an array."""


@dataclass(frozen=True)
class OpenShard:
    """One file of a shard, open for reading.

    Parameters
    ----------
    shape
        Shape of one row: (C, S, S) for pixels, (bytes,) for packed bits.
    rows
        Number of rows.
    fetch
        Copies a row, given by its number, into an array of that shape.
    """

    shape: tuple[int, ...]
    rows: int
    fetch: Fetch


def open_pixels(folder: Path, index: int) -> OpenShard:
    """Open the pixels of a shard, plain or compressed.

    Raises
    ------
    UserError
        If its files are missing or damaged.
    """
    path = shard_path(folder, index)
    return _open_frames(folder, index) if not path.exists() and _frames_path(folder, index).exists() else _open(path)


def open_masks(folder: Path, index: int) -> OpenShard:
    """Open the packed masks of a shard.

    Raises
    ------
    UserError
        If the file is missing or damaged.
    """
    return _open(mask_path(folder, index))


def cached(opener: Callable[[Path, int], OpenShard], folder: Path) -> Callable[[int], OpenShard]:
    """Return `opener` with the most recently used shards kept open.

    Every open shard uses one file descriptor, so their number is limited to a quarter of those the process may have.
    """
    max_open = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4) if resource else _MAX_OPEN
    return lru_cache(max_open)(lambda index: opener(folder, index))


def remove_shard(folder: Path, index: int) -> None:
    """Remove the files of a shard, if there are any."""
    for path in (shard_path, mask_path, _frames_path, _index_path):
        path(folder, index).unlink(missing_ok=True)


def shard_bytes(folder: Path) -> int:
    """Return the total size of the shards of a store in bytes."""
    return sum(path.stat().st_size for path in folder.glob("shard-*"))


def shard_path(folder: Path, index: int) -> Path:
    """Return the path of a plain shard's pixels."""
    return folder / f"shard-{index:05d}.npy"


def mask_path(folder: Path, index: int) -> Path:
    """Return the path of a shard's masks."""
    return folder / f"shard-{index:05d}.mask.npy"


def _frames_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.zst"


def _index_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.index.npy"


def _open(path: Path) -> OpenShard:
    array = np.asarray(_load(path, np.uint8))  # a plain view: indexing a memmap costs a microsecond more per crop

    def fetch(row: int, out: NDArray[np.uint8]) -> None:
        out[...] = array[row]

    return OpenShard(array.shape[1:], len(array), fetch)


def _open_frames(folder: Path, index: int) -> OpenShard:
    head = np.array(_load(_index_path(folder, index), np.int64))
    if head.ndim != 1 or len(head) < 4 or head.min() < 0 or (np.diff(head[3:]) < 0).any():
        raise _damaged(_index_path(folder, index), "other numbers")
    shape, offsets = tuple(int(length) for length in head[:3]), head[3:].tolist()
    path = _frames_path(folder, index)
    if path.stat().st_size != offsets[-1]:
        raise _damaged(path, f"{path.stat().st_size} bytes, not {offsets[-1]}")
    frames = arrow.py_buffer(np.memmap(path, dtype=np.uint8, mode="r"))
    codec = arrow.Codec("zstd")
    n_bytes = int(np.prod(shape))

    def fetch(row: int, out: NDArray[np.uint8]) -> None:
        try:
            crop = codec.decompress(frames[offsets[row] : offsets[row + 1]], n_bytes)
        except (OSError, ValueError) as error:
            raise _damaged(path, first_line(error)) from None
        out[...] = np.frombuffer(crop, dtype=np.uint8).reshape(shape)

    return OpenShard(shape, len(offsets) - 1, fetch)


def _load(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    if not path.is_file():
        raise _damaged(path, "no such file")
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged bytes make the reader raise whatever they lead it to
        raise _damaged(path, first_line(error)) from None
    if not isinstance(loaded, np.ndarray) or loaded.dtype != dtype or not loaded.ndim or not loaded.flags.c_contiguous:
        raise _damaged(path, "another array")
    return loaded


def _damaged(path: Path, found: str) -> UserError:
    return UserError(f"expected a shard of crops {path}, found {found}; rerun `python -m crops run` with --overwrite")
