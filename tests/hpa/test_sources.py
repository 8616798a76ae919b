from pathlib import Path

import pandas as pd
import pytest

from hpa.channels import CHANNELS
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.layouts.index import index_dataset
from hpa.layouts.sources import Source, check_channels, index_sources, parse_sources
from hpa.vocabulary import HPA28
from tests.support.layouts import write_image, write_jovian, write_kaggle2018

SAMPLE = "ID,ImageWidth,ImageHeight,PredictionString\n"


def test_names_of_sources(tmp_path: Path) -> None:
    odd = tmp_path / "x=y"
    odd.mkdir()
    (tmp_path / "a").mkdir()
    assert parse_sources([tmp_path / "a", f"ext={tmp_path}/a", odd]) == [
        Source("a", tmp_path / "a"),
        Source("ext", tmp_path / "a"),
        Source("x=y", odd),
    ]
    (tmp_path / "a" / "images.csv").touch()
    (tmp_path / "a" / "more.csv").touch()
    assert [source.name for source in parse_sources([tmp_path / "a" / "images.csv", tmp_path / "a" / "more.csv"])] == [
        "a",
        "more",
    ]
    with pytest.raises(UserError, match="of different names, found 'a' twice"):
        parse_sources([tmp_path / "a", tmp_path / "b" / "a"])
    with pytest.raises(UserError, match=r"a source name of letters, .* found 'a\+b'"):
        parse_sources(["a+b=/data"])
    with pytest.raises(UserError, match=r"a source name of letters, .* found '\.\./x'"):
        parse_sources(["../x=/data"])


def _both_years(root: Path) -> list[Source]:
    old = write_kaggle2018(root / "old", "Id,Target\na,0 12\nb,3\nc,5\n", "Id,Predicted\nz,0\nd,0\n")
    new = write_kaggle2018(root / "new", "ID,Label\na,9|0\nb,4\nd,2\n", SAMPLE + "y,8,6,0\n")
    for image_id in "cd":
        write_image(old / "train", image_id)
    (old / "train" / "b_red.png").unlink()
    return [Source("old", old), Source("new", new)]


def test_image_in_two_sources_is_one_row(tmp_path: Path) -> None:
    section = DataSection(vocabulary="hpa19")
    joined = index_sources(_both_years(tmp_path), section)
    images = joined.images.set_index("image_id")
    assert list(images.index) == ["a", "b", "c", "z", "d", "y"]
    assert images["source"].to_dict() == {
        "a": "old+new",
        "b": "old+new",
        "c": "old",
        "z": "old",
        "d": "old+new",
        "y": "new",
    }
    assert images.loc["a", "target"] == (0, 9)
    assert images.loc["b", "target"] == (3, 4)
    assert str(images.loc["b", "path_red"]).endswith("new/train/b_red.png")  # the first source lacks a file
    assert str(images.loc["a", "path_red"]).endswith("old/train/a_red.png")
    assert images.loc["d", "split"] == "test"
    assert images.loc["d", "target"] == ()
    conflicts = joined.conflicts.set_index("image_id")
    assert list(conflicts.index) == ["b", "d"]
    assert (conflicts.loc["b", "targets"], conflicts.loc["b", "joined"]) == ("3 / 4", "3 4")
    assert "train in one, test in another" in str(conflicts.loc["d", "reason"])
    assert any("3 images are in several sources" in notice for notice in joined.notices)
    write_images(tmp_path / "images.parquet", joined.images, section.classes, section.channels)
    pd.testing.assert_frame_equal(read_images(tmp_path / "images.parquet"), joined.images)


def test_class_unknown_in_one_source_is_known_from_another(tmp_path: Path) -> None:
    images = index_sources(_both_years(tmp_path), DataSection()).images.set_index("image_id")
    assert images.loc["a", "target"] == (0, 12)  # actin or focal adhesion in 2021, decided by 2018
    assert images.loc["a", "unknown_classes"] == ()


def test_channel_missing_from_a_source_raises(tmp_path: Path) -> None:
    jovian = [Source("j", write_jovian(tmp_path))]
    section = DataSection(vocabulary="jovian10")
    images = index_sources(jovian, section).images
    with pytest.raises(UserError, match=r"channels red, green, blue, yellow in .*, found none with yellow"):
        check_channels(images, jovian, section)
    section = DataSection(vocabulary="jovian10", channels=("red", "green", "blue"))
    images = index_sources(jovian, section).images
    check_channels(images, jovian, section)
    assert len(images) == 3


def test_recipe_can_set_the_layout_of_a_source(tmp_path: Path) -> None:
    """A folder with the tables of two layouts, next to an unambiguous one."""
    both, plain = write_kaggle2018(tmp_path / "both"), write_kaggle2018(tmp_path / "plain", "Id,Target\nc,1\n")
    (both / "images.csv").write_text("image_id,path_red\nelsewhere,train/a_red.png\n")
    sources = [Source("both", both), Source("plain", plain)]
    found = index_sources(sources, DataSection(channels=("red",))).images
    assert set(found["image_id"]) == {"elsewhere", "c", "y", "z"}
    section = DataSection(channels=("red",), source_layouts={"both": "kaggle2018"})
    assert set(index_sources(sources, section).images["image_id"]) == {"a", "b", "c", "y", "z"}
    section = DataSection(channels=("red",), layout="kaggle2018")
    assert set(index_sources(sources, section).images["image_id"]) == {"a", "b", "c", "y", "z"}


def test_sources_in_the_recipe_must_exist(tmp_path: Path) -> None:
    sources = [Source("old", write_kaggle2018(tmp_path))]
    with pytest.raises(UserError, match=r"named in \[data\] among old, found 'older'"):
        index_sources(sources, DataSection(train_only=("older",)))
    with pytest.raises(UserError, match="found 'x'"):
        index_sources(sources, DataSection(source_layouts={"x": "table"}))
    with pytest.raises(UserError, match="expected a table HPAv18"):
        index_sources([Source("t", tmp_path / "test")], DataSection(source_layouts={"t": "hpa_v18"}))


def test_two_antibodies_for_one_image_are_refused(tmp_path: Path) -> None:
    """Images of one antibody share a fold, so taking either could leak."""
    data = write_kaggle2018(tmp_path / "one")
    (data / "antibodies.csv").write_text("Id,Antibody\na,HPA1\nb,HPA2\na,HPA1 \nb,\n")
    found = index_dataset(data, "auto", HPA28, CHANNELS)
    assert dict(zip(found.images["image_id"], found.images["antibody"], strict=True)) == {
        "b": "HPA2",
        "a": "HPA1",
        "z": None,
        "y": None,
    }
    assert any("2 of 4 images have no antibody" in notice for notice in found.notices)
    other = write_kaggle2018(tmp_path / "two")
    (other / "antibodies.csv").write_text("Id,Antibody\na,HPA3\n")
    with pytest.raises(UserError, match=r"one antibody for the image 'a' .* 'HPA1' and 'HPA3' in one\+two"):
        index_sources(parse_sources([data, other]), DataSection())
    (data / "antibodies.csv").write_text("Id,Antibody\na,HPA1\na,HPA3\n")
    with pytest.raises(UserError, match=r"one antibody .*antibodies\.csv, found 'HPA1' and 'HPA3' for 'a'"):
        index_dataset(data, "auto", HPA28, CHANNELS)
