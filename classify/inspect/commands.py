"""The commands that let a person look at what was trained: `curves` and `neighbours`."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from classify.config import ClassifySection
from classify.inspect.curves import draw_curves, last_looks, read_histories
from classify.inspect.neighbours import SHOWN, Space, nearest, pick_queries, read_spaces, score_space
from crops.config import CropsSection, Window
from crops.store import open_store
from hpa.errors import UserError
from hpa.images import read_images
from hpa.pictures import WHITE, Color, Picture, composite, save_tiles, titled
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_csv, write_json
from hpa.work.folder import WorkFolder

_TILE_PX: Final = 160
_NAMES: Final = 2
"""So many classes of a crop are named above it."""
_SHARED: Final[Color] = (90, 220, 90)
_OTHER: Final[Color] = (90, 90, 255)
"""Of the names above neighbours that share a class with the query, and above the others."""


def _trained(work: WorkFolder) -> list[Path]:
    folders = sorted({path.parent.parent for path in (work.root / "classify").glob("*/fold-*/history.csv")})
    if not folders:
        raise UserError(f"expected a trained work folder (`python -m classify train {work.root}`), found none")
    return folders


def curves(work: WorkFolder) -> int:
    """Draw ``classify/<window>/figures/curves.png`` for every kind of window and tell where training stands.

    Raises
    ------
    UserError
        If nothing was trained.
    """
    for folder in _trained(work):
        histories = read_histories(folder)
        picture = folder / "figures" / "curves.png"
        draw_curves(picture, histories)
        for line in last_looks(histories):
            print(f"{folder.name}, {line}")
        print(f"look at {picture}")
    return 0


def neighbours(work: WorkFolder, *, queries: int = 1000, shown: int = 12) -> int:
    """Score neighbours of crops and images, list and draw some: ``neighbours.json``, ``.csv``, ``figures/``.

    Parameters
    ----------
    work
        The work folder, after ``predict --embeddings``.
    queries
        How many crops, and images, of each fold are asked for their neighbours.
    shown
        How many queries a sheet has.

    Raises
    ------
    UserError
        If there are no features.
    """
    vocabulary = work.data.classes
    jaccard = work.section("classify", ClassifySection).triplet_jaccard
    images = read_images(work.images).merge(read_folds(work.folds), on="image_id")
    hot = vocabulary.multi_hot(images["target"])
    targets = pd.Series(list(hot), index=images["image_id"])
    known = pd.Series(list(~vocabulary.multi_hot(images["unknown_classes"])), index=images["image_id"])
    groups = pd.Series(images["group"].to_numpy(), index=images["image_id"])
    for window in work.section("crops", CropsSection).windows:
        folder = work.root / "classify" / window
        found: dict[str, list[dict[str, Any]]] = {}
        lists = []
        for place in sorted((folder / "predict").glob("fold-*")):
            for name, space in read_spaces(place, targets, groups, known).items():
                found.setdefault(name, []).append(score_space(space, queries, work.data.seed, jaccard))
                rows = pick_queries(space, shown, work.data.seed)
                lists.append(nearest(space, rows).assign(fold=place.name, space=name))
                picture = folder / "figures" / f"neighbours-{place.name}-{name}.png"
                _draw(picture, work, window, space, lists[-1], vocabulary)
        if not found:
            raise UserError(f"expected features (`python -m classify predict {work.root} --embeddings`), found none")
        scores = {name: _mean(parts) for name, parts in found.items()}
        write_json(folder / "neighbours.json", {"jaccard": jaccard, "folds": found, "mean": scores})
        write_csv(folder / "neighbours.csv", pd.concat(lists, ignore_index=True))
        _print(folder, scores)
    return 0


def _mean(parts: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        kind: {key: float(np.mean([part[kind][key] for part in parts])) for key in parts[0][kind]}
        for kind in ("crops", "images")
    }


def _print(folder: Path, scores: dict[str, dict[str, dict[str, float]]]) -> None:
    for name, kinds in scores.items():
        for kind, score in kinds.items():
            print(
                f"{folder.name}, {name} of {kind}: precision@1 {score['precision_at_1']:.3f}, MAP@R"
                f" {score['map_at_r']:.3f} (by chance {score['chance']:.3f})"
            )
    print(f"look at {folder / 'figures'} and {folder / 'neighbours.csv'}")


def _draw(
    path: Path, work: WorkFolder, window: Window, space: Space, table: pd.DataFrame, vocabulary: Vocabulary
) -> None:
    """Draw queries, each first in its line, then its neighbours."""
    store = open_store(work, window)
    at = pd.Series(range(len(store)), index=pd.MultiIndex.from_frame(store.table[["image_id", "cell_label"]]))
    row_of = {key: i for i, key in enumerate(zip(space.image_ids, space.cell_labels, strict=True))}
    lines: list[list[Picture]] = []
    for query, near in table.groupby(["query_image_id", "query_cell_label"], sort=False):
        keys = [query, *zip(near["image_id"], near["cell_label"], strict=True)][: SHOWN + 1]
        hot = [space.targets[row_of[key]] for key in keys]
        colors = [WHITE, *(_SHARED if (target & hot[0]).any() else _OTHER for target in hot[1:])]
        lines.append([])
        for pixels, target, color in zip(store.pixels(at.loc[keys].to_numpy()), hot, colors, strict=True):
            names = [vocabulary.classes[c] for c in np.flatnonzero(target)[:_NAMES]]
            title = "\n".join(names + [""] * (_NAMES - len(names)))
            lines[-1].append(titled(composite(pixels, work.data.channels), title, _TILE_PX, color))
    if lines:
        columns = max(map(len, lines))
        blank = np.zeros_like(lines[0][0])
        save_tiles([tile for line in lines for tile in line + [blank] * (columns - len(line))], columns, path)
