"""A run that is killed and started again ends with the files of a run that was not."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpa.atlas import synthesize
from pipeline.__main__ import main
from tests.pages import ROOT

# Files appear by a rename (`hpa.files.whole`), so the n-th rename is the n-th output file.
KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.__main__ import main

left = int(sys.argv[1])
rename = Path.replace

def counted(self, target):
    global left
    done = rename(self, target)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Path.replace = counted
sys.exit(main(sys.argv[2:]))
"""
SMALL = ["--set", "classify.epochs=2", "--set", "crops.size_px=32", "--set", "data.folds=2"]
EXEMPT = {"run.json", "lock"}


def _files(work: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in sorted(work.rglob("*"))
        if path.is_file() and path.name not in EXEMPT
    }


@pytest.mark.slow
def test_killed_runs_end_with_the_same_files(tmp_path: Path) -> None:
    atlas = tmp_path / "atlas"
    synthesize(atlas, 40, 8, seed=5, size_px=256)
    assert main(["init", str(tmp_path / "fresh"), "--data", str(atlas), *SMALL]) == 0
    for name in ("whole", "again", "killed"):
        shutil.copytree(tmp_path / "fresh", tmp_path / name)

    def run(name: str, kill_at: int) -> int:
        arguments = [str(kill_at), "run", str(tmp_path / name), "--workers", "1"]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False, capture_output=True)
        return done.returncode

    assert run("whole", 10**9) == 0
    assert run("again", 10**9) == 0
    expected = _files(tmp_path / "whole")
    assert _files(tmp_path / "again") == expected
    # Counted anew by every run: in the masks of a first chunk, of a second, in the crops, in epochs of both folds and
    # in what follows them.
    ends = [run("killed", n) for n in (20, 90, 30, 4, 4, 4, 4)]
    assert ends.count(-signal.SIGKILL) >= 5, ends
    assert run("killed", 10**9) == 0
    found = _files(tmp_path / "killed")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    submission = "aggregate/submission.csv"
    assert found[submission] == expected[submission]
