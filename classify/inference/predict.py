"""Predicting the probabilities of crops with the model of one fold, with their features and embeddings on request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from classify.config import ClassifySection
from classify.data.crops import CropArrays, CropLabels, CropSource, FeatureSource, blocks, select_channels
from classify.data.normalisation import crop_levels
from classify.inference.evaluate import BATCH, CropOutputs, predict_batches
from classify.network.checkpoint import Checkpoint
from classify.probabilities import ATTENTION, class_columns
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from hpa.work.files import atomic_write, read_parquet, write_parquet
from hpa.work.mapping import discard, read_part
from hpa.work.progress import progress

CHUNK: Final = 64 * BATCH
"""Crops between two points to resume from; full batches, so that an interruption changes no bit."""

KEYS: Final = "keys.parquet"
"""File that names the rows of the vectors, written after them."""

VECTORS: Final = ("features", "embedding")
"""Vectors of crops that may be written beside their probabilities."""


def vector_names(section: ClassifySection) -> tuple[str, ...]:
    """Return the vectors that a model has, the one that neighbours are searched by last."""
    return VECTORS if section.embedding_dim else VECTORS[:1]


@dataclass(frozen=True)
class ScoredCrops:
    """The crops that models score.

    Parameters
    ----------
    source
        The store of crops, with all its channels.
    labels
        Labels of the crops.
    vocabulary
        Vocabulary that names the columns.
    """

    source: CropSource
    labels: CropLabels
    vocabulary: Vocabulary


def scored_rows(labels: CropLabels, fold: int) -> NDArray[np.int64]:
    """Return the rows that the model of `fold` scores: crops of its own fold's images and of all test images."""
    return np.flatnonzero((labels.folds == fold) | labels.is_test)


def predict_fold(
    checkpoint: Checkpoint,
    scored: ScoredCrops,
    folder: Path,
    device: torch.device,
    *,
    vectors: Sequence[str] = (),
    features: NDArray[np.float32] | None = None,
) -> pd.DataFrame:
    """Score crops with the model of one fold, resuming an interrupted run.

    Parameters
    ----------
    checkpoint
        The model.
    scored
        The crops.
    folder
        Folder of the parts: ``part-00000.parquet`` and so on.
    device
        Device to run on.
    vectors
        Vectors that are written to `folder` too, some of `vector_names`: ``features.npy``, float32 (n, F), and
        ``embedding.npy``, float32 (n, D). Their rows are those of ``keys.parquet``: image_id, cell_label, fold, origin.
    features
        Features of all crops of the store, shape (n, F), if the model's backbone has been run over them already.

    Returns
    -------
    DataFrame
        Probabilities of the rows of `scored_rows` in the order of the store, with the columns of
        `classify.probabilities`.
    """
    rows = scored_rows(scored.labels, checkpoint.fold)
    chunks = list(blocks(rows, CHUNK))
    wanted = [name for name in vectors if not ((folder / KEYS).is_file() and (folder / f"{name}.npy").is_file())]
    missing = [i for i, chunk in enumerate(chunks) if not _is_done(folder, i, wanted, scored.labels, chunk)]
    with progress(f"predict fold {checkpoint.fold}", len(rows)) as advance:
        advance(len(rows) - sum(len(chunks[i]) for i in missing))
        if missing:
            _score(checkpoint, scored, folder, device, {i: chunks[i] for i in missing}, wanted, advance, features)
    parts = [read_parquet(_part(folder, i)) for i in range(len(chunks))]
    table = pd.concat(parts, ignore_index=True) if parts else _table(checkpoint, scored, rows, [])
    if wanted and chunks:
        _join_vectors(folder, len(chunks), wanted)
        write_parquet(folder / KEYS, table[["image_id", "cell_label", "fold", "origin"]])
    return table


def predict_crops(
    checkpoint: Checkpoint, pixels: NDArray[np.uint8], masks: NDArray[np.bool_], device: torch.device
) -> CropOutputs:
    """Run the model of one fold over crops of one image in memory.

    Parameters
    ----------
    checkpoint
        The model.
    pixels
        Shape (n, C, S, S), uint8, the channels that the model was trained on.
    masks
        Shape (n, S, S), bool: the pixels of each crop's own cell.
    device
        Device to run on.

    Raises
    ------
    UserError
        If there are no crops.
    """
    if not len(pixels):
        raise UserError("expected at least one crop to predict, found none")
    section, rows = checkpoint.section, np.arange(len(pixels))
    source = select_channels(CropArrays(pixels, masks), section.channels, checkpoint.channels)
    labels = CropLabels.unlabelled(len(pixels), len(checkpoint.classes))
    levels = crop_levels(source, rows, labels, checkpoint.statistics, section.normalise)
    batches = list(predict_batches(checkpoint.network(device), source, rows, section, device, levels))
    parts = (None if batch[0] is None else np.concatenate(batch) for batch in zip(*batches, strict=True))
    return CropOutputs(*parts)  # type: ignore[arg-type]


def _part(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.parquet"


def _vector_part(folder: Path, index: int, name: str) -> Path:
    return folder / f"part-{index:05d}.{name}.npy"


def _is_done(folder: Path, index: int, wanted: Sequence[str], labels: CropLabels, rows: NDArray[np.int64]) -> bool:
    path = _part(folder, index)
    part = read_part(path)
    if part is None:
        return False
    keys = {"image_id": labels.image_ids[rows], "cell_label": labels.cell_labels[rows]}
    if any(name not in part or not np.array_equal(part[name], values) for name, values in keys.items()):
        discard(path, "expected a row for each of its crops, found others")
        return False
    return all(_vector_part(folder, index, name).is_file() for name in wanted)


def _score(
    checkpoint: Checkpoint,
    scored: ScoredCrops,
    folder: Path,
    device: torch.device,
    chunks: dict[int, NDArray[np.int64]],
    wanted: Sequence[str],
    advance: Callable[[int], None],
    features: NDArray[np.float32] | None,
) -> None:
    section, labels = checkpoint.section, scored.labels
    source, levels = select_channels(scored.source, section.channels, checkpoint.channels), None
    if features is not None:
        source = FeatureSource(features)
    else:
        every = np.concatenate(list(chunks.values()))
        # Percentiles of an image are taken over all its crops, including those in finished chunks.
        every = np.flatnonzero(np.isin(labels.images, labels.images[every]))
        levels = crop_levels(source, every, labels, checkpoint.statistics, section.normalise)
    network = checkpoint.network(device)
    for index, rows in chunks.items():
        outputs: list[CropOutputs] = []
        for batch in predict_batches(network, source, rows, section, device, levels):
            outputs.append(batch)
            advance(len(batch.logits))
        for name in wanted:
            _write_vectors(_vector_part(folder, index, name), [_vectors(batch, name) for batch in outputs])
        # Written last, because the chunk counts as finished with it.
        write_parquet(_part(folder, index), _table(checkpoint, scored, rows, outputs))


def _vectors(outputs: CropOutputs, name: str) -> NDArray[np.float32]:
    if name == "features":
        return outputs.features
    assert outputs.embeddings is not None, "requested only if the network has an embedding head"
    return outputs.embeddings


def _write_vectors(path: Path, parts: Sequence[NDArray[np.float32]]) -> None:
    with atomic_write(path) as partial:
        shape = (sum(map(len, parts)), parts[0].shape[1])
        written = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        done = 0
        for part in parts:
            written[done : done + len(part)] = part
            done += len(part)
        written.flush()


def _join_vectors(folder: Path, chunks: int, wanted: Sequence[str]) -> None:
    for name in wanted:
        paths = [_vector_part(folder, i, name) for i in range(chunks)]
        _write_vectors(folder / f"{name}.npy", [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths])
        for path in paths:
            path.unlink()


def _table(
    checkpoint: Checkpoint, scored: ScoredCrops, rows: NDArray[np.int64], outputs: Sequence[CropOutputs]
) -> pd.DataFrame:
    labels = scored.labels
    key = pd.DataFrame(
        {
            "image_id": labels.image_ids[rows],
            "cell_label": labels.cell_labels[rows].astype(np.int32),
            "fold": np.int16(checkpoint.fold),
            "origin": np.where(labels.is_test[rows], "test", "oof"),
        }
    )
    empty = np.empty((0, len(scored.vocabulary)), dtype=np.float32)
    probabilities = np.concatenate([empty, *(batch.probabilities for batch in outputs)])
    table = pd.concat([key, pd.DataFrame(probabilities, columns=class_columns(scored.vocabulary))], axis=1)
    attention = [batch.attention for batch in outputs if batch.attention is not None]
    return table.assign(**{ATTENTION: np.concatenate(attention)}) if attention else table
