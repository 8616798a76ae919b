"""Runs that differ in some keys of the recipe: one work folder for each combination of values, and one table."""

import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from hpa.errors import UserError
from hpa.work.folder import locked, open_work
from pipeline.recipe import check_recipe, format_value, read_recipe
from pipeline.share import init_from, second_recipe
from pipeline.stages import run_stages


def parse_variations(texts: Sequence[str]) -> list[list[str]]:
    """Return the settings of each combination of the values of some keys.

    Parameters
    ----------
    texts
        ``section.key=value,value,...`` each, with values in TOML; bare words are taken as text.

    Raises
    ------
    UserError
        If a text is none of that, or a key or a value occurs twice.

    Examples
    --------
    >>> parse_variations(["classify.epochs=1,2", "classify.optimizer=adamw,sgd"])[1]
    ['classify.epochs=1', 'classify.optimizer="sgd"']
    """
    choices: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not (equals and "." in key and values):
            raise UserError(f"expected section.key=value,value,... to vary, found {text!r}")
        if key in choices:
            raise UserError(f"expected each key to vary once, found {key} twice")
        found = [format_value(value) for value in _split(values)]
        if len(set(found)) < len(found):
            raise UserError(f"expected different values of {key}, found {values}")
        choices[key] = [f"{key}={value}" for value in found]
    return [list(settings) for settings in product(*choices.values())]


def sweep(
    root: Path,
    variations: Sequence[str],
    out: Path | None = None,
    *,
    device: str = "auto",
    workers: int = 0,
    threads: int | None = None,
) -> tuple[list[Path], int]:
    """Finish a work folder, then run one that shares with it for each combination of values.

    Parameters
    ----------
    root
        The work folder, the first of the comparison.
    variations
        As for `parse_variations`.
    out
        Folder of the other work folders; None is ``<root>-sweep``. Those of an earlier call are resumed.
    device, workers, threads
        As for `pipeline.stages.run_stages`.

    Returns
    -------
    roots
        All work folders, `root` first.
    code
        The highest exit code of the stages.

    Raises
    ------
    UserError
        If a key or value is unusable, a folder of an earlier call has another recipe, or a stage cannot run.
    """
    first = open_work(root)
    folder = out or root.with_name(f"{root.name}-sweep")
    all_settings = parse_variations(variations)
    points = {folder / _name(settings): settings for settings in all_settings}
    if len(points) < len(all_settings):
        raise UserError(
            "expected values that give folders of different names, found two of the same; sweep them apart, each into"
            " its own --out"
        )
    for place, settings in points.items():  # an unusable value shows before anything runs
        wanted = second_recipe(first, place, None, settings)
        check_recipe(wanted)
        if (place / "recipe.toml").exists() and read_recipe(place / "recipe.toml") != wanted:
            raise UserError(
                f"expected {place} to have the recipe of {root} with {', '.join(settings)}, found another; remove"
                " it, or sweep into another folder (--out)"
            )
    code = 0
    for number, (place, settings) in enumerate({root: [], **points}.items()):
        print(f"sweep: {number + 1} of {1 + len(points)}, {', '.join(settings) or f'{root} itself'}")
        if not (place / "recipe.toml").exists():
            init_from(place, root, settings=settings)
        with locked(place):
            ran = run_stages(open_work(place), device=device, workers=workers, threads=threads)
        code = max(code, ran.code)
    return [root, *points], code


def _split(values: str) -> list[object]:
    try:
        parsed = tomllib.loads(f"values = [{values}]")["values"]
    except ValueError:
        return [_value(value) for value in values.split(",")]
    return list(parsed)


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text.strip()


def _name(settings: Sequence[str]) -> str:
    """Return the name of a work folder: its settings without their sections, and without what paths cannot have."""
    text = ",".join(setting.partition(".")[2] for setting in settings)
    return "".join(character for character in text if character.isalnum() or character in "=,._-+")
