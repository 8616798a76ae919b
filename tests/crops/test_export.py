"""Exports, read back by the programs they are made for."""

import importlib
import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from crops.__main__ import main
from crops.run import run
from crops.sheet import draw_sheets, tile
from crops.store import CropStore, apply_outside_cell, open_store
from crops.table import read_dropped
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.pixels import write_label_image
from hpa.work.folder import WorkFolder
from tests.support.cells import SMALL, make_work, worlds

TARGETS = {"empty": [], "filled": [0, 27], "ordinary": [5], "speck": [0]}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    work = make_work(tmp_path_factory.mktemp("export"), worlds(), SMALL)
    images = read_images(work.images)
    images["target"] = [tuple(TARGETS[image_id]) for image_id in images["image_id"]]
    write_images(work.images, images, work.data.classes, work.data.channels)
    run(work, workers=1)
    return work


@pytest.fixture(scope="module")
def store(work: WorkFolder) -> CropStore:
    return open_store(work, "cells")


@pytest.mark.parametrize("outside_cell", ["keep", "dim", "zero"])
def test_anndata_reads_the_export(work: WorkFolder, store: CropStore, tmp_path: Path, outside_cell: str) -> None:
    anndata = pytest.importorskip("anndata")
    out = tmp_path / "a.h5sc"
    assert main(["export", str(work.root), "--to", "anndata", "--out", str(out), "--outside-cell", outside_cell]) == 0
    data = anndata.read_h5ad(out)
    images, rows = data.obsm["single_cell_images"], np.arange(len(store))
    assert images.dtype == np.float16
    assert images.shape == (len(store), 5, 16, 16)
    np.testing.assert_array_equal(images[:, 0], store.masks(rows))
    shown = apply_outside_cell(store.pixels(rows), store.masks(rows), outside_cell)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.rint(images[:, 1:].astype(float) * 255), shown)
    assert list(data.obs["image_id"]) == list(store.table["image_id"])
    assert list(data.obs["cell_label"]) == list(store.table["cell_label"])
    assert data.obs["scportrait_cell_id"].is_unique
    assert list(data.var["channels"]) == ["seg_all_cytosol", "red", "green", "blue", "yellow"]
    sizes = data.uns["single_cell_images"]
    assert (sizes["n_cells"], sizes["n_channels"], sizes["n_masks"], sizes["image_size"]) == (len(store), 5, 1, 16)


@pytest.mark.parametrize(("per_tar", "n_tars"), [(3, 3), (7, 1)])
def test_webdataset_reads_the_export(
    work: WorkFolder, store: CropStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, per_tar: int, n_tars: int
) -> None:
    monkeypatch.setattr("crops.export._PER_TAR", per_tar)
    out = tmp_path / "tars"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        webdataset = pytest.importorskip("webdataset")
        assert main(["export", str(work.root), "--to", "webdataset", "--out", str(out)]) == 0
        tars = sorted(str(path) for path in out.glob("*.tar"))
        samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert (len(samples), len(tars)) == (len(store), n_tars)
    for row, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["npy"], store.crop(row))
        np.testing.assert_array_equal(sample["mask.npy"], store.masks([row])[0])
        crop = store.table.iloc[row]
        assert (sample["json"]["image_id"], sample["json"]["cell_label"]) == (crop["image_id"], crop["cell_label"])
        assert sample["json"]["target"] == " ".join(map(str, TARGETS[crop["image_id"]]))


def test_png_export_has_one_folder_per_class(work: WorkFolder, store: CropStore, tmp_path: Path) -> None:
    out = tmp_path / "png"
    assert main(["export", str(work.root), "--to", "png", "--out", str(out)]) == 0
    found = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert found == {
        "unknown/empty_0.png",
        "Nucleoplasm/filled_1.png",
        "Rods & rings/filled_1.png",
        "Nuclear bodies/ordinary_1.png",
        "Nuclear bodies/ordinary_2.png",
        "Nuclear bodies/ordinary_3.png",
        "Nucleoplasm/speck_1.png",
        "Nucleoplasm/speck_3.png",
    }
    picture = cv2.imread(str(out / "Nuclear bodies" / "ordinary_2.png"))
    assert picture is not None
    np.testing.assert_array_equal(picture[..., ::-1].transpose(2, 0, 1), store.bag("ordinary")[1][:3])


def test_an_export_is_only_replaced_with_overwrite(
    work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "png"
    command = ["export", str(work.root), "--to", "png", "--out", str(out)]
    assert main(command) == 0
    assert main(command) == 2
    assert "expected a new place" in capsys.readouterr().err
    (out / "mine").mkdir()
    assert main([*command, "--overwrite"]) == 0
    assert not (out / "mine").exists()


@pytest.mark.parametrize("export_format", ["png", "webdataset", "anndata"])
def test_only_an_earlier_export_is_replaced(
    work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], export_format: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (tmp_path / "table.csv").write_text("mine")
    for out in (mine, work.root, tmp_path / "table.csv"):
        command = ["export", str(work.root), "--to", export_format, "--out", str(out), "--overwrite"]
        assert main(command) == 2
        assert "expected an earlier export" in capsys.readouterr().err
    assert (mine / "thesis.txt").read_text() == (tmp_path / "table.csv").read_text() == "mine"
    assert work.images.is_file()
    assert not list(tmp_path.glob(".*.unfinished"))


def test_wrong_usage_is_reported_in_one_sentence(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(work.root), "--to", "png", "--window", "grid"]) == 2
    assert "expected a window of the recipe (cells), found 'grid'" in capsys.readouterr().err
    assert main(["sheet", str(work.root), "--class", "Noodles"]) == 2
    assert "expected a class of the vocabulary hpa28, found 'Noodles'" in capsys.readouterr().err
    assert main(["sheet", str(work.root), "--class", "Aggresome"]) == 2
    assert "found none" in capsys.readouterr().err


def test_missing_anndata_is_reported_in_one_sentence(
    work: WorkFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "anndata", None)
    assert main(["export", str(work.root), "--to", "anndata", "--out", str(tmp_path / "x.h5sc")]) == 2
    assert "install cellwise[anndata]" in capsys.readouterr().err


def test_sheets_are_drawn(work: WorkFolder, store: CropStore) -> None:
    assert main(["sheet", str(work.root)]) == 0
    assert main(["sheet", str(work.root), "--class", "Nuclear bodies"]) == 0
    drawn = {path.name: cv2.imread(str(path)) for path in (store.folder / "figures").iterdir()}
    assert set(drawn) == {"classes.png", "border.png", "dropped.png", "class-05.png"}
    heights = {name: picture.shape[0] for name, picture in drawn.items() if picture is not None}
    lines = len({c for target in TARGETS.values() for c in target}) + 1  # and one line without a known class
    assert heights["classes.png"] == lines * (18 + 18 + 128)
    assert heights["dropped.png"] == 18 + 18 + 128
    assert json.loads((store.folder / "run.json").read_text())["state"] == "done"
    assert main(["sheet", str(work.root), "--figure-format", "svg"]) == 0
    assert {path.stem for path in (store.folder / "figures").glob("*.svg")} == {"classes", "border", "dropped"}


def test_the_sheet_shows_a_dropped_cell_as_it_would_have_been_cut(tmp_path: Path) -> None:
    images = {"speck": worlds()["speck"]}
    work, kept = make_work(tmp_path / "a", images, SMALL), make_work(tmp_path / "b", images, SMALL + "min_area = 0.0\n")
    run(work, workers=1)
    run(kept, workers=1)
    assert main(["sheet", str(work.root)]) == 0
    store = open_store(kept, "cells")
    row = store.table["cell_label"].tolist().index(2)
    expected = tile(store.crop(row), store.masks([row])[0], CHANNELS, "2 of speck")
    drawn = cv2.imread(str(open_store(work, "cells").folder / "figures" / "dropped.png"))
    assert drawn is not None
    assert np.abs(drawn[18:, :128] - expected.astype(float)).mean() < 20  # sheets have 256 colours


def test_a_damaged_compressed_shard_is_said_to_be_damaged(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", worlds(), SMALL)
    run(work, workers=1, compress=True)
    store = open_store(work, "cells")
    (path,) = store.folder.glob("shard-*.zst")
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(UserError, match="expected a shard of crops"):
        open_store(work, "cells").pixels(np.arange(len(store)))


def test_a_sheet_leaves_out_cells_that_are_gone(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", worlds(), SMALL)
    run(work, workers=1)
    dropped = read_dropped(open_store(work, "cells").folder)
    assert len(dropped)
    for image_id in dropped["image_id"].unique():
        write_label_image(work.root / "segment" / "masks" / f"{image_id}.png", np.zeros((3, 4), np.uint16))
    assert draw_sheets(work, "cells")
