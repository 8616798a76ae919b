"""``thresholds.json``: all that was fitted on out-of-fold rows and what one must know to use it."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregate.config import AggregateSection
from aggregate.thresholds.calibration import Calibration
from aggregate.thresholds.decision import Decision
from hpa.config import parse_section
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_json

FORMAT: Final = "cellwise thresholds 2"
_ORDER: Final = (
    "crops pooled within a fold's model, runs joined, calibrated; `threshold` is for that, `threshold_mean` for its"
    " mean over the folds' models; predicted where strictly above"
)
_RECORDED: Final = ("cellwise", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Thresholds:
    """What the file holds.

    Parameters
    ----------
    decision
        What was fitted.
    section
        The recipe's section it was fitted with, which also says how it is applied.
    vocabulary
        Of the run.
    images
        Rows it was fitted on.
    mean_values
        Shape (K,), the thresholds carried over to the mean of the folds' models, as seen on the run's test images;
        None where there were too few.
    mean_images
        On how many images these were carried.
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
    def stored(self) -> NDArray[np.float64]:
        """Thresholds for the mean of the models where it cannot be seen how far to carry them."""
        return self.decision.values if self.mean_values is None else self.mean_values

    def write(self, path: Path) -> None:
        """Write the file, by class name."""
        decision, kinds = self.decision, self.section.kinds
        classes = [
            {
                "class": name,
                "threshold": float(decision.values[c]),
                "threshold_mean": None if self.mean_values is None else float(self.mean_values[c]),
                "support": int(decision.support[c]),
                "share": float(decision.shares[c]),
                "prior": float(decision.prior[c]),
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


def read_thresholds(path: Path, vocabulary: Vocabulary) -> Thresholds:
    """Read ``thresholds.json``.

    Raises
    ------
    UserError
        If it is missing, not what `Thresholds.write` writes, or of another vocabulary.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise UserError(f"expected thresholds of the format {FORMAT!r} in {path}, found {content['format']!r}")
        rows = {row["class"]: row for row in content["classes"]}
        if content["vocabulary"] != vocabulary.name or rows.keys() != set(vocabulary.classes):
            raise UserError(f"expected thresholds of {vocabulary.name} in {path}, found {content['vocabulary']}")
        section = parse_section(AggregateSection, "aggregate", content["settings"])
        return _thresholds(content, [rows[name] for name in vocabulary.classes], section, vocabulary)
    except FileNotFoundError:
        raise UserError(f"expected thresholds at {path} (made by `python -m aggregate run`), found none") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected thresholds in {path}, found something else: {error!r}") from None


def _thresholds(
    content: dict[str, Any], rows: list[dict[str, Any]], section: AggregateSection, vocabulary: Vocabulary
) -> Thresholds:
    def column(key: str) -> NDArray[np.float64]:
        return np.array([float(row[key]) for row in rows])

    decision = Decision(
        weights=np.array(content["weights"], dtype=np.float64),
        pooling=np.array([section.kinds.index(row["pooling"]) for row in rows], dtype=np.intp),
        calibrations=tuple(_calibration(row["calibration"]) for row in rows),
        values=column("threshold"),
        shares=column("share"),
        support=np.array([int(row["support"]) for row in rows]),
        prior=column("prior"),
    )
    carried = all(row["threshold_mean"] is not None for row in rows)
    mean_values = column("threshold_mean") if carried else None
    return Thresholds(decision, section, vocabulary, int(content["images"]), mean_values, int(content["images_mean"]))


def _calibration(values: dict[str, Any]) -> Calibration:
    x, y = values["knots"]
    knots = tuple(map(float, x)), tuple(map(float, y))
    return Calibration(float(values["slope"]), float(values["intercept"]), float(values["per_log_crop"]), knots)
