"""Find, check and load the network that a recipe names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from hpa.errors import UserError
from hpa.work.files import sha256
from segment.network.cellpose import (
    CELLPOSE_MODELS,
    BaseModel,
    check_cellpose,
    fetch_model,
    load_cellpose,
    model_file,
)
from segment.network.compact import load_compact

COMPACT: Final = "compact"
COMPACT_WEIGHTS: Final = Path(__file__).parent.parent / "weights" / "compact.pt"
COMPACT_SHA256: Final = "114ac92f788bddb04c0c888222fbae0e7cc16a47979d7c8a5d5d9a940282dd3d"

_COMPACT_KEY: Final = "stem.weight"  # occurs in the weights of the compact network only


def find_weights(name: str) -> Path:
    """Return the file of a network's weights; fetch a published Cellpose model that is not on this machine.

    Parameters
    ----------
    name
        ``"compact"``, one of `segment.network.cellpose.CELLPOSE_MODELS`, or the path of a file.

    Raises
    ------
    UserError
        If the file is not available; no other network replaces it.
    """
    if name == COMPACT:
        if not COMPACT_WEIGHTS.is_file() or sha256(COMPACT_WEIGHTS) != COMPACT_SHA256:
            raise UserError(f"expected the weights of the compact network in {COMPACT_WEIGHTS}, found others or none")
        return COMPACT_WEIGHTS
    if name in CELLPOSE_MODELS:
        path = model_file(name)
        if not path.is_file():
            fetch_model(name)
        return path
    path = Path(name).expanduser()
    if not path.is_file():
        known = ", ".join([COMPACT, *CELLPOSE_MODELS])
        raise UserError(f"expected the name of a network ({known}) or a file of weights, found no file {path}")
    return path


def check_weights(name: str) -> Path:
    """Return the file of a network's weights after checking that it contains a usable network.

    Call this before starting a run or removing earlier results.

    Parameters
    ----------
    name
        As in `find_weights`.

    Raises
    ------
    UserError
        If the file is missing or does not contain such weights.
    """
    path = find_weights(name)
    with _explain_errors(path):
        # Names and shapes suffice for a Cellpose model: its gigabyte is read once per process, where it is used.
        state: dict[str, torch.Tensor] = torch.load(path, map_location="meta", weights_only=True)
        if _COMPACT_KEY in state:
            load_network(name, torch.device("cpu"))
        else:
            check_cellpose(state)
    return path


def load_network(name: str, device: torch.device) -> BaseModel:
    """Load a network for inference.

    Parameters
    ----------
    name
        As in `find_weights`.
    device
        Device to run it on.

    Raises
    ------
    UserError
        If the file is missing or does not contain such weights.
    """
    path = find_weights(name)
    with _explain_errors(path):
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return load_compact(state, device) if _COMPACT_KEY in state else load_cellpose(state, device)


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Raise any error as a `UserError` that explains in one sentence what is wrong with a file of weights."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # other pickles, truncated files and foreign weights raise a dozen different types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"expected the weights of a compact or a Cellpose 4 network in {path}, found: {reason}"
        ) from None
