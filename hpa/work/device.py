"""Devices that networks run on, and how they compute there: threads and arithmetic, which change the last bits.

torch is imported by the functions that need it, since `hpa` does without it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final, Self

import pydantic

from hpa.errors import UserError
from hpa.work.processes import available_processors, running_threads
from hpa.work.records import STRICT

_GPU_WORKERS: Final = 4  # while one process decodes or makes masks, the others keep the device busy


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Computation:
    """How a stage computes: what the bits of its results depend on besides its inputs.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` or ``"mps"``.
    processor
        Instructions of the CPU that torch uses, such as ``"AVX512"``, or the name of the GPU.
    threads
        Threads of torch.
    bfloat16
        Whether networks compute in bfloat16.
    """

    device: str
    processor: str
    threads: int
    bfloat16: bool

    @classmethod
    def here(cls, device: str, threads: int | None, *, bfloat16: bool) -> Self:
        """Return how this process computes on a device.

        Parameters
        ----------
        device
            As `resolve_device` returns it.
        threads
            Threads that the user asked for; None uses `default_threads`.
        bfloat16
            Whether networks compute in bfloat16.
        """
        import torch

        kind = torch.device(device).type
        name = torch.cuda.get_device_name(device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
        return cls(kind, name, threads or default_threads(), bfloat16)

    def resume(self, here: "Computation", command: str) -> "Computation":
        """Return how a run that began in this way continues `here`, and say what differs.

        The number of threads and the arithmetic stay as they were: more threads than processors are slow, but give the
        same bits.

        Parameters
        ----------
        here
            How a new run would compute.
        command
            The command that runs the stage, for messages.

        Raises
        ------
        UserError
            If it computed in bfloat16, and this processor has no instructions for it.
        """
        if self.bfloat16 and not here.bfloat16:
            raise UserError(
                f"expected a processor with bfloat16 instructions, with which this run began, found {here.processor}"
                f" without; resume it where it began, or start over with `{command} --overwrite`"
            )
        if (self.device, self.processor) != (here.device, here.processor):
            print(
                f"{command}: began on {self.device} ({self.processor}) and continues on {here.device}"
                f" ({here.processor}); the results may differ in their last digits"
            )
        elif here.device == "cpu" and self.threads != here.threads:
            print(
                f"{command}: continues with {self.threads} threads, with which it began, instead of {here.threads},"
                " because their number changes the last digits"
            )
        return replace(here, threads=self.threads, bfloat16=self.bfloat16)


def default_workers(device: str) -> int:
    """Return the number of worker processes that is used unless the user gives one."""
    processors = available_processors()
    return processors if device == "cpu" else min(processors, _GPU_WORKERS)


def default_threads() -> int:
    """Return the number of threads that is used unless the user gives one.

    It is torch's own, one per core unless ``OMP_NUM_THREADS`` says otherwise, but at most `available_processors`. Other
    programs on the machine do not matter, because the number changes results.
    """
    import torch

    return min(torch.get_num_threads(), available_processors())


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
def computing_threads(threads: int) -> Iterator[None]:
    """Compute with a number of threads on the CPU; another number gives other bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Compute with a single thread on the CPU, where another number of threads gives other bits."""
    if device != "cpu":
        yield
        return
    with computing_threads(1):
        yield


def has_fast_bfloat16(device: str) -> bool:
    """Return whether a device, as `resolve_device` returns it, computes faster in bfloat16 than in float32."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and has_bf16_instructions()


@cache
def has_bf16_instructions() -> bool:
    """Return whether the CPU has instructions for bfloat16 (AMX or AVX-512), with which it is faster than float32."""
    try:
        return not {"amx_bf16", "avx512_bf16"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux
        return False


@cache
def warn_if_busy(processors: int, threads: int) -> None:
    """Say once per process that other programs compete for the machine's processors.

    Parameters
    ----------
    processors
        Processors of the machine.
    threads
        Threads that this process is about to compute with.
    """
    others = running_threads() - 1
    if others + threads > processors:
        print(
            f"{others} other threads compute on this machine's {processors} processors; {threads} threads will be"
            " slower than usual (see --threads; OMP_WAIT_POLICY=passive helps beside programs of this kind)",
            file=sys.stderr,
        )
