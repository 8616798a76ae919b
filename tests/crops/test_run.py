"""Run the stage on small images with known truth, on bad input, and killed."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from crops.__main__ import main
from crops.config import Window
from crops.run import run
from crops.store import CropStore, open_store, store_folder
from hpa.errors import UserError
from hpa.work.folder import WorkFolder
from segment.masks import read_masks, write_masks, write_pair
from tests.support.cells import SMALL, World, cells_of, make_work, world, worlds
from tests.support.processes import data_files, run_killed


def many(n: int) -> dict[str, World]:
    """Return n images, to fill more than one chunk."""
    kinds = list(worlds().values())
    return {f"i{number:03d}": kinds[number % 4] for number in range(n)}


def failures(work: WorkFolder) -> dict[str, str]:
    table = pd.read_csv(store_folder(work, "cells") / "failures.csv", keep_default_na=False)
    return dict(zip(table["image_id"], table["reason"], strict=True))


def test_every_cell_is_kept_or_dropped_with_a_reason(tmp_path: Path) -> None:
    work = make_work(tmp_path, worlds(), SMALL)
    assert run(work, workers=1) == 0
    store = open_store(work, "cells")
    dropped = pd.read_parquet(store.folder / "dropped.parquet")
    assert dropped.to_dict("records") == [{"image_id": "speck", "cell_label": 2, "reason": "speck"}]
    kept = store.table[~store.table["fallback"]]
    assert len(kept) + len(dropped) == read_masks(work)["n_cells"].sum() == 7
    keys = list(zip(store.table["image_id"], store.table["cell_label"], strict=True))
    assert keys == [
        ("empty", 0),
        ("filled", 1),
        ("ordinary", 1),
        ("ordinary", 2),
        ("ordinary", 3),
        ("speck", 1),
        ("speck", 3),
    ]
    counts = json.loads((store.folder / "run.json").read_text())["counts"]
    assert (counts["segmented"], counts["kept"], counts["dropped"], counts["fallback"]) == (7, 6, 1, 1)


def test_a_crop_at_source_size_stores_the_source_pixels(tmp_path: Path) -> None:
    work = make_work(tmp_path, worlds(), '[crops]\nsize_px = 30\nscale = "fixed"\nsource_px = 1.0\n')
    run(work, workers=1)
    store = open_store(work, "cells")
    pixels, cells, _ = worlds()["ordinary"]
    bag, rows = store.bag("ordinary"), store.rows_of("ordinary")
    own = store.masks(rows)
    for i, row in enumerate(store.table.iloc[rows].to_dict("records")):
        pad = np.pad(pixels, ((0, 0), (50, 50), (50, 50)))
        labels = np.pad(cells, 50)
        window = np.s_[row["min_row_px"] + 50 : row["max_row_px"] + 50, row["min_col_px"] + 50 : row["max_col_px"] + 50]
        np.testing.assert_array_equal(bag[i], pad[:, *window])
        np.testing.assert_array_equal(own[i], labels[window] == row["cell_label"])
        assert row["scale"] == 1
    assert store.table.set_index("image_id").loc["filled", "in_window"] == pytest.approx(30 * 30 / (40 * 60))


def test_16_bit_images_record_their_black_and_white_values(tmp_path: Path) -> None:
    _, cells, nuclei = worlds()["ordinary"]
    deep, _, _ = world(cells, 5, deep=True)
    deep //= 7
    work = make_work(
        tmp_path, {"deep": (deep, cells, nuclei)}, SMALL + 'depth_16 = "percentiles"\nlow_percentile = 5\n'
    )
    run(work, workers=1)
    row = open_store(work, "cells").table.iloc[0]
    for i, channel in enumerate(work.data.channels):
        ends = np.percentile(deep[i], [5, 99.9], method="inverted_cdf")
        assert (row[f"black_{channel}"], row[f"white_{channel}"]) == tuple(ends)


@pytest.mark.parametrize(
    ("window", "per_image"), [("full_frame", 1), ("five_crop", 5), ("random", 4), ("grid", 9), ("brightest", 4)]
)
def test_every_other_window_makes_the_same_kind_of_store_without_masks(
    tmp_path: Path, window: Window, per_image: int
) -> None:
    recipe = f'[crops]\nsize_px = 16\ncount = 4\ngrid = 3\nside = 0.4\nwindows = ["{window}"]\n'
    work = make_work(tmp_path, worlds(), recipe)
    shutil.rmtree(work.root / "segment")
    assert run(work, workers=1) == 0
    store = open_store(work, window)
    assert store.table.groupby("image_id").size().eq(per_image).all()
    assert store.shape == (4, 16, 16)
    assert not store.table["fallback"].any()
    assert store.table.groupby("image_id")["cell_label"].min().eq(1).all()
    assert len(pd.read_parquet(store.folder / "dropped.parquet")) == 0
    rows = np.arange(len(store))
    inside = store.masks(rows).mean(axis=(1, 2))
    np.testing.assert_allclose(inside, store.table["completeness"], atol=0.07)


def test_several_windows_at_once_and_another_one_later(tmp_path: Path) -> None:
    recipe = SMALL + 'windows = ["five_crop"]\ntrain_window = "random"\n'
    work = make_work(tmp_path, worlds(), recipe)
    run(work, workers=1)
    assert len(open_store(work, "random")) == len(open_store(work, "five_crop")) == 20
    before = data_files(store_folder(work, "five_crop"))
    work.recipe.write_text(recipe.replace('["five_crop"]', '["five_crop", "full_frame"]'))
    work = WorkFolder(work.root)  # a work folder reads its recipe once
    run(work, workers=1)
    assert data_files(store_folder(work, "five_crop")) == before
    assert len(open_store(work, "full_frame")) == 4


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    images = many(70)
    one, three = make_work(tmp_path / "a", images, SMALL), make_work(tmp_path / "b", images, SMALL)
    run(one, workers=1)
    run(three, workers=3)
    assert data_files(store_folder(one, "cells")) == data_files(store_folder(three, "cells"))
    assert len(list(store_folder(one, "cells").glob("shard-?????.npy"))) == 3


def test_compressed_shards_contain_the_same_crops(tmp_path: Path) -> None:
    images = many(40)
    plain, packed = make_work(tmp_path / "a", images, SMALL), make_work(tmp_path / "b", images, SMALL)
    run(plain, workers=1)
    run(packed, workers=1, compress=True)
    a, b = open_store(plain, "cells"), open_store(packed, "cells")
    assert not list(b.folder.glob("shard-00000.npy"))
    assert a.shape == b.shape
    rows = np.random.default_rng(0).permutation(len(a))
    np.testing.assert_array_equal(a.pixels(rows), b.pixels(rows))
    np.testing.assert_array_equal(a.masks(rows), b.masks(rows))
    pd.testing.assert_frame_equal(a.table, b.table)


def test_unusable_images_are_listed_and_the_others_are_cut(tmp_path: Path) -> None:
    images = {name: worlds()["ordinary"] for name in ("gone", "other mask", "mask size", "image size", "well")}
    work = make_work(tmp_path, images, SMALL)
    (tmp_path / "images" / "gone_red.png").unlink()
    pixels, cells, nuclei = images["well"]
    write_pair(work, "other mask", np.where(cells == 2, 0, cells).astype(np.uint16), nuclei)
    write_pair(work, "mask size", cells[:30], nuclei[:30])
    for channel in ("red", "green", "blue", "yellow"):
        cv2.imwrite(str(tmp_path / "images" / f"image size_{channel}.png"), pixels[0, :30])
    assert run(work, workers=1) == 1
    reasons = failures(work)
    assert reasons["gone"] == "red channel: missing file gone_red.png"
    assert "expected the mask that segment/masks.parquet describes, found another; rerun" in reasons["other mask"]
    assert reasons["mask size"] == "expected a cell mask of the image's size (40, 60), found (30, 60)"
    assert "expected 40 x 60 px as when the work folder was made, found 30 x 60 px" in reasons["image size"]
    assert open_store(work, "cells").table["image_id"].unique().tolist() == ["well"]


def test_a_repeated_chunk_keeps_no_old_crops(tmp_path: Path) -> None:
    work = make_work(tmp_path, {"a": worlds()["ordinary"], "b": worlds()["filled"]}, SMALL)
    hidden = tmp_path / "images" / "b_red.png"
    hidden.rename(tmp_path / "kept.png")
    assert run(work, workers=1) == 1
    (tmp_path / "images" / "a_red.png").unlink()
    assert run(work, workers=1) == 1
    store = store_folder(work, "cells")
    assert not list(store.glob("shard-*"))
    assert len(CropStore(store)) == 0


def test_unusual_cells(tmp_path: Path) -> None:
    """A cell of one pixel, a cell in two pieces, and gaps between labels."""
    labels = cells_of((30, 30), (2, 2, 3, 3))
    labels[10:14, 4:8] = labels[20:24, 20:24] = 5
    labels[16:19, 1:4] = 9
    work = make_work(tmp_path, {"odd": world(labels)}, SMALL + "min_area = 0\n")
    assert run(work, workers=1) == 0
    table = open_store(work, "cells").table.set_index("cell_label")
    assert table["area_px"].to_dict() == {1: 1, 5: 32, 9: 9}
    assert (table["max_row_px"] - table["min_row_px"]).to_dict()[5] >= 20


def test_new_masks_make_the_crops_stale(tmp_path: Path) -> None:
    work = make_work(tmp_path, worlds(), SMALL)
    run(work, workers=1)
    _, cells, nuclei = worlds()["ordinary"]
    masks = read_masks(work).set_index("image_id")
    row = write_pair(work, "ordinary", np.flipud(cells), np.flipud(nuclei))
    masks.loc["ordinary", "crc32"] = row["crc32"]
    write_masks(work, masks.reset_index())
    with pytest.raises(UserError, match=r"segment/masks\.parquet.*rerun `python -m crops run .*--overwrite`"):
        open_store(work, "cells")
    with pytest.raises(UserError, match=r"changed: segment/masks\.parquet; rerun with .*--overwrite"):
        run(work, workers=1)
    assert run(work, workers=1, overwrite=True) == 0
    open_store(work, "cells")
    work.recipe.write_text(SMALL + "margin = 0.3\n")
    work = WorkFolder(work.root)  # a work folder reads its recipe once
    with pytest.raises(UserError, match=r"\[crops\].*rerun"):
        open_store(work, "cells")


def test_a_damaged_or_missing_shard_is_reported_in_one_sentence(tmp_path: Path) -> None:
    work = make_work(tmp_path, worlds(), SMALL)
    run(work, workers=1)
    shard = store_folder(work, "cells") / "shard-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match="expected a shard of crops"):
        open_store(work, "cells").pixels([0])
    shard.unlink()
    with pytest.raises(UserError, match="found no such file; rerun"):
        open_store(work, "cells").pixels([0])
    run(work, workers=1)  # makes it again
    open_store(work, "cells").pixels([0])


@pytest.mark.parametrize(("column", "value"), [("row", 99), ("shard", 7), ("row", -1), ("min_row_px", 10**6)])
def test_a_changed_crop_table_is_noticed_and_made_again(tmp_path: Path, column: str, value: int) -> None:
    work = make_work(tmp_path, worlds(), SMALL)
    run(work, workers=1)
    path = store_folder(work, "cells") / "crops.parquet"
    content, table = path.read_bytes(), pd.read_parquet(path)
    table.loc[0, column] = value
    table.to_parquet(path)
    with pytest.raises(UserError, match=r"expected .*crops\.parquet as its stage wrote it, found it changed since"):
        open_store(work, "cells")
    if column != "min_row_px":  # without a record, the shards tell
        with pytest.raises(UserError, match=r"expected .* in shard|expected a shard of crops"):
            CropStore(store_folder(work, "cells")).check_rows()
    assert run(work, workers=1) == 0
    assert path.read_bytes() == content


def test_too_little_disk_space_is_reported_before_the_run(tmp_path: Path) -> None:
    work = make_work(tmp_path, worlds(), '[crops]\nwindows = ["grid"]\ngrid = 100\nsize_px = 1024\n')
    many_images = pd.concat([pd.read_parquet(work.images)] * 2000, ignore_index=True)
    many_images["image_id"] = [f"i{i}" for i in range(len(many_images))]
    many_images.to_parquet(work.images, index=False)
    with pytest.raises(UserError, match=r"expected room for [\d,]+ bytes of crops"):
        run(work, workers=1)
    assert not list(store_folder(work, "grid").rglob("shard-*"))


def test_a_lost_cell_stops_the_run(tmp_path: Path) -> None:
    work = make_work(tmp_path, worlds(), SMALL)
    run(work, workers=1)
    part = store_folder(work, "cells") / "parts" / "00000.parquet"
    expected, rows = data_files(store_folder(work, "cells")), pd.read_parquet(part)
    rows[rows["reason"].notna() | (rows["cell_label"] != 3)].to_parquet(part, index=False)
    assert run(work, workers=1) == 0  # fewer rows than the shard has: the chunk is made again
    assert data_files(store_folder(work, "cells")) == expected
    rows[rows["reason"].isna()].to_parquet(part, index=False)
    with pytest.raises(RuntimeError, match=r"kept \d \+ dropped 0 cells, but segmented 7"):
        run(work, workers=1)


def test_missing_masks_are_reported_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path, worlds(), SMALL)
    (work.root / "segment" / "masks.parquet").unlink()
    assert main(["run", str(work.root)]) == 2
    assert "expected segment/masks.parquet" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_and_resumed_run_writes_the_same_files(tmp_path: Path, seed: int, compress: bool) -> None:
    images = many(70)
    undisturbed, work = make_work(tmp_path / "a", images, SMALL), make_work(tmp_path / "b", images, SMALL)
    run(undisturbed, workers=1, compress=compress)
    outputs = 2 + (4 if compress else 3) * 3
    nth = int(np.random.default_rng([seed, compress]).integers(1, outputs + 1))
    flags = ["--workers", "1", *(["--compress"] if compress else [])]
    assert run_killed("crops", nth, ["run", str(work.root), *flags]) == -signal.SIGKILL
    assert run(work, workers=1, compress=compress) == 0
    assert data_files(store_folder(work, "cells")) == data_files(store_folder(undisturbed, "cells"))
    counts = json.loads((store_folder(work, "cells") / "run.json").read_text())["counts"]
    assert counts["kept"] + counts["dropped"] == counts["segmented"]


def test_overwrite_checks_before_it_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpa.work.cluster._PATIENCE_S", 0.3)
    work = make_work(tmp_path, worlds(), SMALL)
    run(work, workers=1)
    before = data_files(store_folder(work, "cells"))
    with pytest.raises(UserError, match="expected a Dask scheduler at tcp"):
        run(work, dask="tcp://127.0.0.1:9", overwrite=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(UserError, match=r"expected room for [\d,]+ bytes of crops"):
        run(work, workers=1, overwrite=True)
    assert data_files(store_folder(work, "cells")) == before


def test_every_window_has_its_own_size_beyond_1024_too(tmp_path: Path) -> None:
    """A frame of 60 px in a crop of 1,500 px is each pixel 25 times, whatever the interpolation does at the edges."""
    recipe = (
        '[crops]\nwindows = ["full_frame", "five_crop"]\nsize_px = 12\nwindow_px = {full_frame = 1500}\nside = 0.25\n'
    )
    work = make_work(tmp_path, worlds(), recipe)
    for window in ("full_frame", "five_crop"):
        assert run(work, [window], workers=1) == 0
    full, five = open_store(work, "full_frame"), open_store(work, "five_crop")
    assert full.shape[1:] == (1500, 1500)
    assert five.shape[1:] == (12, 12)
    row = full.table.iloc[0]
    side = int(row["max_row_px"] - row["min_row_px"])
    assert row["scale"] == pytest.approx(1500 / side)
    step = 1500 // side
    centres = full.pixels(np.array([0]))[0][:, step // 2 :: step, step // 2 :: step]
    small = make_work(tmp_path / "same", worlds(), f'[crops]\nwindows = ["full_frame"]\nsize_px = {side}\n')
    run(small, workers=1)
    source = open_store(small, "full_frame").pixels(np.array([0]))[0]
    assert np.abs(centres.astype(int) - source.astype(int)).mean() < 3


def test_the_size_of_another_window_does_not_make_a_store_stale(tmp_path: Path) -> None:
    text = '[crops]\nwindows = ["five_crop", "full_frame"]\nsize_px = 12\n'
    work = make_work(tmp_path, worlds(), text)
    run(work, ["five_crop"], workers=1)
    work.recipe.write_text(
        work.recipe.read_text().replace("size_px = 12\n", "size_px = 12\nwindow_px = {full_frame = 20}\n")
    )
    assert open_store(WorkFolder(work.root), "five_crop").shape[1:] == (12, 12)
    work.recipe.write_text(work.recipe.read_text().replace("full_frame = 20", "full_frame = 20, five_crop = 9"))
    with pytest.raises(UserError, match=r"made from the \[crops\] of"):
        open_store(WorkFolder(work.root), "five_crop")
