"""Measure loading for `bench.crops`: throughput of torch's DataLoader, and how long training waits for it."""

import time
from pathlib import Path
from typing import Final

import numpy as np
from torch.utils.data import DataLoader

from bench.stores.synthetic import stores
from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.data.batches import Batch, TrainingCrops, epoch_batches, epoch_loader
from classify.data.crops import CropLabels, FoldCrops
from classify.losses.objective import batch_loss
from classify.network.model import new_network
from classify.training.optimizer import new_optimizer, parameter_groups
from crops.store import CropStore
from hpa.atlas.scene import Scene

BATCH: Final = 256


def fold_of(store: CropStore) -> FoldCrops:
    """Return all crops of a store as training crops with random labels."""
    rows = np.arange(len(store))
    targets = np.random.default_rng(0).random((len(store), 28)) < 0.06
    labels = CropLabels(
        targets,
        known=np.ones_like(targets),
        images=rows,
        folds=np.ones_like(rows),
        is_test=np.zeros(len(rows), dtype=bool),
        fallback=np.zeros(len(rows), dtype=bool),
        image_ids=np.array([str(row) for row in rows], dtype=object),
        cell_labels=rows,
        sources=np.full(len(rows), "bench", dtype=object),
        antibodies=rows,
        completeness=np.ones(len(rows), dtype=np.float32),
    )
    return FoldCrops(store, labels, rows, rows[:1])


def load(crops: FoldCrops, batch: int, n_workers: int) -> DataLoader[Batch]:
    """Return the loader of one epoch of augmented crops."""
    section = ClassifySection()
    training = TrainingCrops(crops, section, Augmentation(section, 0, 0), 0)
    return epoch_loader(training, epoch_batches(crops.training, batch, 0, 0, 0), n_workers)


def loader(folder: Path, drawn: list[Scene], count: int) -> None:
    """Print crops per second through torch's DataLoader."""
    crops = fold_of(CropStore(stores(folder, drawn, count)))
    print(f"\nloader, batches of {BATCH} crops of 128 px with standard augmentation, start of the workers excluded:")
    for n_workers in (0, 1, 2):
        batches = iter(load(crops, min(BATCH, len(crops.training) // 4), n_workers))
        next(batches)
        start, n = time.perf_counter(), 0
        for batch in batches:
            n += len(batch.pixels)
        print(f"  {n_workers} workers  {n / (time.perf_counter() - start):,.0f} crops per second")


def training(folder: Path, drawn: list[Scene], count: int, steps: int) -> None:
    """Print the fraction of time that a training loop waits for its data."""
    print("\ntraining, ResNet18, batches of 64, default number of threads, share of the time spent waiting for crops:")
    for size_px in (64, 128):
        crops = fold_of(CropStore(stores(folder / str(size_px), drawn, count, size_px)))
        for n_workers in (0, 1):
            share, rate = waits(crops, steps, n_workers)
            print(f"  {size_px:3d} px, {n_workers} workers  {share:.1%} at {rate:.0f} crops per second")


def waits(crops: FoldCrops, steps: int, n_workers: int) -> tuple[float, float]:
    """Train some steps; return the fraction of time spent waiting, and crops per second."""
    section = ClassifySection()
    network = new_network(section, 0, np.full(4, 30.0), np.full(4, 30.0), np.full(28, 0.06))
    optimizer = new_optimizer(parameter_groups(network, section), section)
    batches = iter(load(crops, min(64, len(crops.training) // 4), n_workers))
    waited, n, start = 0.0, 0, time.perf_counter()
    for step in range(steps + 1):
        asked = time.perf_counter()
        batch = next(batches)
        arrived = time.perf_counter()
        loss = batch_loss(network(batch.pixels), batch, section)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step == 0:  # starts the workers and warms up torch
            waited, n, start = 0.0, 0, time.perf_counter()
        else:
            waited += arrived - asked
            n += len(batch.pixels)
    seconds = time.perf_counter() - start
    return waited / seconds, n / seconds
