"""The layout of the Kaggle 2018 competition (Human Protein Atlas Image Classification).

``train.csv`` (Id,Target), ``sample_submission.csv`` (Id,Predicted), images ``{Id}_{color}.png`` or ``.tif`` below
folders that begin with ``train`` or ``test``, or beside the tables. ``antibodies.csv`` (Id,Antibody) may stand beside
them; the competition kept it secret, but images of one antibody share their labels and must share a fold.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.found import Found, channel_files, table_of
from hpa.images import check_ids
from hpa.vocabulary import Vocabulary


def matches(data: Path) -> bool:
    """Tell whether a folder has a table of this layout."""
    return (data / "train.csv").is_file() or (data / "sample_submission.csv").is_file()


def find(data: Path, vocabulary: Vocabulary) -> Found:
    """Find the images named by the tables: train rows in their order, then test rows in the sample's.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id stands twice or a label is unknown.
    """
    if not matches(data):
        raise UserError(f"expected train.csv or sample_submission.csv in {data}, found neither")
    train = read_table(data / "train.csv", ("Id", "Target"))
    test = read_table(data / "sample_submission.csv", ("Id", "Predicted"))
    ids = [*train["Id"], *test["Id"]]
    check_ids(ids, "train.csv and sample_submission.csv")
    antibodies = read_table(data / "antibodies.csv", ("Id", "Antibody"))
    antibody_of = dict(zip(antibodies["Id"], antibodies["Antibody"], strict=True))
    targets = [_target(image_id, text, vocabulary) for image_id, text in zip(train["Id"], train["Target"], strict=True)]
    rows = table_of(
        [
            *((i, "train", target, antibody_of.get(i)) for i, target in zip(train["Id"], targets, strict=True)),
            *((i, "test", (), antibody_of.get(i)) for i in test["Id"]),
        ]
    )
    train_files, test_files = _files(data, "train"), _files(data, "test")
    paths = [train_files.get(i, {}) for i in train["Id"]] + [test_files.get(i, {}) for i in test["Id"]]
    unlisted = len((train_files.keys() | test_files.keys()) - set(ids))
    notices = [f"{unlisted} images in {data} have no row in its tables and are ignored"] if unlisted else []
    folders = [data / "train"] * len(train) + [data / "test"] * len(test)
    return Found(rows, paths, folders, notices)


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV as text; a table that is not there is empty.

    Raises
    ------
    UserError
        If it cannot be parsed or lacks one of `columns`.
    """
    if not path.exists():
        return pd.DataFrame({column: pd.Series(dtype=str) for column in columns})
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"expected a CSV with the columns {', '.join(columns)} in {path}, found: {error}") from None
    if not set(columns) <= set(table.columns):
        raise UserError(f"expected the columns {', '.join(columns)} in {path}, found {', '.join(table.columns)}")
    return table


def _target(image_id: str, text: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    try:
        target = vocabulary.parse(text)
    except UserError as error:
        raise UserError(f"{error} (image {image_id})") from None
    if not target:
        raise UserError(f"expected at least one label for the train image {image_id}, found none")
    return target


def _files(data: Path, split: str) -> dict[str, dict[Channel, Path]]:
    # The competition's full-size images came as a second folder, train_full_size; where both are, `train` sorts first.
    folders = sorted(path for path in data.iterdir() if path.is_dir() and path.name.startswith(split))
    files, _ = channel_files(folders, recursive=True)
    flat, _ = channel_files([data], recursive=False)
    return flat | files
