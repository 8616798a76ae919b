"""`hpa`, `crops` and `aggregate` run on a machine without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cells import cells_of, world
from tests.support.cells import make_work as make_segmented
from tests.support.pages import ROOT
from tests.support.simulation.work import make_work as make_simulated

_WITHOUT_TORCH = """
import importlib.metadata, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
installed = importlib.metadata.version
def version(name):
    if name == "torch":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)
importlib.metadata.version = version
from PACKAGE.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def _run(package: str, *arguments: object) -> None:
    command = [sys.executable, "-c", _WITHOUT_TORCH.replace("PACKAGE", package), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hpa_synthesizes_and_explores(tmp_path: Path) -> None:
    _run("hpa", "synthesize", tmp_path / "atlas", "--images", 4, "--test", 2, "--size-px", 128, "--workers", 1)
    assert (tmp_path / "atlas" / "train.csv").is_file()


def test_crops_are_cut(tmp_path: Path) -> None:
    cells = cells_of((40, 60), (5, 5, 20, 25), (10, 30, 32, 50))
    work = make_segmented(tmp_path, {"a": world(cells)}, "[crops]\nsize_px = 16\n")
    _run("crops", "run", work.root, "--workers", 1)
    assert (work.root / "crops" / "cells" / "crops.parquet").is_file()
    assert "torch" not in (work.root / "crops" / "cells" / "run.json").read_text()


@pytest.mark.parametrize("figures", ["--figures", "--no-figures"])
def test_probabilities_are_aggregated(figures: str, tmp_path: Path) -> None:
    work = make_simulated(tmp_path, train=20, test=6, models=2)
    _run("aggregate", "run", work.root, figures)
    assert (work.root / "aggregate" / "submission.csv").is_file()
