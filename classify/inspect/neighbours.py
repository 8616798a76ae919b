"""Nearest crops and images in what a network sees: tables, scores, and a sheet to look at.

The question: does a neighbour look similar and share labels? Neighbours are looked for among the out-of-fold crops of
one fold's model, since the spaces of two models are not one, and never in the query's own image or antibody.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from classify.inference.predict import KEYS, VECTORS
from classify.inspect.retrieval import rank, retrieve, unit
from hpa.errors import UserError

SHOWN: Final = 5
"""Neighbours that are written and drawn for each query."""


@dataclass(frozen=True)
class Space:
    """Vectors of crops or images that one fold's model never saw in training.

    Parameters
    ----------
    image_ids
        Shape (N,).
    cell_labels
        Shape (N,), 0 for images.
    vectors
        Shape (N, D), rows of unit length.
    targets
        Shape (N, K).
    groups
        Shape (N,); rows of one image, and of one antibody, share a group.
    known
        Shape (N, K), of which classes it is known whether a row has them; None of all.
    """

    image_ids: NDArray[np.object_]
    cell_labels: NDArray[np.int64]
    vectors: NDArray[np.float32]
    targets: NDArray[np.bool_]
    groups: NDArray[np.int64]
    known: NDArray[np.bool_] | None = None

    def images(self) -> "Space":
        """Return the space of images, each at the mean of its crops."""
        ids, first, image = np.unique(self.image_ids.astype(str), return_index=True, return_inverse=True)
        total = np.zeros((len(ids), self.vectors.shape[1]), dtype=np.float64)
        np.add.at(total, image, self.vectors)
        means = unit((total / np.bincount(image)[:, None]).astype(np.float32))
        none = np.zeros(len(ids), dtype=np.int64)
        known = None if self.known is None else self.known[first]
        return Space(ids.astype(object), none, means, self.targets[first], self.groups[first], known)


def read_spaces(folder: Path, targets: pd.Series, groups: pd.Series, known: pd.Series) -> dict[str, Space]:
    """Read the vectors that ``predict --embeddings`` left of one fold, by name.

    Parameters
    ----------
    folder
        ``classify/<window>/predict/fold-<k>``.
    targets, groups, known
        Multi-hot target, leak group and known classes of each image, by image_id.

    Raises
    ------
    UserError
        If there are none.
    """
    if not (folder / KEYS).is_file():
        raise UserError(
            f"expected features in {folder} (made by `python -m classify predict --embeddings`), found none"
        )
    keys = pd.read_parquet(folder / KEYS)
    own = np.flatnonzero((keys["origin"] == "oof").to_numpy())
    keys = keys.iloc[own]
    ids = keys["image_id"]
    spaces = {}
    for name in VECTORS:
        path = folder / f"{name}.npy"
        if path.is_file():
            spaces[name] = Space(
                ids.to_numpy(dtype=object),
                keys["cell_label"].to_numpy(dtype=np.int64),
                unit(np.load(path, mmap_mode="r", allow_pickle=False)[own]),
                np.stack(list(targets.loc[ids])).reshape(len(ids), -1),
                groups.loc[ids].to_numpy(dtype=np.int64),
                np.stack(list(known.loc[ids])).reshape(len(ids), -1),
            )
    return spaces


def pick_queries(space: Space, n: int, seed: int) -> NDArray[np.int64]:
    """Draw up to `n` rows that carry a label, without replacement, in their order."""
    labelled = np.flatnonzero(space.targets.any(axis=1))
    rng = np.random.default_rng(seed)
    chosen: NDArray[np.int64] = np.sort(rng.choice(labelled, min(n, len(labelled)), replace=False))
    return chosen


def score_space(space: Space, queries: int, seed: int, jaccard: float) -> dict[str, Any]:
    """Return the scores of crops and of images in a space, as plain values."""
    found = {}
    for name, part in {"crops": space, "images": space.images()}.items():
        rows = pick_queries(part, queries, seed)
        found[name] = asdict(retrieve(part.vectors, part.targets, part.groups, rows, jaccard, part.known))
    return found


def nearest(space: Space, queries: NDArray[np.int64]) -> pd.DataFrame:
    """Return the nearest neighbours of some rows: query_*, rank from 1, image_id, cell_label, similarity, shared."""
    rows = []
    for query in queries:
        others = np.flatnonzero(space.groups != space.groups[query])
        for place, other in enumerate(rank(space.vectors, int(query), others)[:SHOWN], start=1):
            rows.append(
                {
                    "query_image_id": space.image_ids[query],
                    "query_cell_label": space.cell_labels[query],
                    "rank": place,
                    "image_id": space.image_ids[other],
                    "cell_label": space.cell_labels[other],
                    "similarity": float(space.vectors[query] @ space.vectors[other]),
                    "shared_labels": int((space.targets[query] & space.targets[other]).sum()),
                    "labels": int(space.targets[query].sum()),
                }
            )
    columns = ["query_image_id", "query_cell_label", "rank", "image_id", "cell_label", "similarity"]
    return pd.DataFrame(rows, columns=[*columns, "shared_labels", "labels"])
