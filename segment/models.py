"""Which network a recipe names, found and checked before anything runs."""

from pathlib import Path
from typing import Final

import torch

from hpa.errors import UserError
from segment.cellpose_core import BaseModel, big_model_path, load_big
from segment.network import load_compact

COMPACT: Final = "compact"
COMPACT_WEIGHTS: Final = Path(__file__).parent / "weights" / "compact.pt"


def check_model(name: str) -> Path:
    """Find the file of a network.

    Parameters
    ----------
    name
        ``"compact"``, ``"cpsam_v2"`` or the path of a file.

    Raises
    ------
    UserError
        If it cannot be had; no other network takes its place.
    """
    path = COMPACT_WEIGHTS if name == COMPACT else big_model_path(name)
    if not path.is_file():
        raise UserError(f"expected the weights of the compact network, found no file {path}")
    return path


def load_model(name: str, device: torch.device) -> BaseModel:
    """Load a network for use.

    Parameters
    ----------
    name
        ``"compact"``, ``"cpsam_v2"`` or the path of a file with weights of either kind.
    device
        Where it is to run.

    Raises
    ------
    UserError
        If the file is missing or holds something else.
    """
    path = check_model(name)
    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return load_compact(state, device) if "stem.weight" in state else load_big(state, device)
    except Exception as error:  # a pickle, a truncated file and other weights raise a dozen different kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"expected the weights of a compact or a Cellpose 4 network in {path}, found: {reason}"
        ) from None
