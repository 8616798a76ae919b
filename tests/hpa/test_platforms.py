"""The packages import where the modules of POSIX are missing, as on Windows, and where only some are, as on macOS."""

import subprocess
import sys

import pytest

from tests.support.pages import ROOT

_WITHOUT_POSIX = """
import builtins, multiprocessing, os, signal, sys
from importlib import import_module
from pathlib import Path

import distributed, lightning, pandas, torch  # what these need is theirs to guard

BLOCKED = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
OURS = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline", "cellwise", "recipes")
plain = builtins.__import__

def without(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "").split(".")[0]
    if name.split(".")[0] in BLOCKED and importer in OURS:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return plain(name, globals, locals, fromlist, level)

builtins.__import__ = without
multiprocessing.get_all_start_methods = lambda: ["spawn"]
for module, names in {
    os: ("fork", "forkpty", "getuid", "killpg", "sched_getaffinity"),
    signal: ("SIGHUP", "SIGKILL", "pthread_sigmask"),
}.items():
    for name in names:
        delattr(module, name)
paths = [path for package in OURS for path in sorted(Path(package).rglob("*.py"))]
for path in paths:
    import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
print(len(paths))
"""


@pytest.mark.slow
def test_every_module_imports_without_the_modules_of_posix() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_POSIX], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
