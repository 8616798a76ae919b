"""Reading what others write: tables of labels, of thresholds and of scores, in the forms of the field."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from hpa.work.tables import read_csv_or_parquet

ID_COLUMNS: Final = ("Id", "ID", "id", "image_id", "Image", "image")
_PREDICTED: Final = ("Predicted", "predicted", "prediction", "Label", "label", "labels", "Target", "target")
_TRUTH: Final = ("Target", "target", "Label", "label", "labels", "truth", "Predicted", "predicted")


def id_column(table: pd.DataFrame, path: Path) -> str:
    """Return the name of the column with the images' ids.

    Raises
    ------
    UserError
        If there is none, or an id stands twice, or there is no row.
    """
    found = first_column(table, ID_COLUMNS, path)
    doubled = table.loc[table[found].duplicated(), found]
    if len(doubled):
        raise UserError(f"expected every id once in {path}, found {doubled.iloc[0]!r} twice")
    if table.empty:
        raise UserError(f"expected at least one row in {path}, found none")
    return found


def read_labels(path: Path, vocabulary: Vocabulary, *, truth: bool, column: str = "") -> dict[str, tuple[int, ...]]:
    """Read the labels of images: class numbers or names, between blanks, ``|``, ``;`` or commas.

    Parameters
    ----------
    path
        A table with a column of ids and one of labels.
    vocabulary
        The classes.
    truth
        Where both are there, take the column of targets, not of predictions.
    column
        The column of labels; empty finds it by its usual names.

    Raises
    ------
    UserError
        If the table, a column or a label is not as expected.
    """
    table = read_csv_or_parquet(path)
    ids = id_column(table, path)
    usual = _TRUTH if truth else _PREDICTED
    labels = first_column(table.drop(columns=ids), (column,) if column else usual, path)
    return {
        str(image_id): parse_labels(value, vocabulary, f"{path}, {image_id}")
        for image_id, value in zip(table[ids], table[labels], strict=True)
    }


def parse_labels(value: Any, vocabulary: Vocabulary, where: str) -> tuple[int, ...]:
    """Read class numbers or names, between blanks, ``|``, ``;`` or commas, or a list of numbers.

    Raises
    ------
    UserError
        If one is unknown, with `where` it stands.
    """
    if not isinstance(value, str):  # a Parquet column of lists
        value = " ".join(str(int(part)) for part in value)
    try:
        if value.strip() in vocabulary.classes:
            return (vocabulary.index(value.strip()),)
        separator = next((mark for mark in "|;," if mark in value), None)
        parts = [part.strip() for part in value.split(separator) if part.strip()]
        if parts and not parts[0].isdigit():
            return tuple(sorted({vocabulary.index(part) for part in parts}))
        return vocabulary.parse(" ".join(parts))
    except UserError as error:
        raise UserError(f"{error} ({where})") from None


def first_column(table: pd.DataFrame, names: Sequence[str], path: Path) -> str:
    """Return the first of the names that is a column.

    Raises
    ------
    UserError
        If none is.
    """
    for name in names:
        if name in table.columns:
            return name
    what = f"one of the columns {', '.join(names)}" if len(names) > 1 else f"the column {names[0]}"
    raise UserError(f"expected {what} in {path}, found {', '.join(map(str, table.columns))}")


def read_scores(path: Path, ids: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.floating[Any]]:
    """Read a matrix of scores.

    Parameters
    ----------
    path
        ``.npy`` of shape (N, K), rows as in the sample; or a table with a column of ids (then rows may have any order)
        and one column a class, called by name, ``p_`` and name, or number, in any order.
    ids
        The N ids of the sample.
    vocabulary
        The K classes.

    Returns
    -------
    ndarray
        Shape (N, K), in the precision of the file: a threshold cuts float32 and float64 differently.

    Raises
    ------
    UserError
        If rows or classes do not fit, or a score is not within 0..1.
    """
    scores = _load_array(path) if path.suffix == ".npy" else _table_scores(path, ids, vocabulary)
    expected = (len(ids), len(vocabulary))
    if scores.shape != expected:
        raise UserError(
            f"expected scores of shape {expected} (rows of the sample, classes) in {path}, found {scores.shape}"
        )
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        row, c = np.argwhere(wrong)[0]
        raise UserError(
            f"expected scores within 0..1 in {path}, found {scores[row, c]} for {ids[row]}, {vocabulary.classes[c]}"
        )
    return scores


def _load_array(path: Path) -> NDArray[np.floating[Any]]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"expected scores, found no file {path}") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"expected an array of numbers in {path}, found: {error}") from None
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"expected floating-point scores in {path}, found {array.dtype}")
    return array


def _table_scores(path: Path, ids: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.floating[Any]]:
    table = read_csv_or_parquet(path)
    key = id_column(table, path)
    columns = [_class_column(table, c, name, path) for c, name in enumerate(vocabulary.classes)]
    table = table.set_index(table[key].astype(str))
    missing = [image_id for image_id in ids if image_id not in table.index]
    if missing:
        raise UserError(f"expected scores of every id of the sample in {path}, found none of {missing[0]!r}")
    chosen = table.loc[list(ids), columns]
    try:
        is_number = all(pd.api.types.is_float_dtype(dtype) for dtype in chosen.dtypes)
        return chosen.to_numpy() if is_number else chosen.astype(np.float64).to_numpy()
    except ValueError as error:
        raise UserError(f"expected numbers as scores in {path}, found: {error}") from None


def _class_column(table: pd.DataFrame, c: int, name: str, path: Path) -> str:
    for column in (f"p_{name}", name, str(c)):
        if column in table.columns:
            return column
    raise UserError(f"expected a column for every class in {path}, found none for {name!r} (p_{name}, {name} or {c})")


def read_sample(path: Path) -> list[str]:
    """Return the ids of a sample submission, in its order.

    Raises
    ------
    UserError
        If there is no row, or an id stands twice.
    """
    table = read_csv_or_parquet(path)
    return [str(image_id) for image_id in table[id_column(table, path)]]


def read_threshold_column(path: Path, column: str, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Read thresholds from a table with one row a class, in their order or with a column ``class`` (number or name).

    Raises
    ------
    UserError
        If rows or the column do not fit.
    """
    table = read_csv_or_parquet(path)
    numbers = [name for name in table.columns if name not in ("class", "name")]
    column = column or (numbers[0] if len(numbers) == 1 else "")
    if column not in table.columns:
        raise UserError(f"expected --column to name one of {', '.join(numbers)} in {path}, found {column!r}")
    if len(table) != len(vocabulary):
        raise UserError(f"expected a threshold for each of {len(vocabulary)} classes in {path}, found {len(table)}")
    try:
        values = table[column].to_numpy().astype(np.float64)
    except ValueError as error:
        raise UserError(f"expected numbers as thresholds in {path}, found: {error}") from None
    if "class" not in table.columns:
        return values
    places = [parse_labels(str(value), vocabulary, str(path)) for value in table["class"]]
    if sorted(places) != [(c,) for c in range(len(vocabulary))]:
        raise UserError(f"expected every class once in {path}, found otherwise")
    return values[np.argsort([place for (place,) in places])]
