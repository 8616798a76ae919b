from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa.errors import UserError
from hpa.images import read_images
from hpa.pixels import read_label_image, read_plane
from hpa.work.folder import WorkFolder
from pipeline.__main__ import main
from pipeline.view import CELLS, Layer, add_layers, layers, save_corrections, start_corrections
from segment.import_masks import import_masks
from segment.masks import read_mask, read_masks, read_nuclei


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    root = tmp_path_factory.mktemp("view") / "demo"
    assert main(["demo", str(root), "--tiny"]) == 0
    return WorkFolder(root)


def _image(demo: WorkFolder) -> str:
    masks = read_masks(demo)
    return str(masks.sort_values("n_cells")["image_id"].iloc[-1])


def _named(found: list[Layer]) -> dict[str, Layer]:
    return {layer.arguments["name"]: layer for layer in found}


def test_the_layers_are_the_files_and_the_tables(demo: WorkFolder) -> None:
    image_id = _image(demo)
    found = _named(layers(demo, image_id))
    assert list(found) == [
        "red: microtubules",
        "green: the protein",
        "blue: nucleus",
        "yellow: endoplasmic reticulum (ER)",
        "nuclei",
        CELLS,
        "classes",
    ]
    images = read_images(demo.images)
    row = images[images["image_id"] == image_id].iloc[0]
    np.testing.assert_array_equal(found["green: the protein"].data, read_plane(Path(row["path_green"])))
    cells = found[CELLS].data
    np.testing.assert_array_equal(cells, read_label_image(demo.root / "segment" / "masks" / f"{image_id}.png"))
    table = pd.read_csv(demo.root / "aggregate" / "cells.csv", dtype=str, keep_default_na=False)
    table = table[table["image_id"] == image_id].set_index("cell_label")
    features = found[CELLS].arguments["features"]
    assert len(features) == len(table) > 0
    for label, names in zip(features["index"], features["predicted"], strict=True):
        assert names.replace("\n", "; ") == table.loc[str(label), "predicted"]
    for label, place in zip(features["index"], found["classes"].data, strict=True):
        rows, columns = np.nonzero(cells == label)
        np.testing.assert_allclose(place, [rows.mean(), columns.mean()])


def test_unfinished_runs_show_what_there_is(demo: WorkFolder, tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "new")
    assert main(["init", str(work.root), "--data", str(demo.root / "atlas")]) == 0
    image_id = _image(demo)
    assert [layer.kind for layer in layers(work, image_id)] == ["image"] * 4
    with pytest.raises(UserError, match=r"expected masks .*found none"):
        start_corrections(work, tmp_path / "corrected")
    with pytest.raises(UserError, match=r"expected the id of an image of .*, found '../x'"):
        layers(work, "../x")


def test_corrected_masks_come_back_by_import(demo: WorkFolder, tmp_path: Path) -> None:
    image_id, folder = _image(demo), tmp_path / "corrected"
    start_corrections(demo, folder)
    before = _named(layers(demo, image_id))[CELLS].data
    assert not save_corrections(before, before.copy(), image_id, folder)
    after = before.copy()
    after[after == 1] = 0
    assert save_corrections(before, after, image_id, folder)
    start_corrections(demo, folder)  # the next image: what was corrected stays
    work = WorkFolder(tmp_path / "second")
    assert main(["init", str(work.root), "--data", str(demo.root / "atlas")]) == 0
    assert import_masks(work, folder, workers=1) == 0
    imported = read_mask(work, image_id)
    assert (imported > 0).sum() == (after > 0).sum()
    assert len(np.unique(imported)) == len(np.unique(after))
    other = next(i for i in read_masks(demo)["image_id"] if i != image_id and read_mask(demo, i).any())
    np.testing.assert_array_equal(read_mask(work, other), read_mask(demo, other))
    np.testing.assert_array_equal(read_nuclei(work, other) > 0, read_nuclei(demo, other) > 0)
    with pytest.raises(UserError, match="expected corrected labels that can be written"):
        save_corrections(before, after.astype(np.int64) + 70_000, image_id, folder)


@pytest.mark.filterwarnings("ignore")  # napari's own, of its dependencies
def test_napari_accepts_the_layers(demo: WorkFolder) -> None:
    components = pytest.importorskip("napari.components", reason="needs cellwise[napari]")
    viewer = components.ViewerModel()
    shown = layers(demo, _image(demo))
    added = add_layers(viewer, shown, pixel_um=0.5)
    assert viewer.scale_bar.visible
    assert all(tuple(layer.scale) == (0.5, 0.5) for layer in viewer.layers)
    assert {str(unit) for layer in viewer.layers for unit in layer.units} == {"micrometer"}
    assert [layer.name for layer in viewer.layers] == [layer.arguments["name"] for layer in shown]
    assert list(added[CELLS].features["index"]) == list(_named(shown)[CELLS].arguments["features"]["index"])
    added[CELLS].data[0, 0] = 9  # painting changes the layer, not what was read
    assert _named(shown)[CELLS].data is not added[CELLS].data


def test_without_a_display_one_sentence_is_said(
    demo: WorkFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    assert main(["view", str(demo.root), _image(demo)]) == 2
    assert "expected a display to open a window on, found none" in capsys.readouterr().err


def test_corrections_are_shown_and_kept_in_a_second_sitting(demo: WorkFolder, tmp_path: Path) -> None:
    image_id, folder = _image(demo), tmp_path / "corrected"
    start_corrections(demo, folder)
    for gone in (1, 2):
        before = _named(layers(demo, image_id, folder))[CELLS]
        assert set(before.arguments["features"]["index"]) <= set(np.unique(before.data))
        assert save_corrections(before.data, np.where(before.data == gone, 0, before.data), image_id, folder)
    left = set(np.unique(_named(layers(demo, image_id, folder))[CELLS].data))
    assert left == set(np.unique(read_mask(demo, image_id))) - {1, 2}
