"""Where networks run, and with how many threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from hpa.errors import UserError

_GPU_WORKERS: Final = 4  # while one decodes or makes masks, the others keep the device busy


def default_workers(device: str) -> int:
    """Return how many processes work where the user does not say."""
    processors = os.cpu_count() or 1
    return processors if device == "cpu" else min(processors, _GPU_WORKERS)


def device_named(name: str) -> str:
    """Return the device that a user named; "auto" takes a GPU where there is one.

    Raises
    ------
    UserError
        If this machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):  # torch built without CUDA raises the latter
        raise UserError(
            f"expected a device that this machine has (auto, cpu, cuda, cuda:1, mps), found {name!r}"
        ) from None
    return name


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Compute with one thread on a processor: another number gives other bits, so workers change only the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
