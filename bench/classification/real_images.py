"""Measure how well training on the protein channel of the synthetic atlas transfers to real images."""

import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from aggregate.thresholds.decision import decide
from aggregate.thresholds.exact import best_thresholds
from bench.classification.runs import FOLD, show
from bench.classification.world import Size, World
from classify.config import ClassifySection
from classify.data.crops import CropLabels
from classify.inference.evaluate import predict_batches, sigmoid
from classify.network.model import Network
from classify.training.fit import fit, remove_resume_files
from hpa.metrics import roc_auc
from hpa.splitting.folds import assign_folds
from hpa.vocabulary import HPA28
from hpa.work.device import resolve_device
from tests.support.real_images import real_data


class _Windows:
    """Windows of green planes at half their size, in memory, with the interface of a crop store."""

    def __init__(self, planes: NDArray[np.uint8], kind: str) -> None:
        half = planes.shape[1] // 2
        small = np.stack([cv2.resize(plane, (half, half), interpolation=cv2.INTER_AREA) for plane in planes])
        if kind == "full_frame":
            self.of_image = 1
            self._crops = small[:, None]
        else:  # three by three windows of half the side, overlapping by half
            corners = [(r * half // 4, c * half // 4) for r in range(3) for c in range(3)]
            self.of_image = len(corners)
            cut = [plane[r : r + half // 2, c : c + half // 2] for plane in small for r, c in corners]
            self._crops = np.stack(cut)[:, None].astype(np.uint8)

    def __len__(self) -> int:
        return len(self._crops)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.take(self._crops, rows, axis=0)

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones((len(rows), *self._crops.shape[2:]), dtype=bool)


def _green(folder: Path, ids: Sequence[str], side_px: int) -> NDArray[np.uint8]:
    planes = [cv2.imread(str(folder / f"{name}_green.png"), cv2.IMREAD_GRAYSCALE) for name in ids]
    sized = [cv2.resize(np.asarray(plane), (side_px, side_px), interpolation=cv2.INTER_AREA) for plane in planes]
    return np.stack(sized).astype(np.uint8)


def real_proteins() -> tuple[Path, pd.Series] | None:
    """Return the folder of the real images of the protein and their targets by id; None where there are none."""
    root = real_data()
    folder, table = root / "single_channel512", root / "kaggle2018" / "train.csv"
    if not folder.is_dir() or not table.is_file():
        print(f"skipped: expected real images in {folder} and their labels in {table}, found none")
        return None
    labels = pd.read_csv(table, dtype=str).set_index("Id")["Target"]
    ids = sorted(path.name.removesuffix("_green.png") for path in folder.glob("*_green.png"))
    return folder, labels.loc[[name for name in ids if name in labels.index]]


def _frame_probabilities(network: Network, source: _Windows, section: ClassifySection) -> NDArray[np.float32]:
    """Return each image's maximum over its windows, shape (N, K)."""
    rows, device = np.arange(len(source)), torch.device(resolve_device("auto"))
    logits = np.concatenate(
        [outputs.logits for outputs in predict_batches(network.to(device), source, rows, section, device)]
    )
    pooled: NDArray[np.float32] = sigmoid(logits).reshape(-1, source.of_image, logits.shape[1]).max(axis=1)
    return pooled


def real(size: Size) -> None:
    """Train on the protein channel of the atlas only, and score real images, which are never trained on."""
    found = real_proteins()
    if found is None:
        return
    folder, texts = found
    world = World.of(size)
    work = world.work("cells", size.crop_px)  # draws the atlas
    truth = pd.read_csv(world.atlas / "truth" / "images.csv", dtype=str, keep_default_na=False)
    truth = truth[truth["split"] == "train"].reset_index(drop=True)
    targets = HPA28.multi_hot(HPA28.parse(text) for text in truth["target"])
    groups = pd.factorize(truth["antibody"])[0].astype(np.int32)
    held = assign_folds(targets, groups, 5, 0) == FOLD
    planes = _green(world.atlas / "train", list(truth["image_id"]), size.image_px)
    real_planes = _green(folder, list(texts.index), size.image_px)
    real_targets = HPA28.multi_hot(HPA28.parse(text) for text in texts)
    rows: list[dict[str, object]] = [_by_prevalence(targets[~held], real_targets)]
    details = {}
    for kind in ("full_frame", "grid"):
        source = _Windows(planes, kind)
        epochs = -(-size.epochs // (2 if kind == "grid" else 1))  # overlapping windows have 2.25 times as many pixels
        section = size.section.model_copy(update={"epochs": epochs, "batch_size": 32})
        images = np.repeat(np.arange(len(truth)), source.of_image)
        labels = CropLabels(
            targets[images],
            known=np.ones_like(targets[images]),
            images=images,
            folds=np.where(held[images], FOLD, FOLD + 1),
            is_test=np.zeros(len(images), dtype=bool),
            fallback=np.zeros(len(images), dtype=bool),
            image_ids=truth["image_id"].to_numpy(dtype=object)[images],
            cell_labels=np.arange(len(images)) % source.of_image,
            sources=np.full(len(images), "atlas", dtype=object),
            antibodies=groups[images].astype(np.int64),
            completeness=np.ones(len(images), dtype=np.float32),
        )
        crops = labels.fold_crops(source, FOLD)
        place = work.root / "bench" / f"real-{kind}"
        started = time.monotonic()
        fitted = fit(crops, section, 0, FOLD, place, torch.device(resolve_device("auto")))
        seconds = time.monotonic() - started
        network = Network(section, 1, len(HPA28), fitted.statistics.mean, fitted.statistics.std)
        network.load_state_dict(fitted.state_dict)
        remove_resume_files(place)
        own = _frame_probabilities(network, _Windows(planes[held], kind), section)
        thresholds = best_thresholds(targets[held], own)
        p = _frame_probabilities(network, _Windows(real_planes, kind), section)
        decided = decide(p, thresholds, "argmax", HPA28)
        auc = _auc(real_targets, p)
        details[kind] = {HPA28.classes[c]: round(value, 3) for c, value in auc.items()}
        rows.append({
            "trained on": f"atlas, {kind}", "images": len(p), "classes": len(auc),
            "mean AUC, real": _mean(auc),
            "micro F1, real": float(f1_score(real_targets, decided, average="micro")),
            "mean AUC, atlas": _mean(_auc(targets[held], own)),
            "seconds": seconds,
        })  # fmt: skip
    show(rows, world.root / "real.json")
    for kind, of_class in details.items():
        print(f"{kind}, AUC of each class on real images: {of_class}")


def _auc(targets: NDArray[np.bool_], p: NDArray[np.float32]) -> dict[int, float]:
    """Return the AUC of each class with at least 3 positives and 1 negative."""
    counted = [c for c in range(targets.shape[1]) if 3 <= targets[:, c].sum() < len(targets)]
    return {c: roc_auc(targets[:, c], p[:, c]) for c in counted}


def _mean(of_class: dict[int, float]) -> float:
    return float(np.mean(list(of_class.values()))) if of_class else float("nan")


def _by_prevalence(trained: NDArray[np.bool_], targets: NDArray[np.bool_]) -> dict[str, object]:
    """Predict the m most frequent training classes for every image, with m chosen on the training images."""
    order = np.argsort(-trained.mean(axis=0), kind="stable")

    def constant(n: int, m: int) -> NDArray[np.bool_]:
        predicted = np.zeros((n, trained.shape[1]), dtype=bool)
        predicted[:, order[:m]] = True
        return predicted

    own = [f1_score(trained, constant(len(trained), m), average="micro") for m in range(1, 8)]
    m = int(np.argmax(own)) + 1
    micro = float(f1_score(targets, constant(len(targets), m), average="micro"))
    return {
        "trained on": f"prevalence ({m} classes)",
        "images": len(targets),
        "mean AUC, real": 0.5,
        "micro F1, real": micro,
    }
