"""The picture of one image on its way through the pipeline, on a finished run of its own."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.__main__ import main
from pipeline.picture import _draw_scale_bar, _tiled


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("picture") / "work"
    assert main(["demo", str(root), "--images", "6", "--test", "3", "--tiny"]) == 0
    return root


def test_a_demo_goes_on_only_with_its_own_settings(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(work), "--images", "6", "--test", "3"]) == 2
    assert "was begun with, found others" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "mine"), "--data", str(work / "atlas")]) == 0
    assert main(["demo", str(tmp_path / "mine"), "--tiny"]) == 2
    assert "found another work folder" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "atlas").exists()
    assert main(["apply", str(tmp_path / "mine"), "--data", str(work / "atlas"), "--out", str(tmp_path / "new")]) == 2
    assert "expected a trained work folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_any_scored_image_can_be_drawn(work: Path, tmp_path: Path) -> None:
    ids = {path.name[:36] for part in ("train", "test") for path in (work / "atlas" / part).glob("*_red.png")}
    for name in ["", sorted(ids)[0]]:
        out = tmp_path / f"{name or 'default'}.png"
        assert main(["picture", str(work), str(out), *(["--id", name] if name else [])]) == 0
        picture = cv2.imread(str(out))
        assert picture is not None
        assert picture.shape[1] > 1000


def test_an_image_that_is_gone_is_reported(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = next((work / "atlas" / "test").glob("*_red.png"))
    content = gone.read_bytes()
    gone.unlink()
    assert main(["picture", str(work), str(tmp_path / "p.png"), "--id", gone.name.removesuffix("_red.png")]) == 2
    assert "expected a readable image and masks" in capsys.readouterr().err
    gone.write_bytes(content)


def test_unknown_image_and_unfinished_run_are_reported(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["picture", str(work), str(work / "p.png"), "--id", "../nowhere"]) == 2
    assert "expected the id of an image with cells" in capsys.readouterr().err
    (work / "aggregate" / "cells.parquet").unlink()
    assert main(["picture", str(work), str(work / "p.png")]) == 2
    assert not (work / "p.png").exists()


@pytest.mark.parametrize(("n", "side"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3)])
def test_tiles_fill_a_square_and_stay_whole(n: int, side: int) -> None:
    tiles = [np.full((7, 5, 3), 10 * k, np.uint8) for k in range(n)]
    sheet = _tiled(tiles)
    assert sheet.shape == (side * 9, side * 7, 3)
    for k in range(side * side):
        row, column = (k // side) * 9, (k % side) * 7
        assert (sheet[row : row + 7, column : column + 5] == (10 * k if k < n else 255)).all()
        assert (sheet[row + 7 : row + 9, column : column + 7] == 255).all()


@pytest.mark.parametrize(("pixel_um", "unit"), [(0.0, "px"), (0.16, "µm"), (0.08, "µm")])
def test_the_scale_bar_is_as_long_as_its_text_says(pixel_um: float, unit: str) -> None:
    axes = Figure().subplots()
    _draw_scale_bar(axes, (400, 512), pixel_um)
    ((number, its_unit),) = [label.get_text().split() for label in axes.texts]
    assert its_unit == unit
    assert [line.get_color() for line in axes.lines] == ["black", "white"], "white on a black rim"
    for line in axes.lines:
        (left, right), (top, bottom) = np.array(line.get_xdata(), float), np.array(line.get_ydata(), float)
        assert (right - left) * (pixel_um or 1) == pytest.approx(float(number))
        assert 512 / 2 < left < right < 512
        assert 400 / 2 < top == bottom < 400
