"""The one module that imports Cellpose: its network base, flows, loss, tiling, dynamics and model files.

Importing it takes seconds, so it is imported inside the commands that need it.

Sources: Stringer et al., Cellpose (Nature Methods 2021); Pachitariu et al., Cellpose-SAM (2025).
"""

import logging
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cellpose import core, dynamics, train
from cellpose.vit import CPSAM, BaseModel
from numpy.typing import NDArray

from hpa.errors import UserError

__all__ = ["BaseModel", "flow_loss", "flows_of_labels", "follow", "load_big", "masks_of_flows", "run_tiles"]

BIG_MODEL: Final = "cpsam_v2"
MODELS_VARIABLE: Final = "CELLPOSE_LOCAL_MODELS_PATH"
_FLOW_SCALE: Final = 5.0  # Cellpose's networks give flows times five
_TILE_MULTIPLE: Final = 16
_MOST_TILE_PX: Final = 256

# Cellpose reports every image it works on and warns of every backbone that is not installed.
logging.getLogger("cellpose").setLevel(logging.ERROR)


def big_model_path(name: str) -> Path:
    """Find the file of a Cellpose 4 model, before Cellpose can replace it by another one.

    Parameters
    ----------
    name
        ``"cpsam_v2"`` or the path of a file.

    Raises
    ------
    UserError
        If there is no such file.
    """
    folder = Path(os.environ.get(MODELS_VARIABLE) or Path.home() / ".cellpose" / "models")
    path = folder / name if name == BIG_MODEL else Path(name).expanduser()
    if not path.is_file():
        where = f"; put it there, or set {MODELS_VARIABLE}" if name == BIG_MODEL else ""
        raise UserError(f"expected the Cellpose model {name} as the file {path}, found no such file{where}")
    return path


def load_big(state: dict[str, torch.Tensor], device: torch.device) -> BaseModel:
    """Load a Cellpose 4 model with the SAM body for use.

    Parameters
    ----------
    state
        Its weights by name.
    device
        Where it is to run.

    Raises
    ------
    ValueError
        If these are other weights, for example those of Cellpose 3.
    """
    if "W2" not in state:
        raise ValueError("no weights of Cellpose's 4th version")
    net = CPSAM(dtype=torch.float32)
    try:
        net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    except RuntimeError as error:  # torch lists what is missing, line by line
        raise ValueError(str(error).splitlines()[0]) from None
    net.to(device).eval()
    return net


def flows_of_labels(labels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Compute Cellpose's flows of a label image, its training target.

    Parameters
    ----------
    labels
        Shape (H, W), 0 for background.

    Returns
    -------
    ndarray
        Shape (2, H, W), unit vectors (rows, columns) towards the centre of each cell, 0 in the background.
    """
    if not labels.any():
        return np.zeros((2, *labels.shape), dtype=np.float32)
    flows: NDArray[np.float32] = dynamics.labels_to_flows([labels.astype(np.int32)], device=torch.device("cpu"))[0][2:]
    return flows.astype(np.float32)


def flow_loss(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Return Cellpose's training loss: squared error of the flows and cross entropy of the cell probability.

    Parameters
    ----------
    target
        Shape (N, 3, H, W): cell (0 or 1), flow rows, flow columns.
    output
        Shape (N, C, H, W), C >= 3; the last three are flow rows, flow columns, cell logit.
    """
    loss: torch.Tensor = train._loss_fn_seg(target, output, output.device)
    return loss


def run_tiles(net: BaseModel, images: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """Run a network over images of one size with Cellpose's tiling.

    Parameters
    ----------
    net
        The network.
    images
        Shape (N, C, H, W).
    batch
        Tiles in a batch.

    Returns
    -------
    ndarray
        Shape (N, K, H, W), the outputs of the network; the flows are scaled to unit length.
    """
    tile_px = _MOST_TILE_PX
    if net.backbone == "compact":  # one tile where the image is small; the big network knows one size only
        tile_px = min(_MOST_TILE_PX, -(-max(images.shape[2:]) // _TILE_MULTIPLE) * _TILE_MULTIPLE)
    outputs = core.run_net(net, images.transpose(0, 2, 3, 1), batch_size=batch, bsize=tile_px)[0]
    planes: NDArray[np.float32] = np.ascontiguousarray(outputs.transpose(0, 3, 1, 2))
    planes[:, -3:-1] /= _FLOW_SCALE
    return planes


def masks_of_flows(
    flows: NDArray[np.float32], cell_logit: NDArray[np.float32], *, level: float, flow_error: float, least_px: int
) -> NDArray[np.uint16]:
    """Let pixels follow the flows and label those that meet: Cellpose's masks as they come.

    Parameters
    ----------
    flows
        Shape (2, H, W), rows and columns, unit length.
    cell_logit
        Shape (H, W).
    level
        Logit above which a pixel is followed.
    flow_error
        Masks whose own flows differ more than this from `flows` are dropped; 0 keeps all.
    least_px
        Smaller masks are dropped.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..n.
    """
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call] # said aloud, it is not warned of
        masks: NDArray[np.uint16] = dynamics.resize_and_compute_masks(
            flows * _FLOW_SCALE,
            cell_logit,
            cellprob_threshold=level,
            flow_threshold=flow_error,
            min_size=least_px,
            max_size_fraction=1.0,  # one cell may fill the frame
            device=torch.device("cpu"),
        )
    return masks


def follow(flows: NDArray[np.float32], inside: NDArray[np.bool_], steps: int) -> NDArray[np.intp]:
    """Let the pixels of `inside` follow the flows and return where they end.

    Parameters
    ----------
    flows
        Shape (2, H, W).
    inside
        Shape (H, W).
    steps
        Steps of at most one pixel.

    Returns
    -------
    ndarray
        Shape (2, n), row and column of the end of each of the n pixels, in the order of ``inside.nonzero()``.
    """
    ends = dynamics.follow_flows(flows * inside, inside.nonzero(), niter=steps, device=torch.device("cpu"))
    return np.asarray(ends.cpu().numpy() if torch.is_tensor(ends) else ends).astype(np.intp)
