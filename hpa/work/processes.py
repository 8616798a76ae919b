"""Worker processes that end with the process that started them, however it ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Final

import cv2

_HAS_FORK: Final = "forkserver" in multiprocessing.get_all_start_methods()
if _HAS_FORK:
    from multiprocessing import forkserver, resource_tracker


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
    context = multiprocessing.get_context("forkserver" if _HAS_FORK else "spawn")
    if _HAS_FORK:
        context.set_forkserver_preload(["hpa.work.forkserver_preload", __name__, *preload])
        resource_tracker.ensure_running()  # of its own, since it unblocks the signals that it has blocked
        with _deaf_to_interrupts():
            forkserver.ensure_running()
    # Only this process holds the writing end. The system closes it when this process ends, and the workers, which would
    # otherwise wait for work for ever, read the end of the pipe.
    reader, writer = context.Pipe(duplex=False)
    with reader, writer, ProcessPoolExecutor(workers, context, _start, (reader, initialise)) as executor:
        try:
            yield executor
        except BaseException:
            writer.close()  # the workers end at once, instead of finishing what nobody waits for
            raise


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that Ctrl+C does not reach; they would print tracebacks, and end with this process anyway."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Blocked signals, unlike ignored ones, are passed on to what the started processes start.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
