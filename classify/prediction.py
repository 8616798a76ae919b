"""Run of the prediction: score every crop of a work folder, and write the table of probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from classify.cell_targets import CELL_TARGETS, cell_targets_path, read_cell_targets, train_on_cells
from classify.config import ClassifySection
from classify.data.crops import select_channels
from classify.inference.features import digest
from classify.inference.predict import ScoredCrops, predict_fold, vector_names
from classify.inference.transfer import NEIGHBOURS, References, make_references, transfer_fold
from classify.models import (
    features_folder,
    read_labelled_crops,
    references_path,
    stage_folder,
    stage_inputs,
    trained_checkpoints,
)
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
from hpa.work.mapping import discard
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
        models, folder = _Models.read(trained, window, work), stage_folder(work, window)
        _predict_window(work, models, window, folder, chosen, threads, overwrite=overwrite, embeddings=embeddings)
    return 0


def predict_seen(
    work: WorkFolder, model: WorkFolder, folder: Path, *, device: str = "auto", threads: int | None = None
) -> Path:
    """Score every cell with every model of a run of the same cells, also those that a model was trained on.

    Parameters
    ----------
    work
        The work folder whose crops of the window ``cells`` are scored.
    model
        The work folder of the models.
    folder
        Folder of the results; those of a killed call are resumed.
    device, threads
        As for `predict`.

    Returns
    -------
    Path
        The table (`classify.probabilities`), with a row for each cell and model. The origin of all rows is ``test``,
        which says nothing.

    Raises
    ------
    UserError
        As for `predict`.
    """
    models = replace(_Models.read(model, "cells", work), are_own=False, references={})
    _predict_window(work, models, "cells", folder, torch.device(resolve_device(device)), threads)
    return folder / "probabilities.parquet"


@dataclass(frozen=True)
class _Models:
    """The models that score a window, which may have been trained on another one.

    Parameters
    ----------
    checkpoints, paths
        The models and their files, by fold.
    references
        Files of the crops that labels are transferred from, by fold; none if that is not asked for.
    are_own
        Whether they are those of the work folder whose crops they score, each those of its fold and of test images;
        others score all crops, as if they were of test images.
    """

    checkpoints: dict[int, Checkpoint]
    paths: dict[int, Path]
    references: dict[int, Path]
    are_own: bool

    @classmethod
    def read(cls, trained: WorkFolder, window: Window, work: WorkFolder) -> Self:
        """Read the models of a work folder or a bundle for a window of another one, or of the same."""
        paths = trained_checkpoints(trained, trained.section("crops", CropsSection).train_window_for(window))
        for fold, path in paths.items():
            if is_being_replaced(path.parent):
                raise UserError(
                    f"expected fold {fold} to be trained in {path.parent}, found an unfinished run with --overwrite;"
                    f" finish it with `python -m classify train {trained.root}`"
                )
        checkpoints, are_own = load_checkpoints(paths), trained.root == work.root
        references = {}
        if next(iter(checkpoints.values())).section.nearest_crops:
            references = {fold: references_path(trained, window, fold) for fold in checkpoints}
        if not are_own and not all(path.is_file() for path in references.values()):
            references = {}  # a bundle has them only if they are joined
        return cls(checkpoints, paths, references, are_own)

    @property
    def section(self) -> ClassifySection:
        """The section that the models were trained with, even if the recipe has changed since."""
        return next(iter(self.checkpoints.values())).section

    def with_precision(self, resolved: ClassifySection) -> Self:
        """Return the models with the precision that is used."""
        resolve = {"precision": resolved.precision}
        own = {fold: replace(one, config=one.config | resolve) for fold, one in self.checkpoints.items()}
        return replace(self, checkpoints=own)


def _predict_window(
    work: WorkFolder,
    models: _Models,
    window: Window,
    folder: Path,
    device: torch.device,
    threads: int | None,
    *,
    overwrite: bool = False,
    embeddings: bool = False,
) -> None:
    store, labels = read_labelled_crops(work, window, work.data)
    for fold, checkpoint in models.checkpoints.items():
        _check_fits(checkpoint, models.paths[fold], work.data, store)
    inputs = stage_inputs(work, window) | {f"fold-{fold}/checkpoint.pt": path for fold, path in models.paths.items()}
    if models.are_own:
        inputs |= {"folds.parquet": work.folds}
    else:
        labels = labels.as_unseen()
        inputs |= {path.name: path for path in models.references.values()}
    section, place, cell_targets = models.section, folder / "predict", None
    if models.are_own and models.references and section.labels == "cells":
        inputs[CELL_TARGETS] = cell_targets_path(work)
        cell_targets = read_cell_targets(inputs[CELL_TARGETS])
    here, command = computation_of(section, device, threads), f"python -m classify predict {work.root}"
    stage = begin(place, command, work.data, section, inputs, overwrite=overwrite, beside=True, computation=here)
    if models.are_own:
        written = {fold: stage.folder / path.name for fold, path in models.references.items()}
        models = replace(models, references=written)
    scored = ScoredCrops(store, labels, work.data.classes)
    with computing(stage.computation, section) as resolved:
        models = models.with_precision(resolved)
        features = _features_of_models(models.checkpoints, resolved, scored, device, work, window)
        parts = {}
        for fold, checkpoint in models.checkpoints.items():
            own, names = stage.folder / f"fold-{fold}", vector_names(section)
            # Neighbours are searched by vectors that come with the probabilities; features of frozen networks are kept.
            transfers = fold in models.references and fold not in features and not (own / NEIGHBOURS).is_file()
            vectors = names if embeddings else names[-1:] if transfers else ()
            of_fold = features.get(fold)
            parts[fold] = predict_fold(checkpoint, scored, own, device, vectors=vectors, features=of_fold)
        if models.are_own:
            _make_references(models, scored, device, features, cell_targets)
        transferred = [
            transfer_fold(
                *(models.checkpoints[fold], scored, References.load(path), parts[fold]),
                *(stage.folder / f"fold-{fold}", device, features.get(fold)),
                keep_vectors=embeddings,
            )
            for fold, path in models.references.items()
        ]
    outputs = _write_tables(folder, list(parts.values()), transferred, models, work.data)
    if models.are_own:
        outputs += models.references.values()
    rows = sum(map(len, parts.values()))
    stage.finish({"rows": rows, "oof_rows": sum(int((t["origin"] == "oof").sum()) for t in parts.values())}, outputs)


def _make_references(
    models: _Models,
    scored: ScoredCrops,
    device: torch.device,
    features: Mapping[int, NDArray[np.float32]],
    cell_targets: pd.DataFrame | None,
) -> None:
    """Write the crops that models were trained on with their labels, unless an interrupted run left them whole."""
    for fold, path in models.references.items():
        try:
            if path.exists():
                References.load(path)
                continue
        except UserError as error:
            discard(path, str(error))
        labelled = scored
        if cell_targets is not None:
            crops = train_on_cells(scored.labels.fold_crops(scored.source, fold), cell_targets, fold, scored.vocabulary)
            labelled = replace(scored, labels=crops.labels)
        make_references(models.checkpoints[fold], labelled, device, features.get(fold)).save(path)


def _write_tables(
    folder: Path, parts: list[pd.DataFrame], transferred: list[pd.DataFrame], models: _Models, data: DataSection
) -> list[Path]:
    """Write what later stages read, remove what earlier models left of it, and return the files."""
    scores, pooling = folder / "probabilities.parquet", folder / "pooling.json"
    neighbours = folder / "neighbours" / "probabilities.parquet"
    outputs = [scores]
    if models.section.objective != "cell":
        write_pooling(pooling, trained_pooling(models.checkpoints))
        outputs.append(pooling)
    else:
        pooling.unlink(missing_ok=True)
    for path, tables in ((scores, parts), (neighbours, transferred)):
        if tables:
            table = pd.concat(tables, ignore_index=True).sort_values(KEY, ignore_index=True)
            write_probabilities(path, table, data.classes)
    if transferred:
        outputs.append(neighbours)
    else:
        neighbours.unlink(missing_ok=True)
    return outputs


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
    pairs: dict[str, tuple[object, object]] = {
        "vocabulary": (checkpoint.vocabulary, data.classes.name),
        "classes": (checkpoint.classes, list(data.classes.classes)),
        "channels": (checkpoint.channels, list(data.channels)),
    }
    if len(store):  # the store of images of which none could be read has no size
        pairs["crop size in px"] = (trained_px, store.shape[1])
    for what, (trained, given) in pairs.items():
        if trained != given:
            raise UserError(f"expected the {what} that {path} was trained with ({trained}), found {given}")
