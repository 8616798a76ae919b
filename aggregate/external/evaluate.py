"""For people with other models: scoring any file of predictions, making a submission from any matrix of scores."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregate.config import Format
from aggregate.external.groups import read_groups
from aggregate.external.labels import read_labels, read_sample, read_scores, read_threshold_column
from aggregate.scoring.metrics import class_table, summary
from aggregate.submission.write import check_submission, label_table
from aggregate.thresholds.decide import decide
from aggregate.thresholds.exact import matching_thresholds
from aggregate.thresholds.file import read_thresholds
from hpa.errors import UserError
from hpa.vocabulary import VOCABULARIES, Vocabulary
from hpa.work.files import write_csv


def find_vocabulary(text: str) -> Vocabulary:
    """Return the vocabulary of that name, or one of so many classes that are called by their numbers.

    Raises
    ------
    UserError
        If it is neither.
    """
    if text in VOCABULARIES:
        return VOCABULARIES[text]
    if text.isdigit() and 0 < int(text) <= 10_000:
        return Vocabulary(f"{text} classes", tuple(str(c) for c in range(int(text))))
    raise UserError(f"expected a vocabulary ({', '.join(VOCABULARIES)}) or a number of classes, found {text!r}")


def evaluate(
    predictions: Path,
    truth: Path,
    vocabulary: Vocabulary,
    *,
    columns: tuple[str, str] = ("", ""),
    groups: Path | None = None,
    groups_column: str = "",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a file of predictions against a table of labels.

    Parameters
    ----------
    predictions, truth
        Tables with a column of ids and one of labels (`aggregate.external.labels.read_labels`); they may be one file.
    vocabulary
        The classes.
    columns
        The columns of labels in each; empty finds them by their usual names.
    groups, groups_column
        A table of the groups that the bootstrap draws (`aggregate.external.labels.read_groups`); None draws images.
    resamples
        Of the bootstrap.
    seed
        Of its draws.

    Returns
    -------
    dict
        As `aggregate.scoring.metrics.summary` has it, with unscored, the number of predictions without a label.

    Raises
    ------
    UserError
        If an image of the truth has no prediction.
    """
    predicted = read_labels(predictions, vocabulary, truth=False, column=columns[0])
    labelled = read_labels(truth, vocabulary, truth=True, column=columns[1])
    missing = [image_id for image_id in labelled if image_id not in predicted]
    if missing:
        raise UserError(
            f"expected a prediction of each of {len(labelled)} images of {truth} in {predictions}, "
            f"found none of {missing[0]!r} ({len(missing)} missing)"
        )
    hot_truth = vocabulary.multi_hot(labelled.values())
    hot_predicted = vocabulary.multi_hot(predicted[image_id] for image_id in labelled)
    numbers, over = np.arange(len(labelled), dtype=np.int32), "images"
    if groups:
        numbers, found = read_groups(groups, list(labelled), groups_column)
        over = f"groups of images ({found} in {groups.name})"
    classes = class_table(hot_truth, hot_predicted, vocabulary)
    told = summary(hot_truth, hot_predicted, numbers, classes, over=over, resamples=resamples, seed=seed)
    return told | {"unscored": len(predicted.keys() - labelled.keys())}


def submit(
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
    """Make a submission from a matrix of scores; return its number of rows.

    Parameters
    ----------
    scores
        ``.npy`` or a table (`aggregate.external.labels.read_scores`).
    sample
        The sample submission, whose ids and order it gets.
    thresholds
        A ``thresholds.json``, a table with one row a class, or a number.
    out
        The submission.
    vocabulary
        The classes.
    column
        Of a table of thresholds.
    empty
        What a row without a class gets.
    form
        ``kaggle2018`` or ``jovian``.

    Raises
    ------
    UserError
        If an input is unusable, or they do not fit each other.
    """
    if form == "kaggle2021":
        raise UserError("expected the form kaggle2018 or jovian, found kaggle2021, which is made from cells and masks")
    ids = read_sample(sample)
    matrix = read_scores(scores, ids, vocabulary)
    predictions = decide(matrix, _values(thresholds, column, matrix, vocabulary), empty, vocabulary)
    table = label_table(ids, predictions, vocabulary, form)
    check_submission(table, ids, vocabulary, form, str(sample))
    write_csv(out, table)
    return len(table)


def _values(
    thresholds: str, column: str, matrix: NDArray[np.floating[Any]], vocabulary: Vocabulary
) -> NDArray[np.float64]:
    try:
        return np.full(len(vocabulary), float(thresholds))
    except ValueError:
        path = Path(thresholds)
    if path.suffix != ".json":
        return read_threshold_column(path, column, vocabulary)
    known = read_thresholds(path, vocabulary)
    if known.section.transfer == "shares" and len(matrix) >= known.section.min_images:
        return matching_thresholds(matrix, known.decision.shares)
    return known.stored
