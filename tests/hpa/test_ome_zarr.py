"""OME-Zarr: stores written by hand and by zarr are read as images, and what a hostile store asks for is refused."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpa.errors import ImageError
from hpa.images import read_images
from hpa.layouts.pixel_size import read_pixel_um
from hpa.ome_zarr import checksum, is_store, open_store
from hpa.pixels import checksum_files, read_channels, read_header, read_plane
from pipeline.__main__ import main

PLANES = np.random.default_rng(0).integers(0, 4096, (3, 40, 56), np.uint16)
needs_zarr = pytest.mark.skipif(find_spec("zarr") is None, reason="needs cellwise[zarr]")


def _attributes(axes: str = "cyx", unit: str = "micrometer", size: float = 0.65, path: str = "0") -> dict[str, Any]:
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    named = [{"name": axis, **kinds.get(axis, {"type": "space", "unit": unit})} for axis in axes]
    scale = [{"type": "scale", "scale": [1.0] * (len(axes) - 2) + [size, size]}]
    return {"multiscales": [{"axes": named, "datasets": [{"path": path, "coordinateTransformations": scale}]}]}


def write_by_hand(
    folder: Path, planes: np.ndarray = PLANES, attributes: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Write a store of version 2 without any library: JSON, and one uncompressed chunk per channel in C order."""
    array = folder / "0"
    array.mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text(json.dumps(attributes or _attributes()))
    metadata = {
        "zarr_format": 2,
        "shape": list(planes.shape),
        "chunks": [*[1] * (planes.ndim - 2), *planes.shape[-2:]],
        "dtype": planes.dtype.str,
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        "order": "C",
    }
    (array / ".zarray").write_text(json.dumps(metadata | changes))
    for place in np.ndindex(planes.shape[:-2]):
        (array / ".".join(map(str, (*place, 0, 0)))).write_bytes(planes[place].tobytes())
    return folder


def _write_by_zarr(folder: Path, version: int) -> Path:
    """Write a store in compressed chunks of 16 px, the last of which reach beyond the image; version 3 in shards."""
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=version)
    group.attrs.update({"ome": {"version": "0.5", **_attributes()}} if version == 3 else _attributes())
    shards = (1, 32, 32) if version == 3 else None
    array = group.create_array("0", shape=PLANES.shape, chunks=(1, 16, 16), shards=shards, dtype=PLANES.dtype)
    array[:] = PLANES
    return folder


def test_the_metadata_are_read_without_the_package(tmp_path: Path) -> None:
    path = write_by_hand(tmp_path / "a.zarr")
    store = open_store(path)
    assert is_store(path)
    assert (store.shape, store.n_planes, store.dtype, store.version) == ((3, 40, 56), 3, np.uint16, 2)
    header = read_header(path)
    assert header is not None
    assert tuple(header) == (40, 56, 16)
    assert read_pixel_um(path) == pytest.approx(0.65)
    for n, (unit, size) in enumerate({"nanometer": 650, "millimeter": 0.00065, "parsec": 0}.items()):
        other = write_by_hand(tmp_path / f"{n}.zarr", attributes=_attributes(unit=unit, size=size or 1))
        assert read_pixel_um(other) == pytest.approx(0.65 if size else 0)
    assert not is_store(tmp_path)
    assert not is_store(path / "0")


@pytest.mark.parametrize(
    ("changes", "attributes", "sentence"),
    [
        ({"filters": [{"id": "pickle"}]}, {}, "found 'pickle'"),
        ({"compressor": {"id": "pickle"}}, {}, "found 'pickle'"),
        ({"dtype": "|O", "filters": [{"id": "vlen-utf8"}]}, {}, "found 'vlen-utf8'"),
        ({"dtype": "|O"}, {}, r"expected 8 or 16 bit, found \|O"),
        ({"dtype": "<f4"}, {}, "expected 8 or 16 bit, found <f4"),
        ({"dtype": [["a", "<u2"]]}, {}, "expected 8 or 16 bit"),
        ({"chunks": [1, 2**20, 2**20]}, {}, "expected chunks of at most"),
        ({"chunks": [1, 0, 8]}, {}, "expected chunks of at most"),
        ({"chunks": [1, 8.5, 8]}, {}, "expected the metadata of an OME-Zarr image"),
        ({"shape": [3, 2**20, 2**20]}, {}, "expected at most 64 channels"),
        ({"shape": [10**9, 40, 56]}, {}, "expected at most 64 channels"),
        ({"shape": "3"}, {}, "expected the metadata of an OME-Zarr image"),
        ({}, {"path": "../../elsewhere"}, "expected an array within the store"),
        ({}, {"path": "/etc"}, "expected an array within the store"),
        ({}, {"path": "1"}, "expected readable metadata in .zarray"),
        ({}, {"axes": "zyx"}, "expected one plane in depth and time, found 3 in z"),
        ({}, {"axes": "cxy"}, "expected the axes c, y, x"),
        ({}, {"axes": "yx"}, "expected the axes c, y, x"),
    ],
)
def test_what_cannot_be_an_image_is_refused_before_anything_is_decoded(
    tmp_path: Path, changes: dict[str, Any], attributes: dict[str, Any], sentence: str
) -> None:
    path = write_by_hand(tmp_path / "a.zarr", attributes=_attributes(**attributes), **changes)
    with pytest.raises(ImageError, match=sentence):
        read_plane(path, 0)
    assert read_header(path) is None


@pytest.mark.parametrize("scale", [7, "abc", [], [1], [1, "a", "b"], [1, 10**400, 10**400], [1, 0, 0], [1, -1, -1]])
def test_odd_sizes_of_pixels_are_failures_or_none(tmp_path: Path, scale: Any) -> None:
    attributes = _attributes()
    attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = scale
    assert read_pixel_um(write_by_hand(tmp_path / "a.zarr", attributes=attributes)) == 0


def test_codecs_within_shards_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    (path / "0").mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps({"node_type": "group", "attributes": {"ome": _attributes()}}))
    inner = [{"name": "bytes"}, {"name": "numcodecs.pickle"}]
    metadata = {
        "shape": [3, 40, 56],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 40, 56]}},
        "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 8, 8], "codecs": inner}}],
    }
    (path / "0" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(ImageError, match=r"found 'numcodecs\.pickle'"):
        read_plane(path, 0)


def test_links_and_metadata_that_are_no_json_are_refused(tmp_path: Path) -> None:
    linked = write_by_hand(tmp_path / "a.zarr")
    (linked / "0" / "0.0.0").unlink()
    (linked / "0" / "0.0.0").symlink_to("/etc/hostname")
    with pytest.raises(ImageError, match=r"expected regular files, found 0\.0\.0"):
        open_store(linked).files()
    for content in ("", "{", "[" * 100_000, "7", '{"multiscales": 7}', '{"multiscales": [{}]}'):
        broken = tmp_path / f"broken-{len(list(tmp_path.iterdir()))}.zarr"
        broken.mkdir()
        (broken / ".zattrs").write_text(content)
        with pytest.raises(ImageError, match=r"missing file|unreadable|expected"):
            read_plane(broken, 0)


def test_a_changed_chunk_changes_the_checksum(tmp_path: Path) -> None:
    path = write_by_hand(tmp_path / "a.zarr")
    before, text = checksum(path), checksum_files({"path_blue": str(path)}, ["blue"])
    assert text == f"blue={before:08x}"
    chunk = path / "0" / "2.0.0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    assert checksum(path) != before


@pytest.mark.skipif(find_spec("zarr") is not None, reason="zarr is installed")
def test_init_names_the_extra_where_it_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_by_hand(tmp_path / "plate" / "B02_f1.zarr")
    words = [
        "--data",
        str(tmp_path / "plate"),
        "--pattern",
        "{well}_f{field}.zarr",
        "--channel",
        "0=blue",
        "--channel",
        "1=yellow",
    ]
    assert main(["init", str(tmp_path / "work"), *words]) == 2
    assert "expected zarr (pip install 'cellwise[zarr]') to read B02_f1.zarr" in capsys.readouterr().err


@needs_zarr
@pytest.mark.parametrize("kind", ["by hand", "8 bit", "with t and z", 2, 3])
def test_pixels_are_those_that_were_written(tmp_path: Path, kind: int | str) -> None:
    path, planes = tmp_path / "a.zarr", PLANES
    if isinstance(kind, int):
        _write_by_zarr(path, kind)
    elif kind == "with t and z":
        write_by_hand(path, PLANES[None, :, None], _attributes("tczyx"))
    else:
        planes = PLANES if kind == "by hand" else (PLANES >> 4).astype(np.uint8)
        write_by_hand(path, planes)
    for plane in (2, 0, 1):
        pixels = read_plane(path, plane)
        assert pixels.dtype == planes.dtype
        np.testing.assert_array_equal(pixels, planes[plane])
    with pytest.raises(ImageError, match="expected a plane 3, found 3 planes"):
        read_plane(path, 3)
    with pytest.raises(ImageError, match="expected one gray plane, found 3"):
        read_plane(path)
    assert read_pixel_um(path) == pytest.approx(0.65)


@needs_zarr
@pytest.mark.parametrize("version", [2, 3])
def test_damaged_chunks_are_failures(tmp_path: Path, version: int) -> None:
    """Version 2 is in Blosc, which reads on beyond the end of a chunk that was cut off."""
    path = _write_by_zarr(tmp_path / "a.zarr", version)
    chunk = max((file for file in (path / "0").rglob("*[0-9]") if file.is_file()), key=lambda file: file.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(ImageError, match=r"truncated or damaged OME-Zarr a\.zarr"):
        [read_plane(path, plane) for plane in range(3)]


@needs_zarr
@pytest.mark.parametrize(
    ("pattern", "name", "image_id", "well"),
    [
        ("{well}_f{field}.zarr", "B02_f1.zarr", "B02_1", "B02"),
        ("{plate}.zarr/{row}/{column}/{field}", "p1.zarr/B/02/1", "p1_B_02_1", "p1_B02"),
    ],
)
def test_a_plate_is_read_by_its_pattern(tmp_path: Path, pattern: str, name: str, image_id: str, well: str) -> None:
    write_by_hand(tmp_path / "plate" / name)
    words = ["--data", str(tmp_path / "plate"), "--pattern", pattern, "--channel", "0=blue", "--channel", "2=yellow"]
    assert main(["init", str(tmp_path / "work"), *words]) == 0
    (row,) = read_images(tmp_path / "work" / "images.parquet").to_dict("records")
    assert row["image_id"] == image_id
    assert row["well"] == well
    assert (row["height_px"], row["width_px"], row["bit_depth"]) == (40, 56, 12)
    pixels = read_channels({**row, "bit_depth": 16}, ["blue", "yellow"])
    np.testing.assert_array_equal(pixels, PLANES[[0, 2]])
    assert "pixel_um = 0.65" in (tmp_path / "work" / "recipe.toml").read_text()


@pytest.mark.parametrize("attributes", [None, [], "text", 3])
def test_odd_attributes_are_no_image(tmp_path: Path, attributes: Any) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps({"attributes": attributes}))
    assert not is_store(tmp_path / "a.zarr")
