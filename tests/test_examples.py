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


def test_the_examples_still_fit_the_code(copy: Path) -> None:
    changed = {path for path in copy.rglob("*.py") if path.read_bytes() != _original(copy, path)}
    assert len(changed) >= 10


@pytest.mark.slow
def test_the_tests_of_the_examples_pass(copy: Path) -> None:
    tests = []
    for block in blocks(ROOT / "docs" / "architecture.md", "diff"):
        (file,) = re.findall(r"^\+\+\+ b/(tests/.*)", block, flags=re.MULTILINE)
        (name,) = re.findall(r"^\+def (test_\w+)", block, flags=re.MULTILINE)
        tests.append(f"{file}::{name}")
    assert len(tests) == 4
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def _original(copy: Path, path: Path) -> bytes:
    original = ROOT / path.relative_to(copy)
    return original.read_bytes() if original.exists() else b""
