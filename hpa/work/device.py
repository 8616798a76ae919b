"""Devices that networks run on, and their numbers of processes and threads.

torch is imported by the functions that need it, since `hpa` does without it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hpa.errors import UserError

_GPU_WORKERS: Final = 4  # while one process decodes or makes masks, the others keep the device busy


def default_workers(device: str) -> int:
    """Return the number of worker processes that is used unless the user gives one."""
    processors = os.cpu_count() or 1
    return processors if device == "cpu" else min(processors, _GPU_WORKERS)


def resolve_device(name: str) -> str:
    """Return the name of the device to run on.

    Parameters
    ----------
    name
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"`` for a GPU if there is one and else the CPU.

    Raises
    ------
    UserError
        If this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises the latter
        reason = str(error).splitlines()[0]
        raise UserError(
            f"expected a device that this machine has (auto, cpu, cuda, cuda:1, mps), found {name!r} ({reason})"
        ) from None
    return name


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Compute with a single thread on the CPU, where another number of threads gives other bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
