from pathlib import Path

import pytest

from hpa.__main__ import main
from hpa.atlas import synthesize
from hpa.errors import UserError
from hpa.reports.check import check_data


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    synthesize(tmp_path / "atlas", 3, 2, 0, size_px=128)
    return tmp_path / "atlas"


def test_a_folder_is_counted_from_its_files(atlas: Path) -> None:
    found = check_data(atlas)
    planes = [*(atlas / "train").iterdir(), *(atlas / "test").iterdir()]
    assert (found.layout, found.splits, found.complete) == ("kaggle2018", {"train": 3, "test": 2}, 5)
    assert found.n_bytes == sum(path.stat().st_size for path in planes)
    assert found.sizes == {(128, 128): 5}
    assert (found.missing, found.absent) == ({}, [])
    assert found.unlike_published == [
        "expected 31,072 train images as published, found 3",
        "expected 11,702 test images as published, found 2",
    ]


def test_missing_files_are_named(atlas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in atlas.rglob("*_yellow.png"):
        path.unlink()
    red = sorted((atlas / "test").glob("*_red.png"))[0]
    red.write_bytes(b"")
    found = check_data(atlas)
    image_id = red.name.removesuffix("_red.png")
    assert (found.missing, found.absent, found.complete) == ({"red": [image_id]}, ["yellow"], 4)
    assert main(["check", str(atlas)]) == 1
    printed = capsys.readouterr().out
    assert "layout kaggle2018: 3 train and 2 test images, 4 of them complete, 0.00 GB" in printed
    assert "no image has yellow" in printed
    assert f"1 images have no file of red or an empty one, the first is {image_id}" in printed


def test_a_complete_folder_ends_with_0(atlas: Path) -> None:
    assert main(["check", str(atlas / "train")]) == 0  # a bare folder has no published numbers
    with pytest.raises(UserError, match="found no folder"):
        check_data(atlas / "none")
    assert main(["check", str(atlas), "--layout", "kaggle"]) == 2


def test_tables_without_images_are_not_complete(atlas: Path) -> None:
    for path in atlas.rglob("*_*.png"):
        path.unlink()
    assert check_data(atlas).complete == 0
    assert main(["check", str(atlas)]) == 1
