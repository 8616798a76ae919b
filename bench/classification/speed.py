"""Measure the speed of the classifier: training with the real loader, prediction from the store, and on a GPU."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import torch

from bench.classification.runs import FOLD, Job, show
from bench.classification.world import TINY, Size, World
from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.data.batches import Batch, TrainingCrops, epoch_loader, training_batches
from classify.data.crops import FoldCrops, read_crops
from classify.data.normalisation import measure_statistics
from classify.inference.evaluate import BATCH, predict_batches, uses_bfloat16
from classify.losses.objective import batch_loss
from classify.network.model import Network, new_network
from classify.training.optimizer import new_optimizer, parameter_groups
from hpa.work.device import resolve_device


class Steps:
    """The training steps of the trainer, without the trainer: with batches from the loader or one repeated batch."""

    def __init__(self, section: ClassifySection, crops: FoldCrops, workers: int = 0, device: str = "auto") -> None:
        self._section = section
        self._crops = crops
        self._workers = workers
        self.device = torch.device(resolve_device(device))
        statistics = measure_statistics(
            replace(crops, training=crops.training[:512]), section.outside_cell, section.normalise
        )
        frequencies = crops.labels.targets[crops.training].mean(axis=0)
        self.network = new_network(section, 0, statistics.mean, statistics.std, frequencies).to(self.device).train()
        self._optimizer = new_optimizer(parameter_groups(self.network, section), section)
        self._batches = self._endless()
        self._one = next(self._batches)

    def _endless(self) -> Iterator[Batch]:
        augmentation = Augmentation(self._section, 0, FOLD)
        for epoch in cycle(range(1000)):
            batches = training_batches(self._crops, self._section, 0, FOLD, epoch)
            crops = TrainingCrops(self._crops, self._section, augmentation, epoch)
            yield from epoch_loader(crops, batches, self._workers, pin=self.device.type == "cuda")

    def run(self, steps: int, *, loader: bool = True) -> float:
        """Run some steps and return their duration in seconds."""
        source = islice(self._batches, steps) if loader else [self._one] * steps
        self._wait()
        started = time.perf_counter()
        for batch in source:
            self._step(Batch(*(None if part is None else part.to(self.device, non_blocking=True) for part in batch)))  # type: ignore[arg-type]
        self._wait()
        return time.perf_counter() - started

    def _step(self, batch: Batch) -> None:
        bf16 = uses_bfloat16(self._section.precision, self.device, self._section.backbone)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            outputs = self.network(batch.pixels, batch.levels)
            loss = batch_loss(outputs, batch, self._section, self.network.alpha)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _ratio(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Time two functions in turn; return the median seconds of each and the median of their ratios."""
    pairs = np.array([(one(), other()) for _ in range(rounds)])
    return float(np.median(pairs[:, 0])), float(np.median(pairs[:, 1])), float(np.median(pairs[:, 0] / pairs[:, 1]))


def step(size: Size) -> None:
    """Compare training and prediction from the store with the same on a batch in memory."""
    world = World.of(size)
    rounds, steps = (2, 2) if size is TINY else (9, 8)
    rows: list[dict[str, object]] = []
    for side in (size.crop_px, size.crop_px * 2):
        cells = (world.work("cells", side), "cells")
        crops = Job("step", size.section, cells, cells).crops()
        for workers in (0, 1, 2):
            timed = Steps(size.section, crops, workers)
            timed.run(2)
            rows.append({"what": f"train, {workers} workers", "px": side, **_training(timed, rounds, steps)})
        rows.append({"what": "predict", "px": side, **_prediction(timed.network, crops, size.section, rounds)})
    show(rows, world.root / "step.json")


def _training(timed: Steps, rounds: int, steps: int) -> dict[str, object]:
    times = _ratio(lambda: timed.run(steps), lambda: timed.run(steps, loader=False), rounds)
    return _rate(*times, steps * ClassifySection().batch_size)


def _rate(real_s: float, bare_s: float, ratio: float, crops: int) -> dict[str, object]:
    return {"crops_per_s": crops / real_s, "bare_crops_per_s": crops / bare_s, "ratio": ratio}


def _prediction(network: Network, crops: FoldCrops, section: ClassifySection, rounds: int) -> dict[str, object]:
    device = next(network.parameters()).device
    rows = np.resize(crops.training, 4 * BATCH)
    pixels = torch.from_numpy(read_crops(crops.source, rows[:BATCH], section.outside_cell)).to(device)
    network.eval()

    def streamed() -> float:
        started = time.perf_counter()
        for _ in predict_batches(network, crops.source, rows, section, device):
            pass
        return time.perf_counter() - started

    def bare() -> float:
        started = time.perf_counter()
        for _ in range(4):
            with (
                torch.inference_mode(),
                torch.autocast(
                    device.type, torch.bfloat16, enabled=uses_bfloat16(section.precision, device, section.backbone)
                ),
            ):
                network(pixels).logits.cpu()
        return time.perf_counter() - started

    streamed(), bare()
    return _rate(*_ratio(streamed, bare, rounds), len(rows))


def gpu(size: Size) -> None:
    """Measure training on crops of 128 px in bfloat16 on a GPU."""
    if not torch.cuda.is_available():
        print("skipped: expected a GPU, found none")
        return
    world = World.of(size)
    cells = (world.work("cells", 128), "cells")
    rows: list[dict[str, object]] = []
    for backbone in ("resnet18", "densenet121"):
        section = size.section.model_copy(update={"backbone": backbone, "batch_size": 256, "precision": "bf16"})
        crops = Job("gpu", section, cells, cells).crops()
        timed = Steps(section, crops, workers=os.cpu_count() or 1, device="cuda")
        timed.run(3)
        timed.run(20, loader=False)
        real_s, bare_s = timed.run(20), timed.run(20, loader=False)
        rates = {"crops_per_s": 20 * 256 / real_s, "bare_crops_per_s": 20 * 256 / bare_s}
        rows.append({"backbone": backbone, **rates, "share_waiting": max(0.0, 1 - bare_s / real_s)})
    show(rows, world.root / "gpu.json")
