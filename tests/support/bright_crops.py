"""Small data sets with a known truth: class k of a crop is a bright square in channel k."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
import torch
from numpy.typing import NDArray
from torch import Tensor

from classify.config import ClassifySection
from classify.data.batches import Batch
from classify.data.crops import CropLabels, CropSource, FoldCrops
from classify.inference.evaluate import predict_batches
from classify.network.model import Network
from crops.shards import ShardWriter
from crops.table import COLUMNS, write_crops
from hpa.channels import CHANNELS
from hpa.images import write_images
from hpa.splitting.folds import write_folds
from hpa.vocabulary import HPA28
from hpa.work.files import write_bytes
from hpa.work.folder import WorkFolder

SIZE = 16


@dataclass(frozen=True)
class ArraySource:
    """A store of crops in memory."""

    crops: NDArray[np.uint8]
    own: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.crops)

    def pixels(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        return np.take(self.crops, rows, axis=0)

    def masks(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        return np.take(self.own, rows, axis=0)


def bright_crops(targets: NDArray[np.bool_], seed: int = 0, channels: int = 4) -> ArraySource:
    """Draw one noisy crop per row of `targets`, shape (N, K), with K at most `channels`."""
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, 60, (len(targets), channels, SIZE, SIZE), dtype=np.uint8)
    for k in range(targets.shape[1]):
        crops[targets[:, k], k, 5:11, 5:11] += 120
    own = np.zeros((len(targets), SIZE, SIZE), dtype=bool)
    own[:, 4:12, 4:12] = True
    return ArraySource(crops, own)


def bright_fold(n_training: int = 32, n_validation: int = 8, seed: int = 0) -> FoldCrops:
    """Return two crops per image, with three classes, split into training and validation."""
    n = n_training + n_validation
    targets = np.repeat(np.random.default_rng(seed).random((n // 2, 3)) < 0.5, 2, axis=0)
    return fold_of(bright_crops(targets, seed), targets, np.arange(n) // 2, n_training)


def fold_of(source: ArraySource, targets: NDArray[np.bool_], images: NDArray[np.int64], n_training: int) -> FoldCrops:
    """Return a fold of crops in memory: the first `n_training` for training, the others for validation."""
    n = len(targets)
    labels = CropLabels(
        targets,
        known=np.ones_like(targets),
        images=images,
        folds=np.where(np.arange(n) < n_training, 1, 0),
        is_test=np.zeros(n, dtype=bool),
        fallback=np.zeros(n, dtype=bool),
        image_ids=np.array([f"image{i}" for i in images], dtype=object),
        cell_labels=np.arange(n) + 1,
        sources=np.array(["even" if i % 2 == 0 else "odd" for i in images], dtype=object),
        antibodies=images // 2,
        completeness=np.ones(n, dtype=np.float32),
    )
    return FoldCrops(source, labels, np.arange(n_training), np.arange(n_training, n))


def predict_logits(
    network: Network, source: CropSource, rows: NDArray[np.int64], section: ClassifySection
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of crops on the CPU, batch by batch."""
    for outputs in predict_batches(network, source, rows, section, torch.device("cpu")):
        yield outputs.logits


def batch_of(targets: Tensor, bags: Tensor | None = None, weights: Tensor | None = None) -> Batch:
    """Return a batch in which only targets, bags and weights matter; by default every crop is a bag."""
    n = len(targets)
    every = torch.arange(n)
    pixels = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    bags = every if bags is None else bags
    weights = torch.ones(n) if weights is None else weights
    return Batch(pixels, targets, bags, weights, torch.full((n,), -1), every, None)


def make_work(
    root: Path, folds: Sequence[int], n_test: int = 2, recipe: dict[str, Any] | None = None, cells: int = 3
) -> WorkFolder:
    """Write a work folder up to its crops: one image per entry of `folds`, then `n_test` test images.

    Image i has the class i mod 3 and `cells` crops; the last image of each split has one fallback crop instead.
    """
    work = WorkFolder(root)
    n = len(folds) + n_test
    ids = [f"train{i}" for i in range(len(folds))] + [f"test{i}" for i in range(n_test)]
    targets = [(i % 3,) if i < len(folds) else () for i in range(n)]
    write_bytes(work.recipe, tomli_w.dumps({"data": {"folds": 2}, **(recipe or {})}).encode())
    images = pd.DataFrame(
        {
            "image_id": ids,
            "source": "world",
            "split": ["train"] * len(folds) + ["test"] * n_test,
            "target": targets,
            "antibody": None,
            "height_px": np.int32(SIZE),
            "width_px": np.int32(SIZE),
        }
    ).astype({"target": object, "antibody": object})
    for channel in CHANNELS:
        images[f"path_{channel}"] = "none"
        images[f"plane_{channel}"] = np.int16(-1)
        images[f"bytes_{channel}"] = np.int64(0)
    write_images(work.images, images, HPA28, CHANNELS)
    fold_table = pd.DataFrame({"image_id": ids[: len(folds)], "group": range(len(folds)), "fold": list(folds)})
    write_folds(work.folds, fold_table.astype({"group": "int32", "fold": "int16"}))
    fallback = {len(folds) - 1, n - 1}
    keys = [(i, c) for i in range(n) for c in ([0] if i in fallback else range(1, cells + 1))]
    hot = np.zeros((len(keys), 3), dtype=bool)
    for row, (i, _) in zip(hot, keys, strict=True):
        row[i % 3] = True
    source = bright_crops(hot)
    folder = root / "crops" / "cells"
    with ShardWriter(folder, 0) as shard:
        shard.add(source.crops, source.own)
    crops = pd.DataFrame(
        {
            "image_id": [ids[i] for i, _ in keys],
            "cell_label": [c for _, c in keys],
            "row": range(len(keys)),
            "max_row_px": SIZE,
            "max_col_px": SIZE,
            "area_px": 64,
            "scale": 1.0,
            "completeness": 1.0,
            "fallback": [c == 0 for _, c in keys],
        }
    ).reindex(columns=list(COLUMNS))
    zero = {name: 0 for name in crops if crops[name].isna().all()}
    write_crops(folder, crops.fillna(zero), pd.DataFrame({"image_id": [], "cell_label": [], "reason": []}, dtype=str))
    return work
