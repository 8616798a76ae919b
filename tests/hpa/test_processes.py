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
    parent.wait(timeout=60)
    deadline = time.monotonic() + 20
    while left := _session(parent.pid):
        assert time.monotonic() < deadline, f"{len(left)} processes are left"
        time.sleep(0.1)


_INTERRUPTED = """
import sys, time
from hpa.command import call, new_app
from hpa.work.processes import worker_processes

app = new_app("An app.")

@app.command()
def run() -> None:
    print("ready", flush=True)
    with worker_processes(3, preload=["hpa.work.mapping"]) as pool:
        list(pool.map(time.sleep, [600] * 3))

if __name__ == "__main__":
    sys.exit(call(app, "app", []))
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs the signals of POSIX")
@pytest.mark.parametrize("delay_s", [0, 0.05, 0.3, 1, 4])
def test_ctrl_c_while_workers_start_is_quiet(delay_s: float, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
        _, said = parent.communicate(timeout=60)
    assert said == ""
    assert parent.returncode == 130
    deadline = time.monotonic() + 20
    while left := _session(parent.pid):
        assert time.monotonic() < deadline, f"{len(left)} processes are left"
        time.sleep(0.1)


def test_results_come_in_order_and_errors_are_raised() -> None:
    with worker_processes(2) as pool:
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "a").result()
