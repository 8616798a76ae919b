"""What a network says of crops, and how good it is on images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from classify.batches import CropSource, FoldCrops, blocks, read_crops
from classify.config import ClassifySection, Precision
from classify.losses import focal_loss
from classify.model import Network
from hpa.errors import UserError
from hpa.scores import macro_f1

BATCH: Final = 128
"""Crops per forward pass; fixed, because a convolution gives other bits at another batch size."""


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on the images of its fold.

    Parameters
    ----------
    loss
        Mean focal loss of crops against inherited labels.
    macro_f1
        Of images, the maximum over their crops against 0.5.
    mean_ap
        Mean average precision of images, the maximum over their crops, over the classes that occur (0 if none does).
    """

    loss: float
    macro_f1: float
    mean_ap: float


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


def predict_logits(
    network: Network, source: CropSource, rows: NDArray[np.int64], section: ClassifySection, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """Stream the logits of crops, batch by batch.

    Parameters
    ----------
    network
        On `device`; it is left in the mode (training or not) it came in.
    source, rows
        Which crops.
    section
        What crops show outside their own cell, and in which arithmetic.
    device
        Where it runs.

    Yields
    ------
    ndarray
        Shape (n, K), float32.
    """
    with _as_evaluated(network):
        for block in blocks(rows, BATCH):
            pixels = torch.from_numpy(read_crops(source, block, section.neighbours)).to(device)
            # Entered anew for every batch: a context held open across a yield would leak into the caller.
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(section.precision, device)),
            ):
                logits = network(pixels).logits
            yield logits.float().cpu().numpy()


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
    """Score a network, on `device`, on the validation crops of its fold."""
    rows = crops.validation
    logits = np.concatenate(list(predict_logits(network, crops.source, rows, section, device)))
    targets = torch.from_numpy(crops.soft_targets(rows))
    loss = focal_loss(torch.from_numpy(logits), targets, section.focal_gamma, section.focal_alpha)
    _, first, image = np.unique(crops.images[rows], return_index=True, return_inverse=True)
    pooled = np.zeros((len(first), logits.shape[1]), dtype=np.float32)
    np.maximum.at(pooled, image, sigmoid(logits))
    # What nothing is known of is predicted last and not at all, so it is neither a hit, nor wrong, nor missed.
    pooled *= crops.known(rows)[first]
    of_images = crops.targets[rows][first]
    return Evaluation(float(loss), macro_f1(of_images, pooled > 0.5), mean_average_precision(of_images, pooled))


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
