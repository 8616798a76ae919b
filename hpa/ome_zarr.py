"""Images in OME-Zarr, a folder with metadata in JSON and pixels in chunks (https://ngff.openmicroscopy.org).

Versions 0.4 and 0.5 are read. The package zarr decodes the chunks (the extra ``cellwise[zarr]``). A store may come from
anywhere, so its metadata are read and checked here first, and only then is anything decoded: axes, sizes, data type,
and codecs, of which some would run code that a file names. A missing chunk has the fill value, as the format says.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hpa.errors import ImageError
from hpa.work.files import read_regular

_METADATA: Final = ("zarr.json", ".zattrs", ".zarray", ".zgroup")
_MAX_JSON: Final = 2**20
_MAX_ELEMENTS: Final = 2**30  # of an image, and of a chunk
_MAX_CHANNELS: Final = 64
_DTYPES: Final[Mapping[str, type[np.uint8] | type[np.uint16]]] = {
    "uint8": np.uint8,
    "uint16": np.uint16,
    "|u1": np.uint8,
    "<u2": np.uint16,
    ">u2": np.uint16,
}
_CODECS_V2: Final = ("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "shuffle")
_CODECS_V3: Final = ("bytes", "blosc", "gzip", "zstd", "crc32c", "transpose", "sharding_indexed")
_BLOSC_HEADER: Final = 16  # versions, flags, size of an item; sizes decoded, of a block, and stored, of 4 bytes each
_MICROMETRES: Final = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "angstrom": 1e-4}


def is_store(path: Path) -> bool:
    """Return whether a path is an OME-Zarr image: a folder whose metadata describe one."""
    try:
        return path.is_dir() and bool(_attributes(path).get("multiscales"))
    except (ImageError, OSError, ValueError):
        return False


@dataclass(frozen=True)
class Store:
    """The image of full resolution in a store.

    Parameters
    ----------
    array
        Folder of its array.
    shape
        Its shape.
    channel_axis
        Which axis counts the channels; None if there is a single one.
    dtype
        ``uint8`` or ``uint16``.
    pixel_um
        Side of a pixel, in micrometres; 0 if the store does not say, or if pixels are not square.
    version
        Of the format of the array: 2, or 3 with its metadata in zarr.json.
    blosc_bytes
        Size of a decoded chunk, if chunks are compressed by Blosc; else 0.
    """

    array: Path
    shape: tuple[int, ...]
    channel_axis: int | None
    dtype: type[np.uint8] | type[np.uint16]
    pixel_um: float
    version: Literal[2, 3]
    blosc_bytes: int

    @property
    def n_planes(self) -> int:
        """Number of channels."""
        return 1 if self.channel_axis is None else self.shape[self.channel_axis]

    def files(self) -> list[Path]:
        """Return the files of the array, sorted.

        Raises
        ------
        ImageError
            If one is not a regular file: a link, a pipe.
        """
        return sorted(_regular_files(self.array))


def open_store(path: Path) -> Store:
    """Read and check the metadata of a store; no pixel is read and the package zarr is not needed.

    Raises
    ------
    ImageError
        If it is not an image of one time and one plane in depth, of 8 or 16 bits, or uses an unusual codec.
    """
    name = path.name
    try:
        scales = _attributes(path)["multiscales"][0]
        axes = [str(axis["name"] if isinstance(axis, dict) else axis).lower() for axis in scales["axes"]]
        units = [axis.get("unit") if isinstance(axis, dict) else None for axis in scales["axes"]]
        inner = PurePosixPath(scales["datasets"][0]["path"])
        if inner.is_absolute() or ".." in inner.parts:
            raise ImageError(f"{name}: expected an array within the store, found the path {str(inner)!r}")
        array = path / inner
        shape, chunks, dtype, codecs = _array_metadata(array)
        pixel_um = _pixel_um(scales, units)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ImageError(f"{name}: expected the metadata of an OME-Zarr image, found none ({error!r})") from None
    version: Literal[2, 3] = 3 if (array / "zarr.json").is_file() else 2
    known = _CODECS_V3 if version == 3 else _CODECS_V2
    odd = [codec for codec in codecs if codec not in known]
    if odd:
        raise ImageError(f"{name}: expected chunks in {', '.join(known)}, found {odd[0]!r}")
    if dtype not in _DTYPES:
        raise ImageError(f"{name}: expected 8 or 16 bit, found {dtype}")
    if axes[-2:] != ["y", "x"] or len(axes) != len(shape) or not set(axes[:-2]) <= {"t", "c", "z"}:
        raise ImageError(f"{name}: expected the axes c, y, x, found {', '.join(axes)} of the shape {shape}")
    deep = [axis for axis, size in zip(axes, shape, strict=True) if axis in "tz" and size != 1]
    if deep:
        raise ImageError(
            f"{name}: expected one plane in depth and time, found {shape[axes.index(deep[0])]} in {deep[0]}"
        )
    channel_axis = axes.index("c") if "c" in axes else None
    if (channel_axis is not None and shape[channel_axis] > _MAX_CHANNELS) or shape[-1] * shape[-2] > _MAX_ELEMENTS:
        raise ImageError(f"{name}: expected at most {_MAX_CHANNELS} channels of {_MAX_ELEMENTS:,} px, found {shape}")
    if len(chunks) != len(shape) or math.prod(chunks) > _MAX_ELEMENTS or min(chunks) < 1 or min(shape) < 1:
        raise ImageError(f"{name}: expected chunks of at most {_MAX_ELEMENTS:,} values, found {chunks}")
    if "blosc" in codecs[:-1]:
        raise ImageError(f"{name}: expected Blosc alone or as the last codec, found {', '.join(codecs)}")
    blosc_bytes = math.prod(chunks) * np.dtype(_DTYPES[dtype]).itemsize if "blosc" in codecs else 0
    return Store(array, shape, channel_axis, _DTYPES[dtype], pixel_um, version, blosc_bytes)


def read_plane_of(store: Store, plane: int) -> NDArray[Any]:
    """Decode one channel.

    Returns
    -------
    ndarray
        Shape (H, W), uint8 or uint16.

    Raises
    ------
    ImageError
        If the package zarr is missing, or a chunk is damaged.
    """
    try:
        import zarr
    except ImportError:
        raise ImageError(
            f"expected zarr (pip install 'cellwise[zarr]') to read {store.array.parent.name}, found none"
        ) from None
    _check_files(store)
    place: list[Any] = [0] * (len(store.shape) - 2) + [slice(None)] * 2
    if store.channel_axis is not None:
        place[store.channel_axis] = plane
    try:
        pixels = np.asarray(zarr.open_array(store.array, mode="r", zarr_format=store.version)[tuple(place)])
    except Exception as error:  # every codec raises its own types
        raise ImageError(
            f"truncated or damaged OME-Zarr {store.array.parent.name} ({str(error) or type(error).__name__})"
        ) from None
    return np.ascontiguousarray(pixels, dtype=store.dtype)


def _check_files(store: Store) -> None:
    """Check that files are regular, and those of Blosc whole: it trusts their headers and reads on beyond the end."""
    for file in store.files():
        if not store.blosc_bytes or file.name in _METADATA:
            continue
        with file.open("rb") as opened:
            header = opened.read(_BLOSC_HEADER)
        decoded, stored = (int.from_bytes(header[start : start + 4], "little") for start in (4, 12))
        if (decoded, stored) != (store.blosc_bytes, file.stat().st_size):
            raise ImageError(
                f"truncated or damaged OME-Zarr {store.array.parent.name} (chunk {file.name}: expected {stored:,} bytes"
                f" of {store.blosc_bytes:,}, found {file.stat().st_size:,} of {decoded:,})"
            )


def has_zarr() -> bool:
    """Return whether the package zarr is installed."""
    from importlib.util import find_spec

    return find_spec("zarr") is not None


def size_bytes(path: Path) -> int:
    """Return the size of the image of full resolution on the disk; 0 if it cannot be read."""
    try:
        return sum(file.stat().st_size for file in open_store(path).files())
    except (ImageError, OSError):
        return 0


def checksum(path: Path) -> int:
    """Return the CRC-32 of the files of the image of full resolution, with their names.

    Raises
    ------
    OSError, ImageError
        If it cannot be read.
    """
    store, crc = open_store(path), 0
    for file in store.files():
        crc = zlib.crc32(file.relative_to(store.array).as_posix().encode(), crc)
        crc = zlib.crc32(read_regular(file), crc)
    return crc


def _attributes(path: Path) -> Mapping[str, Any]:
    """Return the attributes of a group: of version 3 in zarr.json, there below ``ome``; of version 2 in .zattrs."""
    if (path / "zarr.json").is_file():
        attributes = _mapping(_read_json(path / "zarr.json").get("attributes"))
        return _mapping(attributes.get("ome", attributes))
    return _read_json(path / ".zattrs")


def _array_metadata(array: Path) -> tuple[tuple[int, ...], tuple[int, ...], str, list[str]]:
    """Return shape, shape of the chunks, data type, and the names of all codecs."""
    if (array / "zarr.json").is_file():
        metadata = _read_json(array / "zarr.json")
        codecs = list(_codec_names(metadata["codecs"]))
        chunks, dtype = metadata["chunk_grid"]["configuration"]["chunk_shape"], metadata["data_type"]
        if metadata.get("storage_transformers"):
            codecs.append("storage_transformers")
    else:
        metadata = _read_json(array / ".zarray")
        listed = [*(metadata.get("filters") or []), metadata.get("compressor")]
        codecs = [str(codec["id"]) for codec in listed if codec]
        chunks, dtype = metadata["chunks"], metadata["dtype"]
    return _sizes(metadata["shape"]), _sizes(chunks), str(dtype), codecs


def _codec_names(codecs: list[Any]) -> Iterator[str]:
    for codec in codecs:
        yield str(codec["name"])
        configuration = codec.get("configuration") or {}
        for key in ("codecs", "index_codecs"):  # of shards
            yield from _codec_names(configuration.get(key, []))


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError(f"sizes {values!r}")
    return tuple(values)


def _pixel_um(scales: Mapping[str, Any], units: list[Any]) -> float:
    found = [t["scale"] for t in scales["datasets"][0].get("coordinateTransformations", []) if t.get("type") == "scale"]
    factors = [_MICROMETRES.get(str(unit), 0.0) for unit in units[-2:]]
    if not found or not all(isinstance(value, int | float) for value in found[0][-2:]):
        return 0.0
    rows, columns = (float(value) * factor for value, factor in zip(found[0][-2:], factors, strict=True))
    return square_um(rows, columns)


def square_um(rows: float, columns: float) -> float:
    """Return the side of a pixel if it is positive and the same in both directions, within a hundredth; else 0."""
    usable = math.isfinite(rows) and math.isfinite(columns) and columns > 0
    return columns if usable and abs(rows / columns - 1) < 0.01 else 0.0


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = read_regular(path)
        if len(content) > _MAX_JSON:
            raise ImageError(f"{path.name}: expected at most {_MAX_JSON:,} bytes of metadata, found {len(content):,}")
        return _mapping(json.loads(content))
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(f"{path.parent.name}: expected readable metadata in {path.name}, found: {error}") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _regular_files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _regular_files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            else:
                raise ImageError(f"{folder.name}: expected regular files, found {entry.name}, which is none")
