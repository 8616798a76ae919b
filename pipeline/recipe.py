"""The whole recipe: the sections of all stages, composed, checked at init and written resolved."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w

from aggregate.config import AggregateSection
from classify.config import ClassifySection
from crops.config import CropsSection
from hpa.config import DataSection, Section, parse_section, read_toml
from hpa.errors import UserError
from hpa.work.files import write_bytes
from segment.config import SegmentSection

SECTIONS: Final[dict[str, type[Section]]] = {
    "data": DataSection,
    "segment": SegmentSection,
    "crops": CropsSection,
    "classify": ClassifySection,
    "aggregate": AggregateSection,
}


def check_recipe(values: dict[str, Any]) -> dict[str, Section]:
    """Check a whole recipe and fill in the defaults.

    Parameters
    ----------
    values
        What stood in the TOML: a table for each section, all of them optional.

    Returns
    -------
    dict
        Every section of `SECTIONS`, in its order.

    Raises
    ------
    UserError
        If a section or key is unknown, a value is not what is expected, or two do not go together.
    """
    unknown = values.keys() - SECTIONS.keys()
    if unknown:
        raise UserError(f"expected the sections {', '.join(SECTIONS)} in a recipe, found {min(unknown)!r}")
    recipe = {name: parse_section(model, name, values.get(name, {})) for name, model in SECTIONS.items()}
    crops, classify, aggregate = recipe["crops"], recipe["classify"], recipe["aggregate"]
    assert isinstance(crops, CropsSection)
    assert isinstance(classify, ClassifySection)
    assert isinstance(aggregate, AggregateSection)
    if aggregate.pooling == "trained" and classify.objective == "cell":
        raise UserError('expected classify.objective bag or dual with aggregate.pooling = "trained", found cell')
    if aggregate.submission == "kaggle2021" and "cells" not in crops.windows:
        found = ", ".join(crops.windows)
        raise UserError(f'expected cells among crops.windows with aggregate.submission = "kaggle2021", found {found}')
    return recipe


def load_recipe(path: Path | None, settings: Sequence[str] = ()) -> dict[str, Section]:
    """Read a recipe and apply settings such as ``classify.epochs=3``.

    Parameters
    ----------
    path
        A TOML file; None is the empty recipe, all defaults.
    settings
        ``section.key=value``, the value as in TOML; a bare word is taken as text.

    Raises
    ------
    UserError
        If the file, a setting, a key or a value is unusable.
    """
    values = read_toml(path) if path else {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot and isinstance(values.setdefault(section, {}), dict)):
            raise UserError(f"expected a setting section.key=value, found {setting!r}")
        values[section][key] = _value(text)
    return check_recipe(values)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def write_recipe(path: Path, recipe: dict[str, Section]) -> None:
    """Write a recipe with every key it has, so that it says all that decides the results."""
    content = {name: section.model_dump(mode="json") for name, section in recipe.items()}
    write_bytes(path, tomli_w.dumps(content).encode())
