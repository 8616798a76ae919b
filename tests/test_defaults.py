"""Parameters of one name have one default, in the commands as in the functions behind them."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from aggregate.config import AggregateSection
from segment.training.train import Training
from tests.support.pages import ROOT
from tests.test_floors import FLOORS

ONE_DEFAULT = (
    "dask", "device", "figure_format", "fold", "iou", "limit", "logs", "markdown", "overwrite", "penetrance", "queries",
    "shown", "tiny", "worst",
)  # fmt: skip


def _defaults(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    plain = [*function.args.posonlyargs, *function.args.args]
    plain = plain[len(plain) - len(function.args.defaults) :]
    yield from ((argument.arg, default) for argument, default in zip(plain, function.args.defaults, strict=True))
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if default is not None:
            yield argument.arg, default


def _found() -> dict[str, dict[str, list[str]]]:
    """Return the places of each default of each parameter, over all packages; None stands for no default."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for package in FLOORS:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    for name, default in _defaults(node):
                        found[name][ast.unparse(default)].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_parameters_of_one_name_have_one_default() -> None:
    found = _found()
    for name in ONE_DEFAULT:
        places = {default: where for default, where in found[name].items() if default != "None"}
        assert len(places) == 1, f"{name} has several defaults: {places}"
        assert sum(map(len, places.values())) > 1, f"{name} has one place only"


def test_defaults_are_those_of_the_recipe_and_of_the_settings() -> None:
    found = _found()
    scores = {  # of masks there are fewer images, so that more resamples cost little
        default
        for name in ("resamples", "bootstrap")
        for default, places in found[name].items()
        if any(not place.startswith("segment/") for place in places)
    }
    assert scores == {str(AggregateSection().bootstrap)}
    further = [place for place in found["epochs"][str(Training().epochs)] if place.startswith("segment/__main__.py")]
    assert len(further) == 2, "fine-tuning and distillation train as long as `Training` says"
