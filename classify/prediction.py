"""Run of the prediction: score every crop of a work folder, and write the table of probabilities."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from classify.config import ClassifySection
from classify.data.crops import select_channels
from classify.inference.features import digest
from classify.inference.predict import ScoredCrops, predict_fold
from classify.inference.transfer import transfer_fold
from classify.models import features_folder, read_labelled_crops, stage_folder, stage_inputs, trained_checkpoints
from classify.network.checkpoint import Checkpoint, load_checkpoints
from classify.preparation import computation_of, computing, features_of_window
from classify.probabilities import KEY, write_probabilities
from classify.trained_pooling import TrainedPooling, write_pooling
from crops.config import CropsSection, Window
from crops.store import CropStore
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.work.device import resolve_device
from hpa.work.folder import WorkFolder
from hpa.work.stage import begin, is_being_replaced


def predict(
    work: WorkFolder,
    *,
    device: str = "auto",
    overwrite: bool = False,
    model: WorkFolder | None = None,
    embeddings: bool = False,
    threads: int | None = None,
) -> int:
    """Score every crop with the models that did not see its image in training, for every window of the recipe.

    Parameters
    ----------
    work
        The work folder whose crops are scored.
    device, threads
        As for `train`.
    overwrite
        Discard existing results and start over.
    model
        A work folder or bundle whose models score all images of `work` as test images; None uses the models of `work`,
        each on the test images and on the images of its own fold.
    embeddings
        Whether to write the features and embeddings of every crop too.

    Returns
    -------
    int
        The exit code 0.

    Raises
    ------
    UserError
        If there are no crops or models, the models do not fit the crops, or the inputs of an earlier run have changed.
    """
    chosen = torch.device(resolve_device(device))
    trained = model or work
    for window in work.section("crops", CropsSection).windows:
        _predict_window(work, trained, window, chosen, threads, overwrite=overwrite, embeddings=embeddings)
    return 0


def _predict_window(
    work: WorkFolder,
    trained: WorkFolder,
    window: Window,
    device: torch.device,
    threads: int | None,
    *,
    overwrite: bool,
    embeddings: bool,
) -> None:
    data = work.data
    # The recipe of the trained run may use models of another window for this one.
    source = trained.section("crops", CropsSection).train_window_for(window)
    paths = trained_checkpoints(trained, source)
    for fold, path in paths.items():
        if is_being_replaced(path.parent):
            raise UserError(
                f"expected fold {fold} to be trained in {path.parent}, found an unfinished run with --overwrite; finish"
                f" it with `python -m classify train {trained.root}`"
            )
    checkpoints = load_checkpoints(paths)
    store, labels = read_labelled_crops(work, window, data)
    inputs = stage_inputs(work, window)
    if trained.root == work.root:
        inputs |= {"folds.parquet": work.folds}
    else:
        labels = labels.as_unseen()
    for fold, checkpoint in checkpoints.items():
        _check_fits(checkpoint, paths[fold], data, store)
    inputs |= {f"fold-{fold}/checkpoint.pt": path for fold, path in paths.items()}
    # The section that the models were trained with, even if the recipe has changed since.
    section = next(iter(checkpoints.values())).section
    folder = stage_folder(work, window)
    command = f"python -m classify predict {work.root}"
    here = computation_of(section, device, threads)
    place = folder / "predict"
    stage = begin(place, command, data, section, inputs, overwrite=overwrite, beside=True, computation=here)
    scored = ScoredCrops(store, labels, data.classes)
    with computing(stage.computation, section) as resolved:
        features = _features_of_models(checkpoints, resolved, scored, device, work, window)
        parts = [
            predict_fold(
                replace(checkpoint, config=checkpoint.config | {"precision": resolved.precision}),
                scored,
                stage.folder / f"fold-{fold}",
                device,
                embeddings=embeddings,
                features=features.get(fold),
            )
            for fold, checkpoint in checkpoints.items()
        ]
    table = pd.concat(parts, ignore_index=True).sort_values(KEY, ignore_index=True)
    outputs = [folder / "probabilities.parquet"]
    pooling = folder / "pooling.json"
    if section.objective != "cell":
        write_pooling(pooling, trained_pooling(checkpoints))
        outputs.append(pooling)
    else:
        pooling.unlink(missing_ok=True)  # it may be left from earlier models that pooled in training
    write_probabilities(outputs[0], table, data.classes)
    neighbours = folder / "neighbours" / "probabilities.parquet"
    if section.nearest_crops and trained.root == work.root:
        with computing(stage.computation, section) as resolved:
            own = [
                transfer_fold(
                    replace(checkpoint, config=checkpoint.config | {"precision": resolved.precision}),
                    scored,
                    part,
                    stage.folder / f"fold-{fold}",
                    device,
                    features=features.get(fold),
                )
                for (fold, checkpoint), part in zip(checkpoints.items(), parts, strict=True)
            ]
        write_probabilities(neighbours, pd.concat(own).sort_values(KEY, ignore_index=True), data.classes)
        outputs.append(neighbours)
    else:
        neighbours.unlink(missing_ok=True)
    stage.finish({"rows": len(table), "oof_rows": int((table["origin"] == "oof").sum())}, outputs)


def _features_of_models(
    checkpoints: Mapping[int, Checkpoint],
    section: ClassifySection,
    scored: ScoredCrops,
    device: torch.device,
    work: WorkFolder,
    window: Window,
) -> dict[int, NDArray[np.float32]]:
    """Return the features that trained heads are applied to, by fold; none of networks that were trained as a whole."""
    if section.trainable != "heads" or section.test_views != "one":
        return {}
    networks = {fold: checkpoint.network(device) for fold, checkpoint in checkpoints.items()}
    shared = len({digest(network) for network in networks.values()}) == 1
    features: dict[int, NDArray[np.float32]] = {}
    for fold, network in networks.items():
        checkpoint = checkpoints[fold]
        source = select_channels(scored.source, section.channels, checkpoint.channels)
        folder = features_folder(work, window, None if shared else fold)
        features[fold] = (
            next(iter(features.values()))
            if shared and features
            else features_of_window(
                network, section, checkpoint.statistics, folder, source, scored.labels, device, work, window
            )
        )
    return features


def trained_pooling(checkpoints: Mapping[int, Checkpoint]) -> TrainedPooling:
    """Return how the models of a run pooled in training, with the parameters they learned; `checkpoints` is by fold."""
    section = next(iter(checkpoints.values())).section
    learned = {fold: checkpoint.state_dict.get("alpha") for fold, checkpoint in checkpoints.items()}
    alpha = {fold: values.tolist() for fold, values in learned.items() if values is not None}
    power = section.completeness_power
    return TrainedPooling(section.pooling, section.top_k, section.sharpness, power, alpha)


def _check_fits(checkpoint: Checkpoint, path: Path, data: DataSection, store: CropStore) -> None:
    section = checkpoint.section
    # A convolutional network trained on random crops accepts other sizes too.
    trained_px = store.shape[1] if section.random_crop != "none" else checkpoint.size_px
    pairs = {
        "vocabulary": (checkpoint.vocabulary, data.classes.name),
        "classes": (checkpoint.classes, list(data.classes.classes)),
        "channels": (checkpoint.channels, list(data.channels)),
        "crop size in px": (trained_px, store.shape[1]),
    }
    for what, (trained, given) in pairs.items():
        if trained != given:
            raise UserError(f"expected the {what} that {path} was trained with ({trained}), found {given}")
