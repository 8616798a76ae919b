"""Time calls, select parts of a bench, and measure commands in separate processes."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tests.support.pages import ROOT

# getrusage would report the peak of the parent process, which a new process inherits.
_PEAK: Final = """
import sys
from importlib import import_module
from pathlib import Path

code = import_module(sys.argv[1]).main(sys.argv[2:])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
sys.exit(code)
"""


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the duration of a call in seconds."""
    start = clock()
    work()
    return clock() - start


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format the median with the minimum and maximum."""
    return f"{np.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def split_words(arguments: Sequence[str] | None) -> tuple[list[str], bool]:
    """Return the words of the command line (or `arguments`) without ``--tiny``, and whether it was among them."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return [word for word in words if word != "--tiny"], "--tiny" in words


def run_parts(known: Mapping[str, Callable[[Path], None]], parts: Sequence[str]) -> None:
    """Run the named parts, or all, each in an empty folder.

    Raises
    ------
    SystemExit
        If a part is unknown.
    """
    if unknown := set(parts) - set(known):
        raise SystemExit(f"expected some of {', '.join(known)}, found {min(unknown)}")
    for name in parts or known:
        with tempfile.TemporaryDirectory() as folder:
            known[name](Path(folder))


def peak_mib(package: str, arguments: Sequence[str]) -> float:
    """Run ``python -m PACKAGE ARGUMENTS`` and return the peak memory of the process in MiB."""
    return measured(package, arguments)[2]


def measured(
    package: str, arguments: Sequence[str], parts: Path | None = None, *, kill_after: int = 0
) -> tuple[float | None, float, float]:
    """Run ``python -m PACKAGE ARGUMENTS`` in a process of its own.

    Parameters
    ----------
    package, arguments
        The command.
    parts
        Folder in which the stage commits its chunks.
    kill_after
        Kill the process when that many chunks are committed; 0 lets it end.

    Returns
    -------
    first, total : float
        Seconds until the first chunk is committed (None if there was none) and until the end, start of the process
        included.
    peak : float
        Peak memory of the process in MiB; 0 if it was killed.
    """
    command = [sys.executable, "-c", _PEAK, f"{package}.__main__", *arguments]
    first, start = None, time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            committed = 0 if parts is None else len(list(parts.glob("*.parquet")))
            if first is None and committed:
                first = time.perf_counter() - start
            if kill_after and committed >= kill_after:
                process.kill()
                process.wait()
                return first, time.perf_counter() - start, 0.0
            time.sleep(0.01)
        total = time.perf_counter() - start
        printed.seek(0)
        lines = printed.read().splitlines()
    if process.returncode:
        raise SystemExit("\n".join([f"expected {package} {arguments[0]} to succeed:", *lines[-20:]]))
    return first, total, int(lines[-1]) / 1024
