"""What the finished stages left in the work folder, read once for all parts of the page."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.labels import Labels
from classify.probabilities import class_columns
from crops.config import CropsSection, Window
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import read_parquet
from hpa.work.folder import WorkFolder

T = TypeVar("T")


@dataclass(frozen=True)
class Scored:
    """Images with known labels, scored and decided by models that had not seen them.

    Parameters
    ----------
    ids
        The N images.
    labels
        Their labels.
    scores
        Shape (N, K).
    predictions
        Shape (N, K), bool.
    """

    ids: list[str]
    labels: Labels
    scores: NDArray[np.float32]
    predictions: NDArray[np.bool_]

    def of_class(self, c: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Return targets and scores of the images for which class c is known."""
        own = self.labels.known[:, c]
        return self.labels.targets[own, c], self.scores[own, c]


@dataclass(frozen=True)
class Missing:
    """Why a part of the page is missing.

    Parameters
    ----------
    reason
        A sentence.
    command
        What makes it; empty if nothing does.
    """

    reason: str
    command: str = ""


class Evidence:
    """Tables of a work folder.

    Parameters
    ----------
    work
        The work folder.
    """

    def __init__(self, work: WorkFolder) -> None:
        self.work = work

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.work.root.resolve().name

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Classes of the run."""
        return self.work.data.classes

    @cached_property
    def images(self) -> pd.DataFrame:
        """The image table."""
        return read_images(self.work.images)

    @cached_property
    def window(self) -> Window:
        """The window whose crops are shown: cells, if the run has them."""
        windows = self.work.section("crops", CropsSection).windows
        return "cells" if "cells" in windows else windows[0]

    @cached_property
    def train(self) -> pd.DataFrame:
        """The train images of which at least one class is known."""
        images = self.images
        return images[(images["split"] == "train") & (images["unknown_classes"].map(len) < len(self.vocabulary))]

    def command(self, stage: str) -> str:
        """Return the command of a stage that needs a model, or without labels to train one, that applies another run.

        Parameters
        ----------
        stage
            The stage and its verb, for example ``"aggregate run"``.
        """
        if len(self.train):
            return f"python -m {stage} {self.work.root}"
        return "python -m pipeline apply TRAINED --data DATA --out OUT"

    @cached_property
    def image_scores(self) -> pd.DataFrame:
        """``aggregate/images.parquet``, by image_id."""
        path = self.work.root / "aggregate" / "images.parquet"
        return read_parquet(path, self.command("aggregate run")).set_index("image_id")

    @cached_property
    def cells(self) -> pd.DataFrame:
        """``aggregate/cells.parquet``."""
        path = self.work.root / "aggregate" / "cells.parquet"
        return read_parquet(path, self.command("aggregate run"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """``aggregate/metrics.json``."""
        return read_json_object(self.work.root / "aggregate" / "metrics.json")

    @cached_property
    def scored(self) -> Scored:
        """The images with known labels and out-of-fold predictions."""
        vocabulary = self.vocabulary
        table = self.images.merge(read_folds(self.work.folds), on="image_id", how="inner", validate="one_to_one")
        table = table[table["scored"]]
        ids = list(table["image_id"])
        if not ids:
            raise UserError(f"expected images of a fold, found none in {self.work.folds}")
        if absent := set(ids) - set(self.image_scores.index):
            raise UserError(f"expected scores of every image of a fold, found none of {min(absent)}")
        targets, unknown = (vocabulary.multi_hot(table[column]) for column in ("target", "unknown_classes"))
        labels = Labels(targets, ~unknown, table["group"].to_numpy(np.int32), table["fold"].to_numpy())
        scores = self.image_scores.loc[ids, class_columns(vocabulary)].to_numpy(np.float32)
        return Scored(ids, labels, scores, self.predicted(ids))

    def predicted(self, ids: list[str]) -> NDArray[np.bool_]:
        """Return the predicted classes of images, shape (N, K)."""
        return self.vocabulary.multi_hot(
            self.vocabulary.parse(text) for text in self.image_scores.loc[ids, "predicted"]
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object.

    Raises
    ------
    UserError
        If it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"expected {path}, found no such file")
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"expected {path} as its stage wrote it, found it damaged") from None
    if not isinstance(content, dict):
        raise UserError(f"expected {path} as its stage wrote it, found it damaged")
    return content


def attempt(make: Callable[[], T | Missing], command: str) -> T | Missing:
    """Return a part of the page, or why there is none: a page about what is there beats no page.

    Parameters
    ----------
    make
        Makes the part.
    command
        The command that makes its files.
    """
    try:
        return make()
    except (UserError, ImageError, OSError) as error:
        return Missing(str(error), command)
    except (KeyError, TypeError, ValueError) as error:  # a JSON file or a table of other content than its stage writes
        return Missing(f"its files could not be read ({type(error).__name__}: {error})", command)
