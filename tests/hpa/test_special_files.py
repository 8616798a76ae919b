"""Named pipes, devices, links to nothing and to themselves: only regular files are read, and nothing waits for ever."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpa.channels import CHANNELS
from hpa.config import read_toml
from hpa.errors import ImageError, UserError
from hpa.layouts.index import index_dataset
from hpa.layouts.listing import files_below
from hpa.layouts.sources import parse_sources
from hpa.pixels import read_plane
from hpa.vocabulary import HPA28
from hpa.work.files import csv_header, read_csv, read_parquet
from segment.external_masks import find_external_masks, read_external_mask
from tests.support.layouts import write_image

KINDS = ("pipe", "device", "device link", "loop", "dangling", "folder", "socket")


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """End a test that waits for a pipe, instead of the whole run."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def _make(path: Path, kind: str) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "device link":
        path.with_name(f"{path.name}.other").symlink_to("/dev/zero")
        path.symlink_to(f"{path.name}.other")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("gone")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.relpath(path))  # the name of a socket must be short
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_special_files_are_not_listed(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path, "a")
    (tmp_path / "link_red.png").symlink_to(tmp_path / "a_red.png")
    _make(tmp_path / "b_red.png", kind)
    for recursive in (False, True):
        found = {path.name for path in files_below(tmp_path, recursive=recursive)}
        assert found == {*(f"a_{channel}.png" for channel in CHANNELS), "link_red.png"}
    assert list(index_dataset(tmp_path, "auto", HPA28, CHANNELS).images["image_id"]) == ["a", "link"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_a_special_file_is_a_failure(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table may name any path."""
    monkeypatch.chdir(tmp_path)
    path = _make(tmp_path / "a.png", kind)
    with pytest.raises(ImageError, match=r"(missing|unreadable) file a\.png"):
        read_plane(path)
    (tmp_path / "images.csv").write_text("image_id,path_red\na,a.png\n")
    assert index_dataset(tmp_path, "table", HPA28, ("red",)).images["bytes_red"].tolist() == [0]
    for suffix in (".tif", ".npy", "_seg.npy"):
        with pytest.raises(ImageError, match="cannot be read"):
            read_external_mask(_make(tmp_path / f"m{suffix}", kind), (2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_and_recipes_that_are_special_files(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = _make(tmp_path / "train.csv", kind)
    assert csv_header(path) == ()
    for read in (read_csv, read_parquet, read_toml):
        with pytest.raises(UserError, match="expected"):
            read(path)
    with pytest.raises(UserError, match="expected label images"):
        find_external_masks(tmp_path)


def test_a_data_folder_that_is_a_link_to_itself(tmp_path: Path) -> None:
    loop = _make(tmp_path / "loop", "loop")
    (source,) = parse_sources([loop])
    with pytest.raises(UserError, match="expected a data folder, found no folder"):
        index_dataset(source.path, "auto", HPA28, CHANNELS)
