"""The class losses of a recipe, and the weights of classes in them."""

import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, NonNegativeFloat, Tag

from hpa.config import Section

LossName = Literal[
    "bce",
    "focal",
    "soft-f1-macro",
    "soft-f1-samples",
    "log-soft-f1-macro",
    "log-soft-f1-samples",
    "lovasz",
    "hard-bce",
    "asymmetric",
]
_ClassWeightsName = Literal["none", "inverse", "effective"]

CODE: Final = re.compile(r"[A-Za-z_]\w*:[A-Za-z_]\w*", re.ASCII)
"""Name of a function in a file of the user: ``my_module:my_loss`` (`classify.own_code`)."""


def _check_name(name: str) -> str:
    if name not in get_args(LossName) and not CODE.fullmatch(name):
        raise ValueError(f"expected {', '.join(get_args(LossName))} or my_module:my_loss")
    return name


def _kind(loss: Any) -> str | None:
    """Return which of its forms a loss has, so that messages are about that one."""
    return "one" if isinstance(loss, str) else "several" if isinstance(loss, list | tuple) and loss else None


def _check_weights(weights: Any) -> Any:
    if isinstance(weights, str) and weights not in get_args(_ClassWeightsName):
        raise ValueError(f"expected {', '.join(get_args(_ClassWeightsName))} or a list of numbers")
    if isinstance(weights, list | tuple):
        if not all(isinstance(w, int | float) and not isinstance(w, bool) and w >= 0 for w in weights):
            raise ValueError("expected numbers of at least 0")
        if not any(weights):
            raise ValueError("expected at least one weight above 0")
    return weights


_Name = Annotated[str, AfterValidator(_check_name)]


class LossTerm(Section):
    """One of several class losses that are added."""

    name: _Name = Field(description="Name of the loss, or `my_module:my_loss`.")
    weight: float = Field(default=1.0, gt=0, description="Factor of the loss.")


Loss = Annotated[
    Annotated[_Name, Tag("one")] | Annotated[tuple[LossTerm, ...], Tag("several")],
    Discriminator(
        _kind,
        custom_error_type="loss",
        custom_error_message='expected a name or a list of {name = "...", weight = 1.0}',
    ),
]
"""A loss by its name, or several that are added."""

ClassWeights = Annotated[_ClassWeightsName | tuple[NonNegativeFloat, ...], BeforeValidator(_check_weights)]
"""How classes are weighted in the loss: by a rule, or by numbers."""
