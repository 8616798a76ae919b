"""The bits that the values of 16-bit files use: recognised from a sample, and applied by every reader."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from hpa.channels import CHANNELS
from hpa.errors import ImageError
from hpa.layouts.depth import recognise_bit_depth
from hpa.layouts.index import index_dataset
from hpa.pixels import BIT_DEPTHS, expand_to_16_bits, read_planes
from hpa.vocabulary import HPA28


def _folder(root: Path, values: dict[str, int], suffix: str = ".png", dtype: type = np.uint16) -> Path:
    """Write images of four channels; each is 0 but for one pixel of its value."""
    root.mkdir(parents=True, exist_ok=True)
    for image_id, value in values.items():
        for channel in CHANNELS:
            plane: NDArray[np.integer[Any]] = np.zeros((4, 6), dtype)
            plane[1, 2] = value if channel == "blue" else 1
            cv2.imwrite(str(root / f"{image_id}_{channel}{suffix}"), plane)
    return root


def _index(folder: Path) -> pd.DataFrame:
    return index_dataset(folder, "auto", HPA28, CHANNELS).images


@pytest.mark.parametrize("depth", BIT_DEPTHS)
def test_expanded_values_are_within_one_of_the_exact_product(depth: int) -> None:
    values = np.arange(2**depth, dtype=np.uint16)
    found = expand_to_16_bits(values, depth).astype(np.float64)
    assert found[0] == 0
    assert found[-1] == 65_535
    assert np.abs(found - values * (65_535 / (2**depth - 1))).max() <= 1
    assert (np.diff(found) > 0).all()  # no gray level is lost


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("highest", "depth"), [(200, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (16_384, 16)])
def test_depth_is_the_smallest_that_holds_the_highest_value(
    tmp_path: Path, suffix: str, highest: int, depth: int
) -> None:
    found = recognise_bit_depth(_index(_folder(tmp_path / "d", {"a": 3, "b": highest, "c": 9}, suffix)), CHANNELS)
    assert found.bits == depth
    assert f"use {depth} bits (highest value {highest:,} in 3 sampled images)" in found.notices[0]


def test_nothing_is_said_of_8_bit_files_and_damaged_files_are_skipped(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "d", {"a": 200, "b": 7}, dtype=np.uint8)
    assert recognise_bit_depth(_index(folder), CHANNELS) == (16, ())
    _folder(folder, {"c": 4000, "black": 0})
    (folder / "broken_blue.png").write_bytes(b"\x89PNG")
    _folder(folder, {"d": 60_000})
    (folder / "d_red.png").write_bytes((folder / "d_red.png").read_bytes()[:-20])
    assert recognise_bit_depth(_index(folder), CHANNELS).bits == 12


def test_sources_of_different_depths_get_the_larger_one_and_a_line(tmp_path: Path) -> None:
    tables = []
    for name, value in (("many", 900), ("few", 4000)):
        ids = {f"{name}{n}": value for n in range(100 if name == "many" else 1)}
        tables.append(_index(_folder(tmp_path / name, ids)))
    found = recognise_bit_depth(pd.concat(tables, ignore_index=True), CHANNELS)
    assert found.bits == 12
    assert "many 10" in found.notices[1]
    assert "few 12" in found.notices[1]


def test_a_value_above_the_depth_is_a_failure_that_names_the_remedy(tmp_path: Path) -> None:
    images = _index(_folder(tmp_path / "d", {"a": 4095, "b": 4096})).assign(bit_depth=12).to_dict("records")
    assert [int(plane.max()) for plane in read_planes(images[0], CHANNELS)] == [16, 16, 65_535, 16]
    with pytest.raises(ImageError, match=r"blue channel: .* up to 4,095 .*found 4,096; .*data\.bit_depth=14"):
        read_planes(images[1], CHANNELS)


def test_8_bit_files_keep_their_values(tmp_path: Path) -> None:
    (image,) = _index(_folder(tmp_path / "d", {"a": 200}, dtype=np.uint8)).assign(bit_depth=12).to_dict("records")
    assert int(read_planes(image, ("blue",))[0].max()) == 200
