"""Processors that this process may use; worker processes end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path

import pytest

from hpa.work.processes import available_processors, cpu_quota, running_threads, worker_processes
from tests.support.pages import ROOT
from tests.support.processes import session

_SCRIPT = """
import signal, sys, time
from pathlib import Path
from hpa.work.processes import worker_processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
if __name__ == "__main__":
    with worker_processes(3) as pool:
        assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]
        futures = [pool.submit(time.sleep, 600) for _ in range(3)]
        Path(sys.argv[1]).touch()
        time.sleep(600)
"""


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
    deadline = time.monotonic() + 300
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline, "the workers did not start"
        time.sleep(0.05)
    assert len(session(parent.pid)) >= 5, "parent, fork server and three workers"
    parent.send_signal(end)
    parent.wait(timeout=60)
    deadline = time.monotonic() + 60
    while left := session(parent.pid):
        assert time.monotonic() < deadline, f"{len(left)} processes are left"
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table of Linux")
def test_the_fork_server_does_not_survive_its_parent_while_it_imports(tmp_path: Path) -> None:
    """Importing torch takes seconds, on a busy machine a minute; here 600 s."""
    (tmp_path / "slow_import.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('ready').touch()\ntime.sleep(600)\n"
    )
    script = _SCRIPT.replace("processes(3)", "processes(3, preload=['slow_import'])")
    (tmp_path / "script.py").write_text(script)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "unused")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline, "the fork server did not start"
        time.sleep(0.05)
    parent.kill()
    parent.wait(timeout=60)
    deadline = time.monotonic() + 60
    while left := session(parent.pid):
        assert time.monotonic() < deadline, f"{len(left)} processes are left"
        time.sleep(0.1)


_INTERRUPTED = """
import signal, sys, time
from hpa.command import call, new_app
from hpa.work.processes import worker_processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background

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
        try:
            _, said = parent.communicate(timeout=60)
        finally:
            parent.kill()
    assert said == ""
    assert parent.returncode == 130
    deadline = time.monotonic() + 60
    while left := session(parent.pid):
        assert time.monotonic() < deadline, f"{len(left)} processes are left"
        time.sleep(0.1)


def test_results_come_in_order_and_errors_are_raised() -> None:
    with worker_processes(2) as pool:
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "a").result()


def _cgroups(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V1 = {"cpu,cpuacct/job/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "250000 100000\n"}, 2.5),
        ("0::/job/step\n", {"job/step/cpu.max": "50000 100000\n", "job/cpu.max": "250000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/elsewhere\n", {"cpu.max": "400000 100000\n"}, 4),  # a container shows its own cgroup as the root
        ("0::/job\n", {"other/cpu.max": "100000 100000\n"}, inf),
        ("5:cpu,cpuacct:/job\n1:name=systemd:/\n", V1, 1.5),
        ("5:cpu,cpuacct:/job\n", dict.fromkeys(V1, "-1\n"), inf),
        ("5:cpuset:/job\n", V1, inf),
        ("2:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("0::/job\n", {"job/cpu.max": "nonsense"}, inf),
    ],
)
def test_quota_of_the_cgroups(tmp_path: Path, own: str, files: dict[str, str], quota: float) -> None:
    (tmp_path / "own").write_text(own)
    assert cpu_quota(_cgroups(tmp_path / "cgroups", files), tmp_path / "own") == quota


def test_no_cgroups_mean_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") == inf


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_available_processors_follow_the_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= available_processors() <= len(allowed)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux only")
def test_running_threads_count_a_busy_one() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            assert running_threads() >= 2
        finally:
            busy.kill()
