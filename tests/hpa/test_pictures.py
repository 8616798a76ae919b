"""Pictures of planes that are small enough to know every pixel."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpa.__main__ import main
from hpa.pictures import (
    WHITE,
    Picture,
    check_figure,
    colored,
    composite,
    fitted,
    outlined,
    save_lines,
    save_tiles,
    titled,
)

STRIP = 18


def _read(path: Path) -> Picture:
    return np.asarray(cv2.imread(str(path)), dtype=np.uint8)


def test_each_channel_has_its_colour_and_yellow_is_dimmed() -> None:
    planes = np.full((4, 2, 2), 200, np.uint8)
    for i, (channel, expected) in enumerate(
        {"red": [0, 0, 255], "green": [0, 255, 0], "blue": [255, 0, 0], "yellow": [0, 114, 114]}.items()
    ):
        assert composite(planes[i : i + 1], [channel])[0, 0].tolist() == expected  # type: ignore[list-item]
    assert colored(planes[3], "yellow")[0, 0].tolist() == [0, 255, 255], "alone it may be bright"
    merged = composite(planes, ["red", "green", "blue", "yellow"])
    assert merged[0, 0].tolist() == [255, 255, 255]


def test_dim_images_are_brightened_but_an_empty_plane_stays_dark() -> None:
    dim = np.tile(np.arange(100, dtype=np.uint8), (1, 100, 1))
    assert composite(dim, ["green"])[..., 1].max() == 255
    assert composite(np.full((1, 4, 4), 2, np.uint8), ["green"]).max() < 25
    root = composite(dim, ["green"], gamma=0.5)[0, :, 1].astype(float)
    plain = composite(dim, ["green"])[0, :, 1].astype(float)
    np.testing.assert_allclose(root[:90], 255 * np.sqrt(plain[:90] / 255), atol=6)


def test_outlines_are_between_labels_at_any_size() -> None:
    labels = np.zeros((4, 4), np.uint16)
    labels[:, 2:] = 7
    picture = outlined(np.zeros((8, 8, 3), np.uint8), labels, (1, 2, 3))
    assert (picture[:, 3] == [1, 2, 3]).all()
    assert not picture[:, [0, 1, 2, 4, 5, 6, 7]].any()
    np.testing.assert_array_equal(outlined(np.zeros((8, 8, 3), np.uint8), labels > 0, (1, 2, 3)), picture)


@pytest.mark.parametrize("shape", [(10, 30), (30, 10)])
def test_picture_keeps_its_aspect_ratio(shape: tuple[int, int]) -> None:
    planes = fitted(np.full((1, *shape), 100, np.uint8), 60)
    assert sorted(planes.shape[1:]) == [20, 60]
    tile = titled(composite(planes, ["green"]), "one\ntwo", 60)
    assert tile.shape == (2 * STRIP + 60, 60, 3)
    lit = tile[2 * STRIP :, :, 1] > 0
    assert sorted((lit.any(axis=0).sum(), lit.any(axis=1).sum())) == [20, 60]
    assert lit[20:40, 20:40].all(), "in the middle"


def test_long_title_is_truncated() -> None:
    black = np.zeros((50, 50, 3), np.uint8)
    short, long = titled(black, "name", 50), titled(black, "n" * 40, 50)
    assert short.shape == long.shape
    assert short[:STRIP].max() > WHITE[0] // 2
    assert not short[STRIP:].any()


def test_tiles_fill_rows_below_their_titles(tmp_path: Path) -> None:
    tiles = [np.full((20, 30, 3), level, np.uint8) for level in (50, 100, 150)]
    save_tiles(tiles, 2, tmp_path / "tiles.png")
    picture = _read(tmp_path / "tiles.png")
    assert picture.shape == (40, 60, 3)
    assert [int(picture[at][0]) // 16 * 16 for at in ((5, 5), (5, 35), (25, 5), (25, 35))] == [48, 96, 144, 0]
    assert not picture[:, 29].any(), "a seam between neighbours"
    save_lines({"a": tiles, "b": tiles[:1]}, 2, tmp_path / "lines.png")
    picture = _read(tmp_path / "lines.png")
    assert picture.shape == (STRIP + 40 + STRIP + 20, 60, 3)
    np.testing.assert_array_equal(picture[STRIP : STRIP + 40], _read(tmp_path / "tiles.png"))
    assert picture[STRIP + 40 : 2 * STRIP + 40].any()
    assert (picture[2 * STRIP + 40 :, :29] == 48).all()
    assert not picture[2 * STRIP + 40 :, 30:].any()


def test_tiles_in_an_svg_or_pdf_have_the_pixels_of_the_png(tmp_path: Path) -> None:
    tiles = list(np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3), np.uint8))
    for suffix in (".png", ".svg", ".pdf"):
        save_tiles(tiles, 2, tmp_path / f"tiles{suffix}")
    expected = cv2.imread(str(tmp_path / "tiles.png"))
    embedded = re.search(r'base64,([^"]+)"', (tmp_path / "tiles.svg").read_text())
    assert embedded is not None
    found = cv2.imdecode(np.frombuffer(base64.b64decode(embedded[1]), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    assert found.shape == (40, 60, 3)
    if not np.array_equal(found, expected):  # Matplotlib may store the rows of an SVG from the bottom
        np.testing.assert_array_equal(found[::-1], expected)
    assert (tmp_path / "tiles.pdf").read_bytes().startswith(b"%PDF")


def test_other_suffixes_are_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("figure.jpg", "figure"):
        assert main(["patterns", str(tmp_path / name)]) == 2
        assert f"expected a figure that ends in .png, .pdf or .svg, found {name}" in capsys.readouterr().err
    for name in ("figure.PDF", "figure.svg", "figure.png"):
        check_figure(tmp_path / name)
