import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.errors
import pytest

from crops.shards import OpenShard, ShardWriter, cached, open_pixels
from crops.store import CropStore
from crops.table import write_crops
from hpa.errors import UserError

SIZE = 5
NOTHING = pd.DataFrame({"image_id": [], "cell_label": [], "reason": []})


def table(n: int = 6) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"i{i // 3}" for i in range(n)],
            "cell_label": [1 + i % 3 for i in range(n)],
            "shard": [i // 4 for i in range(n)],
            "row": [i % 4 for i in range(n)],
            "min_row_px": 0,
            "min_col_px": 0,
            "max_row_px": 5,
            "max_col_px": 5,
            "area_px": 3,
            "scale": 1.0,
            "touches_border": False,
            "completeness": 1.0,
            "in_window": 1.0,
            "n_nuclei": 1,
            "has_nucleus": True,
            "focus": 0.5,
            "mean_green": 3.0,
            "black_green": 0,
            "white_green": 255,
            "fallback": False,
        }
    )


def _store(folder: Path) -> tuple[CropStore, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (6, 2, SIZE, SIZE), dtype=np.uint8)
    masks = rng.random((6, SIZE, SIZE)) < 0.5
    for index, rows in enumerate((slice(0, 4), slice(4, 6))):
        with ShardWriter(folder, index) as shard:
            shard.add(crops[rows], masks[rows])
    write_crops(folder, table(), NOTHING)
    return CropStore(folder), crops, masks


def test_rows_are_returned_in_the_requested_order(tmp_path: Path) -> None:
    store, crops, masks = _store(tmp_path)
    assert len(store) == 6
    assert store.shape == (2, SIZE, SIZE)
    for rows in ([5, 0, 3, 3, 4], [], np.array([2])):
        np.testing.assert_array_equal(store.pixels(rows), crops[np.array(rows, int)])
        np.testing.assert_array_equal(store.masks(rows), masks[np.array(rows, int)])


def test_files_are_read_front_to_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, crops, _ = _store(tmp_path)
    fetched = []

    def recording(folder: Path, index: int) -> OpenShard:
        opened = open_pixels(folder, index)

        def fetch(row: int, out: np.ndarray) -> None:
            fetched.append((index, row))
            opened.fetch(row, out)

        return OpenShard(opened.shape, opened.rows, fetch)

    monkeypatch.setattr("crops.store.open_pixels", recording)
    rows = [5, 0, 4, 3, 1]
    np.testing.assert_array_equal(CropStore(store.folder).pixels(rows), crops[rows])
    assert fetched == [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1)]


def test_shards_are_plain_memory_mappable_arrays(tmp_path: Path) -> None:
    _, crops, _ = _store(tmp_path)
    shard = np.load(tmp_path / "shard-00001.npy", mmap_mode="r")
    np.testing.assert_array_equal(shard, crops[4:])


@pytest.mark.parametrize("how", ["fork", "spawn"])
@pytest.mark.filterwarnings(
    "ignore:.*use of fork.*:DeprecationWarning"
)  # forking while threads run is tested on purpose
def test_worker_processes_read_the_same_crops(tmp_path: Path, how: str) -> None:
    store, crops, _ = _store(tmp_path)
    store.pixels([0])  # opens a shard before the store is passed on
    assert "table" not in pickle.loads(pickle.dumps(store)).__dict__
    with multiprocessing.get_context(how).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(store.pixels, ([4, 1],)), crops[[4, 1]])


def test_a_missing_store_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a crop store"):
        CropStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"cell_label": 1}, "not unique"),
        ({"fallback": True}, "fallback is not cell_label 0"),
        ({"max_row_px": 0}, "an empty window"),
        ({"completeness": 1.5}, "in_range"),
        ({"n_nuclei": 0}, "has_nucleus is not n_nuclei > 0"),
        ({"mean_green": 256.0}, "in_range"),
        ({"extra": 1}, "extra"),
    ],
)
def test_each_rule_of_the_crop_table(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    with pytest.raises((pandera.errors.SchemaError, pandera.errors.SchemaErrors), match=rule):
        write_crops(tmp_path, table().assign(**change), NOTHING)
    assert not (tmp_path / "crops.parquet").exists()


def test_a_compressed_shard_of_another_size_is_refused(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 2, SIZE, SIZE), dtype=np.uint8)
    with ShardWriter(tmp_path, 0, compress=True) as shard:
        shard.add(crops, np.ones((3, SIZE, SIZE), bool))
    opened, out = open_pixels(tmp_path, 0), np.empty((2, SIZE, SIZE), np.uint8)
    opened.fetch(2, out)
    np.testing.assert_array_equal(out, crops[2])
    path = tmp_path / "shard-00000.zst"
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"\0"):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"{len(wrong)} bytes, not {len(content)}"):
            open_pixels(tmp_path, 0)


@pytest.mark.parametrize(("soft", "most"), [(100, 25), (40, 16)])
def test_no_more_shards_stay_open_than_the_process_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soft: int, most: int
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, 4096))
    opened: list[int] = []

    def opener(folder: Path, index: int) -> OpenShard:
        opened.append(index)
        return OpenShard((1,), 1, lambda row, out: None)

    shards = cached(opener, tmp_path)
    for index in (*range(most), 0):
        shards(index)
    assert opened == list(range(most))
    for index in (most, 0, 1):  # one more closes the one that was not used for longest, which is 1
        shards(index)
    assert opened[most:] == [most, 1]
