"""Tests that need real images are skipped without them, and counted; tests are shared out as `conftest.py` says."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.pages import ROOT


def _pytest(*words: str, cwd: Path, **environment: str) -> str:
    """Return the output of a pytest of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=cwd, env=outer | environment, capture_output=True, text=True, check=False)
    return done.stdout


def _summary(folder: Path) -> str:
    """Return the output of the tests of the vocabularies, one of which needs the table of the competition."""
    return _pytest("-n", "0", "tests/hpa/test_vocabulary.py", cwd=ROOT, CELLWISE_REAL_DATA=str(folder))


def test_tests_without_their_real_images_are_skipped_and_counted(tmp_path: Path) -> None:
    output = _summary(tmp_path / "none")
    assert "tests that need real images: 1 skipped, 0 ran (CELLWISE_REAL_DATA names their folder)" in output
    assert f"needs real images, found no {tmp_path / 'none' / 'kaggle2018'} (set CELLWISE_REAL_DATA)" in output
    assert "failed" not in output


def test_tests_with_their_real_images_run_and_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "kaggle2018"
    folder.mkdir()
    (folder / "class_counts.csv").write_text("class,name\n0,no such class\n")
    output = _summary(tmp_path)
    assert "tests that need real images: 1 ran" in output
    assert "1 failed" in output


def test_no_test_looks_for_real_images_on_its_own() -> None:
    """A test gets them from the fixture `real_data`, which asks for the marker."""
    known = {"conftest.py", "test_support.py", "test_benches.py", "pages.py", "real_images.py"}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name not in known:
            text = path.read_text()
            assert "CELLWISE_REAL_DATA" not in text, path
            assert "shared/real" not in text.replace('"../shared/real/', ""), path


MEETING = """
import time
from pathlib import Path

import pytest

END = time.monotonic() + 60


@pytest.mark.parametrize("n", range(8))
def test(n, worker_id):
    print("RAN", {file!r}, worker_id)
    (Path(__file__).parent / f"{{Path(__file__).stem}}-{{worker_id}}").touch()
    while {meet} and len(list(Path(__file__).parent.glob("test_recipes-gw*"))) < 2 and time.monotonic() < END:
        time.sleep(0.01)
"""


def test_files_keep_one_process_and_recipes_are_spread(tmp_path: Path) -> None:
    """The way is a method of pytest-xdist's that its documentation does not promise, so that it is tried.

    A test of a file that is spread waits until both processes have begun one, so that the faster of two processes
    cannot run all of them before the other has started.
    """
    folder = tmp_path / "tests"
    folder.mkdir()
    for file in ("test_one.py", "test_two.py", "test_recipes.py"):
        (folder / file).write_text(MEETING.format(file=file, meet=file == "test_recipes.py"))
    words = ("-p", "tests.conftest", "-n", "2", "--dist", "loadfile", "-rP", "tests")
    output = _pytest(*words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "24 passed" in output
    ran = [line.split()[1:] for line in output.splitlines() if line.startswith("RAN")]
    workers = {file: {worker for name, worker in ran if name == file} for file, _ in ran}
    assert len(workers["test_one.py"]) == len(workers["test_two.py"]) == 1
    assert workers["test_recipes.py"] == {"gw0", "gw1"}
