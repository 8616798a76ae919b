"""Run the classifier over the folds of an atlas, for `bench.classify`."""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from aggregate.pooling.formulas import pool_as_trained
from bench.classification.world import FOLDS
from classify.config import ClassifySection
from classify.data.crops import NO_FOLD, CropLabels, FeatureSource, FoldCrops, label_crops, select_channels
from classify.data.normalisation import Statistics
from classify.inference.features import FeatureRun, kept_features
from classify.inference.predict import ScoredCrops, predict_fold, vector_names
from classify.network.checkpoint import Checkpoint
from classify.network.model import Network, new_network
from classify.network.start import read_start, start_path
from classify.prediction import trained_pooling
from classify.probabilities import ATTENTION, class_columns
from classify.trained_pooling import TrainedPooling
from classify.training.fit import fit, remove_resume_files, start_statistics
from crops.store import CropStore
from hpa.channels import CHANNELS
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.device import resolve_device
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder

FOLD: Final = 0
"""The fold that is held out where one model is enough: measurements of speed, and real images."""


@dataclass(frozen=True)
class Job:
    """A system to train, one model per fold: its settings, the crops it is trained on and those it scores.

    Parameters
    ----------
    name
        Name of its folder.
    section
        Settings of the training.
    trained_on, scored_on
        Work folders with the crops, and their window.
    seed
        Seed of the training.
    """

    name: str
    section: ClassifySection
    trained_on: tuple[WorkFolder, str]
    scored_on: tuple[WorkFolder, str]
    seed: int = 0

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.scored_on[0].root / "bench" / f"{self.name}-seed{self.seed}"

    def crops(self, fold: int = FOLD) -> FoldCrops:
        """Return the crops for training and validation of a fold."""
        store, labels = read(*self.trained_on)
        return labels.fold_crops(select_channels(store, self.section.channels, CHANNELS), fold)


def read(work: WorkFolder, window: str) -> tuple[CropStore, CropLabels]:
    """Return the crops of a window and their labels."""
    store = CropStore(work.root / "crops" / window)
    return store, label_crops(store.table, read_images(work.images), read_folds(work.folds), HPA28)


@dataclass(frozen=True)
class Ran:
    """The result of a job.

    Parameters
    ----------
    folders
        The folder of each fold.
    seconds
        Processor time of training all folds, which other programs on the machine hardly affect; without that of frozen
        features, which are computed once for all systems.
    table
        Probabilities of the crops by the models of all folds (`classify.probabilities`).
    pooling
        How they are pooled to images.
    """

    folders: list[Path]
    seconds: float
    table: pd.DataFrame
    pooling: TrainedPooling


def run(
    job: Job, *, folds: Sequence[int] = tuple(range(FOLDS)), test_only: bool = False, embeddings: bool = False
) -> Ran:
    """Train and predict folds, or read the results of an earlier run of the bench.

    Every fold has its own record on the disk, so that a stopped run goes on with the fold it was in.

    Parameters
    ----------
    job
        The system.
    folds
        The folds that are held out in turn.
    test_only
        Score the crops of test images alone, not those of the fold that is held out.
    embeddings
        Write features and embeddings of the crops, too.
    """
    store, labels = read(*job.scored_on)
    if test_only:
        labels = replace(labels, folds=np.where(labels.is_test, labels.folds, NO_FOLD))
    device = torch.device(resolve_device("auto"))
    folders, checkpoints, tables, seconds = [], {}, [], 0.0
    for fold in folds:
        folder = train(job, fold)
        seconds += float(json.loads((folder / "bench.json").read_text())["seconds"])
        checkpoints[fold] = Checkpoint.load(folder / "checkpoint.pt")
        scored = ScoredCrops(store, labels, HPA28)
        features = None
        if job.section.trainable == "heads":
            features = _features(checkpoints[fold].network(device), job.section, checkpoints[fold].statistics, job)
        part = folder / ("predict-test" if test_only else "predict")
        vectors = vector_names(job.section) if embeddings else ()
        tables.append(predict_fold(checkpoints[fold], scored, part, device, vectors=vectors, features=features))
        folders.append(folder)
    pooling = trained_pooling(checkpoints)
    if job.section.objective == "cell":
        pooling = replace(pooling, pooling="max")
    return Ran(folders, seconds, pd.concat(tables, ignore_index=True), pooling)


def train(job: Job, fold: int) -> Path:
    """Train the model of one fold unless that is done, and return the folder of ``checkpoint.pt``."""
    folder = job.folder / f"fold-{fold}"
    if (folder / "bench.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    source = job.crops(fold)
    device = torch.device(resolve_device("auto"))
    path = start_path(job.section)
    model = path / "checkpoint.pt" if path is not None and path.is_dir() else None
    start = read_start(job.section, CHANNELS, HPA28.classes, model)
    statistics = start_statistics(source, job.section, start)
    size_px = source.source.pixels(source.training[:1]).shape[2]
    if job.section.trainable == "heads":
        even = np.full(len(HPA28), 0.5)
        network = new_network(job.section, job.seed, statistics.mean, statistics.std, even, start)
        source = replace(source, source=FeatureSource(_features(network, job.section, statistics, job)))
    started = time.process_time()
    fitted = fit(source, job.section, job.seed, fold, folder, device, start=start, statistics=statistics)
    seconds = round(time.process_time() - started, 1)
    statistics = fitted.statistics
    Checkpoint(
        state_dict=fitted.state_dict,
        config=job.section.model_dump(mode="json"),
        vocabulary=HPA28.name,
        classes=list(HPA28.classes),
        channels=list(CHANNELS),
        size_px=size_px,
        mean=statistics.mean,
        std=statistics.std,
        fold=fold,
        epoch=fitted.epoch,
        seed=job.seed,
        versions={"torch": version("torch")},
        sources=statistics.sources,
    ).save(folder / "checkpoint.pt")
    remove_resume_files(folder)
    record = {"seconds": seconds, "threads": torch.get_num_threads(), "section": job.section.model_dump(mode="json")}
    write_json(folder / "bench.json", record)
    return folder


def _features(network: Network, section: ClassifySection, statistics: Statistics, job: Job) -> NDArray[np.float32]:
    """Return the features of all crops that a job trains on and scores, computed once for all jobs."""
    work, window = job.scored_on
    weights = hashlib.sha256(section.pretrained.encode()).hexdigest()[:8]
    device = torch.device(resolve_device("auto"))
    folder = work.root / "bench" / f"features-{weights}"
    run = FeatureRun(network.eval().to(device), section, statistics, folder, {"window": window})
    return kept_features(run, *read(work, window), device)


def image_probabilities(ran: Ran) -> pd.DataFrame:
    """Pool the crops of each image within each fold's model.

    Returns
    -------
    DataFrame
        One row per image and model: image_id, fold, origin and p of each class. A train image has one row, of the model
        that has not seen it; a test image one per fold.
    """
    columns = class_columns(HPA28)
    table = ran.table.sort_values(["image_id", "fold", "cell_label"], kind="stable", ignore_index=True)
    bag = table[["image_id", "fold"]]
    first = np.flatnonzero((bag != bag.shift()).any(axis=1).to_numpy())
    attention = table[ATTENTION].to_numpy(np.float32) if ATTENTION in table else None
    heads = table.loc[first, ["image_id", "fold", "origin"]].reset_index(drop=True)
    pooled = pool_as_trained(
        table[columns].to_numpy(np.float32), first, ran.pooling, heads["fold"].to_numpy(), attention=attention
    )
    return pd.concat([heads, pd.DataFrame(pooled, columns=columns)], axis=1)


def joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Average the image probabilities of several systems, for images scored by all of them."""
    columns, keys = class_columns(HPA28), ["image_id", "fold", "origin"]
    indexed = [part.set_index(keys) for part in parts]
    values = np.mean([part[columns].reindex(indexed[0].index).to_numpy() for part in indexed], axis=0)
    return pd.DataFrame(values, index=indexed[0].index, columns=columns).dropna().reset_index()


def show(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Print a table and write it as JSON records."""
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"), flush=True)
    write_json(path, json.loads(table.to_json(orient="records")))
