"""The markers: tests that need real images are skipped without them, and counted."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.pages import ROOT


def _summary(folder: Path) -> str:
    """Return the output of the tests of the vocabularies, one of which needs the table of the competition."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/hpa/test_vocabulary.py"]
    environment = os.environ | {"CELLWISE_REAL_DATA": str(folder)}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


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
