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
            If one of them is not a work folder, or the training crops that labels are transferred from are missing.
        """
        work = open_work(root)
        recipe = read_recipe(work.recipe)
        others = [open_joined(work, path) for path in joined_roots(recipe, root)]
        model = cls(work, recipe, tuple(cls(other, joining_none(read_recipe(other.recipe))) for other in others))
        for part in (model, *model.joined):
            for path in model.references_of(part):
                if not path.is_file():
                    raise UserError(
                        f"expected the training crops that {work.recipe} joins labels of (aggregate.join) in {path},"
                        f" found none; make them with `python -m classify predict {part.work.root} --overwrite`"
                    )
        return model

    def references_of(self, part: Self) -> list[Path]:
        """Return the files of the training crops that this run transfers labels from, of itself or of a joined run."""
        from classify.models import references_path, trained_checkpoints

        paths = []
        for root, name in self.recipe.aggregate.joined(self.work.root):
            for window in part.recipe.crops.windows if root == part.work.root.resolve() else ():
                if name.startswith(f"{window}/"):
                    folds = trained_checkpoints(part.work, part.recipe.crops.train_window_for(window))
                    paths += [references_path(part.work, window, fold) for fold in folds]
        return paths


def joined_roots(recipe: Recipe, work: Path) -> list[Path]:
    """Return the folders that the recipe of a work folder joins, each once, in its order, without the folder itself."""
    return [root for root in dict.fromkeys(root for root, _ in recipe.aggregate.joined(work)) if root != work.resolve()]


def joining_none(recipe: Recipe) -> Recipe:
    """Return the recipe of a run that joins no other."""
    section = recipe.aggregate.model_copy(update={"join": (), "join_weights": ()})
    return recipe.model_copy(update={"aggregate": section})


def with_joined(recipe: Recipe, work: Path, places: Sequence[Path]) -> Recipe:
    """Return the recipe of a work folder whose joined runs have moved to `places`, one for each of `joined_roots`."""
    section, moved = recipe.aggregate, {work.resolve(): "."}
    moved |= {root: place.as_posix() for root, place in zip(joined_roots(recipe, work), places, strict=True)}
    named = ((moved[root], window) for root, window in section.joined(work))
    join = tuple(f"{place}:{window}" if window else place for place, window in named)
    return recipe.model_copy(update={"aggregate": section.model_copy(update={"join": join})})
