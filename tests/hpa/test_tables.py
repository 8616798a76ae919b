"""Read tables; invalid ones raise one sentence."""

from pathlib import Path

import pandas as pd
import pytest

from crops.store import CropStore
from crops.table import read_dropped
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.work.files import read_csv, read_csv_or_parquet


def test_missing_table_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made by `python -m pipeline init`\), found no such file"):
        read_folds(tmp_path / "folds.parquet")


@pytest.mark.parametrize("content", [b"", b"no table", b"PAR1 and no more PAR1"])
def test_invalid_parquet_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match="expected a Parquet table"):
        read_images(path)
    (tmp_path / "crops.parquet").write_bytes(content)
    with pytest.raises(UserError, match="expected a Parquet table"):
        CropStore(tmp_path)


def test_table_that_violates_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "folds.parquet"
    torn = pd.DataFrame({"image_id": ["a", "b"], "group": [0, 0], "fold": [0, 1], "scored": True})
    torn.astype({"group": "int32", "fold": "int16"}).to_parquet(path)
    with pytest.raises(UserError, match=r"found .*a group spans folds"):
        read_folds(path)
    torn.drop(columns="fold").to_parquet(path)
    with pytest.raises(UserError, match=r"found .*fold"):
        read_folds(path)
    images = pd.DataFrame({"image_id": ["a", "a"], "source": "x", "split": ["train", "maybe"]})
    images.to_parquet(tmp_path / "images.parquet")
    with pytest.raises(UserError, match=r"expected .*images\.parquet as its stage wrote it"):
        read_images(tmp_path / "images.parquet")
    twice = pd.DataFrame({"image_id": ["a", "a"], "cell_label": [1, 1], "reason": ["speck", "speck"]})
    twice.to_parquet(tmp_path / "dropped.parquet")
    with pytest.raises(UserError, match="not unique"):
        read_dropped(tmp_path)


def test_csv_is_read_as_text_and_may_be_compressed(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": ["1.0", "NA", ""], "b": ["x", "y", "z"]})
    for name in ("t.csv", "t.csv.gz", "t.txt"):
        rows.to_csv(tmp_path / name, index=False)
        pd.testing.assert_frame_equal(read_csv(tmp_path / name, ("b",)), rows)
        pd.testing.assert_frame_equal(read_csv_or_parquet(tmp_path / name), rows)


def test_parquet_keeps_its_dtypes(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
    rows.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_csv_or_parquet(tmp_path / "t.parquet", ("a",)), rows)
    with pytest.raises(UserError, match=r"expected the columns a, c in .*t\.parquet, found a, b"):
        read_csv_or_parquet(tmp_path / "t.parquet", ("a", "c"))
    for name in ("none.parquet", "none.csv"):
        with pytest.raises(UserError, match="found no"):
            read_csv_or_parquet(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"expected a CSV in .*folder\.csv, found"):
        read_csv(tmp_path / "folder.csv")
