"""Pretraining of a backbone on drawn cells with true labels: any number of them, in rounds, resumable."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import cos, pi
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import AdamW

from classify.config import ClassifySection, shipped_weights
from classify.data.normalisation import measure_mean_and_deviation
from classify.data.seeds import Purpose, derive_seed
from classify.inference.evaluate import uses_bfloat16
from classify.losses.classification import class_loss
from classify.network.backbones import new_backbone
from classify.network.checkpoint import load_plain, to_bytes
from classify.network.model import Network
from classify.network.pretrained import Description, Pretrained
from classify.training.backbone_crops import training_crops
from classify.training.backbone_scores import SUBSETS, ap_per_class, model_card, predict, score
from classify.training.optimizer import decay_groups
from classify.training.rounds import Cells, Draw, Rounds, drawing
from hpa.channels import CHANNELS
from hpa.config import parse_section
from hpa.errors import UserError
from hpa.vocabulary import HPA28
from hpa.work.device import computing_threads
from hpa.work.files import write_bytes, write_json
from hpa.work.mapping import discard
from hpa.work.progress import progress

RESUME: Final = "resume.ckpt"
_SETTINGS: Final = "settings.json"
_ROUND: Final = 16_384  # cells; two rounds of 64 px crops are 0.6 GB on the disk
_BATCH: Final = 128
_LEARNING_RATE: Final = 3e-3
_WEIGHT_DECAY: Final = 0.05
_RISE: Final = 0.1  # fraction of the training in which the learning rate rises
_AVERAGED: Final = 1000  # steps that the average of the weights goes back
_HELD_OUT: Final = 0  # number of the round of cells that are never trained on
_VALIDATIONS: Final = 10


@dataclass(frozen=True)
class BackboneTraining:
    """Settings of a pretraining.

    Parameters
    ----------
    cells
        Number of drawn cells.
    crops_seen
        Number of crops to train on; a cell is a new crop each time, by its augmentation. Each round has its share of
        them, unless there is a limit of time: then a round is trained on once, and again until the next one is drawn.
    backbone
        Name of the backbone.
    size_px
        Side of the drawn crops.
    seed
        Seed of the cells, the weights and the augmentation.
    minutes
        Limit of time, 0 for none. The learning rate reaches 0 with the crops or with the time, whichever ends first.
    start
        Weights that the training goes on from: a file (`classify.network.pretrained`), "atlas" for the shipped ones,
        none if empty. The training itself is the same, so draw other cells with another seed.
    """

    cells: int
    crops_seen: int
    backbone: str
    size_px: int = 64
    seed: int = 0
    minutes: float = 0.0
    start: str = ""

    @property
    def section(self) -> ClassifySection:
        """The recipe section of the network and its loss."""
        return ClassifySection(backbone=self.backbone, precision="auto")

    @property
    def rounds(self) -> list[int]:
        """The number of cells of each round, all about equal."""
        n = -(-self.cells // _ROUND)
        return [self.cells * (k + 1) // n - self.cells * k // n for k in range(n)]


def train_backbone(
    out: Path,
    settings: BackboneTraining,
    draw: Draw,
    *,
    threads: int,
    workers: int,
    held_out: int = 4096,
    command: str = "",
) -> dict[str, Any]:
    """Train a backbone on drawn cells, and write its weights with a record and a model card.

    A training that was killed goes on after its last finished round, and gives the same weights unless it has a limit
    of time.

    Parameters
    ----------
    out
        Folder of the results, ``<backbone>.safetensors``, ``.json`` and ``.md``, and of what an unfinished training
        needs.
    settings
        Settings; those of a training that goes on must be the same.
    draw
        Function that draws cells (`crops.synthesize.draw_crops`).
    threads
        Threads of the training; another number changes the last bits.
    workers
        Processes that draw.
    held_out
        Number of drawn cells that are only scored.
    command
        The command, for the model card.

    Returns
    -------
    dict
        The record.

    Raises
    ------
    UserError
        If there is no such backbone, the folder has a training with other settings, or the weights to start from are
        missing, damaged or of another network.
    """
    parse_section(ClassifySection, "classify", {"backbone": settings.backbone})
    new_backbone(settings.backbone)
    result = out / f"{settings.backbone}.safetensors"
    start, begun_with = _read_start(settings) if settings.start else (None, {})
    _begin(out, asdict(settings) | {"start_sha256": begun_with.get("sha256", "")}, result)
    if result.is_file():
        content: dict[str, Any] = json.loads(result.with_suffix(".json").read_text())
        return content
    with (
        computing_threads(threads),
        drawing(draw, out / "cells", settings.seed, settings.size_px, workers) as rounds,
    ):
        state = _Training(out, settings, rounds, held_out, start)
        state.run()
        extra = {"threads": threads, "workers": workers, "command": command}
        record = state.finish(result, extra | ({"begun_with": begun_with} if begun_with else {}))
    shutil.rmtree(out / "cells", ignore_errors=True)
    (out / RESUME).unlink(missing_ok=True)
    return record


def _begin(out: Path, wanted: dict[str, Any], result: Path) -> None:
    path = out / _SETTINGS
    if path.is_file():
        found = json.loads(path.read_text())
        if changed := [key for key in wanted if found.get(key) != wanted[key]]:
            raise UserError(
                f"expected a new folder or the settings that {out} was begun with, found another {changed[0]}"
                f" ({wanted[changed[0]]} instead of {found.get(changed[0])})"
            )
    elif result.exists():
        raise UserError(f"expected a new folder, found {result}")
    else:
        write_json(path, wanted)


def _read_start(settings: BackboneTraining) -> tuple[Pretrained, dict[str, Any]]:
    """Return the weights that a training starts from, and what their record says of how they were made."""
    path = shipped_weights(settings.backbone) if settings.start == "atlas" else Path(settings.start)
    weights = Pretrained.load(path)
    found = weights.description
    for what, expected, has in (
        ("of " + settings.backbone, settings.backbone, found.backbone),
        ("for crops of four channels", list(CHANNELS), found.channels),
        ("with heads of the 28 classes", list(HPA28.classes), found.classes),
    ):
        if has != expected:
            raise UserError(f"expected weights {what} in {path}, found {has or 'none'}")
    made: dict[str, Any] = {"sha256": sha256(path.read_bytes()).hexdigest()}
    needed = ("command", "cells_trained_on", "crops_trained_on", "seconds")
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        made |= {key: record[key] for key in (*needed, *(["begun_with"] * ("begun_with" in record)))}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # weights can do without a record; the model card then calls their origin unknown
    return weights, made


def learning_rate(progress: float) -> float:
    """Return the learning rate at a fraction of the training: one cycle (Smith and Topin 2019), by cosines.

    It is torch's `OneCycleLR`, for a training whose number of steps is not known, but how far it has come.
    """
    if progress < _RISE:
        low, high, fraction = 1 / 25, 1.0, progress / _RISE
    else:
        low, high, fraction = 1.0, 1e-4, min((progress - _RISE) / (1 - _RISE), 1.0)
    return _LEARNING_RATE * (low + (high - low) * (1 - cos(pi * fraction)) / 2)


class _Training:
    """The state of a pretraining.

    Parameters
    ----------
    out
        Folder of the files.
    settings
        Settings.
    rounds
        The drawn cells.
    held_out
        Number of cells that are only scored.
    start
        Weights to start from, None for random ones.
    """

    def __init__(
        self, out: Path, settings: BackboneTraining, rounds: Rounds, held_out: int, start: Pretrained | None
    ) -> None:
        self._out = out
        self._settings = settings
        self._rounds = rounds
        self._held_out = held_out
        self._from = start
        self._bfloat16 = uses_bfloat16("auto", torch.device("cpu"), settings.backbone)
        self._history: list[dict[str, float]] = []
        self._seconds = 0.0  # of earlier runs
        self._waited = 0.0
        self._started = time.monotonic()
        self._seen = self._steps = self._done = 0
        self._network: Network | None = None

    def run(self) -> None:
        """Train on all rounds, resuming after the last finished one."""
        settings, sizes = self._settings, self._settings.rounds
        self._rounds.begin(_HELD_OUT, self._held_out)
        done = self._resume()
        if done < len(sizes):
            self._rounds.begin(done + 1, sizes[done])
        self._unseen = self._rounds.wait(_HELD_OUT)
        with progress("train-backbone", settings.crops_seen) as advance:
            advance(self._seen)
            for number in range(done + 1, len(sizes) + 1):
                waiting = time.monotonic()
                cells = self._rounds.wait(number)
                self._waited += time.monotonic() - waiting
                if number < len(sizes):
                    self._rounds.begin(number + 1, sizes[number])
                before, loss = self._seen, self._train_round(number, cells)
                self._close_round(number, loss)
                advance(self._seen - before)
                if self._progress() >= 1:
                    break

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._started

    def _progress(self) -> float:
        """Return how far the training has come, 0 to 1."""
        seen, limit = self._seen / self._settings.crops_seen, 60 * self._settings.minutes
        return max(seen, self._elapsed() / limit) if limit else seen

    def _train_round(self, number: int, cells: Cells) -> float:
        """Train on a round until its share of crops is seen, and return the mean loss."""
        if self._network is None:
            self._start(cells)
        losses, settings = list[float](), self._settings
        due = settings.crops_seen * number // len(settings.rounds)
        for rows in _endless_batches(len(cells), (settings.seed, number)):
            if settings.minutes:  # a pass at least, and more while there are no other cells
                is_last = number == len(settings.rounds)
                passed = len(losses) * len(rows) > len(cells) - len(rows) and not is_last
                if (passed and self._rounds.is_ready(number + 1)) or (losses and self._progress() >= 1):
                    break
            elif self._seen >= due:
                break
            losses.append(self._step(cells, rows))
        return float(np.mean(losses))

    def _start(self, cells: Cells) -> None:
        """Make the network: deviations and class frequencies are those of the first round, or of where it starts."""
        if self._from:
            what = self._from.description
            self._network = _new_network(self._settings, what.mean, what.std, np.full(len(HPA28), 0.5))
            self._network.load_state_dict(self._from.state_dict, strict=False)
            self._begin_steps()
            first = {"round": 0, "crops_seen": 0, "seconds": self._elapsed(), "progress": 0.0}
            self._history.append(first | {"mean_ap": self._score(self._averaged(), "all four")["mean_ap"]})
            return
        mean, std = measure_mean_and_deviation(_Whole(cells), np.arange(len(cells)), "keep")
        self._network = _new_network(self._settings, mean.tolist(), std.tolist(), cells.targets.mean(axis=0))
        self._begin_steps()

    def _begin_steps(self) -> None:
        assert self._network is not None
        self._average = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        self._optimizer = _new_optimizer(self._network)

    def _step(self, cells: Cells, rows: NDArray[np.int64]) -> float:
        assert self._network is not None
        rate = learning_rate(self._progress())
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        pixels = training_crops(cells, rows, self._settings.seed, self._steps)
        self._network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            logits = self._network(pixels).logits
        loss = class_loss(logits, torch.from_numpy(cells.targets[rows]), self._settings.section)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._seen += len(rows)
        self._steps += 1
        self._follow()
        return float(loss.detach())

    def _follow(self) -> None:
        """Move the average of the weights towards the present ones; at first it averages over all steps so far."""
        assert self._network is not None
        weight = 1 / min(_AVERAGED, 1 + self._steps / 10)
        for name, tensor in self._network.state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, min(weight, 1.0))
            else:
                self._average[name].copy_(tensor)

    def _close_round(self, number: int, loss: float) -> None:
        """Score if it is time, and write the file to resume from; the round counts as finished with it."""
        self._done = number
        now, every = self._progress(), 1 / _VALIDATIONS
        last = self._history[-1]["progress"] if self._history else -1.0
        row: dict[str, float] = {"round": number, "crops_seen": self._seen, "seconds": self._elapsed(), "loss": loss}
        scored = ""
        if now >= 1 or now - last >= every:
            row |= {"progress": now, "mean_ap": self._score(self._averaged(), "all four")["mean_ap"]}
            self._history.append(row)
            scored = f", mean AP of held-out cells {row['mean_ap']:.3f}"
        print(
            f"round {number} of {len(self._settings.rounds)}: {self._seen} crops seen in {self._elapsed():.0f} s"
            f" ({self._waited:.0f} s waiting for cells), loss {loss:.4f}{scored}",
            flush=True,
        )
        assert self._network is not None
        content = {
            "done": number,
            "seen": self._seen,
            "steps": self._steps,
            "seconds": self._elapsed(),
            "waited": self._waited,
            "history": self._history,
            "mean": self._network.mean.flatten().tolist(),
            "std": self._network.std.flatten().tolist(),
            "network": self._network.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }
        write_bytes(self._out / RESUME, to_bytes(content))
        self._rounds.discard(number)

    def _resume(self) -> int:
        """Restore the state after the last finished round, and return its number."""
        path = self._out / RESUME
        if not path.is_file():
            return 0
        try:
            stored = load_plain(path)
        except UserError:
            discard(path, "expected the state of an unfinished training, found a damaged file; training from the start")
            return 0
        self._seen, self._steps = stored["seen"], stored["steps"]
        self._seconds, self._waited = stored["seconds"], stored["waited"]
        self._history = stored["history"]
        self._network = _new_network(self._settings, stored["mean"], stored["std"], np.full(len(HPA28), 0.5))
        self._network.load_state_dict(stored["network"])
        self._average = stored["average"]
        self._optimizer = _new_optimizer(self._network)
        self._optimizer.load_state_dict(stored["optimizer"])
        self._done = int(stored["done"])
        return self._done

    def _averaged(self) -> Network:
        assert self._network is not None
        mean, std = (values.flatten().tolist() for values in (self._network.mean, self._network.std))
        network = _new_network(self._settings, mean, std, np.full(len(HPA28), 0.5))
        network.load_state_dict(self._average)
        return network.eval()

    def _score(self, network: Network, subset: str, factor: float = 1.0) -> dict[str, float]:
        return score(predict(network, self._unseen, subset, factor), self._unseen.targets)

    def finish(self, result: Path, extra: dict[str, Any]) -> dict[str, Any]:
        """Write the weights, the record and the model card, and return the record."""
        network, settings = self._averaged(), self._settings
        weights = Pretrained(
            Description(
                settings.backbone,
                settings.section.features,
                list(CHANNELS),
                list(HPA28.classes),
                settings.size_px,
                network.mean.flatten().tolist(),
                network.std.flatten().tolist(),
            ),
            network.state_dict(),
        )
        weights.save(result)
        stored = self._averaged()
        stored.load_state_dict(Pretrained.load(result).state_dict, strict=False)  # scored as they are stored
        scores = {
            f"{subset}, {round(settings.size_px * factor)} px": self._score(stored, subset, factor)
            for subset, factor in [*((name, 1.0) for name in SUBSETS), ("all four", 1.5), ("all four", 2.0)]
        }
        probabilities = predict(stored, self._unseen, "all four")
        record = {
            **asdict(settings),
            **extra,
            "cells_trained_on": sum(settings.rounds[: self._done]),
            "crops_trained_on": self._seen,
            "steps": self._steps,
            "seconds": round(self._elapsed(), 1),
            "seconds_waiting_for_cells": round(self._waited, 1),
            "bfloat16": self._bfloat16,
            "torch": torch.__version__,
            "bytes": result.stat().st_size,
            "held_out_cells": len(self._unseen),
            "held_out": scores,
            "held_out_ap": ap_per_class(probabilities, self._unseen.targets),
            "history": self._history,
        }
        write_json(result.with_suffix(".json"), record)
        write_bytes(result.with_suffix(".md"), model_card(record, _LEARNING_RATE, _WEIGHT_DECAY).encode())
        return record


@dataclass(frozen=True)
class _Whole:
    """Drawn cells as a `classify.data.crops.CropSource`."""

    cells: Cells

    def __len__(self) -> int:
        return len(self.cells)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.cells.pixels[rows]

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self.cells.masks(rows)


def _new_network(
    settings: BackboneTraining, mean: list[float], std: list[float], frequencies: NDArray[np.float64]
) -> Network:
    p = frequencies.clip(1e-3, 1 - 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(Purpose.WEIGHTS, settings.seed, 0))
        network = Network(settings.section, len(CHANNELS), len(HPA28), mean, std)
    with torch.no_grad():
        network.head.bias.copy_(torch.from_numpy(np.log(p / (1 - p))))
    return network


def _new_optimizer(network: Network) -> AdamW:
    return AdamW(decay_groups(network.parameters(), _WEIGHT_DECAY), lr=_LEARNING_RATE)


def _endless_batches(n: int, seed: tuple[int, int]) -> Iterator[NDArray[np.int64]]:
    """Yield batches of rows, pass after pass, each in an order of its own; a short rest of a pass is left out."""
    rng, size = np.random.default_rng(seed), min(_BATCH, n)
    while True:
        order = rng.permutation(n)
        yield from (order[first : first + size] for first in range(0, n - size + 1, size))
