"""The second contract of the classify stage: ``classify/<window>/pooling.json``, the pooling used in training.

The file exists only if models pooled crops in training (``classify.objective`` is bag or dual). The aggregate stage
pools in the same way if the recipe says ``aggregate.pooling = "trained"``.
"""

from dataclasses import asdict
from pathlib import Path

from pydantic import FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from hpa.errors import UserError
from hpa.work.files import write_json
from hpa.work.records import STRICT, read_record


@dataclass(frozen=True, config=STRICT)
class TrainedPooling:
    """The pooling that models were trained with.

    Parameters
    ----------
    pooling
        ``max``, ``top-k``, ``log-sum-exp``, ``linear-softmax``, ``noisy-or``, ``auto`` or ``attention``
        (`classify.losses.pooling` has the formulas).
    top_k, sharpness
        Parameters of ``top-k`` and ``log-sum-exp``.
    completeness_power
        Crops are weighted by their completeness to this power.
    alpha
        With ``auto``: the sharpness of each class, by fold.
    """

    pooling: str
    top_k: PositiveInt
    sharpness: FiniteFloat
    completeness_power: NonNegativeFloat
    alpha: dict[NonNegativeInt, list[FiniteFloat]]


def write_pooling(path: Path, pooling: TrainedPooling) -> None:
    """Write ``pooling.json``."""
    write_json(path, asdict(pooling) | {"alpha": {str(fold): values for fold, values in pooling.alpha.items()}})


def read_pooling(path: Path) -> TrainedPooling:
    """Read ``pooling.json``.

    Raises
    ------
    UserError
        If there is no such file, because models did not pool in training, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"expected models trained to be pooled (classify.objective bag or dual), found no {path}")
    return read_record(path, TrainedPooling, "make it again with `python -m classify predict`")
