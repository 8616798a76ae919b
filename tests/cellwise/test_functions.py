"""The functions for notebooks against the commands: the same masks, crops, probabilities and labels."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

import cellwise
from cellwise.__main__ import main
from classify.probabilities import class_columns, read_probabilities
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.pixels import read_plane
from hpa.vocabulary import HPA28
from hpa.work.folder import open_work
from pipeline.__main__ import main as pipeline_main
from segment.__main__ import main as segment_main
from segment.masks import read_mask, read_nuclei
from tests.support.pages import ROOT, python_blocks

Image = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished demo in ``work/demo``, and one of its test images applied in ``work/one``."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["demo", "work/demo", "--tiny"]) == 0
        (folder / "one").mkdir()
        for path in (folder / "work" / "demo" / "atlas" / "test").glob(f"{_first_id(folder)}_*.png"):
            shutil.copy(path, folder / "one" / path.name)
        assert main(["apply", "work/demo", "--data", "one", "--out", "work/one"]) == 0
    return folder


def _first_id(folder: Path) -> str:
    return sorted((folder / "work" / "demo" / "atlas" / "test").glob("*_red.png"))[0].name.removesuffix("_red.png")


def _image(folder: Path) -> Image:
    return np.stack([read_plane(folder / "one" / f"{_first_id(folder)}_{channel}.png") for channel in CHANNELS])


def _classified(folder: Path) -> tuple[cellwise.Crops, pd.DataFrame]:
    classifier = cellwise.Classifier.load(folder / "work" / "demo")
    masks = cellwise.segment(_image(folder))
    crops = cellwise.crop(_image(folder), masks, image_id=_first_id(folder), recipe=classifier.recipe)
    return crops, classifier.predict(crops)


def test_segment_gives_the_masks_of_the_command(demo: Path) -> None:
    work, image_id = open_work(demo / "work" / "one"), _first_id(demo)
    masks = cellwise.segment(_image(demo))
    np.testing.assert_array_equal(masks.cells, read_mask(work, image_id))
    np.testing.assert_array_equal(masks.nuclei, read_nuclei(work, image_id))
    assert masks.cells.max() > 3


def test_segment_gives_the_masks_of_the_command_for_an_image_that_is_not_square(demo: Path, tmp_path: Path) -> None:
    """The typical diameter, at which the first network looks, follows from the shorter side."""
    half = _image(demo)[:, : _image(demo).shape[2] // 2]
    for name, image in {"wide": half, "tall": half.transpose(0, 2, 1)}.items():
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        for channel, plane in zip(CHANNELS, image, strict=True):
            cv2.imwrite(str(root / "images" / f"{name}_{channel}.png"), plane)
        assert pipeline_main(["init", str(root / "run"), "--data", str(root / "images")]) == 0
        assert segment_main(["run", str(root / "run"), "--device", "cpu"]) == 0
        masks = cellwise.segment(image)
        np.testing.assert_array_equal(masks.cells, read_mask(open_work(root / "run"), name))
        assert masks.cells.max() > 1


def test_segment_reads_the_channels_by_their_names(demo: Path) -> None:
    image = _image(demo)
    shuffled = cellwise.segment(image[[3, 0, 2]], ("yellow", "red", "blue"), diameter_px=60)
    np.testing.assert_array_equal(shuffled.cells, cellwise.segment(image, diameter_px=60).cells)


def test_crop_gives_the_crops_of_the_command(demo: Path) -> None:
    store = cellwise.open_crops(demo / "work" / "one")
    crops, _ = _classified(demo)
    np.testing.assert_array_equal(crops.pixels, store.pixels(range(len(store))))
    np.testing.assert_array_equal(crops.masks, store.masks(range(len(store))))
    expected = store.table.drop(columns=["shard", "row"])
    pd.testing.assert_frame_equal(crops.table[list(expected.columns)], expected, check_dtype=False)


def test_an_image_without_cells_has_one_crop() -> None:
    image, none = np.full((4, 20, 30), 9, np.uint8), np.zeros((20, 30), np.uint16)
    crops = cellwise.crop(image, cellwise.Masks(none, none), 16)
    assert crops.pixels.shape == (1, 4, 16, 16)
    assert crops.table[["cell_label", "fallback"]].to_numpy().tolist() == [[0, True]]


def test_crops_of_a_12_bit_image_have_all_gray_levels() -> None:
    image = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
    cells = np.ones((64, 64), np.uint16)
    masks, section = cellwise.Masks(cells, cells), cellwise.read_recipe(None, ["crops.margin=0.0"])
    crops = cellwise.crop(image, masks, 64, channel_names=["blue"], recipe=section)
    np.testing.assert_allclose(crops.pixels[0, 0], image[0] / 4095 * 255, atol=0.51)
    assert list(crops.table["white_blue"]) == [4095]
    dark = cellwise.crop(image, masks, 64, channel_names=["blue"], recipe=section, bit_depth=16)
    assert dark.pixels.max() == 16
    with pytest.raises(ValueError, match=r"expected a bit_depth of .* that holds 4095, found 10"):
        cellwise.crop(image, masks, 64, channel_names=["blue"], bit_depth=10)


def test_predict_gives_the_probabilities_of_the_command(demo: Path) -> None:
    written = read_probabilities(demo / "work" / "one" / "classify" / "cells" / "probabilities.parquet", HPA28)
    _, probabilities = _classified(demo)
    keys = ["image_id", "cell_label", "fold"]
    assert probabilities[keys].to_numpy().tolist() == written[keys].to_numpy().tolist()
    columns = class_columns(HPA28)
    np.testing.assert_allclose(probabilities[columns], written[columns], atol=1e-6)


@pytest.mark.parametrize("work", ["demo", "one"])
def test_image_predictions_equal_those_of_aggregate(work: str, demo: Path) -> None:
    root = demo / "work" / work
    table = read_probabilities(root / "classify" / "cells" / "probabilities.parquet", HPA28)
    shuffled = table[table["origin"] == "test"].drop(columns="origin").sample(frac=1, random_state=0)
    predictions = cellwise.image_predictions(shuffled, demo / "work" / "demo").set_index("image_id")
    images = pd.read_parquet(root / "aggregate" / "images.parquet").set_index("image_id")
    submission = pd.read_csv(root / "aggregate" / "submission.csv", dtype=str, index_col="Id")["Predicted"]
    assert set(predictions.index) == set(submission.index)
    for image_id, row in predictions.iterrows():
        names = tuple(HPA28.classes[c] for c in HPA28.parse(submission[str(image_id)]))
        assert row["predicted"] == names
    columns = class_columns(HPA28)
    np.testing.assert_array_equal(predictions[columns], images.loc[predictions.index, columns])


def test_folds_are_averaged_after_pooling() -> None:
    """A naive loop: the maximum within each fold, then the mean, then strictly above the threshold."""
    rng = np.random.default_rng(0)
    rows = [(image, cell, fold) for image in "ab" for cell in (1, 2, 3) for fold in (0, 1, 2)]
    table = pd.DataFrame(rows, columns=["image_id", "cell_label", "fold"])
    columns = class_columns(HPA28)
    table[columns] = rng.random((len(table), 28), dtype=np.float32)
    found = cellwise.image_predictions(table, 0.8)
    for image, row in zip("ab", found.to_dict("records"), strict=True):
        for name, column in zip(HPA28.classes, columns, strict=True):
            own = table[table["image_id"] == image]
            mean = np.mean([own.loc[own["fold"] == fold, column].max() for fold in (0, 1, 2)])
            assert row[column] == pytest.approx(mean, abs=1e-6)
            if abs(mean - 0.8) > 1e-4 and len(row["predicted"]) > 1:
                assert (name in row["predicted"]) == (mean > 0.8)


def test_embed_gives_one_vector_per_crop(demo: Path) -> None:
    classifier = cellwise.Classifier.load(demo / "work" / "demo")
    crops, _ = _classified(demo)
    first, second = classifier.embed(crops), classifier.embed(crops, fold=1)
    assert first.shape == (len(crops), 256)
    np.testing.assert_allclose(second, first, atol=1e-5)  # the demo's folds share the frozen backbone
    assert np.ptp(first, axis=0).max() > 0.1


def test_a_bundle_is_loaded_like_its_work_folder(demo: Path) -> None:
    assert main(["export", str(demo / "work" / "demo"), str(demo / "bundle")]) == 0
    crops, probabilities = _classified(demo)
    bundled = cellwise.Classifier.load(demo / "bundle").predict(crops)
    pd.testing.assert_frame_equal(bundled, probabilities)
    predictions = cellwise.image_predictions(bundled, demo / "bundle")
    pd.testing.assert_frame_equal(predictions, cellwise.image_predictions(probabilities, demo / "work" / "demo"))


def test_wrong_input_is_reported_in_one_sentence(demo: Path) -> None:
    image = _image(demo)
    with pytest.raises(ValueError, match=r"expected an image of shape \(4, H, W\), uint8 or uint16, found shape"):
        cellwise.segment(image[:3])
    with pytest.raises(ValueError, match="expected channel names among red, green, blue, yellow, found 'cyan'"):
        cellwise.segment(image, ("red", "green", "blue", "cyan"))
    small = np.zeros((8, 8), np.uint16)
    with pytest.raises(ValueError, match="expected cells of the image's size"):
        cellwise.crop(image, cellwise.Masks(small, small))
    classifier = cellwise.Classifier.load(demo / "work" / "demo")
    crops = cellwise.crop(image, cellwise.segment(image), 48)
    with pytest.raises(UserError, match=r"expected crops of 32 \(px\) as in training, found 48"):
        classifier.predict(crops)
    with pytest.raises(UserError, match="expected a fold among 0, 1, found 7"):
        classifier.embed(crops, fold=7)
    with pytest.raises(UserError, match="expected the columns image_id, cell_label and fold, found no fold"):
        cellwise.image_predictions(pd.DataFrame({"image_id": [], "cell_label": []}), 0.5)
    with pytest.raises(UserError, match=r"expected 1 or 28 thresholds within 0\.\.1"):
        cellwise.image_predictions(_classified(demo)[1], [0.5, 2.0])
    with pytest.raises(UserError, match="expected a work folder"):
        cellwise.Classifier.load(demo / "nowhere")


def test_columns_of_no_vocabulary_are_refused() -> None:
    """Neither a class more or less than a vocabulary has, nor another order."""
    columns = class_columns(HPA28)
    for wrong in (columns[:-1], [*columns, "p_Spindle"], columns[::-1]):
        table = pd.DataFrame(0.1, index=[0], columns=wrong).assign(image_id="a", cell_label=1, fold=0)
        with pytest.raises(UserError, match=rf"expected a column p_<class> per class of hpa28.*, found {len(wrong)} "):
            cellwise.image_predictions(table, 0.5)


def test_the_blocks_of_the_python_page(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    names: dict[str, Any] = {}
    for block in python_blocks(ROOT / "docs" / "python.md"):
        exec(block, names)
    assert list(names["labels"]["image_id"]) == [_first_id(demo)]


@pytest.mark.parametrize("wrong", ["cells", "nuclei"])
@pytest.mark.parametrize("dtype", [bool, np.float32, np.int32])
def test_masks_that_are_no_labels_are_refused(wrong: str, dtype: type) -> None:
    labels = np.zeros((32, 32), np.uint16)
    labels[2:10, 2:10] = 1
    bad: Any = np.where(labels > 0, 70_000, 0).astype(dtype)
    masks = cellwise.Masks(**({"cells": labels, "nuclei": labels} | {wrong: bad}))
    with pytest.raises(ValueError, match=f"expected {wrong} as integers"):
        cellwise.crop(np.full((1, 32, 32), 100, np.uint8), masks, 16, channel_names=["blue"])


def test_unusable_arguments_are_refused() -> None:
    image, empty = np.full((1, 32, 32), 100, np.uint8), np.zeros((32, 32), np.uint16)
    masks = cellwise.Masks(empty, empty)
    for size_px in (0, 4, -1):
        with pytest.raises(UserError, match="size_px"):
            cellwise.crop(image, masks, size_px, channel_names=["blue"])
    with pytest.raises(ValueError, match="every channel name once"):
        cellwise.crop(np.concatenate([image, image]), masks, 16, channel_names=["blue", "blue"])
    with pytest.raises(ValueError, match="with pixels"):
        cellwise.crop(image[:, :0], cellwise.Masks(empty[:0], empty[:0]), 16, channel_names=["blue"])
    for diameter_px in (-5.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match="diameter_px above 0"):
            cellwise.segment(np.concatenate([image, image]), ["yellow", "blue"], diameter_px)
