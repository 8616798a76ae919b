"""Which network a recipe names, found and checked before anything runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from hpa.errors import UserError
from hpa.work.files import sha256
from segment.network.cellpose import CELLPOSE_MODELS, BaseModel, check_cellpose, fetch_model, load_cellpose, model_file
from segment.network.compact import load_compact

COMPACT: Final = "compact"
COMPACT_WEIGHTS: Final = Path(__file__).parent.parent / "weights" / "compact.pt"
COMPACT_SHA256: Final = "114ac92f788bddb04c0c888222fbae0e7cc16a47979d7c8a5d5d9a940282dd3d"


def find_weights(name: str) -> Path:
    """Find the file of a network; a published one that is not on this machine is fetched.

    Parameters
    ----------
    name
        ``"compact"``, a name of `segment.network.cellpose.CELLPOSE_MODELS`, or the path of a file.

    Raises
    ------
    UserError
        If it cannot be had; no other network takes its place.
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
    """Find the file of a network and see that it holds one, before anything is begun or removed for it.

    Parameters
    ----------
    name
        As in `find_weights`.

    Raises
    ------
    UserError
        If the file is missing or holds something else.
    """
    path = find_weights(name)
    with _told(path):
        # The names and shapes alone: a big network's gigabyte is read once a process, where it is used.
        state: dict[str, torch.Tensor] = torch.load(path, map_location="meta", weights_only=True)
        if "stem.weight" in state:
            load_network(name, torch.device("cpu"))
        else:
            check_cellpose(state)
    return path


def load_network(name: str, device: torch.device) -> BaseModel:
    """Load a network for use.

    Parameters
    ----------
    name
        As in `find_weights`.
    device
        Where it is to run.

    Raises
    ------
    UserError
        If the file is missing or holds something else.
    """
    path = find_weights(name)
    with _told(path):
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return load_compact(state, device) if "stem.weight" in state else load_cellpose(state, device)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with a file of weights."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a pickle, a truncated file and other weights raise a dozen different kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"expected the weights of a compact or a Cellpose 4 network in {path}, found: {reason}"
        ) from None
