"""Probabilities of crops, each from the models that may speak about it."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from classify.batches import CropSource
from classify.checkpoint import Checkpoint
from classify.evaluate import predict_logits, sigmoid
from classify.labels import CropLabels
from classify.probabilities import class_columns
from hpa.progress import progress
from hpa.vocabulary import Vocabulary


def scored_rows(labels: CropLabels, fold: int) -> NDArray[np.int64]:
    """Return the crops that the model of `fold` scores: of its own fold's images, and of all test images."""
    return np.flatnonzero((labels.folds == fold) | labels.is_test)


def predict_fold(
    checkpoint: Checkpoint,
    source: CropSource,
    crops: pd.DataFrame,
    labels: CropLabels,
    vocabulary: Vocabulary,
    device: torch.device,
) -> pd.DataFrame:
    """Score crops with the model of one fold.

    Parameters
    ----------
    checkpoint
        The model.
    source, crops, labels
        The pixels, the table (image_id, cell_label) and the labels of the same crops.
    vocabulary
        Names the columns.
    device
        Where it runs.

    Returns
    -------
    DataFrame
        The rows of `scored_rows` as `classify.probabilities` has them, in the order of `crops`.
    """
    rows = scored_rows(labels, checkpoint.fold)
    scores = np.empty((len(rows), len(vocabulary)), dtype=np.float32)
    done = 0
    with progress(f"predict fold {checkpoint.fold}", len(rows)) as advance:
        for logits in predict_logits(checkpoint.network(device), source, rows, checkpoint.section, device):
            scores[done : done + len(logits)] = sigmoid(logits)
            done += len(logits)
            advance(len(logits))
    key = pd.DataFrame(
        {
            "image_id": crops["image_id"].to_numpy()[rows],
            "cell_label": crops["cell_label"].to_numpy(dtype=np.int32)[rows],
            "fold": np.int16(checkpoint.fold),
            "origin": np.where(labels.is_test[rows], "test", "oof"),
        }
    )
    return pd.concat([key, pd.DataFrame(scores, columns=class_columns(vocabulary))], axis=1)
