"""A trained run as `apply` and `export` use it: its recipe and the runs that its last stage joins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aggregate.pooling.sources import open_joined
from hpa.errors import UserError
from hpa.work.folder import WorkFolder, open_work
from pipeline.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Model:
    """A trained run.

    Parameters
    ----------
    work
        The folder of its checkpoints and thresholds.
    recipe
        Its recipe.
    joined
        The runs joined with it, each once, in the order of its recipe; runs that those join are ignored.
    """

    work: WorkFolder
    recipe: Recipe
    joined: tuple[Self, ...] = ()

    @classmethod
    def of_work(cls, root: Path) -> Self:
        """Return a trained work folder and those that its recipe joins.

        Raises
        ------
        UserError
            If one of them is not a work folder, or labels of nearest crops are joined.
        """
        work = open_work(root)
        recipe = read_recipe(work.recipe)
        if any(window.endswith("/neighbours") for _, window in recipe.aggregate.joined(root)):
            raise UserError(
                f"expected runs that are joined by their class heads, to be applied to new images, found neighbours in"
                f" aggregate.join of {work.recipe}: they need the training crops"
            )
        others = [open_joined(work, path) for path in joined_roots(recipe, root)]
        return cls(
            work, recipe, tuple(cls(other, with_joined(read_recipe(other.recipe), other.root, [])) for other in others)
        )


def joined_roots(recipe: Recipe, work: Path) -> list[Path]:
    """Return the folders that the recipe of a work folder joins, each once, in its order."""
    return list(dict.fromkeys(root for root, _ in recipe.aggregate.joined(work)))


def with_joined(recipe: Recipe, work: Path, places: Sequence[Path]) -> Recipe:
    """Return the recipe of a work folder whose joined runs have moved to `places`; without places it joins none."""
    section, moved = recipe.aggregate, dict(zip(joined_roots(recipe, work), places, strict=False))
    if not moved:
        return recipe.model_copy(update={"aggregate": section.model_copy(update={"join": (), "join_weights": ()})})
    named = ((moved[root].as_posix(), window) for root, window in section.joined(work))
    join = tuple(f"{place}:{window}" if window else place for place, window in named)
    return recipe.model_copy(update={"aggregate": section.model_copy(update={"join": join})})
