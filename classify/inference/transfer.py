"""Label transfer: a crop gets the classes of its nearest neighbours among the crops that a model was trained on.

The model of a fold knows the labels of its training folds only, so the images of its own fold get out-of-fold
probabilities, as they do from its class head.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from classify.data.crops import FeatureSource, blocks, select_channels
from classify.data.normalisation import crop_levels
from classify.inference.evaluate import predict_batches
from classify.inference.predict import KEYS, ScoredCrops, scored_rows, vector_names
from classify.network.checkpoint import Checkpoint
from classify.probabilities import class_columns
from hpa.errors import UserError
from hpa.work.files import atomic_write, first_line, write_parquet
from hpa.work.mapping import read_part
from hpa.work.progress import progress

NEIGHBOURS: Final = "neighbours.parquet"
"""File of a fold's transferred labels."""

TEMPERATURE: Final = 0.07
"""Of the weights of neighbours, as in Wu et al. 2018, https://arxiv.org/abs/1805.01978."""

_QUERIES: Final = 256  # crops whose similarities to all others are in memory at a time


def transfer_labels(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    targets: NDArray[np.bool_],
    known: NDArray[np.bool_],
    k: int,
) -> NDArray[np.float32]:
    """Return the weighted share of each class among the nearest references of each query.

    Parameters
    ----------
    queries
        Shape (N, D), rows of unit length.
    references
        Shape (M, D), rows of unit length, M at least 1.
    targets, known
        Labels of the references, shape (M, K), and whether they are known.
    k
        Number of neighbours by cosine similarity, each with the weight exp(similarity / `TEMPERATURE`).

    Returns
    -------
    ndarray
        Shape (N, K). A class that is unknown for all neighbours of a query gets its share of all references.
    """
    shares = (targets & known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    all_references = torch.from_numpy(np.ascontiguousarray(references)).T
    found = np.empty((len(queries), targets.shape[1]), dtype=np.float32)
    for rows in blocks(np.arange(len(queries)), _QUERIES):
        similarity = torch.from_numpy(queries[rows]) @ all_references
        nearest = similarity.topk(min(k, len(references)), dim=1)
        weights = ((nearest.values - nearest.values[:, :1]) / TEMPERATURE).exp().numpy()
        places = nearest.indices.numpy()
        of_known = weights[:, :, None] * known[places]
        total = of_known.sum(axis=1)
        hits = (of_known * targets[places]).sum(axis=1)
        found[rows] = np.where(total > 0, hits / np.maximum(total, np.finfo(np.float32).tiny), shares)
    return found.clip(0, 1)


@dataclass(frozen=True)
class References:
    """The crops that a model was trained on, as label transfer needs them; no pixels.

    Parameters
    ----------
    vectors
        Shape (M, D), float16, rows of unit length: rounding them moves a similarity by some 1e-5, and half the size
        matters where a bundle holds hundreds of thousands.
    targets, known
        Their labels, shape (M, K), and whether they are known.
    """

    vectors: NDArray[np.float16]
    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Write them atomically; equal references give equal bytes."""
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, vectors=self.vectors, targets=self.targets, known=self.known)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read them; code in the file is not executed.

        Raises
        ------
        UserError
            If the file is missing, damaged or something else.
        """
        again = "make it again with `python -m classify predict --overwrite`"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                found = cls(stored["vectors"], stored["targets"], stored["known"])
        except Exception as error:  # damaged bytes make the reader raise whatever they lead it to
            raise UserError(f"expected labelled crops in {path}, found {first_line(error)}; {again}") from None
        shapes = found.vectors.ndim == found.targets.ndim == 2 and found.targets.shape == found.known.shape
        kinds: list[Any] = [found.vectors.dtype, found.targets.dtype, found.known.dtype]
        if not shapes or kinds != [np.float16, np.bool_, np.bool_] or not 0 < len(found.vectors) == len(found.targets):
            raise UserError(f"expected labelled crops in {path}, found arrays of other shapes or types; {again}")
        return found


def make_references(
    checkpoint: Checkpoint, scored: ScoredCrops, device: torch.device, features: NDArray[np.float32] | None = None
) -> References:
    """Run the model of a fold over the crops that it was trained on.

    Parameters
    ----------
    checkpoint
        The model, whose embedding is taken, or its features if it has none.
    scored
        The crops, with the labels of their images.
    device
        Device to run on.
    features
        Features of all crops of the store, shape (n, F), if the model's backbone has been run over them already.

    Raises
    ------
    UserError
        If there are none.
    """
    labels = scored.labels
    rows = labels.fold_crops(scored.source, checkpoint.fold).training
    if not len(rows):
        raise UserError(
            f"expected crops of the images that the model of fold {checkpoint.fold} was trained on, to transfer labels"
            " from (classify.nearest_crops), found none"
        )
    vectors = _vectors(checkpoint, scored, rows, device, features, f"labelled crops of fold {checkpoint.fold}")
    return References(vectors.astype(np.float16), labels.targets[rows], labels.known[rows])


def transfer_fold(
    checkpoint: Checkpoint,
    scored: ScoredCrops,
    references: References,
    table: pd.DataFrame,
    folder: Path,
    device: torch.device,
    features: NDArray[np.float32] | None = None,
    *,
    keep_vectors: bool = False,
) -> pd.DataFrame:
    """Transfer the labels of a fold's training crops to the crops that its model scores.

    Parameters
    ----------
    checkpoint
        The model; `nearest_crops` neighbours are searched in its embedding, or in its features if it has none.
    scored
        The crops.
    references
        What `make_references` returns for this model.
    table
        What `classify.inference.predict.predict_fold` returns for this model.
    folder
        Folder of the fold, where the result is kept (``neighbours.parquet``). If `predict_fold` has written the vectors
        there, the network is not run over the crops again.
    device
        Device to run on.
    features
        As for `make_references`.
    keep_vectors
        Whether the vectors in `folder` are kept.

    Returns
    -------
    DataFrame
        The rows of `table` with the transferred labels as probabilities.
    """
    path = folder / NEIGHBOURS
    kept = read_part(path)
    if kept is not None and kept[["image_id", "cell_label"]].equals(table[["image_id", "cell_label"]]):
        return kept
    rows = scored_rows(scored.labels, checkpoint.fold)
    written = folder / f"{vector_names(checkpoint.section)[-1]}.npy"
    if not len(rows):
        queries = references.vectors[:0].astype(np.float32)
    elif (folder / KEYS).is_file() and written.is_file():
        queries = _unit(np.load(written, allow_pickle=False))
    else:
        name = f"neighbours of fold {checkpoint.fold}"
        queries = _vectors(checkpoint, scored, rows, device, features, name)
    transferred = transfer_labels(
        queries,
        references.vectors.astype(np.float32),
        references.targets,
        references.known,
        checkpoint.section.nearest_crops,
    )
    own = table[["image_id", "cell_label", "fold", "origin"]]
    columns = class_columns(scored.vocabulary)
    result = pd.concat([own, pd.DataFrame(transferred, columns=columns, index=own.index)], axis=1)
    if not keep_vectors:
        (folder / KEYS).unlink(missing_ok=True)  # first: without it, they count as not written
        written.unlink(missing_ok=True)
    write_parquet(path, result)
    return result


def _vectors(
    checkpoint: Checkpoint,
    scored: ScoredCrops,
    rows: NDArray[np.int64],
    device: torch.device,
    features: NDArray[np.float32] | None,
    name: str,
) -> NDArray[np.float32]:
    """Return the embeddings, or without any the features, of some crops, rows of unit length; show their progress."""
    section, labels = checkpoint.section, scored.labels
    source, levels = select_channels(scored.source, section.channels, checkpoint.channels), None
    if features is not None:
        source = FeatureSource(features)
    else:
        levels = crop_levels(source, np.arange(len(labels.images)), labels, checkpoint.statistics, section.normalise)
    network = checkpoint.network(device)
    found = []
    with progress(name, len(rows)) as advance:
        for one in predict_batches(network, source, rows, section, device, levels):
            found.append(one.features if one.embeddings is None else one.embeddings)
            advance(len(one.logits))
    return _unit(np.concatenate(found))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return unit
