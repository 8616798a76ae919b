"""The history of a training: scores of every epoch, the best weights so far, and how a GPU was used."""

import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from classify.config import ClassifySection, Monitor
from classify.data.crops import FoldCrops
from classify.histories import HISTORY
from classify.inference.evaluate import ScoredRows, loss_of_rows, run_validation, score_images, score_rows
from classify.network.checkpoint import load_plain, to_bytes
from classify.network.model import Network
from classify.training.samples import write_samples
from hpa.work.files import write_bytes, write_csv

BEST: Final = "best.pt"
_EVERY_S: Final = 1.0  # between two samples of a GPU
_COLUMNS: Final = [
    "epoch",
    "train_loss",
    "learning_rate",
    "validation_loss",
    "validation_macro_f1",
    "validation_mean_ap",
    "validation_accuracy",
    "train_macro_f1",
    "train_mean_ap",
    "train_accuracy",
]


class History:
    """The epochs of one fold's training: ``history.csv``, and the best weights if the recipe keeps them.

    ``history.csv`` has the columns epoch (from 1), train_loss (mean over the steps), learning_rate (of the last step),
    train_macro_f1, train_mean_ap and train_accuracy (of the augmented crops as the steps of the epoch saw them) and,
    for validated epochs, validation_loss, validation_macro_f1, validation_mean_ap and validation_accuracy
    (`classify.inference.evaluate.Evaluation`).

    Parameters
    ----------
    crops
        Crops of the fold; the validation crops are scored.
    section
        Recipe section: which epochs are validated, how, and which weights are kept.
    folder
        Folder of the files.
    device
        Device that validation runs on.
    """

    def __init__(self, crops: FoldCrops, section: ClassifySection, folder: Path, device: torch.device) -> None:
        self._crops = crops
        self._section = section
        self._folder = folder
        self._device = device
        self._rows: list[dict[str, float]] = []
        self._best = self._best_of_phase = -inf  # of the monitored score, negative where lower is better
        self._last_progress = 0  # epoch

    @property
    def rows(self) -> list[dict[str, float]]:
        """The rows of ``history.csv`` so far."""
        return self._rows

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs, as plain values."""
        return {
            "rows": self._rows,
            "best": self._best,
            "best_of_phase": self._best_of_phase,
            "last_progress": self._last_progress,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self._rows = list(state["rows"])
        self._best, self._best_of_phase = state["best"], state["best_of_phase"]
        self._last_progress = state["last_progress"]

    def begin_phase(self, first_epoch: int) -> None:
        """Judge progress anew, in a phase after so many epochs."""
        self._best_of_phase, self._last_progress = -inf, first_epoch

    def has_stalled(self, epoch: int) -> bool:
        """Return whether a phase ends with an epoch, for lack of progress; only a validation can tell."""
        validated = bool(self._rows) and f"validation_{self._section.monitor}" in self._rows[-1]
        return validated and 0 < self._section.patience <= epoch - self._last_progress

    def close_epoch(
        self,
        network: Network,
        epoch: int,
        train_loss: float,
        learning_rate: float,
        seen: ScoredRows | None = None,
    ) -> float | None:
        """Validate if the epoch (from 1) is one of those to validate, and write ``history.csv``.

        `seen` is the output for the training crops of the epoch, each once; None leaves their scores empty.

        Returns
        -------
        float or None
            The monitored score; None if the epoch was not validated.
        """
        row: dict[str, float] = {"epoch": epoch, "train_loss": train_loss, "learning_rate": learning_rate}
        if seen is not None:
            scores = score_images(network, seen, self._crops, self._section)
            row |= {
                "train_macro_f1": scores.macro_f1,
                "train_mean_ap": scores.mean_ap,
                "train_accuracy": scores.accuracy,
            }
        if epoch % self._section.validate_every == 0 or epoch == sum(
            phase.epochs for phase in self._section.training_phases
        ):
            row |= self._validate(network, epoch, seen)
        self._rows.append(row)
        write_csv(self._folder / HISTORY, pd.DataFrame(self._rows, columns=self._columns))
        return row.get(f"validation_{self._section.monitor}")

    @property
    def _columns(self) -> list[str]:
        """The columns of the table, with that of a loss which is monitored though another one is trained with."""
        return list(dict.fromkeys([*_COLUMNS, f"validation_{self._section.monitor}"]))

    def _validate(self, network: Network, epoch: int, seen: ScoredRows | None) -> dict[str, float]:
        scored = run_validation(network, self._crops, self._section, self._device)
        result = score_rows(network, scored, self._crops, self._section)
        if self._section.log_samples:
            write_samples(self._folder, epoch, self._crops.labels, seen, scored)
        scores = {"loss": result.loss, "macro_f1": result.macro_f1, "mean_ap": result.mean_ap}
        if self._section.monitor not in scores:
            scores[self._section.monitor] = loss_of_rows(scored, self._crops, self._section, self._section.monitor)
        monitored = scores[self._section.monitor] * (1 if rises(self._section.monitor) else -1)
        if monitored > self._best_of_phase:
            self._best_of_phase, self._last_progress = monitored, epoch
        if monitored > self._best:
            self._best = monitored
            if self._section.checkpoint == "best":
                best = {"state_dict": copy_weights(network), "epoch": epoch}
                write_bytes(self._folder / BEST, to_bytes(best))
        scores["accuracy"] = result.accuracy
        return {f"validation_{name}": score for name, score in scores.items()}

    def last_scores(self) -> str:
        """Return the last epoch's loss, and the last validation's scores if there was one, in a few words."""
        last = self._rows[-1]
        said = f"epoch {last['epoch']:.0f}, loss {last['train_loss']:.4f}"
        validated = next((row for row in reversed(self._rows) if "validation_mean_ap" in row), None)
        return said + (f", validation mean AP {validated['validation_mean_ap']:.3f}" if validated else "")

    def final_weights(self, network: Network) -> tuple[dict[str, Tensor], int]:
        """Return the weights that the recipe keeps after the last epoch, and the number of epochs behind them."""
        if self._section.checkpoint == "best":
            best = load_plain(self._folder / BEST)
            return best["state_dict"], best["epoch"]
        return copy_weights(network), int(self._rows[-1]["epoch"])


def rises(monitor: Monitor) -> bool:
    """Return whether a higher score is better."""
    return monitor in ("mean_ap", "macro_f1")


def copy_weights(network: Network) -> dict[str, Tensor]:
    """Copy the weights of a network to the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def remove_best(folder: Path) -> None:
    """Remove the file of the best weights so far, once they are in the checkpoint."""
    (folder / BEST).unlink(missing_ok=True)


class GpuWatch:
    """Memory and busy share of a GPU since they were last taken; nothing on other devices.

    Parameters
    ----------
    device
        The device of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._watches = device.type == "cuda"
        self._shares: list[float] = []
        self._sampled = 0.0

    def sample(self) -> None:
        """Sample how busy the GPU is, at most once a second; without nvidia-ml-py that is not known."""
        if not self._watches or time.monotonic() - self._sampled < _EVERY_S:
            return
        self._sampled = time.monotonic()
        with suppress(ModuleNotFoundError, RuntimeError, AttributeError):
            self._shares.append(torch.cuda.utilization(self._device) / 100)

    def take(self) -> dict[str, float]:
        """Return the peak of the memory in GiB, ``gpu_memory_gib``, and ``gpu_busy``, and begin anew."""
        if not self._watches:
            return {}
        taken = {"gpu_memory_gib": torch.cuda.max_memory_allocated(self._device) / 2**30}
        if self._shares:
            taken["gpu_busy"] = sum(self._shares) / len(self._shares)
        self._shares.clear()
        torch.cuda.reset_peak_memory_stats(self._device)
        return taken
