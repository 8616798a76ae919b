"""Work over images in fixed chunks: the batch boundary, the shard and the unit of resuming.

A chunk's process writes its own files first and its table part last: the part is the commit mark. A run that was
killed goes on with the chunks that have no part; a chunk with failed images is done again as a whole, so that its
batches, and with them its bits, are those of an uninterrupted run.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import cv2
import pandas as pd

from hpa.work.cluster import cluster_executor
from hpa.work.files import write_csv, write_parquet
from hpa.work.progress import progress

CHUNK_IMAGES: Final = 32

FAILURE: Final = "failure"
"""Column of every part: why the image could not be used, null where it could."""

Context = TypeVar("Context")


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of the image table.

    Parameters
    ----------
    index
        Its number, from 0.
    images
        Its rows, in the order of the table (`hpa.images`, and what a stage joined to it).
    """

    index: int
    images: pd.DataFrame

    @property
    def image_ids(self) -> list[str]:
        """The ids of its images."""
        return list(self.images["image_id"])

    @property
    def name(self) -> str:
        """How its files are called, for example ``00012``."""
        return f"{self.index:05d}"


def cut_chunks(images: pd.DataFrame, size: int = CHUNK_IMAGES) -> list[Chunk]:
    """Cut the image table into chunks of `size` rows, the last one shorter."""
    return [Chunk(i, images.iloc[start : start + size]) for i, start in enumerate(range(0, len(images), size))]


def map_chunks(
    process: Callable[[Context, Chunk], pd.DataFrame],
    context: Context,
    chunks: Sequence[Chunk],
    folder: Path,
    *,
    workers: int = 1,
    what: str,
    preload: Sequence[str] = (),
    dask: str = "",
) -> pd.DataFrame:
    """Process every chunk that has no complete part yet and return all parts joined.

    Parameters
    ----------
    process
        Top-level function from a context and a chunk to the chunk's table part, with a column `FAILURE`; it writes
        its own files, whole or not at all, before it returns.
    context
        What every chunk needs; it must pickle.
    chunks
        All chunks of the run.
    folder
        Where parts lie, ``folder/00000.parquet``.
    workers
        Processes; with 1 the work is done in this one.
    what
        Told beside the progress bar.
    preload
        Modules that the worker processes import once, together.
    dask
        Address of a Dask scheduler whose workers do the work instead of processes of this machine.

    Returns
    -------
    DataFrame
        The parts, in the order of the chunks.
    """
    todo = [chunk for chunk in chunks if not _is_complete(_part(folder, chunk))]
    images = sum(len(chunk.images) for chunk in chunks)
    with progress(what, images) as advance:
        advance(images - sum(len(chunk.images) for chunk in todo))
        one = partial(_process_and_commit, process, context, folder)
        for chunk in _finished(one, todo, partial(_executor, workers, preload, dask)):
            advance(len(chunk.images))
    parts = [pd.read_parquet(_part(folder, chunk)) for chunk in chunks]
    return pd.concat([part for part in parts if len(part)], ignore_index=True) if any(map(len, parts)) else parts[0]


def write_failures(path: Path, parts: pd.DataFrame) -> int:
    """Write the failed rows of joined parts as ``image_id, reason``, tell of them and return how many there are."""
    failed = parts.loc[parts[FAILURE].notna(), ["image_id", FAILURE]].rename(columns={FAILURE: "reason"})
    write_csv(path, failed.sort_values("image_id"))
    if len(failed):
        print(f"images that failed: {len(failed)}, and why: {path}")
    return len(failed)


def _part(folder: Path, chunk: Chunk) -> Path:
    return folder / f"{chunk.name}.parquet"


def _is_complete(part: Path) -> bool:
    return part.exists() and bool(pd.read_parquet(part, columns=[FAILURE])[FAILURE].isna().all())


def _process_and_commit(
    process: Callable[[Any, Chunk], pd.DataFrame], context: Any, folder: Path, chunk: Chunk
) -> Chunk:
    write_parquet(_part(folder, chunk), process(context, chunk))
    return chunk


def _finished(
    one: Callable[[Chunk], Chunk],
    todo: Sequence[Chunk],
    executor_for: Callable[[int], AbstractContextManager[Executor | None]],
) -> Iterable[Chunk]:
    with executor_for(len(todo)) as executor:
        if executor is None:
            yield from map(one, todo)
            return
        futures = [executor.submit(one, chunk) for chunk in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


@contextmanager
def _executor(workers: int, preload: Sequence[str], dask: str, chunks: int) -> Iterator[Executor | None]:
    """Give what does the work of so many chunks; None for this very process."""
    if dask:
        with cluster_executor(dask) as executor:
            yield executor
    elif workers <= 1 or chunks <= 1:
        yield None
    else:
        spawning = multiprocessing.get_context("forkserver")
        spawning.set_forkserver_preload(["hpa.work.mapping", *preload])
        # One thread a process: the processes themselves fill the machine.
        with ProcessPoolExecutor(workers, spawning, cv2.setNumThreads, (1,)) as executor:
            yield executor
