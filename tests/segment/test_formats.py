"""Run the stage on images of several sizes, bit depths and file formats."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from segment.inference.preprocess import reduce_labels
from segment.masks import read_mask, read_masks
from segment.run import run
from segment.score import mask_average_precision
from tests.support.shapes import make_work

SCENE = draw_scene((98, 3), size_px=512, protein=False)


def write(folder: Path, image_id: str, channels: str, size_px: int = 512, suffix: str = "png", depth: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel in channels.split():
        plane = SCENE.channels[CHANNELS.index(channel)]
        large = cv2.resize(plane, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
        pixels = large.astype(np.uint16) * 257 if depth == 16 else large
        cv2.imwrite(str(folder / f"{image_id}_{channel}.{suffix}"), pixels)


def test_data_without_an_er_channel_use_nucleus_and_microtubules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "images", "a", "red blue green")
    work = make_work(tmp_path / "work", tmp_path / "images", "[data]\nchannels = ['red', 'green', 'blue']\n")
    assert run(work, device="cpu", workers=1) == 0
    assert "no ER channel (yellow); segmenting on nucleus and microtubules" in capsys.readouterr().out
    record = json.loads((work.root / "segment" / "run.json").read_text())
    assert record["counts"]["channels"] == ["red", "blue"]
    assert mask_average_precision(read_mask(work, "a"), SCENE.cells, 0.5) > 0.6


def test_sizes_depths_and_formats_give_the_same_cells(tmp_path: Path) -> None:
    """The same field of view must give the same cells; JPEG loses a little."""
    folder = tmp_path / "images"
    write(folder, "png512", "yellow blue red green")
    write(folder, "png700", "yellow blue red green", 700, depth=16)
    write(folder, "tif1728", "yellow blue red green", 1728, "tif", 16)
    write(folder, "tif1024", "yellow blue red green", 1024, "tiff")
    write(folder, "jpg900", "yellow blue red green", 900, "jpg")
    work = make_work(tmp_path / "work", folder)
    assert run(work, device="cpu", workers=1) == 0
    masks = read_masks(work).set_index("image_id")
    reference = read_mask(work, "png512")
    for image_id in masks.index:
        cells = read_mask(work, image_id)
        assert cells.shape == (int(image_id[3:]),) * 2
        small = reduce_labels(cells, (512, 512))
        assert mask_average_precision(small, reference, 0.75) >= 0.8, image_id
    diameters = json.loads((work.root / "segment" / "run.json").read_text())["counts"]["diameters_px"]
    assert diameters["1728x1728"] == pytest.approx(diameters["512x512"] * 1728 / 512, rel=0.05)


def test_a_coloured_jpeg_is_read_as_the_plane_of_its_channel(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for channel, planes in {"yellow": (1, 2), "blue": (0,), "red": (2,), "green": (1,)}.items():
        plane = SCENE.channels[CHANNELS.index(channel)]
        coloured = np.zeros((*plane.shape, 3), np.uint8)  # OpenCV's order is blue, green, red
        coloured[..., list(planes)] = plane[..., np.newaxis]
        cv2.imwrite(str(folder / f"a_{channel}.jpg"), coloured, [cv2.IMWRITE_JPEG_QUALITY, 95])
    work = make_work(tmp_path / "work", folder)
    assert run(work, device="cpu", workers=1) == 0
    assert mask_average_precision(read_mask(work, "a"), SCENE.cells, 0.5) > 0.7
