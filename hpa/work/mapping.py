"""Map work over images in fixed chunks, which are the batch boundary, the shard and the unit of resuming.

Processing a chunk writes the chunk's own files first and its table part last, so the part marks the chunk as complete.
A run that resumes skips the chunks that have a part. A chunk with failed images is processed again in full, so that its
batches, and therefore its bits, equal those of an uninterrupted run.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pandas as pd

from hpa.errors import ImageError, UserError
from hpa.work.cluster import cluster_executor
from hpa.work.files import first_line, read_parquet, write_csv, write_parquet
from hpa.work.processes import worker_processes
from hpa.work.progress import progress

CHUNK_IMAGES: Final = 32

FAILURE: Final = "failure"
"""Column of every part: the reason why an image failed, null otherwise."""

Context = TypeVar("Context")


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the image table.

    Parameters
    ----------
    index
        Position of the chunk, from 0.
    images
        Its rows, in the order of the table (`hpa.images`, with any columns a stage joined to it).
    """

    index: int
    images: pd.DataFrame

    @property
    def image_ids(self) -> list[str]:
        """Ids of its images."""
        return list(self.images["image_id"])

    @property
    def name(self) -> str:
        """Stem of its files, for example ``00012``."""
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
    label: str,
    workers: int = 1,
    preload: Sequence[str] = (),
    dask: str = "",
    intact: Callable[[Context, pd.DataFrame], bool] = lambda _, part: True,
) -> pd.DataFrame:
    """Process every chunk that has no complete part and return all parts joined.

    Parameters
    ----------
    process
        Top-level function from a context and a chunk to the chunk's table part, with a column `FAILURE`; it writes
        its own files atomically before it returns.
    context
        What every chunk needs; must be picklable.
    chunks
        All chunks of the run.
    folder
        Folder of the parts, ``folder/00000.parquet`` and so on.
    label
        What the progress bar says.
    workers
        Number of processes; 1 does the work in the calling process.
    preload
        Modules that the worker processes import once, before they are forked.
    dask
        Address of a Dask scheduler whose workers do the work instead of local processes.
    intact
        From the context and a complete part, whether the files that the part describes are there.

    Returns
    -------
    DataFrame
        The parts, in the order of the chunks.
    """
    todo = [chunk for chunk in chunks if not _is_complete(_part(folder, chunk), chunk, partial(intact, context))]
    images = sum(len(chunk.images) for chunk in chunks)
    with progress(label, images) as advance:
        advance(images - sum(len(chunk.images) for chunk in todo))
        one = partial(_process_and_commit, process, context, folder)
        for chunk in _finished(one, todo, partial(_executor, workers, preload, dask)):
            advance(len(chunk.images))
    parts = [read_parquet(_part(folder, chunk)) for chunk in chunks]
    return pd.concat([part for part in parts if len(part)], ignore_index=True) if any(map(len, parts)) else parts[0]


def failure_reason(error: Exception, what: str) -> str:
    """Return the reason why an image failed, for its row: nothing in one image may end a stage.

    Parameters
    ----------
    error
        An `ImageError`, which says it, or whatever else the image made a library raise.
    what
        What could not be done with the image, "segmented" for one.
    """
    if isinstance(error, ImageError):
        return str(error)
    return f"the image cannot be {what} ({type(error).__name__}: {first_line(error)})"


def write_failures(path: Path, parts: pd.DataFrame) -> int:
    """Write the failed rows of joined parts as ``image_id, reason``, report their number and return it."""
    failed = parts.loc[parts[FAILURE].notna(), ["image_id", FAILURE]].rename(columns={FAILURE: "reason"})
    write_csv(path, failed.sort_values("image_id"))
    if len(failed):
        print(f"{len(failed)} image{'s' * (len(failed) > 1)} failed; reasons in {path}")
    return len(failed)


def _part(folder: Path, chunk: Chunk) -> Path:
    return folder / f"{chunk.name}.parquet"


def read_part(path: Path) -> pd.DataFrame | None:
    """Read what is written again where it is missing; a damaged file is thrown away, with a line that says so.

    Returns
    -------
    DataFrame or None
        The table; None if it is to be written again.
    """
    try:
        return read_parquet(path) if path.exists() else None
    except UserError as error:
        discard(path, str(error))
        return None


def discard(path: Path, reason: str) -> None:
    """Remove a file or folder that is made again, and say so."""
    print(f"making {path} again: {reason}")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_complete(path: Path, chunk: Chunk, intact: Callable[[pd.DataFrame], bool]) -> bool:
    part = read_part(path)
    if part is None:
        return False
    if FAILURE not in part or set(part.get("image_id", ())) != set(chunk.image_ids):
        discard(path, "expected a row for each of its images and whether it failed, found otherwise")
        return False
    if not part[FAILURE].isna().all():
        return False
    if not intact(part):
        discard(path, "expected the files that it describes, found some missing, damaged or replaced")
        return False
    return True


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
        except BrokenProcessPool:
            raise UserError(
                "expected every worker process to live, found one killed, perhaps for want of memory; run again with "
                "fewer --workers: what is finished is kept"
            ) from None
        except BaseException:
            for future in futures:
                future.cancel()
            raise


@contextmanager
def _executor(workers: int, preload: Sequence[str], dask: str, chunks: int) -> Iterator[Executor | None]:
    """Yield the executor for this number of chunks; None means the calling process."""
    if dask:
        with cluster_executor(dask) as executor:
            yield executor
    elif workers <= 1 or chunks <= 1:
        yield None
    else:
        with worker_processes(workers, preload=[__name__, *preload]) as executor:
            yield executor
