"""Read tables of labels, groups, scores and thresholds, in the forms common in the field."""

from collections.abc import Sequence
from numbers import Number
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.splitting.groups import join_groups
from hpa.vocabulary import VOCABULARIES, Vocabulary
from hpa.work.files import first_line, read_csv_or_parquet

ID_COLUMNS: Final = ("Id", "ID", "id", "image_id", "Image", "image")
CELL_COLUMN: Final = "cell_label"
_PREDICTED: Final = ("Predicted", "predicted", "prediction", "Label", "label", "labels", "Target", "target")
_GROUPS: Final = ("group", "Group", "antibody", "Antibody", "well", "Well")
_TRUTH: Final = ("Target", "target", "Label", "label", "labels", "truth", "Predicted", "predicted")


def find_vocabulary(text: str) -> Vocabulary:
    """Return the vocabulary of that name, or one of that many classes, named by their numbers.

    Raises
    ------
    UserError
        If the text is neither a name nor a number.
    """
    if text in VOCABULARIES:
        return VOCABULARIES[text]
    if text.isascii() and text.isdigit() and 0 < int(text) <= 10_000:
        return Vocabulary(f"{text} classes", tuple(str(c) for c in range(int(text))))
    raise UserError(f"expected a vocabulary ({', '.join(VOCABULARIES)}) or a number of classes, found {text!r}")


def id_column(table: pd.DataFrame, path: Path) -> str:
    """Return the name of the column of image ids.

    Raises
    ------
    UserError
        If there is no such column or no row, or an id occurs twice.
    """
    found = first_column(table, ID_COLUMNS, path)
    repeated = table.loc[table[found].duplicated(), found]
    if len(repeated):
        raise UserError(f"expected every id once in {path}, found {repeated.iloc[0]!r} twice")
    if table.empty:
        raise UserError(f"expected at least one row in {path}, found none")
    return found


def read_label_table(
    path: Path, vocabulary: Vocabulary, *, truth: bool, column: str = ""
) -> dict[tuple[str, int], tuple[int, ...]]:
    """Read the labels of images or cells: class numbers or names, separated by spaces, ``|``, ``;`` or commas.

    Parameters
    ----------
    path
        A table with a column of ids and one of labels; a column cell_label makes it one of cells.
    vocabulary
        The classes.
    truth
        If the table has both, take the column of targets rather than that of predictions. Of ``aggregate/images.csv``,
        only the images with out-of-fold predictions count then: the labels of the others are unknown. Images for which
        it has no decision do not count as predictions.
    column
        The column of labels; empty looks for its usual names.

    Returns
    -------
    dict
        The class numbers by image id and cell label; the cell label of an image is 0.

    Raises
    ------
    UserError
        If the table cannot be read, a column is missing, a label is unknown or a cell label is no whole number.
    """
    table = read_csv_or_parquet(path)
    if truth and {"origin", "labels"} <= set(table.columns):
        table = table[table["origin"] == "oof"]
    elif not truth and {"origin", "predicted"} <= set(table.columns):
        # Without a class and by the prior: an image that every model was trained on, for which nothing was decided.
        table = table[(table["origin"] != "prior") | (table["predicted"].fillna("") != "")]
    if CELL_COLUMN in table.columns:
        ids, cells = first_column(table, ID_COLUMNS, path), cell_labels(table, path)
    else:
        ids, cells = id_column(table, path), np.zeros(len(table), dtype=np.int64)
    usual = _TRUTH if truth else _PREDICTED
    labels = first_column(table.drop(columns=ids), (column,) if column else usual, path)
    keys = list(zip(table[ids].astype(str), cells.tolist(), strict=True))
    repeated = pd.Index(keys).duplicated()
    if repeated.any():
        image_id, cell = keys[int(repeated.argmax())]
        raise UserError(f"expected every cell once in {path}, found cell {cell} of image {image_id} twice")
    return {
        key: parse_labels(value, vocabulary, f"{path}, {key[0]}")
        for key, value in zip(keys, table[labels], strict=True)
    }


def cell_labels(table: pd.DataFrame, path: Path) -> NDArray[np.int64]:
    """Return the column cell_label of a table as whole numbers, shape (N,).

    Raises
    ------
    UserError
        If there are others.
    """
    try:
        labels = table[CELL_COLUMN].map(int).astype(np.int64)
    except (ValueError, TypeError, OverflowError) as error:  # the latter beyond 64 bit
        raise UserError(f"expected whole numbers as cell_label in {path}, found: {first_line(error)}") from None
    if any(isinstance(label, float) and label != int(label) for label in table[CELL_COLUMN]):
        raise UserError(f"expected whole numbers as cell_label in {path}, found fractions")
    return np.asarray(labels, dtype=np.int64)


def parse_labels(value: Any, vocabulary: Vocabulary, where: str) -> tuple[int, ...]:
    """Parse class numbers or names, separated by spaces, ``|``, ``;`` or commas, or a list of numbers.

    Parameters
    ----------
    value
        A string, or from a Parquet column a number, a list of numbers or names, or nothing at all.
    vocabulary
        The classes.
    where
        Position of the value, for the message.

    Returns
    -------
    tuple of int
        The class numbers, ascending.

    Raises
    ------
    UserError
        If a class is unknown.
    """
    if not isinstance(value, str):
        parts = [value] if pd.api.types.is_scalar(value) else value
        value = "|".join(_as_text(part) for part in parts)
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


def _as_text(value: Any) -> str:
    """Return a number as its digits, nothing as an empty text, and all else, such as a date, as it is written."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if isinstance(value, bool):  # which Python counts as a number
        return str(value)
    return f"{value:g}" if isinstance(value, Number) else str(value)


def read_groups(path: Path, image_ids: Sequence[str], column: str = "") -> tuple[NDArray[np.int32], str]:
    """Read which images belong together, for a bootstrap over groups.

    Parameters
    ----------
    path
        A table with a column of ids and one of groups, such as antibodies.
    image_ids
        The N images; an image that is missing from the table, or has no value in it, is a group of its own.
    column
        The column of groups; empty looks for its usual names.

    Returns
    -------
    ndarray, str
        The number of each image's group, shape (N,), and the name of the column.

    Raises
    ------
    UserError
        If the table cannot be read, the column is missing, or the table has none of the images.
    """
    table = read_csv_or_parquet(path)
    ids = id_column(table, path)
    chosen = first_column(table, (column,) if column else _GROUPS, path)
    group_of = dict(zip(table[ids].astype(str), table[chosen].astype(object), strict=True))
    if not group_of.keys() & set(image_ids):
        raise UserError(f"expected groups of the {len(image_ids)} scored images in {path}, found none of them")
    values = [group_of.get(image_id) for image_id in image_ids]
    groups = [None if pd.isna(value) or value == "" else str(value) for value in values]
    return join_groups(len(groups), [groups]), chosen


def first_column(table: pd.DataFrame, names: Sequence[str], path: Path) -> str:
    """Return the first of the names that is a column of the table.

    Raises
    ------
    UserError
        If none of them is.
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
        ``.npy`` of shape (N, K), rows in the order of the sample; or a table with a column of ids (its rows may then be
        in any order) and one column per class, named by class, ``p_`` and class, or class number, in any order.
    ids
        The N ids of the sample.
    vocabulary
        The K classes.

    Returns
    -------
    ndarray
        Shape (N, K), in the precision of the file: comparison with a threshold depends on it.

    Raises
    ------
    UserError
        If rows or classes do not match, or a score is outside 0..1.
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
    if not isinstance(array, np.ndarray):  # several arrays, of numpy.savez
        raise UserError(f"expected one array in {path}, found an archive of several")
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
        is_number = all(isinstance(dtype, np.dtype) and dtype.kind == "f" for dtype in chosen.dtypes)
        return chosen.to_numpy() if is_number else chosen.astype(np.float64).to_numpy()
    except (ValueError, TypeError) as error:
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
        If there is no row, or an id occurs twice.
    """
    table = read_csv_or_parquet(path)
    return [str(image_id) for image_id in table[id_column(table, path)]]


def read_threshold_column(path: Path, column: str, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Read thresholds from a table with one row per class.

    Parameters
    ----------
    path
        The table; its rows are in the order of the vocabulary unless it has a column ``class`` (number or name).
    column
        The column of thresholds; may be empty if there is only one.
    vocabulary
        The K classes.

    Returns
    -------
    ndarray
        Shape (K,), float64.

    Raises
    ------
    UserError
        If the column is missing, or the rows do not match the classes.
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
    if not ((values >= 0) & (values <= 1)).all():  # NaN compares as false
        raise UserError(f"expected thresholds within 0..1 in column {column!r} of {path}, found others")
    if "class" not in table.columns:
        return values
    places = [parse_labels(str(value), vocabulary, str(path)) for value in table["class"]]
    if sorted(places) != [(c,) for c in range(len(vocabulary))]:
        raise UserError(f"expected every class once in {path}, found missing or repeated classes")
    return values[np.argsort([place for (place,) in places])]
