"""The second contract of the classify stage: ``classify/<window>/pooling.json``, how models were trained to be pooled.

It is there only where they were (``classify.losses.objective`` bag or dual); the last stage pools so if the recipe says
``aggregate.pooling = "trained"``.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.work.files import write_json

_MIN_COMPLETENESS: Final = 0.01  # an image of slivers only still has something to say


def crop_weights(completeness: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """Return how much crops count: their completeness to a power, never nothing. Shape (N,), float32."""
    return np.maximum(completeness, np.float32(_MIN_COMPLETENESS)) ** np.float32(power)


@dataclass(frozen=True)
class TrainedPooling:
    """How models were trained to be pooled.

    Parameters
    ----------
    pooling
        ``max``, ``top-k``, ``log-sum-exp``, ``linear-softmax``, ``noisy-or``, ``auto`` or ``attention``
        (`classify.losses.pooling` has the formulas).
    top_k, sharpness
        Of ``top-k`` and ``log-sum-exp``.
    completeness_power
        Crops weigh their completeness to this power.
    alpha
        With ``auto``: the sharpness of each class, by fold.
    """

    pooling: str
    top_k: int
    sharpness: float
    completeness_power: float
    alpha: dict[int, list[float]]


def write_pooling(path: Path, pooling: TrainedPooling) -> None:
    """Write ``pooling.json``."""
    write_json(path, asdict(pooling) | {"alpha": {str(fold): values for fold, values in pooling.alpha.items()}})


def read_pooling(path: Path) -> TrainedPooling:
    """Read ``pooling.json``.

    Raises
    ------
    UserError
        If there is none, which is so where models were not trained to be pooled, or it is something else.
    """
    if not path.is_file():
        raise UserError(f"expected models trained to be pooled (classify.objective bag or dual), found no {path}")
    try:
        content = json.loads(path.read_text())
        return TrainedPooling(
            str(content["pooling"]),
            int(content["top_k"]),
            float(content["sharpness"]),
            float(content["completeness_power"]),
            {int(fold): [float(value) for value in values] for fold, values in content["alpha"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"expected how models were trained to be pooled in {path}, found: {error!r}") from None
