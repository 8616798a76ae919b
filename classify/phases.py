"""The phases of a training, as a recipe says them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hpa.config import Section

Schedule = Literal["one-cycle", "cosine", "plateau", "constant"]


def _check_part(part: str) -> str:
    if not re.fullmatch(r"all|new|heads|stem|stages|stage[1-9]\d?", part, re.ASCII):
        raise ValueError("expected all, new, heads, stem, stages or single ones (stage1, stage2, ...)")
    return part


Part = Annotated[str, AfterValidator(_check_part)]


class Phase(Section):
    """One phase: so many epochs, in which some parts of the network are trained."""

    epochs: int = Field(default=0, ge=0, description="Epochs of the phase; 0, in the last, for what the others leave.")
    trainable: tuple[Part, ...] = Field(
        default=("all",),
        min_length=1,
        description="Parts that are trained: all; new, what has no pretrained weights; heads, with attention within the"
        " backbone; stem; stages, or single ones (stage1, stage2, ...).",
    )
    learning_rate: float = Field(default=0.0, ge=0, description="Highest learning rate; 0 for that of the recipe.")
    schedule: Literal["same", "continue", Schedule] = Field(
        default="same",
        description="Learning rate over the phase: by the recipe's schedule, by another, or as the schedule of the"
        " phase before continues.",
    )
    input_px: int = Field(
        default=-1, ge=-1, description="Side to which training crops are resized; -1 for that of the recipe."
    )


@dataclass(frozen=True)
class TrainingPhase:
    """One phase of a training with nothing left open.

    Parameters
    ----------
    epochs
        Number of epochs.
    trainable
        Parts that are trained.
    learning_rate
        Highest learning rate; that of a phase that continues the schedule is of no meaning.
    schedule
        Schedule of the learning rate, None where that of the phase before continues.
    input_px
        Side of training crops, 0 for their own.
    """

    epochs: int
    trainable: tuple[str, ...]
    learning_rate: float
    schedule: Schedule | None
    input_px: int


def with_epochs(values: Any) -> Any:
    """Return the values of a section with `epochs`, the sum over their phases, if these leave none open.

    Raises
    ------
    ValueError
        If the values have another number of epochs.
    """
    phases = values.get("phases") if isinstance(values, dict) else None
    if not isinstance(phases, list | tuple) or not phases:
        return values
    counts: list[Any] = []
    for phase in phases:
        counts.append(phase.get("epochs", 0) if isinstance(phase, dict) else getattr(phase, "epochs", ""))
    if not all(isinstance(count, int) for count in counts) or not counts[-1]:
        return values
    if values.get("epochs", sum(counts)) != sum(counts):
        raise ValueError(f"expected epochs = {sum(counts)}, the sum over the phases, or no such key")
    return values | {"epochs": sum(counts)}


def check_phases(phases: Sequence[Phase]) -> None:
    """Check that phases fit together.

    Raises
    ------
    ValueError
        If a phase is empty, or the first continues a schedule, or one that continues has a rate of its own.
    """
    for i, phase in enumerate(phases):
        if not phase.epochs and i + 1 < len(phases):
            raise ValueError(f"expected epochs in all phases but the last, found none in phase {i + 1}")
        if phase.schedule == "continue" and i == 0:
            raise ValueError("expected a schedule in the first phase, found one that continues")
        if phase.schedule == "continue" and phase.learning_rate:
            raise ValueError(
                f"expected no learning_rate where the schedule continues, found {phase.learning_rate} in phase {i + 1}"
            )


def resolve_phases(
    phases: Sequence[Phase], epochs: int, learning_rate: float, schedule: Schedule, input_px: int
) -> list[TrainingPhase]:
    """Fill in what phases leave to the single keys of the recipe.

    Parameters
    ----------
    phases
        The phases; none is one phase in which all is trained.
    epochs
        Epochs of the whole training, if the last phase has none of its own: it has those that are left, and if none
        are, the training ends earlier.
    learning_rate, schedule, input_px
        The recipe's keys.

    Examples
    --------
    >>> [phase.epochs for phase in resolve_phases([Phase(epochs=2), Phase()], 20, 1e-3, "cosine", 0)]
    [2, 18]
    >>> [phase.epochs for phase in resolve_phases([Phase(epochs=2), Phase()], 1, 1e-3, "cosine", 0)]
    [1]
    """
    every = list(phases) or [Phase()]
    left = epochs if is_open(every) else sum(phase.epochs for phase in every)
    resolved = []
    for phase in every:
        own = min(phase.epochs or left, left)
        if not own:
            break
        left -= own
        resolved.append(
            TrainingPhase(
                own,
                phase.trainable,
                phase.learning_rate or learning_rate,
                {"same": schedule, "continue": None}.get(phase.schedule, phase.schedule),  # type: ignore[arg-type]
                input_px if phase.input_px < 0 else phase.input_px,
            )
        )
    return resolved


def is_open(phases: Sequence[Phase]) -> bool:
    """Return whether the number of epochs is left to the recipe's key."""
    return not phases or not phases[-1].epochs
