"""The command `neighbours`: the nearest crops and images in the feature space of each fold's model.

Tables, scores and pictures show whether neighbours look similar and share labels. Neighbours are searched among the
out-of-fold crops of one fold's model, since the spaces of two models differ, and outside the query's own image and
antibody.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from classify.config import ClassifySection
from classify.inference.predict import KEYS, VECTORS
from classify.inspect.retrieval import normalise_rows, rank_by_similarity, score_retrieval
from crops.config import CropsSection, Window
from crops.store import open_store
from hpa.errors import UserError
from hpa.images import read_images
from hpa.pictures import WHITE, Color, FigureFormat, Picture, composite, save_tiles, titled
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import read_parquet, write_csv, write_json
from hpa.work.folder import WorkFolder

SHOWN: Final = 5
"""Number of neighbours that are written and drawn per query."""

_TILE_PX: Final = 160
_NAMES: Final = 2  # number of classes named above a crop
_SHARED: Final[Color] = (90, 220, 90)  # of the names above neighbours that share a class with the query
_OTHER: Final[Color] = (90, 90, 255)  # of the names above other neighbours


@dataclass(frozen=True)
class FeatureSpace:
    """Vectors of crops or images that one fold's model did not see in training.

    Parameters
    ----------
    image_ids
        Shape (N,).
    cell_labels
        Shape (N,), 0 for images.
    vectors
        Shape (N, D), rows of unit length.
    targets
        Multi-hot targets, shape (N, K).
    known
        Whether it is known if a row has the class, shape (N, K).
    groups
        Leak group, shape (N,); rows of one image, and of one antibody, share a group.
    """

    image_ids: NDArray[np.object_]
    cell_labels: NDArray[np.int64]
    vectors: NDArray[np.float32]
    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]
    groups: NDArray[np.int64]

    def images(self) -> "FeatureSpace":
        """Return the space of images, each at the mean of its crops."""
        ids, first, image = np.unique(self.image_ids.astype(str), return_index=True, return_inverse=True)
        total = np.zeros((len(ids), self.vectors.shape[1]), dtype=np.float64)
        np.add.at(total, image, self.vectors)
        means = normalise_rows((total / np.bincount(image)[:, None]).astype(np.float32))
        no_cell = np.zeros(len(ids), dtype=np.int64)
        return FeatureSpace(
            ids.astype(object), no_cell, means, self.targets[first], self.known[first], self.groups[first]
        )


def neighbours(work: WorkFolder, *, queries: int = 1000, shown: int = 12, figure_format: FigureFormat = "png") -> int:
    """Score the neighbours of crops and images, and list and draw some of them.

    Writes ``neighbours.json``, ``neighbours.csv`` and ``figures/neighbours-*`` to ``classify/<window>/``.

    Parameters
    ----------
    work
        The work folder, after ``predict --embeddings``.
    queries
        Number of query crops, and of query images, per fold.
    shown
        Number of queries per sheet.
    figure_format
        Format of the pictures.

    Returns
    -------
    int
        The exit code 0.

    Raises
    ------
    UserError
        If there are no features.
    """
    vocabulary = work.data.classes
    jaccard = work.section("classify", ClassifySection).triplet_jaccard
    images = read_images(work.images).merge(read_folds(work.folds), on="image_id")
    targets = pd.Series(list(vocabulary.multi_hot(images["target"])), index=images["image_id"])
    known = pd.Series(list(~vocabulary.multi_hot(images["unknown_classes"])), index=images["image_id"])
    groups = pd.Series(images["group"].to_numpy(), index=images["image_id"])
    for window in work.section("crops", CropsSection).windows:
        folder = work.root / "classify" / window
        by_space: dict[str, list[dict[str, Any]]] = {}
        lists = []
        for fold_folder in sorted((folder / "predict").glob("fold-*")):
            for name, space in read_spaces(fold_folder, targets, known, groups).items():
                by_space.setdefault(name, []).append(score_space(space, queries, work.data.seed, jaccard))
                rows = pick_queries(space, shown, work.data.seed)
                lists.append(nearest(space, rows).assign(fold=fold_folder.name, space=name))
                picture = folder / "figures" / f"neighbours-{fold_folder.name}-{name}.{figure_format}"
                _draw(picture, work, window, space, lists[-1], vocabulary)
        if not by_space:
            raise UserError(f"expected features (`python -m classify predict {work.root} --embeddings`), found none")
        scores = {name: _mean(parts) for name, parts in by_space.items()}
        write_json(folder / "neighbours.json", {"jaccard": jaccard, "folds": by_space, "mean": scores})
        write_csv(folder / "neighbours.csv", pd.concat(lists, ignore_index=True))
        _print(folder, scores)
    return 0


def read_spaces(folder: Path, targets: pd.Series, known: pd.Series, groups: pd.Series) -> dict[str, FeatureSpace]:
    """Read the vectors that ``predict --embeddings`` wrote for one fold, by name.

    Parameters
    ----------
    folder
        ``classify/<window>/predict/fold-<k>``.
    targets, known, groups
        Multi-hot target, known classes and leak group of each image, indexed by image_id.

    Raises
    ------
    UserError
        If there are no vectors, or none of a labelled image.
    """
    if not (folder / KEYS).is_file():
        raise UserError(
            f"expected features in {folder} (made by `python -m classify predict --embeddings`), found none"
        )
    keys = read_parquet(folder / KEYS, "python -m classify predict --embeddings")
    own = np.flatnonzero((keys["origin"] == "oof").to_numpy())
    if not len(own):
        raise UserError(f"expected crops of images with labels, scored out of fold, in {folder}, found none")
    keys = keys.iloc[own]
    ids = keys["image_id"]
    spaces = {}
    for name in VECTORS:
        path = folder / f"{name}.npy"
        if path.is_file():
            spaces[name] = FeatureSpace(
                ids.to_numpy(dtype=object),
                keys["cell_label"].to_numpy(dtype=np.int64),
                normalise_rows(np.load(path, mmap_mode="r", allow_pickle=False)[own]),
                np.stack(list(targets.loc[ids])).reshape(len(ids), -1),
                np.stack(list(known.loc[ids])).reshape(len(ids), -1),
                groups.loc[ids].to_numpy(dtype=np.int64),
            )
    return spaces


def pick_queries(space: FeatureSpace, n: int, seed: int) -> NDArray[np.int64]:
    """Draw up to `n` rows with at least one label, without replacement, in rising order."""
    labelled = np.flatnonzero(space.targets.any(axis=1))
    rng = np.random.default_rng(seed)
    chosen: NDArray[np.int64] = np.sort(rng.choice(labelled, min(n, len(labelled)), replace=False))
    return chosen


def score_space(space: FeatureSpace, queries: int, seed: int, jaccard: float) -> dict[str, Any]:
    """Return the retrieval scores of the crops and of the images of a space, as plain values."""
    scores = {}
    for name, part in {"crops": space, "images": space.images()}.items():
        rows = pick_queries(part, queries, seed)
        scores[name] = asdict(score_retrieval(part.vectors, part.targets, part.known, part.groups, rows, jaccard))
    return scores


def nearest(space: FeatureSpace, queries: NDArray[np.int64]) -> pd.DataFrame:
    """List the nearest neighbours of queries in other groups.

    Returns
    -------
    DataFrame
        One row per query and neighbour: query_image_id, query_cell_label, rank (from 1), image_id, cell_label,
        similarity (cosine), shared_labels, and labels (of the query).
    """
    rows = []
    for query in queries:
        candidates = np.flatnonzero(space.groups != space.groups[query])
        for rank, other in enumerate(rank_by_similarity(space.vectors, int(query), candidates)[:SHOWN], start=1):
            rows.append(
                {
                    "query_image_id": space.image_ids[query],
                    "query_cell_label": space.cell_labels[query],
                    "rank": rank,
                    "image_id": space.image_ids[other],
                    "cell_label": space.cell_labels[other],
                    "similarity": float(space.vectors[query] @ space.vectors[other]),
                    "shared_labels": int((space.targets[query] & space.targets[other]).sum()),
                    "labels": int(space.targets[query].sum()),
                }
            )
    columns = ["query_image_id", "query_cell_label", "rank", "image_id", "cell_label", "similarity"]
    return pd.DataFrame(rows, columns=[*columns, "shared_labels", "labels"])


def _mean(parts: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Average the scores of folds."""
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
    print(f"see {folder / 'figures'} and {folder / 'neighbours.csv'}")


def _draw(
    path: Path, work: WorkFolder, window: Window, space: FeatureSpace, table: pd.DataFrame, vocabulary: Vocabulary
) -> None:
    """Draw one line per query: the query, then its neighbours."""
    store = open_store(work, window)
    positions = pd.Series(range(len(store)), index=pd.MultiIndex.from_frame(store.table[["image_id", "cell_label"]]))
    row_of = {key: i for i, key in enumerate(zip(space.image_ids, space.cell_labels, strict=True))}
    lines: list[list[Picture]] = []
    for query, near in table.groupby(["query_image_id", "query_cell_label"], sort=False):
        keys = [query, *zip(near["image_id"], near["cell_label"], strict=True)][: SHOWN + 1]
        hot = [space.targets[row_of[key]] for key in keys]
        colors = [WHITE, *(_SHARED if (target & hot[0]).any() else _OTHER for target in hot[1:])]
        lines.append([])
        for pixels, target, color in zip(store.pixels(positions.loc[keys].to_numpy()), hot, colors, strict=True):
            # The signs say what the colours say. Labels that are shared come first, so that they are among those named.
            order = sorted(np.flatnonzero(target).tolist(), key=lambda c: not hot[0][c])[:_NAMES]
            signs = {True: "+ ", False: "- "} if target is not hot[0] else {True: "", False: ""}
            names = [signs[bool(hot[0][c])] + vocabulary.classes[c] for c in order]
            title = "\n".join(names + [""] * (_NAMES - len(names)))
            lines[-1].append(titled(composite(pixels, work.data.channels), title, _TILE_PX, color))
    if lines:
        columns = max(map(len, lines))
        blank = np.zeros_like(lines[0][0])
        save_tiles([tile for line in lines for tile in line + [blank] * (columns - len(line))], columns, path)
