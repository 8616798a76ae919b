from pathlib import Path

import pytest

from hpa.__main__ import main
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.layouts.index import index_dataset
from hpa.layouts.split_folder import split_folder
from hpa.vocabulary import HPA28
from tests.support.layouts import write_image, write_kaggle2018


def _data(root: Path) -> Path:
    data = write_kaggle2018(root / "data")
    for n in range(10):
        write_image(data / "train", f"more_{n}")
    with (data / "train.csv").open("a") as file:
        file.writelines(f"more_{n},{n}\n" for n in range(10))
    return data


@pytest.mark.parametrize("by", ["link", "symlink", "copy"])
def test_parts_are_the_same_data_set(tmp_path: Path, by: str) -> None:
    data, out = _data(tmp_path), tmp_path / "out"
    assert main(["split-folder", str(data), str(out), "--files", "10", "--by", by]) == 0
    before, after = (index_dataset(folder, "auto", HPA28, CHANNELS).images for folder in (data, out))
    keys = ["image_id", "split", "target", *(f"bytes_{channel}" for channel in CHANNELS)]
    assert after[keys].equals(before[keys])
    parts = sorted((out / "train").iterdir())
    assert [len(list(part.iterdir())) for part in parts] == [8] * 6
    for part in parts:  # the files of an image stay together
        names = [path.name.rpartition("_")[0] for path in part.iterdir()]
        assert all(names.count(name) == 4 for name in names)
    assert sorted(path.name for path in (out / "test").iterdir()) == sorted(
        path.name for path in (data / "test").iterdir()
    )
    assert (out / "train.csv").read_bytes() == (data / "train.csv").read_bytes()
    assert (out / "train" / "part-00000" / "a_red.png").is_symlink() == (by == "symlink")


def test_flat_folders(tmp_path: Path) -> None:
    """Images next to the tables, and a bare folder without tables."""
    data = _data(tmp_path)
    for path in [*data.rglob("*.png")]:
        path.rename(data / path.name)
    bare = tmp_path / "bare"
    for n in range(5):
        write_image(bare, f"i{n}")
    for folder in (data, bare):
        out = tmp_path / f"out of {folder.name}"
        split_folder(folder, out, 8, "link")
        before, after = (index_dataset(one, "auto", HPA28, CHANNELS).images for one in (folder, out))
        assert list(after["image_id"]) == list(before["image_id"])
        assert (after["bytes_red"] > 0).all()
        assert not list(out.glob("*.png"))


def test_the_command_fills_parts_of_a_thousand_files(tmp_path: Path) -> None:
    """Of as many files as docs/data.md shows, although it is not told."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for n in range(1001):  # only their names are read
        (data / f"i{n:04d}.png").touch()
    assert main(["split-folder", str(data), str(out)]) == 0
    assert [len(list(part.iterdir())) for part in sorted(out.iterdir())] == [1000, 1]


def test_invalid_arguments_raise(tmp_path: Path) -> None:
    data = _data(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "images.csv").write_text("image_id,path_red\n")
    cases = [
        (data, data / "out", "link", "outside"),
        (data, empty, "link", "a new folder"),
        (tmp_path / "none", tmp_path / "out", "link", "found no folder"),
        (data, tmp_path / "out", "move", "expected --by link, symlink, copy, found 'move'"),
        (empty, tmp_path / "out", "link", "found none"),
        (tmp_path / "table", tmp_path / "out", "link", "found a table of their paths"),
    ]
    for folder, out, by, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            split_folder(folder, out, 1000, by)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("by", ["link", "symlink", "copy"])
def test_linked_folders_and_files_are_followed(tmp_path: Path, by: str) -> None:
    data = _data(tmp_path)
    (tmp_path / "big").mkdir()
    (data / "train").rename(tmp_path / "big" / "train")
    (data / "train").symlink_to("../big/train")
    for path in sorted((data / "test").iterdir()):
        raw = path.rename(tmp_path / "big" / path.name)
        path.symlink_to(Path("../..") / "big" / raw.name)
    out = tmp_path / "deep" / "er" / "out"
    out.parent.mkdir(parents=True)
    split_folder(data, out, 10, by)
    before, after = (index_dataset(folder, "auto", HPA28, CHANNELS).images for folder in (data, out))
    keys = ["image_id", "split", "target", *(f"bytes_{channel}" for channel in CHANNELS)]
    assert before["bytes_red"].all()
    assert after[keys].equals(before[keys])
