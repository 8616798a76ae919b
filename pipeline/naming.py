"""The flags that say how the files of a data folder are named."""

from collections.abc import Mapping, Sequence

from hpa.channels import CHANNELS
from hpa.config import DataSection, parse_section
from hpa.errors import UserError
from hpa.layouts.pattern import compile_pattern
from pipeline.recipe import Recipe


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
