"""Commands that write to a work folder, or read what another one is writing, wait their turn or say so."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregate.run import run
from classify.__main__ import main as classify
from crops.__main__ import main as crops
from hpa.work.folder import locked
from pipeline.__main__ import main
from pipeline.apply import open_model
from tests.support.pages import ROOT
from tests.support.simulation.work import make_work

_HOLD = """
import sys
from pathlib import Path
from hpa.work.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """Return a work folder that another process has locked."""
    work = make_work(tmp_path / "work", train=12, test=2, models=2)
    command = [sys.executable, "-c", _HOLD, str(work.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == "held\n"
        yield work.root
        other.stdin.close()


def test_commands_on_a_locked_work_folder_say_so(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(busy.rglob("*"))
    for command, arguments in (
        (crops, ["sheet", str(busy)]),
        (crops, ["export", str(busy), "--to", "png"]),
        (classify, ["curves", str(busy)]),
        (main, ["apply", str(busy), "--data", str(busy), "--out", str(busy.parent / "out")]),
        (main, ["demo", str(busy), "--tiny"]),
    ):
        assert command(arguments) == 2, arguments
        said = capsys.readouterr()
        assert "expected no other run on" in said.err
        assert said.err.count("\n") == 1
        assert "synthesize" not in said.out
    assert sorted(busy.rglob("*")) == before
    assert not (busy.parent / "out").exists()


def test_a_demo_keeps_the_unfinished_atlas_of_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "demo" / "atlas.unfinished" / "train"
    drawn.mkdir(parents=True)
    script = "import sys; from pipeline.__main__ import main; sys.exit(main(sys.argv[1:]))"
    with locked(tmp_path / "demo"):
        done = subprocess.run(
            [sys.executable, "-c", script, "demo", str(tmp_path / "demo"), "--tiny"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"found one (process {os.getpid()} on " in done.stderr
    assert drawn.exists()


def test_a_process_may_read_the_work_folder_that_it_has_locked(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", train=12, test=2, models=2)
    run(work, figures=None)
    with locked(work.root):
        assert open_model(work.root).work.root == work.root
