"""Worker processes end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpa.work.processes import worker_processes
from tests.support.pages import ROOT

_SCRIPT = """
import sys, time
from pathlib import Path
from hpa.work.processes import worker_processes
if __name__ == "__main__":
    with worker_processes(3) as pool:
        assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]
        futures = [pool.submit(time.sleep, 600) for _ in range(3)]
        Path(sys.argv[1]).touch()
        time.sleep(600)
"""


def _session(leader: int) -> list[int]:
    """Return the processes of a session, by the process table of Linux."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table of Linux")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_do_not_survive_their_parent(end: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "ready")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline, "the workers did not start"
        time.sleep(0.05)
    assert len(_session(parent.pid)) >= 5, "parent, fork server and three workers"
    parent.send_signal(end)
    if end == signal.SIGINT:  # it waits for its workers, so a person presses Ctrl+C twice or kills it
        time.sleep(1)
        parent.kill()
    parent.wait(timeout=30)
    deadline = time.monotonic() + 20
    while left := _session(parent.pid):
        assert time.monotonic() < deadline, f"{len(left)} processes are left"
        time.sleep(0.1)


def test_results_come_in_order_and_errors_are_raised() -> None:
    with worker_processes(2) as pool:
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "a").result()
