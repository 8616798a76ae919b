"""Everything that the packages import is declared, and nothing private of other packages is used."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_NAMES = {"umap": "umap-learn"}
PACKAGES = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline", "cellwise", "recipes")


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the imported modules, each with the name that it, or something of it, has in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, (alias.asname or alias.name).split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def _is_foreign(module: str) -> bool:
    top = module.split(".")[0]
    return top not in PACKAGES and top not in sys.stdlib_module_names


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_imported_is_declared() -> None:
    """A module of an optional dependency that is not installed here is looked up by its own name, or in `_NAMES`."""
    requirements = [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
    declared = {_normal(re.split(r"[\s<>=!~;\[]", requirement)[0]) for requirement in requirements}
    distributions = packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {module}"
        for path, tree in _modules()
        for module, _ in _imports(tree)
        if _is_foreign(module)
        for top in (module.split(".")[0],)
        if not {_normal(name) for name in distributions.get(top, [_NAMES.get(top, top)])} & declared
    }
    assert not missing


@pytest.mark.parametrize("path", [path for path, _ in _modules()], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_private_of_a_dependency_is_used(path: Path) -> None:
    """Neither imported nor reached through an imported name; what an object of theirs holds is not seen."""
    tree = ast.parse(path.read_text())
    foreign = {name for module, name in _imports(tree) if _is_foreign(module)}
    private = [module for module, _ in _imports(tree) if _is_foreign(module) and re.search(r"\._[a-z]", module)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            inner: ast.expr = node.value
            while isinstance(inner, ast.Attribute):
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in foreign | {"trainer"}:
                private.append(ast.unparse(node))
    assert not private
