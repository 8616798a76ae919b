"""Everything taken from Cellpose: its network class, flows, loss, tiling, dynamics, scores and model files.

No other module imports Cellpose. The import takes seconds, so commands import this module only when they need it.

Sources: Stringer et al., Cellpose (Nature Methods 2021); Pachitariu et al., Cellpose-SAM (2025).
"""

import logging
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cellpose import dynamics, models, utils
from cellpose.metrics import average_precision, mask_ious
from cellpose.transforms import average_tiles, make_tiles
from cellpose.vit import CPSAM, BaseModel
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from hpa.errors import UserError
from hpa.work.files import atomic_write

__all__ = [
    "CELLPOSE_MODELS",
    "FLOW_SCALE",
    "BaseModel",
    "average_precision",
    "average_tiles",
    "check_cellpose",
    "fetch_model",
    "flow_loss",
    "flows_from_labels",
    "load_cellpose",
    "make_tiles",
    "mask_ious",
    "masks_from_flows",
    "model_file",
]

CELLPOSE_MODELS: Final = ("cpsam_v2", "cpsam", "cpdino", "cpdino-vitb")
"""Names of the models that Cellpose publishes with version 4."""

MODELS_VARIABLE: Final = "CELLPOSE_LOCAL_MODELS_PATH"
"""Environment variable that names the folder of Cellpose's model files."""

FLOW_SCALE: Final = 5.0
"""Factor by which the network outputs of Cellpose exceed unit flows."""

_VITL_WIDTH: Final = 1024

# Cellpose logs every image that it processes and warns about every backbone that is not installed.
logging.getLogger("cellpose").setLevel(logging.ERROR)


def model_file(name: str) -> Path:
    """Return the path of a published Cellpose 4 model, whether or not the file exists.

    Parameters
    ----------
    name
        One of `CELLPOSE_MODELS`.
    """
    return Path(os.environ.get(MODELS_VARIABLE) or Path.home() / ".cellpose" / "models") / name


def fetch_model(name: str) -> None:
    """Download a published Cellpose 4 model; the file appears complete or not at all.

    Raises
    ------
    UserError
        If the download fails: no connection, or ``HF_HUB_OFFLINE`` is set.
    """
    path = model_file(name)
    try:
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise OSError("HF_HUB_OFFLINE is set")
        with atomic_write(path) as partial:
            utils.download_url_to_file(models._MODEL_URL + name, str(partial), progress=False)
    except OSError as error:  # includes all errors of urllib
        raise UserError(
            f"expected the Cellpose model {name}, found no file {path} and no way to fetch it ({error}); "
            f"put it there, or set {MODELS_VARIABLE} to its folder"
        ) from None


def check_cellpose(state: dict[str, torch.Tensor]) -> None:
    """Check by parameter names that weights belong to a Cellpose 4 model that can run here.

    Raises
    ------
    ValueError
        If they do not, for example if they are from Cellpose 3, or from a cpdino network whose package is missing.
    """
    names = {key.removeprefix("module.") for key in state}
    if "W2" not in names:
        raise ValueError("no weights of Cellpose 4 (import masks made with Cellpose 3 by `segment import`)")
    if "encoder.cls_token" in names and not hasattr(models, "CPDINO"):
        raise ValueError("weights of a cpdino network, which needs the package dinov3 installed")


def load_cellpose(state: dict[str, torch.Tensor], device: torch.device) -> BaseModel:
    """Load a Cellpose 4 model for inference.

    Parameters
    ----------
    state
        Weights by parameter name.
    device
        Device to run it on.

    Raises
    ------
    ValueError
        If these are other weights, for example those of Cellpose 3.
    """
    check_cellpose(state)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    net = CPSAM(dtype=torch.float32) if "encoder.cls_token" not in state else _dino(state)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:  # torch lists every missing parameter on a line of its own
        raise ValueError(str(error).splitlines()[0]) from None
    net.to(device).eval()
    return net


def _dino(state: dict[str, torch.Tensor]) -> BaseModel:
    wide = state["encoder.patch_embed.proj.weight"].shape[0] == _VITL_WIDTH
    return models.CPDINO(model_name="vitl" if wide else "vitb", dtype=torch.float32)


def flows_from_labels(labels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Compute the Cellpose flows of a label image, the training target.

    Parameters
    ----------
    labels
        Shape (H, W), 0 for background.

    Returns
    -------
    ndarray
        Shape (2, H, W), float32, unit vectors (rows, columns) towards the centre of each cell, 0 in the background.
    """
    if not labels.any():
        return np.zeros((2, *labels.shape), dtype=np.float32)
    flows: NDArray[np.float32] = dynamics.labels_to_flows([labels.astype(np.int32)], device=torch.device("cpu"))[0][2:]
    return flows.astype(np.float32)


def flow_loss(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Compute Cellpose's training loss: squared error of the flows plus cross entropy of the cell probability.

    The formula is Cellpose's, whose own function is private (Stringer et al. 2021,
    https://doi.org/10.1038/s41592-020-01018-x).

    Parameters
    ----------
    target
        Shape (N, 3, H, W): cell (0 or 1), flow rows, flow columns.
    output
        Shape (N, C, H, W), C >= 3; the last three are flow rows, flow columns, cell logit.
    """
    flows = mse_loss(output[:, -3:-1], FLOW_SCALE * target[:, 1:]) / 2
    return flows + binary_cross_entropy_with_logits(output[:, -1], (target[:, 0] > 0.5).to(output.dtype))


def masks_from_flows(
    flows: NDArray[np.float32], cell_logit: NDArray[np.float32], *, level: float, flow_error: float, min_px: int
) -> NDArray[np.uint16]:
    """Compute Cellpose's own masks: pixels follow the flows, and pixels that end together form an object.

    Parameters
    ----------
    flows
        Shape (2, H, W), rows and columns, unit length.
    cell_logit
        Shape (H, W).
    level
        Logit above which a pixel belongs to a cell.
    flow_error
        Masks whose own flows differ by more than this from `flows` are dropped; 0 keeps all.
    min_px
        Masks of a smaller area are dropped.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..n.
    """
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call] # explicit, so torch does not warn
        masks: NDArray[np.uint16] = dynamics.resize_and_compute_masks(
            flows * FLOW_SCALE,
            cell_logit,
            cellprob_threshold=level,
            flow_threshold=flow_error,
            min_size=min_px,
            max_size_fraction=1.0,  # one cell may fill the frame
            device=torch.device("cpu"),
        )
    return masks
