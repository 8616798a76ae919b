"""Write and read ``thresholds.json``: everything fitted on out-of-fold rows, and how to apply it."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pydantic
from numpy.typing import NDArray

from aggregate.config import AggregateSection
from aggregate.thresholds.calibration import Calibration
from aggregate.thresholds.decision import Decision
from aggregate.thresholds.limits import ShareLimits
from hpa.config import parse_section
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_json
from hpa.work.records import STRICT, read_record

FORMAT: Final = "cellwise thresholds 4"
_ORDER: Final = (
    "pool the crops within each fold's model, join the runs, calibrate; `threshold` applies to these scores,"
    " `threshold_mean` to their mean over the folds' models; predict where the score is strictly above"
)
_RECORDED: Final = ("cellwise", "numpy", "scipy", "scikit-learn")


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class _Class:
    """What ``thresholds.json`` says about a class."""

    name: Annotated[str, pydantic.Field(alias="class")]
    threshold: float
    threshold_mean: float | None
    support: int
    share: float
    prior: float
    limit: float
    at_chance: bool
    pooling: str
    calibration: Calibration


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class _Record:
    """The content of ``thresholds.json``."""

    format: str
    vocabulary: str
    method: str
    order: str
    images: int
    images_mean: int
    settings: dict[str, Any]
    weights: list[float]
    versions: dict[str, str]
    classes: list[_Class]


@dataclass(frozen=True)
class Thresholds:
    """Content of ``thresholds.json``.

    Parameters
    ----------
    decision
        Everything that was fitted.
    section
        The recipe section it was fitted with, which also defines how it is applied.
    vocabulary
        Of the run.
    images
        Number of rows it was fitted on.
    mean_values
        Shape (K,), the thresholds transferred to the mean of the folds' models, measured on the test images of the
        run; None if there were too few.
    mean_images
        Number of images the transfer was measured on; 0 without `mean_values`.
    """

    decision: Decision
    section: AggregateSection
    vocabulary: Vocabulary
    images: int
    mean_values: NDArray[np.float64] | None
    mean_images: int

    @property
    def values(self) -> NDArray[np.float64]:
        """Thresholds for scores of single models, shape (K,)."""
        return self.decision.values

    @property
    def stored_mean_values(self) -> NDArray[np.float64]:
        """Thresholds for the mean of the models if there are too few images to measure the transfer on, shape (K,)."""
        return self.decision.values if self.mean_values is None else self.mean_values

    def write(self, path: Path) -> None:
        """Write ``thresholds.json``, keyed by class name."""
        decision, kinds = self.decision, self.section.kinds
        classes = [
            {
                "class": name,
                "threshold": float(decision.values[c]),
                "threshold_mean": None if self.mean_values is None else float(self.mean_values[c]),
                "support": int(decision.support[c]),
                "share": float(decision.shares[c]),
                "prior": float(decision.prior[c]),
                "limit": float(decision.limits.shares[c]),
                "at_chance": bool(decision.limits.at_chance[c]),
                "pooling": kinds[decision.pooling[c]],
                "calibration": asdict(decision.calibrations[c]),
            }
            for c, name in enumerate(self.vocabulary.classes)
        ]
        content = {
            "format": FORMAT,
            "vocabulary": self.vocabulary.name,
            "method": self.section.thresholds,
            "order": _ORDER,
            "images": self.images,
            "images_mean": self.mean_images,
            "settings": self.section.model_dump(mode="json"),
            "weights": [float(weight) for weight in decision.weights],
            "versions": {package: version(package) for package in _RECORDED},
            "classes": classes,
        }
        write_json(path, content)


def fixed_thresholds(values: NDArray[np.float64], section: AggregateSection, vocabulary: Vocabulary) -> Thresholds:
    """Return given thresholds, with nothing else fitted.

    Parameters
    ----------
    values
        One threshold for all classes, or shape (K,).
    section
        How crops are pooled; its thresholds are neither tuned nor transferred.
    vocabulary
        Vocabulary of the K classes.

    Raises
    ------
    UserError
        If there are neither 1 nor K values, or one is outside 0..1.
    """
    k = len(vocabulary)
    if values.shape not in ((), (k,)) or not ((values >= 0) & (values <= 1)).all():
        raise UserError(f"expected 1 or {k} thresholds within 0..1, found {values.tolist()}")
    none = np.zeros(k)
    decision = Decision(
        weights=np.ones(1),
        pooling=np.zeros(k, dtype=np.intp),
        calibrations=(Calibration(),) * k,
        values=np.broadcast_to(values, (k,)).astype(np.float64),
        shares=none,
        support=none.astype(np.int64),
        prior=none,
        limits=ShareLimits.none(k),
    )
    return Thresholds(decision, section.model_copy(update={"transfer": "none"}), vocabulary, 0, None, 0)


def read_thresholds(path: Path, vocabulary: Vocabulary) -> Thresholds:
    """Read ``thresholds.json``.

    Raises
    ------
    UserError
        If the file is missing, damaged, of another format version or of another vocabulary.
    """
    remedy = "rerun `python -m aggregate run` with `--overwrite`"
    with suppress(OSError, ValueError, KeyError, TypeError):  # of damage `read_record` says more
        found = json.loads(path.read_bytes())["format"]
        if found != FORMAT:
            raise UserError(f"expected thresholds of the format {FORMAT!r} in {path} ({remedy}), found {found!r}")
    if not path.exists():
        raise UserError(f"expected thresholds at {path} (made by `python -m aggregate run`), found none")
    record = read_record(path, _Record, remedy)
    rows = {row.name: row for row in record.classes}
    if record.vocabulary != vocabulary.name or sorted(rows) != sorted(vocabulary.classes):
        raise UserError(f"expected thresholds of {vocabulary.name} in {path}, found {record.vocabulary}")
    section = parse_section(AggregateSection, "aggregate", record.settings)
    if unknown := sorted({row.pooling for row in record.classes} - set(section.kinds)):
        raise UserError(f"expected poolings among {', '.join(section.kinds)} in {path}, found {unknown[0]!r}; {remedy}")
    return _thresholds(record, [rows[name] for name in vocabulary.classes], section, vocabulary)


def _thresholds(record: _Record, rows: list[_Class], section: AggregateSection, vocabulary: Vocabulary) -> Thresholds:
    decision = Decision(
        weights=np.array(record.weights, dtype=np.float64),
        pooling=np.array([section.kinds.index(row.pooling) for row in rows], dtype=np.intp),
        calibrations=tuple(row.calibration for row in rows),
        values=np.array([row.threshold for row in rows]),
        shares=np.array([row.share for row in rows]),
        support=np.array([row.support for row in rows]),
        prior=np.array([row.prior for row in rows]),
        limits=ShareLimits(np.array([row.limit for row in rows]), np.array([row.at_chance for row in rows])),
    )
    means = [row.threshold_mean for row in rows if row.threshold_mean is not None]
    mean_values = np.array(means) if len(means) == len(rows) else None
    return Thresholds(decision, section, vocabulary, record.images, mean_values, record.images_mean)
