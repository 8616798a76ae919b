"""The sheet of patterns: every class once, and no empty place."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

import hpa.atlas.montage
from hpa.atlas import draw_scene
from hpa.atlas.montage import draw_montage, draw_patterns
from hpa.errors import UserError
from hpa.vocabulary import HPA28


def test_the_patterns_fill_their_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpa.atlas.montage, "draw_scene", partial(draw_scene, size_px=64))  # they are shown anyway
    draw_patterns(tmp_path / "sheet.png", tile_px=40)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    across = sheet.shape[1] // 40
    assert len(HPA28) % across == 0
    height = sheet.shape[0] * across // len(HPA28)
    tiles = [
        sheet[row : row + height, 40 * k : 40 * k + 40]
        for row in range(0, sheet.shape[0], height)
        for k in range(across)
    ]
    assert len(tiles) == len(HPA28)
    assert all(tile[-40:].max() > 60 for tile in tiles), "each shows a cell"
    assert len({tile.tobytes() for tile in tiles}) == len(HPA28)
    assert np.ptp([tile.mean() for tile in tiles]) < 128


@pytest.mark.parametrize("table", ["ID,Label\na,1\n", "Id,Target\n", ""])
def test_tables_without_images_are_one_sentence(tmp_path: Path, table: str) -> None:
    (tmp_path / "train.csv").write_text(table)
    with pytest.raises(UserError, match="expected"):
        draw_montage(tmp_path, tmp_path / "out.png")
