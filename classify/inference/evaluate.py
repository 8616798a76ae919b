"""What a network says of crops, and how good it is on images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from classify.config import ClassifySection, Precision
from classify.data.crops import CropSource, FoldCrops, blocks, read_crops
from classify.inference.views import of_views
from classify.losses.classification import class_loss
from classify.losses.objective import pool_bags
from classify.network.model import Network, Outputs
from classify.trained_pooling import crop_weights
from hpa.errors import UserError
from hpa.metrics import macro_f1

BATCH: Final = 128
"""Crops per forward pass; fixed, because a convolution gives other bits at another batch size."""

_IMAGES: Final = 256  # bags that are pooled at a time


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on the images of its fold.

    Parameters
    ----------
    loss
        Mean class loss of crops against inherited labels.
    macro_f1
        Of images, pooled over their crops (the maximum unless the recipe pools in training), against 0.5.
    mean_ap
        Mean average precision of images, pooled likewise, over the classes that occur (0 if none does).
    """

    loss: float
    macro_f1: float
    mean_ap: float


class CropOutputs(NamedTuple):
    """What a network says of n crops, on the CPU, float32."""

    logits: NDArray[np.float32]
    """Shape (n, K)."""
    probabilities: NDArray[np.float32]
    """Shape (n, K), of the views that the recipe scores."""
    features: NDArray[np.float32]
    """Shape (n, F)."""
    embeddings: NDArray[np.float32] | None
    """Shape (n, D), or None."""
    attention: NDArray[np.float32] | None
    """Shape (n,), or None."""


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; ``"auto"`` is the GPU if there is one, else the CPU.

    Raises
    ------
    UserError
        If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"expected a device that is here (auto, cpu, cuda, mps), found {name!r} ({reason})") from None
    return device


def predict_batches(
    network: Network,
    source: CropSource,
    rows: NDArray[np.int64],
    section: ClassifySection,
    device: torch.device,
    levels: NDArray[np.float32] | None = None,
) -> Iterator[CropOutputs]:
    """Stream what the network says of crops, batch by batch.

    Parameters
    ----------
    network
        On `device`; it is left in the mode (training or not) it came in.
    source, rows
        Which crops.
    section
        What crops show outside their own cell, which views of them are scored, in which arithmetic.
    device
        Where it runs. Where it has not the memory for a batch, the batch is halved.
    levels
        `classify.data.normalisation.crop_levels`.

    Yields
    ------
    CropOutputs
        Of up to `BATCH` crops.
    """
    with _as_evaluated(network):
        for block in blocks(rows, BATCH):
            pixels = torch.from_numpy(read_crops(source, block, section.outside_cell))
            own = None if levels is None else torch.from_numpy(levels[block])
            yield _halving(network, pixels, own, section, device)


def _halving(
    network: Network, pixels: Tensor, levels: Tensor | None, section: ClassifySection, device: torch.device
) -> CropOutputs:
    try:
        return _said(network, pixels, levels, section, device)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise UserError("expected room for one crop on the device, found less") from None
    half = len(pixels) // 2
    cuts = [None, None] if levels is None else [levels[:half], levels[half:]]
    parts = [
        _halving(network, p, c, section, device) for p, c in zip([pixels[:half], pixels[half:]], cuts, strict=True)
    ]
    return CropOutputs(
        *(None if one is None else np.concatenate([one, other]) for one, other in zip(*parts, strict=True))  # type: ignore[arg-type]
    )


def _said(
    network: Network, pixels: Tensor, levels: Tensor | None, section: ClassifySection, device: torch.device
) -> CropOutputs:
    # Entered anew for every batch: a context held open across a yield would leak into the caller.
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(section.precision, device)),
    ):
        there = pixels.to(device)
        own = None if levels is None else levels.to(device)
        outputs, probabilities = of_views(lambda view: _float(network(view, own)), there, section.test_views)
    return CropOutputs(
        outputs.logits.cpu().numpy(),
        probabilities.cpu().numpy(),
        outputs.features.cpu().numpy(),
        None if outputs.embeddings is None else outputs.embeddings.cpu().numpy(),
        None if outputs.attention is None else outputs.attention.cpu().numpy(),
    )


def _float(outputs: Outputs) -> Outputs:
    return Outputs(*(None if part is None else part.float() for part in outputs))  # type: ignore[arg-type]


def predict_logits(
    network: Network, source: CropSource, rows: NDArray[np.int64], section: ClassifySection, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """Stream the logits of crops, batch by batch: `look` for a network that needs no levels."""
    for said in predict_batches(network, source, rows, section, device):
        yield said.logits


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Tell whether a recipe's precision means bfloat16 on a device."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into probabilities, in float32."""
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


@contextmanager
def _as_evaluated(network: Network) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def evaluate(network: Network, crops: FoldCrops, section: ClassifySection, device: torch.device) -> Evaluation:
    """Score a network, on `device`, on the validation crops of its fold, each looked at once."""
    plain = section.model_copy(update={"test_views": "one"})
    rows = crops.validation
    said = list(predict_batches(network, crops.source, rows, plain, device, crops.levels))
    logits = np.concatenate([part.logits for part in said])
    loss = class_loss(torch.from_numpy(logits), torch.from_numpy(crops.soft_targets(rows)), section)
    if section.objective == "cell":
        _, first, image = np.unique(crops.images[rows], return_index=True, return_inverse=True)
        pooled = np.zeros((len(first), logits.shape[1]), dtype=np.float32)
        np.maximum.at(pooled, image, sigmoid(logits))
        heads = rows[first]
    else:
        attention = np.concatenate([part.attention for part in said]) if said[0].attention is not None else None
        pooled, heads = _pool_as_trained(network, logits, attention, crops, section)
    # What nothing is known of is predicted last and not at all, so it is neither a hit, nor wrong, nor missed.
    pooled = pooled * crops.known(heads)
    of_images = crops.targets[heads]
    return Evaluation(float(loss), macro_f1(of_images, pooled > 0.5), mean_average_precision(of_images, pooled))


def _pool_as_trained(
    network: Network,
    logits: NDArray[np.float32],
    attention: NDArray[np.float32] | None,
    crops: FoldCrops,
    section: ClassifySection,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pool whole images, some at a time, so that one of many crops does not pad them all; and a row of each."""
    order = np.argsort(crops.images[crops.validation], kind="stable")
    rows = crops.validation[order]
    weights = crop_weights(crops.completeness[rows], section.completeness_power)
    edges = np.append(np.flatnonzero(np.diff(crops.images[rows], prepend=-1)), len(rows))
    pooled = []
    device = network.head.weight.device
    for start in range(0, len(edges) - 1, _IMAGES):
        part = slice(edges[start], edges[min(start + _IMAGES, len(edges) - 1)])
        bags = np.cumsum(np.diff(crops.images[rows[part]], prepend=crops.images[rows[part.start]]) != 0)
        scores = None if attention is None else torch.from_numpy(attention[order[part]]).to(device)
        with torch.inference_mode():
            tensors = [torch.from_numpy(a).to(device) for a in (logits[order[part]], bags, weights[part])]
            pooled.append(pool_bags(tensors[0], scores, tensors[1], tensors[2], section, network.alpha).cpu().numpy())
    return np.concatenate(pooled), rows[edges[:-1]]


def mean_average_precision(targets: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> float:
    """Return the mean average precision over the classes that occur in `targets`, 0 if none does.

    Parameters
    ----------
    targets, probabilities
        Shape (N, K) each.
    """
    occurring = targets.any(axis=0)
    if not occurring.any():
        return 0.0
    return float(average_precision_score(targets[:, occurring], probabilities[:, occurring], average="macro"))
