"""The whole recipe: the sections of all stages, checked together at `init` and written resolved."""

import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import tomli_w
from pydantic import BaseModel, ConfigDict

from aggregate.config import AggregateSection
from classify.config import ClassifySection
from classify.own_code import code_names
from crops.config import CropsSection
from hpa.channels import CHANNELS, parse_mixture
from hpa.config import DataSection, parse_section, read_toml
from hpa.errors import UserError
from hpa.layouts.pattern import compile_pattern
from hpa.work.files import write_bytes
from segment.config import SegmentSection

_WIDTH: Final = 120


class Recipe(BaseModel):
    """All settings of a run; one section for the data and one for each stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataSection = DataSection()
    segment: SegmentSection = SegmentSection()
    crops: CropsSection = CropsSection()
    classify: ClassifySection = ClassifySection()
    aggregate: AggregateSection = AggregateSection()


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Check a whole recipe and fill in the defaults.

    Parameters
    ----------
    values
        The content of a TOML file: one table per section, all of them optional.

    Raises
    ------
    UserError
        If a section or key is unknown, a value is unusable, or two values exclude each other.
    """
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    unknown = values.keys() - sections.keys()
    if unknown:
        raise UserError(f"expected the sections {', '.join(sections)} in a recipe, found {min(unknown)!r}")
    recipe = Recipe(
        data=parse_section(DataSection, "data", values.get("data", {})),
        segment=parse_section(SegmentSection, "segment", values.get("segment", {})),
        crops=parse_section(CropsSection, "crops", values.get("crops", {})),
        classify=parse_section(ClassifySection, "classify", values.get("classify", {})),
        aggregate=parse_section(AggregateSection, "aggregate", values.get("aggregate", {})),
    )
    if recipe.aggregate.pooling == "trained" and recipe.classify.objective == "cell":
        raise UserError('expected classify.objective bag or dual with aggregate.pooling = "trained", found cell')
    if recipe.aggregate.submission == "kaggle2021" and "cells" not in recipe.crops.windows:
        found = ", ".join(recipe.crops.windows)
        raise UserError(f'expected cells among crops.windows with aggregate.submission = "kaggle2021", found {found}')
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Check what would otherwise stop a later stage: classes, channels, the network and its weights.

    Pretrained weights that are not on this machine are downloaded.

    Parameters
    ----------
    recipe
        The recipe.

    Raises
    ------
    UserError
        If a class, a channel, a column or a window does not exist, `aggregate.class_fractions` has another length than
        the vocabulary, the network of `[classify]` cannot be made for the crops, or that of `[segment]` is not in its
        file.
    """
    from aggregate.thresholds.methods import check_classes  # with SciPy, which reading a recipe does not need

    data, section = recipe.data, recipe.classify
    check_classes(recipe.aggregate, data.classes)
    _check_sources(recipe)
    if recipe.aggregate.submission == "kaggle2021":
        from aggregate.submission.kaggle2021 import check_covered

        check_covered(data.classes)
    if recipe.crops.needs_masks:
        _check_segment(recipe)
    parts = [part for name in section.channels for part in parse_mixture(name).channels]
    if missing := [part for part in parts if part not in data.channels]:
        raise UserError(
            f"expected classify.channels among data.channels ({', '.join(data.channels)}), found {missing[0]!r}"
        )
    if "brightest" in recipe.crops.stores and "green" not in data.channels:
        raise UserError("expected green among data.channels for windows where most protein is, found none")
    for window in recipe.crops.windows:
        sizes = [recipe.crops.size_px_of(name) for name in (recipe.crops.train_window_for(window), window)]
        if section.random_crop == "none" and sizes[0] != sizes[1]:
            raise UserError(
                f"expected crops of {sizes[0]} px for {window}, as the models that score them are trained on, found"
                f" {sizes[1]} (crops.window_px)"
            )
    if isinstance(section.class_weights, tuple):
        from classify.losses.classification import check_class_weights

        check_class_weights(section, len(data.classes))
    network = {"backbone", "pretrained", "trainable", "heads", "normalise", "stem", "view_kinds"}
    network |= {"phases", "feature_stages", "layer_rates", "input_px"}
    listed = bool(code_names(section)) or not isinstance(section.augment, str)
    if listed or section.model_dump(include=network) != ClassifySection().model_dump(include=network):
        # Imported here, because torch takes seconds to import and the default network needs no check.
        from classify.preparation import check_network, model_to_check

        for window in recipe.crops.train_windows:
            check_network(section, data, recipe.crops.size_px_of(window), model_to_check(section, recipe.crops))


def _check_sources(recipe: Recipe) -> None:
    """Check that there will be what `[aggregate]` pools: crops with that quality, windows of this run to join."""
    section = recipe.aggregate
    if section.min_quality:
        from crops.table import columns_of  # with pandera, which the default does not need

        if section.quality not in (known := columns_of(recipe.data.channels)):
            raise UserError(
                f"expected a column of crops.parquet ({', '.join(known)}) as aggregate.quality, found"
                f" {section.quality!r}"
            )
    windows: list[str] = list(recipe.crops.windows)
    windows += [f"{window}/neighbours" for window in windows if recipe.classify.nearest_crops]
    for name in section.join:
        folder, _, window = name.partition(":")
        if window and Path(folder) == Path() and window not in windows:
            raise UserError(
                f"expected a window that this run predicts ({', '.join(windows)}) in aggregate.join, found {name!r}"
            )


def _check_segment(recipe: Recipe) -> None:
    data, section, default = recipe.data, recipe.segment, SegmentSection()
    if section.channels != default.channels or not {"blue", "yellow"} <= set(data.channels):
        # Imported here, because the stage takes seconds to import and the default needs no check.
        from segment.inference.preprocess import channels_to_read

        channels_to_read(section, data)
    if section.network != default.network:
        from segment.network.cellpose import CELLPOSE_MODELS
        from segment.network.weights import check_weights

        if section.network not in CELLPOSE_MODELS:  # `segment run` fetches those
            check_weights(section.network)


def read_recipe(recipe: str | Path | None = None, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply settings such as ``classify.epochs=3``.

    Parameters
    ----------
    recipe
        A TOML file, or the name of a shipped recipe, for example ``"cells"``; None is the empty recipe, which has the
        default of every key.
    settings
        ``section.key=value``, with the value in TOML; a bare word is taken as text.

    Raises
    ------
    UserError
        If the file, a setting, a key or a value is unusable.

    Examples
    --------
    >>> read_recipe("cells") == read_recipe()
    True
    >>> read_recipe("five_crop", ["crops.size_px=64"]).crops.size_px
    64
    """
    values = {} if recipe is None else read_toml(find_recipe(recipe))
    try:
        for setting in settings:
            name, equals, text = setting.partition("=")
            section, dot, key = name.partition(".")
            if not (equals and dot and isinstance(values.setdefault(section, {}), dict)):
                raise UserError(f"expected a setting section.key=value, found {setting!r}")
            values[section][key] = _value(text)
        return parse_recipe(values)
    except RecursionError:
        raise UserError("expected values of a recipe, found some nested too deeply") from None


def parse_naming(pattern: str, channels: Sequence[str]) -> dict[str, object]:
    """Return the keys of `[data]` that ``--pattern`` and ``--channel TEXT=CHANNEL`` set; empty without them.

    Raises
    ------
    UserError
        If only one of them is given, or one is unusable.
    """
    if bool(pattern) != bool(channels):
        given, lacking = ("--pattern", "--channel") if pattern else ("--channel", "--pattern")
        raise UserError(f"expected {lacking} with {given}, found none")
    if not pattern:
        return {}
    compile_pattern(pattern)
    named: dict[str, str] = {}
    for text in channels:
        key, equals, channel = text.partition("=")
        if not equals or channel not in CHANNELS or key in named:
            raise UserError(f"expected --channel TEXT=CHANNEL with one of {', '.join(CHANNELS)} each, found {text!r}")
        named[key] = channel
    return {"pattern": pattern, "file_channels": named}


def with_naming(recipe: Recipe, naming: Mapping[str, object]) -> Recipe:
    """Return the recipe with the naming, and with the named channels alone if it does not say which to read."""
    if not naming:
        return recipe
    values = {**recipe.data.model_dump(), **naming}
    named = naming["file_channels"]
    assert isinstance(named, dict)
    if recipe.data.channels == CHANNELS:
        values["channels"] = [channel for channel in CHANNELS if channel in named.values()]
    return recipe.model_copy(update={"data": parse_section(DataSection, "data", values)})


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that Cellwise ships, by name."""
    folder = Path(str(files("recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(recipe: str | Path) -> Path:
    """Return the file of a recipe, given by its path or by the name of a shipped one.

    Raises
    ------
    UserError
        If there is no such file and no shipped recipe of this name.
    """
    path, found = Path(recipe), f"no {recipe}"
    with suppress(OSError):  # a name that is too long
        if path.is_file():
            return path
        found = f"the folder {recipe}" if path.is_dir() else found
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise UserError(f"expected a recipe file or a shipped recipe ({', '.join(shipped)}), found {found}")


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe with all its keys and what they mean, so that the file alone determines the results."""
    write_bytes(path, format_recipe(recipe).encode())


def format_recipe(recipe: Recipe) -> str:
    """Return a recipe as TOML, with the description of every key as a comment above it."""
    sections = []
    for name, section in recipe:
        lines = [f"[{name}]"]
        values = section.model_dump(mode="json")
        for key, field in type(section).model_fields.items():
            text = " ".join((field.description or "").split())
            comment = textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False, break_long_words=False)
            lines += [f"# {line}" for line in comment]
            lines.append(f"{key} = {format_value(values[key])}")
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def format_value(value: Any) -> str:
    """Return a value on one line; tomli_w writes lists over several."""
    if isinstance(value, list):
        return f"[{', '.join(format_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{format_value(key)} = {format_value(item)}' for key, item in value.items())}}}"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # also for thousands of digits
        return text
