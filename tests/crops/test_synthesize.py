"""Drawn crops: the true classes, the cut of the crops stage, the same bytes however they are made, hostile input."""

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crops.__main__ import main
from crops.run import run
from crops.store import CropStore, store_folder
from crops.synthesize import draw_crops, read_labels, read_targets, synthesize_crops
from hpa.atlas.imaging import VARIED
from hpa.atlas.mask_errors import disturb_masks
from hpa.atlas.training import draw_training_scenes
from hpa.errors import UserError
from hpa.vocabulary import HPA28
from tests.support.cells import World, make_work
from tests.support.processes import data_files

SEED, CELLS, SHARD = 5, 90, 40


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "store"
    added: list[int] = []
    synthesize_crops(folder, CELLS, seed=SEED, size_px=32, shard_cells=SHARD, on_cells=added.append)
    assert sum(added) == CELLS
    return folder


def test_a_store_is_readable_and_complete(drawn: Path) -> None:
    store = CropStore(drawn)
    store.check_rows()
    assert (len(store), store.shape) == (CELLS, (4, 32, 32))
    assert sorted(path.name for path in drawn.iterdir() if not path.name.startswith("lock")) == [
        "crops.parquet", "dropped.parquet", "labels.parquet",
        *(f"shard-0000{k}{kind}" for k in range(3) for kind in (".mask.npy", ".npy")),
        "synthesize.json",
    ]  # fmt: skip
    labels = read_labels(drawn)
    assert labels[["image_id", "cell_label"]].equals(store.table[["image_id", "cell_label"]])
    for image_id, rows in labels.groupby("image_id"):
        assert rows["target"].nunique() == rows["geometry"].nunique() == 1
        assert store.bag(str(image_id)).shape == (len(rows), 4, 32, 32)
    assert (~store.table["fallback"]).all()
    own = store.masks(range(CELLS))
    assert (own.reshape(CELLS, -1).mean(axis=1) > 0.02).all()


def test_a_store_has_what_is_drawn_into_memory(drawn: Path) -> None:
    store, targets = CropStore(drawn), read_targets(drawn)
    first = 0
    for part, count in enumerate((SHARD, SHARD, CELLS - 2 * SHARD)):
        pixels, own, found = map(np.concatenate, zip(*draw_crops(SEED, count, 32, part=part), strict=True))
        rows = np.arange(first, first + count)
        np.testing.assert_array_equal(store.pixels(rows), pixels)
        np.testing.assert_array_equal(store.masks(rows), own)
        np.testing.assert_array_equal(targets[rows], found)
        first += count
    assert pixels.dtype == np.uint8
    assert found.shape == (count, 28)


def test_more_cells_begin_with_the_same_ones() -> None:
    few, many = (np.concatenate([p for p, _, _ in draw_crops(8, count, 16)]) for count in (20, 35))
    assert (few == many[:20]).all()
    assert len(many) == 35


def test_crops_are_those_of_the_crops_stage(tmp_path: Path) -> None:
    """The stage gets the drawn images and the disturbed masks as files."""
    worlds: dict[str, World] = {}
    targets: dict[tuple[str, int], set[int]] = {}
    images = islice(draw_training_scenes(6, style=VARIED), 6)
    for image in images:
        rng = np.random.default_rng([6, 0, image.geometry, image.protein])
        cells, nuclei, sources = disturb_masks(rng, image.scene.cells, image.scene.nuclei)
        name = f"i{len(worlds)}"
        worlds[name] = (image.scene.channels, cells, nuclei)
        for label, source in enumerate(sources, start=1):
            targets[name, label] = set().union(*(image.scene.targets[k - 1] for k in source))
    work = make_work(tmp_path, worlds, "[crops]\nsize_px = 64\n")
    assert run(work, workers=1) == 0
    store = CropStore(store_folder(work, "cells"))
    table = store.table[~store.table["fallback"]]
    pixels, own, found = map(np.concatenate, zip(*draw_crops(6, len(table)), strict=True))
    np.testing.assert_array_equal(pixels, store.pixels(table.index.to_numpy()))
    np.testing.assert_array_equal(own, store.masks(table.index.to_numpy()))
    for row, key in enumerate(zip(table["image_id"], table["cell_label"], strict=True)):
        assert set(np.flatnonzero(found[row])) == targets[key]


def test_files_do_not_depend_on_workers_or_on_interruptions(drawn: Path, tmp_path: Path) -> None:
    synthesize_crops(tmp_path / "two", CELLS, seed=SEED, size_px=32, shard_cells=SHARD, workers=2)
    stopped = tmp_path / "stopped"

    def stop(cells: int) -> None:
        if cells:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_crops(stopped, CELLS, seed=SEED, size_px=32, shard_cells=SHARD, on_cells=stop)
    with pytest.raises(UserError, match="expected a crop store"):
        CropStore(stopped)
    (stopped / "shard-00001.npy").write_bytes(b"torn")
    (stopped / ".shard-00002.1.partial.npy").write_bytes(b"left by a kill")
    synthesize_crops(stopped, CELLS, seed=SEED, size_px=32, shard_cells=SHARD)
    for folder in (tmp_path / "two", stopped):
        assert data_files(folder) == data_files(drawn)


def test_a_finished_store_is_left_as_it_is(drawn: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in drawn.iterdir() if not path.name.startswith("lock")}

    before = times()
    synthesize_crops(drawn, CELLS, seed=SEED, size_px=32, shard_cells=SHARD)
    assert before == times()


def test_seeds_and_parts_give_different_cells() -> None:
    first, second, third = (next(draw_crops(seed, 4, 16, part=part))[0] for seed, part in ((0, 0), (1, 0), (0, 1)))
    assert not (first[:1] == second[:1]).all()
    assert not (first[:1] == third[:1]).all()


def test_left_out_patterns_do_not_occur() -> None:
    targets = np.concatenate([found for _, _, found in draw_crops(2, 60, 16, patterns=[0, 23, 25])])
    assert not targets[:, [k for k in range(28) if k not in (0, 23, 25)]].any()
    assert targets[:, [0, 23, 25]].any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cells", "10", "--seed", str(2**32)], "expected a seed between 0 and 4294967295, found 4294967296"),
        (["--cells", "10", "--style", "odd"], "expected a style (atlas, varied, other), found 'odd'"),
        (["--cells", "10", "--without", "28"], "expected classes between 0 and 27 to leave out, found [28]"),
        (["--cells", "1000000000000"], "expected room for"),
        (
            ["--cells", "10", *(word for k in range(28) for word in ("--without", str(k)))],
            "expected patterns between 0 and 27, found none",
        ),
    ],
)
def test_hostile_arguments_exit_with_2(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synthesize", str(tmp_path / "out"), *arguments, "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert sentence in " ".join(error.split())
    assert "Traceback" not in error
    assert not list((tmp_path / "out").glob("shard-*"))


def other_settings(folder: Path) -> None:
    settings = json.loads((folder / "synthesize.json").read_text())
    (folder / "synthesize.json").write_text(json.dumps(settings | {"seed": 99}))


def no_json(folder: Path) -> None:
    (folder / "synthesize.json").write_text("{")


def no_settings(folder: Path) -> None:
    (folder / "synthesize.json").unlink()


@pytest.mark.parametrize("damage", [other_settings, no_json, no_settings])
def test_a_folder_of_something_else_is_refused(damage: Callable[[Path], None], drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(drawn, folder)
    damage(folder)
    with pytest.raises(UserError, match=r"expected (a new folder|an empty or a new folder)"):
        synthesize_crops(folder, CELLS, seed=SEED, size_px=32, shard_cells=SHARD)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="expected an empty or a new folder"):
        synthesize_crops(tmp_path / "file", 5, seed=0)
    assert (tmp_path / "file").read_text() == "mine"
    assert main(["synthesize", str(tmp_path / "file" / "inside"), "--cells", "5", "--workers", "1"]) == 2


def test_labels_without_columns_are_refused(drawn: Path, tmp_path: Path) -> None:
    pd.read_parquet(drawn / "labels.parquet").drop(columns=HPA28.classes[3]).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(UserError, match=HPA28.classes[3]):
        read_targets(tmp_path)
