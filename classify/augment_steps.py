"""The augmentation of a recipe: a preset, or a list of steps."""

import math
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

Preset = Literal["none", "light", "standard", "strong"]


def _check_augment(augment: Any) -> Any:
    if isinstance(augment, list | tuple):
        for number, step in enumerate(augment, start=1):
            _check_step(step, number)
    elif augment not in get_args(Preset):
        raise ValueError(f"expected {', '.join(get_args(Preset))} or a list of steps")
    return augment


def _check_step(step: Any, number: int) -> None:
    if not isinstance(step, dict) or not isinstance(step.get("name"), str):
        similar = get_close_matches("name", step, n=1) if isinstance(step, dict) else ()
        found = f", found {similar[0]!r} (did you mean 'name'?)" if similar else ""
        raise ValueError(f'expected a name in step {number}, such as {{name = "Rotate", limit = 30}}{found}')
    for key, value in step.items():
        if not _is_plain(value):
            raise ValueError(f"expected a number, text or list of them as {key} of {step['name']} in step {number}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


Augment = Annotated[Preset | tuple[dict[str, Any], ...], BeforeValidator(_check_augment)]
"""A preset, or steps of albumentations, each a name and parameters, which `classify.data.augmentation` checks."""
