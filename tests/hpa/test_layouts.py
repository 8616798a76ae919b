from pathlib import Path

import cv2
import numpy as np
import pytest

from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.images import check_id, read_images, write_images
from hpa.layouts import index
from hpa.vocabulary import HPA28


def _image(folder: Path, image_id: str, suffix: str = ".png", channels: tuple[str, ...] = CHANNELS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel in channels:
        cv2.imwrite(str(folder / f"{image_id}_{channel}{suffix}"), np.zeros((6, 8), np.uint8))


def _kaggle(root: Path, train: str = "Id,Target\nb,16 0\na,3\n", sample: str = "Id,Predicted\nz,0\ny,0\n") -> Path:
    for image_id in "ab":
        _image(root / "train", image_id)
    for image_id in "yz":
        _image(root / "test", image_id)
    (root / "train.csv").write_text(train)
    (root / "sample_submission.csv").write_text(sample)
    return root


def test_kaggle_2018(tmp_path: Path) -> None:
    data = _kaggle(tmp_path)
    (data / "antibodies.csv").write_text("Id,Antibody\na,HPA1\n")
    images = index(data, "auto", HPA28, CHANNELS).images
    assert list(images["image_id"]) == ["b", "a", "z", "y"]
    assert list(images["target"]) == [(0, 16), (3,), (), ()]
    assert list(images["split"]) == ["train", "train", "test", "test"]
    assert images["antibody"].iloc[1] == "HPA1"
    assert images["antibody"].isna().tolist() == [True, False, True, True]
    assert set(images["height_px"]) == {6}
    assert set(images["width_px"]) == {8}
    assert Path(images["path_blue"].iloc[2]) == data / "test" / "z_blue.png"
    assert (images["bytes_red"] == (data / "test" / "z_red.png").stat().st_size).all()
    write_images(tmp_path / "images.parquet", images, HPA28, CHANNELS)
    again = read_images(tmp_path / "images.parquet")
    assert list(again["target"]) == list(images["target"])
    assert list(again.columns) == list(images.columns)


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    data = _kaggle(tmp_path, train="\ufeffId,Target\r\nb,16 0\r\na,3\r\n")
    assert list(index(data, "auto", HPA28, CHANNELS).images["target"])[:2] == [(0, 16), (3,)]


def test_full_size_tiff_in_sub_folders(tmp_path: Path) -> None:
    data = _kaggle(tmp_path, train="Id,Target\nbig,1\n")
    _image(data / "train_full_size" / "part-0", "big", ".tif")
    images = index(data, "auto", HPA28, CHANNELS).images
    assert images["path_red"].iloc[0].endswith("train_full_size/part-0/big_red.tif")


def test_tables_and_files_that_disagree_are_told_and_kept(tmp_path: Path) -> None:
    data = _kaggle(tmp_path, train="Id,Target\nb,1\nwithout,2\n")
    (data / "train" / "b_green.png").unlink()
    found = index(data, "auto", HPA28, CHANNELS)
    assert list(found.images["image_id"]) == ["b", "without", "z", "y"]
    assert found.images["bytes_green"].iloc[0] == 0
    assert found.images["height_px"].iloc[1] == 0
    assert any("1 images" in notice and "no row" in notice for notice in found.notices)
    assert any("2 images lack" in notice for notice in found.notices)


def test_a_bare_folder(tmp_path: Path) -> None:
    for image_id in ("b_2", "a"):
        _image(tmp_path, image_id)
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "overview.png").write_text("x")
    found = index(tmp_path, "auto", HPA28, CHANNELS)
    assert list(found.images["image_id"]) == ["a", "b_2"]
    assert set(found.images["split"]) == {"test"}
    assert found.notices == (f"2 files in {tmp_path} are not named {{Id}}_{{color}} and are ignored",)


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("Id,Target\na,28\n", r"expected labels 0\.\.27, found '28' in '28' \(image a\)"),
        ("Id,Target\na,nucleus\n", "found 'nucleus'"),
        ("Id,Target\na,\n", "at least one label for the train image a"),
        ("Id,Target\na,1\na,2\n", "found 'a' twice"),
        ("Id,Target\nz,1\n", "found 'z' twice"),
        ("ID,target\na,1\n", "expected the columns Id, Target in .*, found ID, target"),
        ("", "expected a CSV with the columns Id, Target"),
        ("Id,Target\n../../etc/passwd,1\n", "found '../../etc/passwd'"),
        ("Id,Target\na/b,1\n", "found 'a/b'"),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path: Path, train: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        index(_kaggle(tmp_path, train), "kaggle2018", HPA28, CHANNELS)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no folder"):
        index(tmp_path / "none", "auto", HPA28, CHANNELS)
    with pytest.raises(UserError, match="found none"):
        index(tmp_path, "auto", HPA28, CHANNELS)
    with pytest.raises(UserError, match=r"expected train\.csv or sample_submission\.csv"):
        index(tmp_path, "kaggle2018", HPA28, CHANNELS)


@pytest.mark.parametrize("image_id", ["", "..", ".hidden", "a/b", "a\\b", "a\0", "a\n", "-rf", "x" * 201])
def test_ids_that_could_leave_the_work_folder(image_id: str) -> None:
    with pytest.raises(UserError, match="expected image ids"):
        check_id(image_id)
