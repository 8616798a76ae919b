"""Run commands in processes of their own and kill them, find what is left of them, and compare what they wrote."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.pages import ROOT

# Output files appear by a rename (`hpa.work.files.atomic_write`), so the n-th rename makes the n-th file.
_KILLED: Final = """
import os, signal, sys
from importlib import import_module
from pathlib import Path

main = import_module(sys.argv[1]).main
left, rename = int(sys.argv[2]), Path.replace

def counted(self, target):
    global left
    done = rename(self, target)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Path.replace = counted
sys.exit(main(sys.argv[3:]))
"""


def run_killed(package: str, nth: int, arguments: Sequence[str]) -> int:
    """Run ``python -m PACKAGE ARGUMENTS`` and kill it (SIGKILL) when its `nth` output file appears.

    Returns
    -------
    int
        The return code: minus SIGKILL, or that of the command if it wrote fewer files.
    """
    command = [sys.executable, "-c", _KILLED, f"{package}.__main__", str(nth), *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode


def data_files(folder: Path) -> dict[str, bytes]:
    """Return the content of each file below a folder by its relative path, without files that differ between runs."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = (path for path in found if path.name != "run.json" and not path.name.startswith("lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def session(leader: int) -> list[int]:
    """Return the living processes of a session, by the process table of Linux."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found
