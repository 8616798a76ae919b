"""Imports: packages and rooms only import from below, and each heavy dependency is imported by one module."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline", "cellwise")
CONTRACTS = {
    "segment": ("segment.masks",),
    "crops": ("crops.store", "crops.synthesize"),
    "classify": ("classify.probabilities", "classify.trained_pooling"),
}
ROOMS = {
    "hpa": ("work", "layouts", "splitting", "reports", "atlas"),
    "segment": ("network", "postprocess", "inference", "training"),
    "classify": ("data", "network", "losses", "inference", "training", "inspect"),
    "aggregate": ("pooling", "thresholds", "scoring", "submission", "external"),
    "pipeline": ("report",),
}
"""The rooms of each package, from the lowest to the highest: a room imports only from rooms before it."""
ONE_PLACE = (
    "cellpose",
    "albumentations",
    "safetensors",
    "pytorch_metric_learning",
    "lightning",
    "pytorch_grad_cam",
    "dask",
    "anndata",
    "h5py",
    "umap",
    "zarr",
)


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


def test_packages_import_only_from_floors_below() -> None:
    for floor, path in _modules():
        for name in _imports(path):
            package = name.split(".")[0]
            if package in FLOORS:
                assert FLOORS.index(package) <= FLOORS.index(floor), f"{path} imports {name}"


def test_stages_import_only_contracts_and_settings_of_other_stages() -> None:
    """`crops.config` defines the names of the windows; `pipeline` may import everything below it."""
    for floor, path in _modules():
        for name in _imports(path):
            package = name.split(".")[0]
            if floor not in ("pipeline", "cellwise") and package in CONTRACTS and package != floor:
                assert name in (*CONTRACTS[package], "crops.config"), f"{path} imports {name}"


def _packages() -> list[Path]:
    return sorted(path.parent for floor in (*FLOORS, "bench") for path in (ROOT / floor).rglob("__init__.py"))


def _imports_of_siblings(package: Path) -> dict[str, set[str]]:
    """Return the siblings that each module or room of a package imports."""
    prefix = ".".join(package.relative_to(ROOT).parts)
    siblings: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        if name == "__init__":
            continue  # a package may re-export what its modules define
        used = siblings.setdefault(name, set())
        for module in _imported_modules(path):
            if module.startswith(prefix + "."):
                used.add(module.removeprefix(prefix + ".").split(".")[0])
        used.discard(name)
    return {name: used & siblings.keys() for name, used in siblings.items()}


def _imported_modules(path: Path) -> Iterator[str]:
    """Yield the imported names, including those of ``from package import module``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from _imports(path)


@pytest.mark.parametrize("package", _packages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_siblings_have_no_circular_imports(package: Path) -> None:
    siblings = _imports_of_siblings(package)
    try:
        list(TopologicalSorter(siblings).static_order())
    except CycleError as error:
        pytest.fail(f"circular imports in {package.name}: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_from_rooms_below(package: str) -> None:
    rooms = ROOMS[package]
    found = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert found == set(rooms), "ROOMS lists every room"
    for room, used in _imports_of_siblings(ROOT / package).items():
        for other in used & found:
            if room in found:
                assert rooms.index(other) < rooms.index(room), f"{package}.{room} imports {package}.{other}"


def test_every_room_documents_who_may_import_it() -> None:
    for package, rooms in ROOMS.items():
        for room in rooms:
            text = ast.get_docstring(ast.parse((ROOT / package / room / "__init__.py").read_text())) or ""
            assert "import" in text, f"{package}.{room}"


def test_packages_have_few_modules() -> None:
    for package in _packages():
        modules = [path.stem for path in package.glob("*.py") if not path.stem.startswith("__")]
        assert len(modules) <= 16, f"{package.name} has {len(modules)} modules"


def test_tests_import_no_bench_and_their_support_imports_no_test() -> None:
    """What tests and `bench` share is in `tests.support`; `bench` may import that, and nothing imports `bench`."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in _imported_modules(path):
            assert name.split(".")[0] != "bench", f"{path} imports {name}"
            if "support" in path.parts and name.startswith("tests."):
                assert name.startswith("tests.support."), f"{path} imports {name}"
    for path in sorted((ROOT / "bench").rglob("*.py")):
        for name in _imported_modules(path):
            assert not name.startswith("tests.") or name.startswith("tests.support"), f"{path} imports {name}"


@pytest.mark.parametrize("package", ONE_PLACE)
def test_each_heavy_package_is_imported_by_one_module(package: str) -> None:
    places = [path for _, path in _modules() if any(name.split(".")[0] == package for name in _imports(path))]
    assert len(places) <= 1, f"{package} is imported by {', '.join(map(str, places))}"


@pytest.mark.parametrize("module", ["hpa.__main__", "hpa.atlas", "crops.run", "aggregate.run", "crops.store"])
def test_hpa_crops_and_aggregate_do_not_import_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("package", FLOORS)
def test_help_imports_no_heavy_package(package: str) -> None:
    script = (
        f"import sys; from {package}.__main__ import main; assert main(['--help']) == 0\n"
        "heavy = {'torch', 'cellpose', 'lightning', 'albumentations', 'skimage', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{package} " in done.stdout
