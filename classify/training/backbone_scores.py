"""Scores of a backbone on drawn cells that it never saw, and its model card."""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from classify.network.model import Network
from classify.training.rounds import Cells
from hpa.metrics import average_precision, mean_average_precision, roc_auc
from hpa.vocabulary import HPA28

_BATCH: Final = 128

_ALL, _RGB, _GREEN = (True,) * 4, (True, True, True, False), (False, True, False, False)
SUBSETS: Final = {"all four": _ALL, "red, green, blue": _RGB, "green": _GREEN}
"""Subsets of channels that are scored, in the order of `hpa.channels.CHANNELS`."""


def predict(network: Network, cells: Cells, subset: str = "all four", factor: float = 1.0) -> NDArray[np.float32]:
    """Return the probabilities of cells, shape (n, K).

    Parameters
    ----------
    network
        The network.
    cells
        The cells.
    subset
        Channels that it sees, one of `SUBSETS`.
    factor
        Factor by which crops are enlarged.
    """
    seen, parts = np.array(SUBSETS[subset]), []
    with torch.inference_mode():
        for first in range(0, len(cells), _BATCH):
            pixels = cells.pixels[first : first + _BATCH].copy()
            pixels[:, ~seen] = 0
            crops = torch.from_numpy(pixels)
            if factor != 1:
                crops = interpolate(crops.float(), scale_factor=factor, mode="bilinear", align_corners=False)
            parts.append(torch.sigmoid(network.eval()(crops).logits.float()).numpy())
    return np.concatenate(parts)


def score(probabilities: NDArray[np.float32], targets: NDArray[np.bool_]) -> dict[str, float]:
    """Return mean AP and mean AUC over the classes that some cells have and others lack."""
    varied = [k for k in range(targets.shape[1]) if 0 < targets[:, k].sum() < len(targets)]
    areas = [roc_auc(targets[:, k], probabilities[:, k]) for k in varied]
    return {
        "mean_ap": round(mean_average_precision(targets, probabilities), 4),
        "mean_auc": round(float(np.mean(areas)), 4) if areas else float("nan"),
    }


def ap_per_class(probabilities: NDArray[np.float32], targets: NDArray[np.bool_]) -> dict[str, float]:
    """Return the AP of each class that some cells have, by its name.

    Parameters
    ----------
    probabilities, targets
        Of the cells, shape (n, K).
    """
    return {
        name: round(average_precision(targets[:, k], probabilities[:, k]), 3)
        for k, name in enumerate(HPA28.classes)
        if targets[:, k].any()
    }


def _begun_with(made: dict[str, Any]) -> str:
    """Say how the weights were made that a training started from, first of all first."""
    text = f"{_begun_with(made['begun_with'])}; " if "begun_with" in made else ""
    if "command" not in made:
        return text + f"weights of unknown origin, SHA-256 {made['sha256'][:12]}"
    return text + (
        f"weights of `{made['command']}`: {made['cells_trained_on']:,} drawn cells, {made['crops_trained_on']:,} varied"
        f" crops, {made['seconds']:,.0f} seconds"
    )


def model_card(record: dict[str, Any], highest_rate: float, weight_decay: float) -> str:
    """Return the model card of a backbone as Markdown, from the record of its training."""
    rows = {
        "made by": f"`{record['command']}`" if record["command"] else "`classify.training.backbone.train_backbone`",
        "data": f"{record['cells_trained_on']:,} drawn cells at {record['size_px']} px with their true labels"
        " (`crops.synthesize`, seeds of a stream of its own), seen as"
        f" {record['crops_trained_on']:,} varied crops; no real image",
        **({"begun with": _begun_with(record["begun_with"])} if "begun_with" in record else {}),
        "loss": "focal loss of the 28 classes of HPA, gamma 2",
        "augmentation": "half standard, half strong; half of the crops without some of the reference channels; some"
        " with dim or black surroundings; an eighth of the batches enlarged 1.5 or 2 times",
        "optimizer": f"AdamW, one cycle to {highest_rate}, weight decay {weight_decay}, averaged weights",
        "seconds": f"{record['seconds']:,.0f} with {record['threads']} threads and {record['workers']} processes that"
        f" draw, in {'bfloat16' if record['bfloat16'] else 'float32'}",
        "seed": record["seed"],
        "size": f"{record['bytes'] / 1e6:.1f} MB, convolutions and heads in bfloat16",
    }
    scores = [f"| {name} | {one['mean_ap']:.3f} | {one['mean_auc']:.3f} |" for name, one in record["held_out"].items()]
    return "\n".join(
        [
            f"# Model card: {record['backbone']}.safetensors",
            "",
            "A backbone that turns the crop of a cell into 256 features or so, and linear heads for 28 patterns. Its"
            " channels are microtubules, protein, nucleus and endoplasmic reticulum; all but the protein may be"
            " missing.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            f"Scores on {record['held_out_cells']:,} drawn cells that were never trained on:",
            "",
            "| channels, side | mean AP | mean AUC |",
            "|---|---|---|",
            *scores,
            "",
            "They say how well drawn patterns are told apart. The atlas of the demo is drawn by the same generator, so"
            " scores on it flatter; docs/results.md has those on real images.",
            "",
            "Not to be used for: statements about real proteins without a classifier trained and scored on real,"
            " labelled images; diagnosis; tissues, live cells or species other than human, of which it has seen no"
            " drawing; images whose protein channel is not the green one.",
            "",
        ]
    )
