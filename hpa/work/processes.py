"""Worker processes that end with the process that started them, however it ends."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

import cv2


@contextmanager
def worker_processes(
    workers: int, *, preload: Sequence[str] = (), initialise: Callable[[], None] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes that each use one OpenCV thread: the processes alone fill the machine.

    Parameters
    ----------
    workers
        Number of processes.
    preload
        Modules that are imported once, before the processes are forked.
    initialise
        Called at the start of each process; a top-level function.

    Yields
    ------
    ProcessPoolExecutor
        The executor. Its processes end when it is left, and within a second of the end of this process, even if that
        is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    # Only this process holds the writing end. The system closes it when this process ends, and the workers, which would
    # otherwise wait for work for ever, read the end of the pipe.
    reader, writer = context.Pipe(duplex=False)
    with reader, writer, ProcessPoolExecutor(workers, context, _start, (reader, initialise)) as executor:
        yield executor


def _start(parent: Connection, initialise: Callable[[], None] | None) -> None:
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    cv2.setNumThreads(1)
    if initialise:
        initialise()


def _end_with_parent(parent: Connection) -> None:
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
