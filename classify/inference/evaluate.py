"""Running a network over crops, as they are or in eight views, and scoring it on the images of its fold."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classify.config import ClassifySection, Precision
from classify.data.crops import CropSource, FoldCrops, blocks, read_crops
from classify.inference.views import predict_views
from classify.losses.classification import class_loss, class_weights
from classify.losses.objective import pool_bags
from classify.network.backbones import has_depthwise_convolutions
from classify.network.model import Network, Outputs
from crops.store import crop_weights
from hpa.errors import UserError
from hpa.metrics import macro_f1, mean_average_precision
from hpa.work.device import has_fast_bfloat16

BATCH: Final = 128
"""Crops per forward pass; fixed, because a convolution gives other bits at another batch size."""

_IMAGES: Final = 256  # bags that are pooled at a time
_ACCURACY_AT: Final = 0.2  # threshold of the accuracy, as fastai's users of the competition reported it


class CropOutputs(NamedTuple):
    """Output of a network for n crops, on the CPU, float32."""

    logits: NDArray[np.float32]
    """Shape (n, K), of the crops as they are."""
    probabilities: NDArray[np.float32]
    """Shape (n, K), of the views that the recipe scores."""
    features: NDArray[np.float32]
    """Shape (n, F)."""
    embeddings: NDArray[np.float32] | None
    """Shape (n, D), or None."""
    attention: NDArray[np.float32] | None
    """Shape (n,), or None."""


def predict_batches(
    network: Network,
    source: CropSource,
    rows: NDArray[np.int64],
    section: ClassifySection,
    device: torch.device,
    levels: NDArray[np.float32] | None = None,
) -> Iterator[CropOutputs]:
    """Run a network over crops, batch by batch.

    Parameters
    ----------
    network
        A network on `device`; its mode (training or not) is restored at the end.
    source, rows
        The crops.
    section
        Recipe section: what crops show outside their own cell, which views are scored, and the precision.
    device
        Device to run on. A batch that does not fit into its memory is split in half.
    levels
        `classify.data.normalisation.crop_levels`.

    Yields
    ------
    CropOutputs
        Outputs for up to `BATCH` crops.

    Raises
    ------
    UserError
        If a single crop does not fit into the memory of the device.
    """
    with _evaluation_mode(network):
        for block in blocks(rows, BATCH):
            pixels = torch.from_numpy(read_crops(source, block, section.outside_cell))
            batch_levels = None if levels is None else torch.from_numpy(levels[block])
            yield _run_in_parts(network, pixels, batch_levels, section, device)


def _run_in_parts(
    network: Network, pixels: Tensor, levels: Tensor | None, section: ClassifySection, device: torch.device
) -> CropOutputs:
    """Run the network on a batch, or on its halves if memory is short."""
    try:
        return _run(network, pixels, levels, section, device)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise UserError("expected room for one crop on the device, found less") from None
    half = len(pixels) // 2
    halves = [None, None] if levels is None else [levels[:half], levels[half:]]
    parts = [
        _run_in_parts(network, part, own, section, device)
        for part, own in zip([pixels[:half], pixels[half:]], halves, strict=True)
    ]
    return CropOutputs(
        *(None if one is None else np.concatenate([one, other]) for one, other in zip(*parts, strict=True))  # type: ignore[arg-type]
    )


def _run(
    network: Network, pixels: Tensor, levels: Tensor | None, section: ClassifySection, device: torch.device
) -> CropOutputs:
    reduced = autocast_type(section.precision, device, section.backbone)
    # Entered for every batch: a context held open across a yield would leak into the caller.
    with (
        torch.inference_mode(),
        torch.autocast(device.type, reduced or torch.bfloat16, enabled=reduced is not None),
    ):
        on_device = pixels.to(device)
        own = None if levels is None else levels.to(device)
        outputs, probabilities = predict_views(lambda view: _float(network(view, own)), on_device, section)
    return CropOutputs(
        outputs.logits.cpu().numpy(),
        probabilities.cpu().numpy(),
        outputs.features.cpu().numpy(),
        None if outputs.embeddings is None else outputs.embeddings.cpu().numpy(),
        None if outputs.attention is None else outputs.attention.cpu().numpy(),
    )


def _float(outputs: Outputs) -> Outputs:
    return Outputs(*(None if part is None else part.float() for part in outputs))  # type: ignore[arg-type]


def uses_bfloat16(precision: Precision, device: torch.device, backbone: str) -> bool:
    """Return whether a recipe's precision means bfloat16 on a device, for a backbone."""
    if precision != "auto":
        return precision == "bf16"
    return has_fast_bfloat16(str(device)) and not (device.type == "cpu" and has_depthwise_convolutions(backbone))


def autocast_type(precision: Precision, device: torch.device, backbone: str) -> torch.dtype | None:
    """Return the type that a recipe's precision means on a device, None for float32.

    float16 needs a GPU; a model that was trained with it predicts in float32 elsewhere.
    """
    if precision == "16":
        return torch.float16 if device.type == "cuda" else None
    return torch.bfloat16 if uses_bfloat16(precision, device, backbone) else None


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into probabilities, in float32."""
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


@contextmanager
def _evaluation_mode(network: Network) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@dataclass(frozen=True)
class ImageScores:
    """Scores of a network on images.

    Parameters
    ----------
    macro_f1
        Macro F1 of images at the threshold 0.5, pooled over their crops: by the maximum, or as in training if the
        recipe pools there.
    mean_ap
        Mean average precision of images, pooled likewise, over the classes that occur (0 if none does).
    accuracy
        Share of the known classes of images whose pooled probability is on the right side of 0.2.
    """

    macro_f1: float
    mean_ap: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation(ImageScores):
    """Scores of a network on the images of its fold.

    Parameters
    ----------
    loss
        Mean class loss of crops against inherited labels.
    """

    loss: float


class ScoredRows(NamedTuple):
    """Output of a network for some crops of a fold, on the CPU."""

    rows: NDArray[np.int64]
    """Positions of the crops in the table of crops, shape (n,)."""
    logits: NDArray[np.float32]
    """Shape (n, K)."""
    attention: NDArray[np.float32] | None
    """Shape (n,), or None."""


def evaluate(network: Network, crops: FoldCrops, section: ClassifySection, device: torch.device) -> Evaluation:
    """Score a network on the validation crops of its fold, each in one view.

    Parameters
    ----------
    network
        A network on `device`.
    crops
        Crops of the fold.
    section
        Recipe section.
    device
        Device to run on.
    """
    return score_rows(network, run_validation(network, crops, section, device), crops, section)


def run_validation(network: Network, crops: FoldCrops, section: ClassifySection, device: torch.device) -> ScoredRows:
    """Run a network over the validation crops of its fold, each in one view; as for `evaluate`."""
    one_view = section.model_copy(update={"test_views": "one"})
    outputs = list(predict_batches(network, crops.source, crops.validation, one_view, device, crops.levels))
    attention = None
    if outputs[0].attention is not None:
        attention = np.concatenate([part.attention for part in outputs if part.attention is not None])
    return ScoredRows(crops.validation, np.concatenate([part.logits for part in outputs]), attention)


def score_rows(network: Network, scored: ScoredRows, crops: FoldCrops, section: ClassifySection) -> Evaluation:
    """Score the output of a network for crops of its fold; as for `score_images`, and by the class loss."""
    targets = torch.from_numpy(crops.labels.soft_targets(scored.rows))
    loss = class_loss(torch.from_numpy(scored.logits), targets, section, classes=class_weights(section, crops))
    of_images = score_images(network, scored, crops, section)
    return Evaluation(of_images.macro_f1, of_images.mean_ap, of_images.accuracy, float(loss))


def loss_of_rows(scored: ScoredRows, crops: FoldCrops, section: ClassifySection, name: str) -> float:
    """Return another class loss than the recipe's, by its name, with unweighted classes and unsmoothed targets."""
    other = section.model_copy(update={"loss": name, "class_weights": "none", "label_smoothing": 0.0})
    targets = torch.from_numpy(crops.labels.soft_targets(scored.rows))
    return float(class_loss(torch.from_numpy(scored.logits), targets, other))


def score_images(network: Network, scored: ScoredRows, crops: FoldCrops, section: ClassifySection) -> ImageScores:
    """Score the images that crops pool to.

    Parameters
    ----------
    network
        The network, which may pool.
    scored
        Its output; every crop once.
    crops
        Crops of the fold.
    section
        Recipe section.
    """
    rows, logits, labels = scored.rows, scored.logits, crops.labels
    if section.objective == "cell":
        _, first, image = np.unique(labels.images[rows], return_index=True, return_inverse=True)
        pooled = np.zeros((len(first), logits.shape[1]), dtype=np.float32)
        np.maximum.at(pooled, image, sigmoid(logits))
        heads = rows[first]
    else:
        pooled, heads = _pool_as_trained(network, scored, crops, section)
    # An unknown class gets probability 0: it ranks last and is not predicted, so it is neither hit, wrong nor missed.
    known = labels.known[heads]
    pooled = pooled * known
    # With labels of cells, an image has what any of its cells has.
    images, image = np.unique(labels.images[rows], return_inverse=True)
    of_image = np.zeros((len(images), labels.targets.shape[1]), dtype=bool)
    np.logical_or.at(of_image, image, labels.targets[rows])
    hot = of_image[np.searchsorted(images, labels.images[heads])]
    right = ((pooled > _ACCURACY_AT) == hot)[known]
    accuracy = float(right.mean()) if right.size else 0.0
    return ImageScores(macro_f1(hot, pooled > 0.5), mean_average_precision(hot, pooled), accuracy)


def _pool_as_trained(
    network: Network, scored: ScoredRows, crops: FoldCrops, section: ClassifySection
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pool the images of crops and return their probabilities and one row of each image.

    Some images are pooled at a time, so that one with many crops does not pad them all.
    """
    labels, logits, attention = crops.labels, scored.logits, scored.attention
    order = np.argsort(labels.images[scored.rows], kind="stable")
    rows = scored.rows[order]
    weights = crop_weights(labels.completeness[rows], section.completeness_power)
    edges = np.append(np.flatnonzero(np.diff(labels.images[rows], prepend=-1)), len(rows))
    pooled = []
    device = network.head.weight.device
    for start in range(0, len(edges) - 1, _IMAGES):
        part = slice(edges[start], edges[min(start + _IMAGES, len(edges) - 1)])
        bags = np.cumsum(np.diff(labels.images[rows[part]], prepend=labels.images[rows[part.start]]) != 0)
        scores = None if attention is None else torch.from_numpy(attention[order[part]]).to(device)
        with torch.inference_mode():
            tensors = [torch.from_numpy(a).to(device) for a in (logits[order[part]], bags, weights[part])]
            pooled.append(pool_bags(tensors[0], scores, tensors[1], tensors[2], section, network.alpha).cpu().numpy())
    return np.concatenate(pooled), rows[edges[:-1]]
