"""The sheet of outlines: which images, in which order, with what around them."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.pictures import scale_bar
from hpa.pixels import read_plane
from segment.figures import _columns, _wrapped, overlay
from segment.masks import DISAGREE, read_masks
from segment.run import run
from tests.support.shapes import make_work


def test_an_er_of_another_field_is_flagged_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (draw_scene((99, number), size_px=256, protein=False).channels for number in (1, 2))
    other_er = first.copy()
    other_er[CHANNELS.index("yellow")] = second[CHANNELS.index("yellow")]
    no_red = first.copy()
    no_red[CHANNELS.index("red")] = 0
    (tmp_path / "images").mkdir()
    for name, planes in {"a-good": first, "b-good": second, "c-other": other_er, "d-no-red": no_red}.items():
        for channel, plane in zip(CHANNELS, planes, strict=True):
            cv2.imwrite(str(tmp_path / "images" / f"{name}_{channel}.png"), plane)
    work = make_work(tmp_path / "work", tmp_path / "images")
    assert run(work, device="cpu", workers=1) == 0
    flags = read_masks(work).set_index("image_id")["flags"].to_dict()
    assert flags == {"a-good": "", "b-good": "", "c-other": DISAGREE, "d-no-red": ""}
    assert re.findall(r"in 1 of 4 images ER and microtubules show different cells", capsys.readouterr().out)
    sheet = read_plane(work.root / "segment" / "figures" / "overlays.png", 1)
    tiles = np.split(sheet[-384:], range(384, sheet.shape[1], 384), axis=1)
    assert len(tiles) == 4
    assert np.argmax([first_tile(tiles[0], planes) for planes in (first, other_er)]) == 1


def first_tile(tile: NDArray[Any], planes: NDArray[Any]) -> float:
    """Return the correlation of a tile's green plane, which shows the ER, with the ER of an image."""
    shown = cv2.resize(planes[CHANNELS.index("yellow")], (384, 384)).ravel()
    return float(np.corrcoef(tile.ravel(), shown)[0, 1])


@pytest.mark.parametrize(
    ("tiles", "columns"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 3), (7, 4), (9, 3), (12, 4)]
)
def test_few_images_leave_no_empty_half(tiles: int, columns: int) -> None:
    assert _columns(tiles) == columns
    assert -tiles % columns <= 1


def test_ids_are_shown_whole() -> None:
    for image_id in ("a", "94e33c64-bb9b-11e8-b2b9-ac1f6b6435d0", "x" * 53, "plate_12-" * 20):
        assert "".join(_wrapped(image_id)) == image_id


@pytest.mark.parametrize("pixel_um", [0.0, 0.08, 0.325, 12.5])
@pytest.mark.parametrize("side", [17, 64, 500, 512, 1728, 2048, 10_000])
def test_a_scale_bar_is_a_round_part_of_the_image(side: int, pixel_um: float) -> None:
    bar = scale_bar(side, pixel_um)
    assert side / 10 <= bar.length_px <= side / 4 * (1 + 1e-9)
    number, unit = bar.text.split()
    assert unit == ("µm" if pixel_um else "px")
    assert float(number) == pytest.approx(bar.length_px * (pixel_um or 1))
    assert f"{float(number):.0e}"[0] in "125"
    assert float(f"{float(number):.0e}") == pytest.approx(float(number))
    labels = np.zeros((side, side), np.uint16)
    picture = overlay(np.zeros((2, side, side), np.uint8), ("yellow", "blue"), labels, labels, "id", pixel_um)
    drawn = (picture[-8] == 255).all(axis=1)
    assert abs(drawn.sum() / 384 - bar.length_px / side) < 0.03
