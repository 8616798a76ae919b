"""The size of a pixel: from the metadata of OME-TIFF, into the recipe, and to the scale bars."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from hpa.config import DataSection
from hpa.layouts.pixel_size import read_pixel_um, recognise_pixel_size
from hpa.work.folder import WorkFolder
from pipeline.__main__ import main

PLANES = np.arange(2 * 16 * 24, dtype=np.uint16).reshape(2, 16, 24)


def _write(path: Path, size: float | None, unit: str = "µm", ratio: float = 1.0) -> Path:
    metadata: dict[str, Any] = {"axes": "CYX"}
    if size is not None:
        metadata |= {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        metadata |= {"PhysicalSizeY": size * ratio, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, PLANES, ome=True, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [(0.325, "µm", 0.325), (80.0, "nm", 0.08), (0.002, "mm", 2), (3, "pixel", 0), (0, "µm", 0)],
)
def test_units_of_ome_are_converted(tmp_path: Path, size: float, unit: str, expected: float) -> None:
    assert read_pixel_um(_write(tmp_path / "a.ome.tif", size, unit)) == pytest.approx(expected)


def test_what_does_not_say_a_size_of_square_pixels_gives_none(tmp_path: Path) -> None:
    assert read_pixel_um(_write(tmp_path / "none.ome.tif", None)) == 0
    assert read_pixel_um(_write(tmp_path / "flat.ome.tif", 0.3, ratio=2)) == 0
    tifffile.imwrite(tmp_path / "plain.tif", PLANES[0])
    (tmp_path / "odd.tif").write_bytes(b"II*\0 no more")
    (tmp_path / "other.png").write_bytes(b"\x89PNG")
    for name in ("plain.tif", "odd.tif", "other.png", "missing.tif"):
        assert read_pixel_um(tmp_path / name) == 0, name


def test_images_of_different_pixels_give_none_and_a_sentence(tmp_path: Path) -> None:
    paths = [_write(tmp_path / f"{i}.ome.tif", size) for i, size in enumerate((0.3, 0.3, 0.6))]
    table = pd.DataFrame({"path_blue": [str(path) for path in paths], "bytes_blue": 1})
    assert recognise_pixel_size(table[:2], ["blue"]).um == pytest.approx(0.3)
    found = recognise_pixel_size(table, ["blue"])
    assert found.um == 0
    assert found.notices[0].startswith("pixels of 0.3 to 0.6 µm in 3 of 3 sampled images: scale bars are in px")


def test_the_size_goes_into_the_recipe_and_changes_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plate").mkdir()
    for well in ("A1", "A2"):
        _write(tmp_path / "plate" / f"{well}.ome.tif", 0.65)
    words = [
        "--data",
        str(tmp_path / "plate"),
        "--pattern",
        "{well}.ome.tif",
        "--channel",
        "0=blue",
        "--channel",
        "1=yellow",
    ]
    assert main(["init", str(tmp_path / "work"), *words]) == 0
    assert "pixels of 0.65 µm, by the metadata of the images" in capsys.readouterr().out
    assert WorkFolder(tmp_path / "work").data.pixel_um == pytest.approx(0.65)
    assert main(["init", str(tmp_path / "own"), *words, "--set", "data.pixel_um=0.5"]) == 0
    assert WorkFolder(tmp_path / "own").data.pixel_um == pytest.approx(0.5)
    from hpa.work.stage import MadeFrom

    records = [MadeFrom.now(DataSection(pixel_um=size), DataSection(), {}).data for size in (0, 0.65)]
    assert records[0] == records[1]
