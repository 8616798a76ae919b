"""The house stands on its floors: who may import whom, and where heavy packages come in."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline")
CONTRACTS = {
    "segment": ("segment.masks",),
    "crops": ("crops.store",),
    "classify": ("classify.probabilities", "classify.trained_pooling"),
}
ONE_PLACE = ("cellpose", "albumentations", "pytorch_metric_learning", "lightning", "dask", "anndata", "h5py")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""


def _modules() -> Iterator[tuple[str, Path]]:
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            yield floor, path


def test_nobody_imports_from_above() -> None:
    for floor, path in _modules():
        for name in _imports(path):
            package = name.split(".")[0]
            if package in FLOORS:
                assert FLOORS.index(package) <= FLOORS.index(floor), f"{path} imports {name}"


def test_stages_know_only_contracts_and_settings_of_other_stages() -> None:
    """The window's name stands in `crops.config`; the roof may import everything below it."""
    for floor, path in _modules():
        for name in _imports(path):
            package = name.split(".")[0]
            if floor != "pipeline" and package in CONTRACTS and package != floor:
                assert name in (*CONTRACTS[package], "crops.config"), f"{path} imports {name}"


@pytest.mark.parametrize("package", ONE_PLACE)
def test_heavy_packages_come_in_at_one_place(package: str) -> None:
    places = [path for _, path in _modules() if any(name.split(".")[0] == package for name in _imports(path))]
    assert len(places) <= 1, f"{package} is imported by {', '.join(map(str, places))}"


@pytest.mark.parametrize("module", ["hpa.__main__", "hpa.atlas", "crops.run", "aggregate.run", "crops.store"])
def test_ground_crops_and_aggregate_do_without_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("package", FLOORS)
def test_help_needs_no_heavy_package(package: str) -> None:
    script = (
        f"import sys; from {package}.__main__ import main; assert main(['--help']) == 0\n"
        "heavy = {'torch', 'cellpose', 'lightning', 'albumentations', 'skimage', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python -m {package}" in done.stdout
