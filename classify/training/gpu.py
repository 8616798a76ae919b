"""How much memory a training takes of a GPU, and how busy it keeps it."""

import time
from contextlib import suppress
from typing import Final

import torch

_EVERY_S: Final = 1.0


class GpuWatch:
    """Memory and busy share of a GPU since they were last taken; nothing on other devices.

    Parameters
    ----------
    device
        The device of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._watches = device.type == "cuda"
        self._shares: list[float] = []
        self._sampled = 0.0

    def sample(self) -> None:
        """Sample how busy the GPU is, at most once a second; without nvidia-ml-py that is not known."""
        if not self._watches or time.monotonic() - self._sampled < _EVERY_S:
            return
        self._sampled = time.monotonic()
        with suppress(ModuleNotFoundError, RuntimeError, AttributeError):
            self._shares.append(torch.cuda.utilization(self._device) / 100)

    def take(self) -> dict[str, float]:
        """Return the peak of the memory in GiB, ``gpu_memory_gib``, and ``gpu_busy``, and begin anew."""
        if not self._watches:
            return {}
        taken = {"gpu_memory_gib": torch.cuda.max_memory_allocated(self._device) / 2**30}
        if self._shares:
            taken["gpu_busy"] = sum(self._shares) / len(self._shares)
        self._shares.clear()
        torch.cuda.reset_peak_memory_stats(self._device)
        return taken
