"""A run that is killed and started again ends with the files of a run that was not."""

import shutil
import signal
from pathlib import Path

import pytest

from bench.measure import data_files, run_killed
from hpa.atlas import synthesize
from pipeline.__main__ import main

SMALL = ["--set", "classify.epochs=2", "--set", "crops.size_px=32", "--set", "data.folds=2"]


@pytest.mark.slow
def test_killed_runs_end_with_the_same_data_files(tmp_path: Path) -> None:
    atlas = tmp_path / "atlas"
    synthesize(atlas, 40, 8, seed=5, size_px=256)
    assert main(["init", str(tmp_path / "fresh"), "--data", str(atlas), *SMALL]) == 0
    for name in ("whole", "again", "killed"):
        shutil.copytree(tmp_path / "fresh", tmp_path / name)

    def run(name: str, kill_at: int) -> int:
        return run_killed("pipeline", kill_at, ["run", str(tmp_path / name), "--workers", "1"])

    assert run("whole", 10**9) == 0
    assert run("again", 10**9) == 0
    expected = data_files(tmp_path / "whole")
    assert data_files(tmp_path / "again") == expected
    # Counted anew by every run: in the masks of a first chunk, of a second, in the crops, in epochs of both folds and
    # in what follows them.
    ends = [run("killed", n) for n in (20, 90, 30, 4, 4, 4, 4)]
    assert ends.count(-signal.SIGKILL) >= 5, ends
    assert run("killed", 10**9) == 0
    found = data_files(tmp_path / "killed")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    submission = "aggregate/submission.csv"
    assert found[submission] == expected[submission]
