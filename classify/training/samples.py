"""The log of single crops during training: what the network says of each, what is true, and the loss.

``samples/epoch-00005.parquet``, a file for each validated epoch, has a row for each crop that was trained on in that
epoch and for each validation crop: image_id, cell_label, split (``train`` or ``validation``), truth and unknown (class
numbers, separated by spaces), prediction (those above 0.5), loss and, for each class number, p_<k>. The loss is the
binary cross-entropy, averaged over the known classes, whatever ``classify.loss`` is: a loss of a whole batch has no
part of a single crop, and runs with different losses can be compared.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from classify.data.crops import CropLabels
from classify.inference.evaluate import ScoredRows, sigmoid
from classify.network.model import Outputs
from hpa.work.files import read_parquet, write_parquet

SAMPLES: Final = "samples"
_PROBABILITY: Final = "p_{}"
_NUMBER: Final = re.compile(r"epoch-(\d+)\.parquet")


class SeenCrops:
    """The output for the training crops of an epoch, kept on the device until the epoch ends."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def add(self, rows: Tensor, outputs: Outputs) -> None:
        """Add the output for the crops of a batch, at `rows` of the table of crops."""
        attention = None if outputs.attention is None else outputs.attention.detach()
        self._parts.append((rows, outputs.logits.detach().float(), attention))

    def take(self) -> ScoredRows | None:
        """Return the output for every crop that was added since the last call, each once with its last; None if none.

        A crop may be drawn several times in an epoch.
        """
        parts, self._parts = self._parts, []
        if not parts:
            return None
        rows = torch.cat([part[0] for part in parts]).cpu().numpy()
        logits = torch.cat([part[1] for part in parts]).cpu().numpy()
        scores = [part[2] for part in parts if part[2] is not None]
        attention = torch.cat(scores).cpu().numpy() if scores else None
        unique, backwards = np.unique(rows[::-1], return_index=True)
        last = len(rows) - 1 - backwards
        return ScoredRows(unique, logits[last], None if attention is None else attention[last])


def write_samples(folder: Path, epoch: int, labels: CropLabels, seen: ScoredRows | None, validated: ScoredRows) -> None:
    """Write the log of an epoch.

    Parameters
    ----------
    folder
        Folder of the fold.
    epoch
        The epoch, from 1.
    labels
        Labels of all crops.
    seen
        Output for the training crops; None if it is not of single crops.
    validated
        Output for the validation crops.
    """
    parts = {"train": seen, "validation": validated}
    tables = [_table(labels, part).assign(split=name) for name, part in parts.items() if part is not None]
    write_parquet(folder / SAMPLES / f"epoch-{epoch:05d}.parquet", pd.concat(tables, ignore_index=True))


def _table(labels: CropLabels, scored: ScoredRows) -> pd.DataFrame:
    rows = scored.rows
    known, hot, p = labels.known[rows], labels.targets[rows] & labels.known[rows], sigmoid(scored.logits)
    losses = cross_entropy(scored.logits, hot)
    mean = np.divide((losses * known).sum(1), known.sum(1), out=np.full(len(rows), np.nan), where=known.any(1))
    table = pd.DataFrame(
        {
            "image_id": labels.image_ids[rows],
            "cell_label": labels.cell_labels[rows].astype(np.int32),
            "split": "",
            "truth": _numbers(hot),
            "unknown": _numbers(~known),
            "prediction": _numbers((p > 0.5) & known),
            "loss": mean.astype(np.float32),
        }
    )
    columns = [_PROBABILITY.format(k) for k in range(p.shape[1])]
    return pd.concat([table, pd.DataFrame(p.astype(np.float32), columns=columns)], axis=1)


def cross_entropy(logits: NDArray[np.float32], hot: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the binary cross-entropy of each crop and class, shape (n, K)."""
    losses: NDArray[np.float64] = np.logaddexp(0, np.where(hot, -logits, logits).astype(np.float64))
    return losses


def _numbers(chosen: NDArray[np.bool_]) -> list[str]:
    return [" ".join(map(str, np.flatnonzero(row))) for row in chosen]


def read_samples(folder: Path) -> dict[int, pd.DataFrame]:
    """Read the log of a fold, by epoch in rising order; empty if there is none."""
    found = {path: _NUMBER.fullmatch(path.name) for path in (folder / SAMPLES).glob("*.parquet")}
    paths = {int(match[1]): path for path, match in found.items() if match}
    return {epoch: read_parquet(paths[epoch]) for epoch in sorted(paths)}


def losses_of_classes(samples: pd.DataFrame, classes: int) -> NDArray[np.float64]:
    """Return the mean cross-entropy of each class over the crops for which it is known, shape (K,); NaN without any."""
    p = samples[[_PROBABILITY.format(k) for k in range(classes)]].to_numpy(np.float64).clip(1e-7, 1 - 1e-7)
    hot, unknown = (_multi_hot(samples[name], classes) for name in ("truth", "unknown"))
    losses = np.where(unknown, 0, -np.log(np.where(hot, p, 1 - p)))
    n = (~unknown).sum(0)
    means: NDArray[np.float64] = np.divide(losses.sum(0), n, out=np.full(classes, np.nan), where=n > 0)
    return means


def _multi_hot(texts: pd.Series, classes: int) -> NDArray[np.bool_]:
    hot = np.zeros((len(texts), classes), dtype=bool)
    for row, text in zip(hot, texts, strict=True):
        row[[int(number) for number in text.split()]] = True
    return hot
