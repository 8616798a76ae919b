"""Progress: lines where there is no terminal, not more often than asked for, and a bar where there is one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hpa.work.progress
from hpa.work.progress import format_rate, progress


class _Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Return the clock that progress reads."""
    made = _Clock()
    monkeypatch.setattr(hpa.work.progress, "time", made)
    return made


def test_a_line_says_rate_time_left_and_the_last_note(capsys: pytest.CaptureFixture[str], clock: _Clock) -> None:
    with progress("train", 100) as advance:
        clock.now += 10
        advance(10)
        clock.now += 60
        advance(25, "mean AP 0.41")
        clock.now += 5
        advance(5)
        clock.now += 65
        advance(30)
        clock.now += 100
        advance(30)
    assert capsys.readouterr().err.splitlines() == [
        "train: 35 of 100, 0.5/s, 130 s left, mean AP 0.41".replace("130 s", "2 min"),
        "train: 70 of 100, 0.5/s, 60 s left, mean AP 0.41",
    ]


def test_a_rate_has_about_three_digits() -> None:
    rates = (0.5, 9.94, 10, 99.9, 100, 101.4, 2500)
    assert [format_rate(rate) for rate in rates] == [
        *("0.5/s", "9.9/s", "10.0/s", "99.9/s", "100/s", "101/s", "2,500/s")
    ]
    assert [format_rate(rate) for rate in (-1, 0, 0.49)] == ["", "", "29.4/min"]


def test_what_an_earlier_run_did_does_not_count_as_speed(capsys: pytest.CaptureFixture[str], clock: _Clock) -> None:
    with progress("predict", 1000) as advance:
        advance(900)
        clock.now += 100
        advance(50)
    assert capsys.readouterr().err == "predict: 950 of 1000, 0.5/s, 100 s left\n".replace("100 s", "2 min")


def test_a_line_for_each_step_if_no_time_has_to_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("segment", 5, every_s=0) as advance:
        for steps in (2, 0, 2, 1):
            advance(steps)
    lines = capsys.readouterr().err.splitlines()
    assert [re.split(",", line)[0] for line in lines] == ["segment: 2 of 5", "segment: 4 of 5"]


def test_nothing_within_the_first_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("segment", 5) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_a_terminal_has_a_bar_with_rate_time_left_and_note() -> None:
    import pty

    script = (
        "import time\n"
        "from hpa.work.progress import progress\n"
        "with progress('train fold 0', 30) as advance:\n"
        "    for step in range(30):\n"
        "        time.sleep(0.02)\n"
        "        advance(1, f'mean AP 0.{step:02d} [of [/weird'  if step % 10 == 9 else '')\n"
    )
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "140"}
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, stderr=slave, env=environment, check=False)
    os.close(slave)
    text = b""
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:  # Linux says so when everything has been read
            break
        if not part:
            break
        text += part
    os.close(master)
    assert done.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.decode())
    last = [line for line in re.split(r"[\r\n]+", plain) if "train fold 0" in line][-1]
    assert "30/30" in last
    assert re.search(r"\d+\.\d/s", last)
    assert re.search(r"\d:\d\d:\d\d", last)
    assert "mean AP 0.29 [of [/weird" in last
