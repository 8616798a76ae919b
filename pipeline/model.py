"""A trained run as `apply` and `export` take it: its recipe, and the runs that its last stage joins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aggregate.config import AggregateSection
from hpa.config import Section
from hpa.work.folder import WorkFolder, open_work
from pipeline.recipe import load_recipe


@dataclass(frozen=True)
class Model:
    """A trained run.

    Parameters
    ----------
    work
        Where its checkpoints and thresholds lie.
    recipe
        All its sections.
    joined
        The runs joined with it, each once, in the order of its recipe; what those join is not asked for.
    """

    work: WorkFolder
    recipe: dict[str, Section]
    joined: tuple[Self, ...] = ()

    @classmethod
    def of_work(cls, root: Path) -> Self:
        """Return a trained work folder, and those its recipe joins.

        Raises
        ------
        UserError
            If one of them is no work folder.
        """
        work = open_work(root)
        recipe = load_recipe(work.recipe)
        others = [open_work(path) for path in joined_roots(recipe)]
        return cls(work, recipe, tuple(cls(other, with_joined(load_recipe(other.recipe), [])) for other in others))


def joined_roots(recipe: dict[str, Section]) -> list[Path]:
    """Return the work folders that a recipe joins, each once, in its order."""
    return list(dict.fromkeys(root for root, _ in _aggregate(recipe).joined))


def with_joined(recipe: dict[str, Section], places: Sequence[Path]) -> dict[str, Section]:
    """Return a recipe whose joined runs lie elsewhere; without `places` it joins none."""
    section, moved = _aggregate(recipe), dict(zip(joined_roots(recipe), places, strict=False))
    if not moved:
        return recipe | {"aggregate": section.model_copy(update={"join": (), "join_weights": ()})}
    join = tuple(f"{moved[root]}:{window}" if window else str(moved[root]) for root, window in section.joined)
    return recipe | {"aggregate": section.model_copy(update={"join": join})}


def _aggregate(recipe: dict[str, Section]) -> AggregateSection:
    section = recipe["aggregate"]
    assert isinstance(section, AggregateSection)
    return section
