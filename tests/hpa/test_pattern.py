from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.images import read_images
from hpa.layouts.pattern import compile_pattern, list_by_pattern
from hpa.pixels import read_channels
from hpa.splitting.groups import join_groups
from hpa.vocabulary import HPA28
from pipeline.__main__ import main

PATTERN = "{well}_f{field}_d{channel}.tif"
DRAW = np.random.default_rng(0)


def _plane(value: int) -> np.ndarray:
    return np.full((16, 24), value, np.uint8)


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Two wells with two fields of three stains each; the value of a pixel says which file it is from."""
    folder = tmp_path / "plate"
    folder.mkdir()
    for w, well in enumerate(("B02", "C11")):
        for field in (1, 2):
            for channel in range(3):
                tifffile.imwrite(folder / f"{well}_f{field}_d{channel}.tif", _plane(100 * w + 10 * field + channel))
    (folder / "notes.txt").write_text("by hand")
    return folder


def test_files_become_images_and_wells_groups(plate: Path) -> None:
    found = list_by_pattern(plate, PATTERN, {"0": "blue", "2": "yellow"}, HPA28)
    assert list(found.rows["image_id"]) == ["B02_1", "B02_2", "C11_1", "C11_2"]
    assert set(found.rows["split"]) == {"test"}
    assert list(found.rows["well"]) == ["B02", "B02", "C11", "C11"]
    assert list(join_groups(4, [list(found.rows["well"])])) == [0, 0, 1, 1]
    assert found.files[3]["yellow"].path.name == "C11_f2_d2.tif"
    assert found.notices == [
        f"1 files in {plate} are not named {PATTERN} and are ignored",
        "files of the channels 1 are ignored; --channel names those to read",
    ]


def test_the_command_reads_the_pixels_of_the_right_files(plate: Path, tmp_path: Path) -> None:
    words = ["--data", str(plate), "--pattern", PATTERN, "--channel", "0=blue", "--channel", "1=yellow"]
    assert main(["init", str(tmp_path / "work"), *words]) == 0
    images = read_images(tmp_path / "work" / "images.parquet")
    row = images[images["image_id"] == "C11_2"].iloc[0]
    pixels = read_channels(row.to_dict(), ["blue", "yellow"])
    assert pixels.shape == (2, 16, 24)
    assert (pixels[0] == 120).all()
    assert (pixels[1] == 121).all()
    assert (row["height_px"], row["width_px"]) == (16, 24)
    recipe = (tmp_path / "work" / "recipe.toml").read_text()
    assert 'channels = ["blue", "yellow"]' in recipe


def test_numbered_rows_and_columns_make_different_wells(tmp_path: Path) -> None:
    """As Harmony of Revvity names files."""
    for row, column in ((1, 12), (11, 2), (11, 12), (2, 3), (27, 1)):
        tifffile.imwrite(tmp_path / f"r{row:02}c{column:02}f1-ch1.tif", _plane(1))
    tifffile.imwrite(tmp_path / "rBc3f2-ch1.tif", _plane(1))
    for pattern in ("r{row}c{column}f{field}-ch{channel}.tif", "r0{row}c0{column}f{field}-ch{channel}.tif"):
        found = list_by_pattern(tmp_path, pattern, {"1": "blue"}, HPA28).rows
        wells = dict(zip(found["image_id"], found["well"], strict=True))
        if "r0" in pattern:
            assert wells == {"2_3_1": "B3"}
        else:
            assert wells["02_03_1"] == "B03"
            assert wells["B_3_2"] == "B3"
            assert {wells[i] for i in ("01_12_1", "11_02_1", "11_12_1", "27_01_1")} == {"A12", "K02", "K12", "AA01"}


def test_planes_of_one_file_and_sub_folders(tmp_path: Path) -> None:
    """A field of OME-TIFF with three channels in each file, below folders for plate and well."""
    planes = {}
    for plate in ("p1", "p2"):
        for well in ("A1", "A2"):
            folder = tmp_path / plate / well
            folder.mkdir(parents=True)
            stack = DRAW.integers(0, 255, (3, 16, 24), np.uint8)
            tifffile.imwrite(folder / "field-7.ome.tif", stack, ome=True, metadata={"axes": "CYX"})
            planes[f"{plate}_{well}_7"] = stack
    found = list_by_pattern(tmp_path, "{plate}/{well}/field-{n}.ome.tif", {"2": "blue", "0": "yellow"}, HPA28)
    assert list(found.rows["well"]) == ["p1_A1", "p1_A2", "p2_A1", "p2_A2"]
    for image_id, files in zip(found.rows["image_id"], found.files, strict=True):
        row = {f"{part}_{c}": getattr(files[c], part) for c in files for part in ("path", "plane")}
        row |= {"bit_depth": 16, "height_px": 16, "width_px": 24}
        pixels = read_channels({**row, "path_blue": str(row["path_blue"])}, ["blue", "yellow"])
        np.testing.assert_array_equal(pixels, planes[image_id][[2, 0]])


@pytest.mark.parametrize(
    ("pattern", "channels", "sentence"),
    [
        ("images.tif", {"0": "blue"}, "expected a pattern with fields of different names"),
        ("{well}_{well}.tif", {"0": "blue"}, "fields of different names"),
        ("{}_{channel}.tif", {"0": "blue"}, "fields of different names"),
        ("../{well}_{channel}.tif", {"0": "blue"}, "paths below the data folder"),
        ("/{well}_{channel}.tif", {"0": "blue"}, "paths below the data folder"),
        (PATTERN, {}, "expected different channels"),
        (PATTERN, {"0": "blue", "1": "blue"}, "expected different channels"),
        ("{well}_f{field}_d0.tif", {"DNA": "blue"}, "expected numbers of planes"),
        ("{well}_{channel}.png", {"0": "blue"}, "expected files named .* found none among 13 files"),
        ("{well}_f{channel}_d{x}.tif", {"1": "blue", "2": "red"}, ""),
        ("{well}_f1_d{channel}.tif", {"0": "blue"}, ""),
    ],
)
def test_patterns_and_channels_are_checked(plate: Path, pattern: str, channels: dict[str, str], sentence: str) -> None:
    if not sentence:
        assert len(list_by_pattern(plate, pattern, channels, HPA28).rows)  # type: ignore[arg-type]
        return
    with pytest.raises(UserError, match=sentence):
        list_by_pattern(plate, pattern, channels, HPA28)  # type: ignore[arg-type]


def test_fields_that_make_one_id_of_two_images_are_refused(tmp_path: Path) -> None:
    for name in ("0_a_b-c.tif", "0_a-b_c.tif"):
        tifffile.imwrite(tmp_path / name, _plane(1))
    with pytest.raises(UserError, match=r"expected one file for blue .* 0_a-b_c.tif and 0_a_b-c.tif, .* id a_b_c"):
        list_by_pattern(tmp_path, "{channel}_{row}-{column}.tif", {"0": "blue"}, HPA28)


def test_any_naming_matches_as_text_is_written() -> None:
    """Characters that mean something in regular expressions stand for themselves."""
    draw = np.random.default_rng(1)
    for _ in range(200):
        literals = ["".join(draw.choice(list("._-+()[]*?^$ab1"), draw.integers(1, 4))) for _ in range(3)]
        well, site = (str(draw.integers(0, 100)) for _ in range(2))
        name = literals[0] + well + literals[1] + site + literals[2]
        match = compile_pattern(literals[0] + "{well}" + literals[1] + "{site}" + literals[2]).fullmatch(name)
        assert match is not None
        assert literals[0] + match["well"] + literals[1] + match["site"] + literals[2] == name


def test_flags_that_do_not_fit_end_with_2(plate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def init(*words: str) -> str:
        assert main(["init", str(tmp_path / "work"), "--data", str(plate), *words]) == 2
        return capsys.readouterr().err

    assert "expected --channel with --pattern, found none" in init("--pattern", PATTERN)
    assert "expected --pattern with --channel, found none" in init("--channel", "0=blue")
    assert f"one of {', '.join(CHANNELS)}" in init("--pattern", PATTERN, "--channel", "0=DAPI")
    assert not (tmp_path / "work" / "recipe.toml").exists()


def test_hostile_names_never_become_ids(plate: Path) -> None:
    tifffile.imwrite(plate / "CON_f:1_d0.tif", _plane(0))
    tifffile.imwrite(plate / "a\nb_f1_d0.tif", _plane(0))
    with pytest.raises(UserError):
        list_by_pattern(plate, PATTERN, {"0": "blue"}, HPA28)
    assert pd.Series(list((plate).iterdir())).is_unique
