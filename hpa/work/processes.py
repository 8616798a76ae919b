"""Processors that this process may use, and worker processes that end with the process that started them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from math import inf
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final

import cv2

_HAS_FORK: Final = "forkserver" in multiprocessing.get_all_start_methods()
if _HAS_FORK:
    from multiprocessing import forkserver, resource_tracker


_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")
_SYSTEM: Final = Path("/proc/stat")


def available_processors() -> int:
    """Return how many processors this process may use: by its affinity and the CPU quota of its cgroups, at least 1.

    Both are limits that an administrator, a container or a batch system sets. Unlike the load they do not vary from one
    run to the next.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, cpu_quota(_CGROUPS, _OWN_CGROUPS))))


def cpu_quota(cgroups: Path, own: Path) -> float:
    """Return the CPU quota of a process in processors, infinity if there is none.

    Parameters
    ----------
    cgroups
        Where cgroups are mounted, of version 1 or 2.
    own
        The list of the process's cgroups, ``/proc/self/cgroup``.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return inf
    quota = inf
    for _, controllers, path in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one hierarchy and names no controllers. A container may show its own cgroup as the root.
        roots = [cgroups / controllers, cgroups / "cpu"] if controllers else [cgroups]
        inner = Path(path.lstrip("/"))
        for folder in {root / part for root in roots for part in (inner, *inner.parents)}:
            quota = min(quota, _quota_v2(folder / "cpu.max"), _quota_v1(folder))
    return quota


def _quota_v2(path: Path) -> float:
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file; "max" is no quota
        return inf


def _quota_v1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else inf
    except (OSError, ValueError):
        return inf


def running_threads() -> int:
    """Return how many threads of all programs run or wait for a processor now, this one included; 1 if unknown.

    The load average would count the stage that has just ended.
    """
    counts = []
    try:
        for _ in range(5):
            words = _SYSTEM.read_text().split()
            counts.append(int(words[words.index("procs_running") + 1]))
            time.sleep(0.02)
    except (OSError, ValueError):
        return 1
    return int(median(counts))


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
