"""Common mistakes in data folders: each raises one sentence that names it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from hpa.channels import CHANNELS
from hpa.errors import ImageError, UserError
from hpa.layouts.index import index_dataset
from hpa.pixels import read_plane
from hpa.vocabulary import HPA19, HPA28, JOVIAN10
from tests.support.layouts import noise, write_jovian, write_kaggle2018


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("Id;Target\na;1\n", r"found Id;Target separated by ';' instead of commas"),
        ("Id\tTarget\na\t1\n", r"instead of commas"),
        ("Id,Target\na,8|5\n", r"found '8\|5' in '8\|5' \(image a; separate labels with 'a blank'\)"),
        ("Id,Target\na,Nucleoli\n", r"expected labels 0\.\.27, found 'Nucleoli' in 'Nucleoli' \(image a\)"),
        ("Id,Target\na,1.0\n", r"found '1\.0'"),
        ("Id,Target\na\\b,1\n", "expected image ids"),
        ("Id,Target\n..,1\n", "expected image ids"),
        ("Id,Target\n/etc/passwd,1\n", "expected image ids"),
        ('Id,Target\n"a\nb",1\n', "expected image ids"),
        ("Id,Target\na,1,2\nb,1\n", "found rows with more fields than names"),
        ("Id,Target\na,16,0\nb,1,2\n", "found rows with more fields than names"),  # else 16 and 1 would be the Ids
        ("Id,Target\nb,1\na,1,2\n", "Expected 2 fields in line 3, saw 3"),
        ("Id,Target\na,1,x\nb,2,\n", "found rows with more fields than names"),
    ],
)
def test_kaggle_2018(tmp_path: Path, train: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        index_dataset(write_kaggle2018(tmp_path, train), "kaggle2018", HPA28, CHANNELS)


def test_table_that_is_not_utf8(tmp_path: Path) -> None:
    data = write_kaggle2018(tmp_path)
    (data / "train.csv").write_bytes("Id,Target\na,1\n".encode("utf-16"))
    with pytest.raises(UserError, match="expected a CSV with the columns Id, Target"):
        index_dataset(data, "auto", HPA28, CHANNELS)


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("ID,Label\na,8 5\n", r"found '8 5' in '8 5' \(image a; separate labels with '\|'\)"),
        ("ID,Label\na,19\n", r"expected labels 0\.\.18, found '19'"),
        ("ID,Label\na,\n", "at least one label for the train image a"),
    ],
)
def test_kaggle_2021(tmp_path: Path, train: str, sentence: str) -> None:
    data = write_kaggle2018(tmp_path, train, "ID,ImageWidth,ImageHeight,PredictionString\n")
    with pytest.raises(UserError, match=sentence):
        index_dataset(data, "auto", HPA19, CHANNELS)


def test_jovian(tmp_path: Path) -> None:
    data = write_jovian(tmp_path)
    (data / "Human protein atlas" / "train.csv").write_text("Image,Label\n7,Mitochondria\n")
    with pytest.raises(UserError, match=r"expected labels 0\.\.9, found 'Mitochondria'"):
        index_dataset(data, "auto", JOVIAN10, ("red",))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("image_id,path_blue\n../a,x.png\n", "expected image ids"),
        ("image_id,path_blue\na,x.png\na,y.png\n", "found 'a' twice"),
        ("image_id,file\na,x.png\n", "found file"),
        ("image_id,target\na,1\n", "found image_id, target"),
        ("image_id,path_blue,plane_blue\na,x.png,first\n", "expected a plane_blue 0, 1, .* image a, found 'first'"),
        ("image_id,path_blue,plane_blue\na,x.png,-2\n", "found '-2'"),
        ("image_id,path_blue,target\na,x.png,Actin\n", "found 'Actin'"),
        ("image_id,path_blue,split\na,x.png,valid\n", "expected a split train or test for the image a, found 'valid'"),
        ("image_id,path_blue\n", "expected a row for each image in .*images.csv, found none"),
        ("image_id;path_blue\na;x.png\n", "separated by ';' instead of commas"),
    ],
)
def test_table_of_planes(tmp_path: Path, table: str, sentence: str) -> None:
    (tmp_path / "images.csv").write_text(table)
    with pytest.raises(UserError, match=sentence):
        index_dataset(tmp_path, "auto", HPA28, ("blue",))


def test_invalid_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "images.parquet").write_text("hello")
    with pytest.raises(UserError, match="expected a Parquet table"):
        index_dataset(tmp_path, "auto", HPA28, ("blue",))


def test_file_given_to_another_layout(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_id,path_blue\na,x.png\n")
    with pytest.raises(UserError, match="expected a folder for the layout kaggle2018, found the file"):
        index_dataset(tmp_path / "images.csv", "kaggle2018", HPA28, ("blue",))


def test_unusable_planes_raise_with_the_reason(tmp_path: Path) -> None:
    rgba = np.dstack([np.stack([noise(i) for i in range(3)], axis=2), np.full((6, 8), 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "rgba.png"), rgba)
    gaps = np.zeros((6, 8), np.float32)
    cv2.imwrite(str(tmp_path / "float.tif"), gaps)
    gaps[0, 0] = np.nan
    cv2.imwrite(str(tmp_path / "nan.tif"), gaps)
    cv2.imwritemulti(str(tmp_path / "stack.tif"), [noise(0), noise(1)])
    (tmp_path / "empty.tif").write_bytes(b"")
    jpeg = cv2.imencode(".jpg", noise(0, (64, 64)))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[:-80])
    cases = [
        ("rgba.png", -1, "expected one gray plane, found 4"),
        ("rgba.png", 4, "expected a plane 4, found 4 planes"),
        ("float.tif", -1, "expected 8 or 16 bit, found float32$"),
        ("nan.tif", -1, "expected 8 or 16 bit, found float32 with NaN"),
        ("stack.tif", -1, "expected one gray plane, found 2"),
        ("stack.tif", 2, "expected a plane 2, found 2 planes"),
        ("empty.tif", -1, "not an image"),
        ("cut.jpg", 0, "truncated or damaged JPEG"),
    ]
    for name, plane, reason in cases:
        with pytest.raises(ImageError, match=reason):
            read_plane(tmp_path / name, plane)
    assert (read_plane(tmp_path / "rgba.png", 3) == 255).all()
    np.testing.assert_array_equal(read_plane(tmp_path / "rgba.png", 0), noise(2))
