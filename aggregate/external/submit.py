"""Make a submission from any matrix of scores."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregate.config import Format
from aggregate.external.tables import read_sample, read_scores, read_threshold_column
from aggregate.submission.write import check_submission, label_table
from aggregate.thresholds.decision import decide
from aggregate.thresholds.exact import matching_thresholds
from aggregate.thresholds.file import read_thresholds
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_csv


def submit_scores(
    scores: Path,
    sample: Path,
    thresholds: str,
    out: Path,
    vocabulary: Vocabulary,
    *,
    column: str = "",
    empty: str = "argmax",
    form: Format = "kaggle2018",
) -> int:
    """Write a submission made from a matrix of scores and return its number of rows.

    Parameters
    ----------
    scores
        ``.npy`` or a table (`aggregate.external.tables.read_scores`).
    sample
        The sample submission, which defines the ids and their order.
    thresholds
        A ``thresholds.json``, a table with one row per class, or a number.
    out
        The submission to write.
    vocabulary
        The classes.
    column
        The column of a table of thresholds.
    empty
        What a row without a class gets.
    form
        Format of the submission: ``kaggle2018`` or ``jovian``.

    Raises
    ------
    UserError
        If an input is unusable, or the inputs do not match each other.
    """
    if form == "kaggle2021":
        raise UserError(
            "expected the format kaggle2018 or jovian, found kaggle2021, which needs scores and masks of cells"
        )
    ids = read_sample(sample)
    matrix = read_scores(scores, ids, vocabulary)
    predictions = decide(matrix, _read_thresholds(thresholds, column, matrix, vocabulary), empty, vocabulary)
    table = label_table(ids, predictions, vocabulary, form)
    check_submission(table, ids, vocabulary, form, str(sample))
    write_csv(out, table)
    return len(table)


def _read_thresholds(
    thresholds: str, column: str, matrix: NDArray[np.floating[Any]], vocabulary: Vocabulary
) -> NDArray[np.float64]:
    try:
        value = float(thresholds)
    except ValueError:
        path = Path(thresholds)
    else:
        if not 0 <= value <= 1:  # NaN compares as false
            raise UserError(f"expected a threshold within 0..1, found --thresholds {thresholds}")
        return np.full(len(vocabulary), value)
    if path.suffix != ".json":
        return read_threshold_column(path, column, vocabulary)
    stored = read_thresholds(path, vocabulary)
    transfer = stored.section.applied_transfer
    if transfer == "none" or len(matrix) < stored.section.min_images:
        return stored.stored_mean_values
    shares = transfer == "shares"
    values = matching_thresholds(matrix, stored.decision.shares) if shares else stored.stored_mean_values
    return stored.decision.limits.apply(values, matrix)
