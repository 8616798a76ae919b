"""What is written after every epoch: how training goes, and the weights that were best so far."""

from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from classify.config import ClassifySection
from classify.data.crops import FoldCrops
from classify.inference.evaluate import evaluate
from classify.network.checkpoint import load_plain, to_bytes
from classify.network.model import Network
from hpa.work.files import write_bytes, write_csv

HISTORY: Final = "history.csv"
_BEST: Final = "best.pt"
_COLUMNS: Final = [
    "epoch",
    "train_loss",
    "learning_rate",
    "validation_loss",
    "validation_macro_f1",
    "validation_mean_ap",
]


class History:
    """The epochs of one fold's training: ``history.csv``, and the best weights where the recipe keeps them.

    ``history.csv`` has epoch (from 1), train_loss (mean over the steps), learning_rate (of the last step) and,
    where the epoch was validated, validation_loss, validation_macro_f1 and validation_mean_ap
    (`classify.inference.evaluate.Evaluation`).

    Parameters
    ----------
    crops
        What is validated on.
    section
        When to validate, how, and which weights to keep.
    folder
        Where the files lie.
    device
        Where validation runs.
    """

    def __init__(self, crops: FoldCrops, section: ClassifySection, folder: Path, device: torch.device) -> None:
        self._crops = crops
        self._section = section
        self._folder = folder
        self._device = device
        self._rows: list[dict[str, float]] = []
        self._best = -1.0

    def state(self) -> dict[str, Any]:
        """Return all that a resumed training must know, as plain values."""
        return {"rows": self._rows, "best": self._best}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._rows = list(state["rows"])
        self._best = state["best"]

    def close_epoch(self, network: Network, epoch: int, train_loss: float, learning_rate: float) -> None:
        """Validate if it is time, and write ``history.csv``; `epoch` counts from 1."""
        row: dict[str, float] = {"epoch": epoch, "train_loss": train_loss, "learning_rate": learning_rate}
        if epoch % self._section.validate_every == 0 or epoch == self._section.epochs:
            row |= self._validate(network, epoch)
        self._rows.append(row)
        write_csv(self._folder / HISTORY, pd.DataFrame(self._rows, columns=_COLUMNS))

    def _validate(self, network: Network, epoch: int) -> dict[str, float]:
        result = evaluate(network, self._crops, self._section, self._device)
        if self._section.checkpoint == "best" and result.mean_ap > self._best:
            self._best = result.mean_ap
            best = {"state_dict": on_cpu(network), "epoch": epoch}
            write_bytes(self._folder / _BEST, to_bytes(best))
        return {
            "validation_loss": result.loss,
            "validation_macro_f1": result.macro_f1,
            "validation_mean_ap": result.mean_ap,
        }

    @property
    def losses(self) -> list[float]:
        """The validation losses so far, one for each look."""
        return [row["validation_loss"] for row in self._rows if "validation_loss" in row]

    def kept(self, network: Network) -> tuple[dict[str, Tensor], int]:
        """Return the weights that the recipe keeps, after the last epoch, and the number of epochs behind them."""
        if self._section.checkpoint == "best":
            best = load_plain(self._folder / _BEST)
            return best["state_dict"], best["epoch"]
        return on_cpu(network), self._section.epochs


def on_cpu(network: Network) -> dict[str, Tensor]:
    """Return copies of a network's weights on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def clear_best(folder: Path) -> None:
    """Remove the best weights so far, once the checkpoint holds them."""
    (folder / _BEST).unlink(missing_ok=True)
