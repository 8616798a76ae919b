"""The contract of the table of probabilities: one test per rule."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.errors
import pyarrow.parquet as parquet
import pytest

from classify.probabilities import class_columns, read_probabilities, stream_probabilities, write_probabilities
from hpa.errors import UserError
from hpa.vocabulary import HPA28, Vocabulary

TWO = Vocabulary("two", ("Nucleoli", "Rods & rings"))


def _table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": ["a", "a", "t", "t"],
            "cell_label": np.array([1, 2, 0, 0], dtype=np.int32),
            "fold": np.array([0, 0, 0, 1], dtype=np.int16),
            "origin": ["oof", "oof", "test", "test"],
            "p_Nucleoli": np.array([0, 0.25, 0.5, 1], dtype=np.float32),
            "p_Rods & rings": np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
        }
    )


def test_written_table_is_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "probabilities.parquet"
    write_probabilities(path, _table(), TWO)
    pd.testing.assert_frame_equal(read_probabilities(path, TWO), _table())
    assert parquet.read_metadata(path).metadata[b"cellwise_vocabulary"] == b"two"


def test_columns_are_named_by_class() -> None:
    assert class_columns(TWO) == ["p_Nucleoli", "p_Rods & rings"]
    assert len(class_columns(HPA28)) == 28


BREACHES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "above one": lambda t: t.assign(p_Nucleoli=np.float32(1.5)),
    "below zero": lambda t: t.assign(p_Nucleoli=np.float32(-0.1)),
    "not a number": lambda t: t.assign(p_Nucleoli=np.float32("nan")),
    "infinite": lambda t: t.assign(p_Nucleoli=np.float32("inf")),
    "float64": lambda t: t.assign(p_Nucleoli=0.5),
    "key twice": lambda t: pd.concat([t, t.tail(1)], ignore_index=True),
    "oof from two folds": lambda t: t.assign(origin="oof"),
    "unknown origin": lambda t: t.assign(origin="guess"),
    "fold below zero": lambda t: t.assign(fold=np.int16(-1)),
    "cell_label below zero": lambda t: t.assign(cell_label=np.int32(-1)),
    "null id": lambda t: t.assign(image_id=t["image_id"].where(t.index > 0)),
    "column too many": lambda t: t.assign(more=1),
    "column missing": lambda t: t.drop(columns="origin"),
    "classes in another order": lambda t: t[[*t.columns[:4], "p_Rods & rings", "p_Nucleoli"]],
    "attention without end": lambda t: t.assign(attention=np.float32("inf")),
    "attention not a number": lambda t: t.assign(attention=np.float32("nan")),
    "class missing": lambda t: t.drop(columns="p_Nucleoli"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_table_that_breaks_the_contract_is_neither_written_nor_read(tmp_path: Path, breach: str) -> None:
    broken = BREACHES[breach](_table())
    path = tmp_path / "probabilities.parquet"
    with pytest.raises((pandera.errors.SchemaError, pandera.errors.SchemaErrors)):
        write_probabilities(path, broken, TWO)
    assert not path.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pandera.pandas.DataFrameSchema.validate", lambda self, table: table)
        write_probabilities(path, broken, TWO)
    with pytest.raises(UserError, match="expected"):
        read_probabilities(path, TWO)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("attention", [False, True])
def test_streamed_parts_form_the_table(tmp_path: Path, rows: int, *, attention: bool) -> None:
    scores = np.array([0.5, -3, 20, 0], dtype=np.float32)
    table = _table().assign(attention=scores) if attention else _table()
    path = tmp_path / "probabilities.parquet"
    write_probabilities(path, table, TWO)
    pd.testing.assert_frame_equal(read_probabilities(path, TWO), table)
    parts = list(stream_probabilities(path, TWO, rows))
    assert [part.image_ids for part in parts] == [["a"], ["t"]], "the last image is held back, as it may go on"
    probabilities = np.concatenate([part.probabilities for part in parts])
    np.testing.assert_array_equal(probabilities, table[class_columns(TWO)].to_numpy())
    found = [part.attention for part in parts if part.attention is not None]
    np.testing.assert_array_equal(np.concatenate([[], *found]), scores if attention else [])


def test_streaming_rejects_attention_that_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "probabilities.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pandera.pandas.DataFrameSchema.validate", lambda self, table: table)
        write_probabilities(path, _table().assign(attention=np.float32("nan")), TWO)
    with pytest.raises(UserError, match="expected finite numbers as attention"):
        list(stream_probabilities(path, TWO))


def test_other_vocabulary_missing_and_damaged_files_raise_errors(tmp_path: Path) -> None:
    path = tmp_path / "probabilities.parquet"
    with pytest.raises(UserError, match="no such file"):
        read_probabilities(path, TWO)
    write_probabilities(path, _table(), TWO)
    with pytest.raises(UserError, match=r"expected probabilities of the vocabulary hpa28 .*found two"):
        read_probabilities(path, HPA28)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="expected a Parquet file"):
        read_probabilities(path, TWO)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_parts_hold_the_rows_of_complete_images(rows: int, tmp_path: Path) -> None:
    """Whatever the size of a batch: images of 1 to 4 rows, and each row with the name of its image."""
    draw = np.random.default_rng(0)
    table = pd.concat([_table().iloc[[0] * n].assign(image_id=f"i{i}") for i, n in enumerate([3, 1, 4, 1, 2])])
    table["cell_label"] = table.groupby("image_id").cumcount().to_numpy(np.int32)
    columns = class_columns(TWO)
    table[columns] = draw.random((len(table), 2), np.float32)
    table = table.reset_index(drop=True)
    write_probabilities(tmp_path / "p.parquet", table, TWO)
    parts = list(stream_probabilities(tmp_path / "p.parquet", TWO, rows))
    assert [image_id for part in parts for image_id in part.image_ids] == ["i0", "i1", "i2", "i3", "i4"]
    for part in parts:
        own = table[table["image_id"].isin(part.image_ids)]
        assert [part.image_ids[number] for number in part.images] == own["image_id"].tolist()
        assert part.cell_labels.tolist() == own["cell_label"].tolist()
        np.testing.assert_array_equal(part.probabilities, own[columns])
        assert part.is_oof.all()
