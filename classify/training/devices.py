"""Data-parallel training: one process for each device, on one or several nodes."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from classify.data.batches import Batch
from classify.network.model import Outputs
from hpa.errors import UserError
from hpa.work.device import computing_threads
from hpa.work.processes import worker_processes

TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a program that SIGTERM ends."""

_PATIENCE: Final = timedelta(hours=2)  # of processes that wait for the first, which validates
_VARIABLES: Final = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
_PRELOAD: Final = ("classify.training.fit",)  # imported once for all processes, which takes seconds
_TASK: Final = "task"  # key of what the first process tells those of other nodes


@dataclass(frozen=True)
class Devices:
    """The devices of a data-parallel training.

    Parameters
    ----------
    kind
        ``"cpu"`` or ``"cuda"``.
    indices
        GPUs of this node, one for each process; on the CPU, numbers of the processes.
    nodes
        Number of nodes, all with as many devices.
    node
        Number of this node, from 0.
    address, port
        Where the first process of node 0 listens.
    wait_s
        Seconds to wait for the other processes at the start.
    """

    kind: str
    indices: tuple[int, ...]
    nodes: int
    node: int
    address: str
    port: int
    wait_s: float

    @property
    def world(self) -> int:
        """The number of processes."""
        return self.nodes * len(self.indices)


@dataclass(frozen=True)
class Rank:
    """The place of a process among those of a training.

    Parameters
    ----------
    devices
        All devices.
    local
        Number of the process on its node, from 0.
    """

    devices: Devices
    local: int

    @property
    def number(self) -> int:
        """Number of the process, from 0."""
        return self.devices.node * len(self.devices.indices) + self.local

    @property
    def device(self) -> torch.device:
        """Its device."""
        kind = self.devices.kind
        return torch.device(kind) if kind == "cpu" else torch.device(kind, self.devices.indices[self.local])


def choose_devices(
    devices: str, nodes: int, device: torch.device, wait_s: float, environment: Mapping[str, str] = os.environ
) -> Devices | None:
    """Return the devices that a command asks for, None for a single one.

    Parameters
    ----------
    devices
        Their number on each node, or the numbers of GPUs, separated by commas.
    nodes
        Number of nodes.
    device
        Kind of device.
    wait_s
        Seconds to wait for other nodes.
    environment
        With several nodes: `MASTER_ADDR`, `MASTER_PORT` and `NODE_RANK`, as torch names them.

    Raises
    ------
    UserError
        If a device is asked for twice or does not exist, or the environment does not say where the nodes meet.
    """
    try:
        listed = [int(part) for part in devices.split(",")]
    except ValueError:
        listed = [-1]
    if min(listed) < 0 or listed == [0] or nodes < 1:
        raise UserError(f"expected a number of devices, or GPUs as in 0,1, found --devices {devices} --nodes {nodes}")
    if len(set(listed)) < len(listed):
        twice = next(number for number in listed if listed.count(number) > 1)
        raise UserError(f"expected every device once, found {twice} twice in --devices {devices}")
    if listed == [1] and nodes == 1:
        return None
    if str(device) not in ("cpu", "cuda"):
        raise UserError(f"expected --device cpu or cuda with --devices and --nodes, found {device}")
    indices = tuple(range(listed[0]) if len(listed) == 1 else listed)
    if device.type == "cpu" and len(listed) > 1:
        raise UserError(f"expected a number of processes as --devices on the CPU, found {devices}")
    if device.type == "cuda" and max(indices) >= torch.cuda.device_count():
        raise UserError(f"expected GPUs among the {torch.cuda.device_count()} of this node, found --devices {devices}")
    if nodes == 1:
        return Devices(device.type, indices, 1, 0, "127.0.0.1", _free_port(), wait_s)
    missing = [name for name in _VARIABLES if not environment.get(name)]
    if missing:
        raise UserError(
            f"expected {', '.join(_VARIABLES)} in the environment with --nodes {nodes}, found no {missing[0]}"
        )
    address, port, node = (environment[name] for name in _VARIABLES)
    if not (port.isdecimal() and node.isdecimal() and int(node) < nodes):
        raise UserError(f"expected a port and a NODE_RANK below {nodes}, found {port} and {node}")
    return Devices(device.type, indices, nodes, int(node), address, int(port), wait_s)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def run_on_devices(devices: Devices, train: Callable[[Rank, str], None], task: str, threads: int) -> None:
    """Run a training in one process for each device of this node.

    Parameters
    ----------
    devices
        The devices.
    train
        Function of a process and the task; a top-level function or a `functools.partial` of one.
    task
        What is to be done; node 0 tells the others.
    threads
        Threads of each process.

    Raises
    ------
    UserError
        If processes of another node do not come in time, or a process is lost, or the training raises it.
    SystemExit, KeyboardInterrupt
        On SIGTERM, with the code `TERMINATED`, or Ctrl+C; the processes have ended.
    """
    ranks = [Rank(devices, local) for local in range(len(devices.indices))]
    try:
        with _raising_on_sigterm(), worker_processes(len(ranks), preload=_PRELOAD) as executor:
            futures = [executor.submit(_run_rank, rank, train, task, threads) for rank in ranks]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            errors = [error for future in done if (error := future.exception()) is not None]
            # What one process fails with is the reason, that the others lose it only follows.
            for error in sorted(errors, key=lambda error: not isinstance(error, UserError)):
                raise error
    except BrokenProcessPool:
        raise UserError(
            f"expected {len(ranks)} processes to train to the end, found that one was lost (perhaps for lack of"
            " memory); the same command resumes"
        ) from None


@contextmanager
def _raising_on_sigterm() -> Iterator[None]:
    """Leave by SystemExit on SIGTERM, which would otherwise end this process before those that it has started."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_rank(rank: Rank, train: Callable[[Rank, str], None], task: str, threads: int) -> None:
    """Meet the other processes, and train."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a batch system signals all processes: the first one ends the others
    devices = rank.devices
    os.environ["LOCAL_RANK"], os.environ["NODE_RANK"] = str(rank.local), str(devices.node)
    if devices.kind == "cuda":
        torch.cuda.set_device(rank.device)
    try:
        store = TCPStore(
            devices.address,
            devices.port,
            devices.world,
            is_master=rank.number == 0,
            timeout=timedelta(seconds=devices.wait_s),
        )
        if rank.number == 0:
            store.set(_TASK, task)
        else:
            task = store.get(_TASK).decode()
        backend = "nccl" if devices.kind == "cuda" else "gloo"
        distributed.init_process_group(
            backend, store=store, rank=rank.number, world_size=devices.world, timeout=_PATIENCE
        )
    except distributed.DistError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"expected {devices.nodes} nodes with {len(devices.indices)} devices each at"
            f" {devices.address}:{devices.port} within {devices.wait_s:g} s, found fewer ({reason})"
        ) from None
    try:
        with computing_threads(threads):
            train(rank, task)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def gather_batch(outputs: Outputs, batch: Batch, sizes: Sequence[int], rank: int) -> tuple[Outputs, Batch]:
    """Join the outputs and labels of all processes' parts of a batch, in their order.

    The loss of the whole is then computed in every process, so that it is that of a single process, whatever it is. The
    gradient of the own outputs is multiplied by the number of processes, because that of the parameters is averaged
    over them.

    Parameters
    ----------
    outputs, batch
        Those of this process. Bags do not reach over parts.
    sizes
        Number of crops of every part.
    rank
        Number of this process.
    """
    scale = len(sizes) - 1

    def whole(own: Tensor | None, *, offset: bool = False) -> Tensor | None:
        """Join the parts of a tensor; numbers of bags go on from one part to the next."""
        if own is None:
            return None
        parts = _gather(own.detach(), sizes)
        if own.requires_grad:
            parts[rank] = own + scale * (own - own.detach())
        if offset:
            for i in range(1, len(parts)):
                parts[i] = parts[i] + parts[i - 1][-1] + 1
        return torch.cat(parts)

    joined = Outputs(*(whole(part) for part in outputs))  # type: ignore[arg-type]
    fields = {name: whole(getattr(batch, name)) for name in ("targets", "weights", "antibodies", "rows")}
    return joined, batch._replace(**fields, bags=whole(batch.bags, offset=True))  # type: ignore[arg-type]


def _gather(own: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    padded = own.new_zeros((max(sizes), *own.shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]
