"""Apply the examples of docs/architecture.md to a copy of the code, and run their tests."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, blocks


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the code with all examples applied."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("hpa", "segment", "crops", "classify", "aggregate", "pipeline", "cellwise", "recipes", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for block in blocks(ROOT / "docs" / "architecture.md", "diff"):
        done = subprocess.run(["git", "apply", "-"], cwd=copy, input=block, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{block}"
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["A loss", "A window", "A backbone", "A layout"])
def test_the_test_of_an_example_passes(copy: Path, subject: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split(f"### {subject}\n")[1].split("\n##")[0]
    (name,) = re.findall(r"^\+def (test_\w+)", section, flags=re.MULTILINE)
    (file,) = re.findall(rf"^\+\+\+ b/(tests/.*)\n(?:.*\n)*?\+def {name}", section, flags=re.MULTILINE)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"{file}::{name}"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_examples_still_fit_the_code(copy: Path) -> None:
    changed = {path for path in copy.rglob("*.py") if path.read_bytes() != _original(copy, path)}
    assert len(changed) >= 10


def _original(copy: Path, path: Path) -> bytes:
    original = ROOT / path.relative_to(copy)
    return original.read_bytes() if original.exists() else b""
