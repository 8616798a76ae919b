"""Read planes of image files and OME-Zarr stores; read and write label images."""

import io
import logging
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, cast

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from tifffile import PHOTOMETRIC, TiffFile, TiffPage

from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.ome_zarr import Store, checksum, is_store, open_store, read_plane_of
from hpa.work.files import read_regular, write_bytes

ONLY_PLANE: Final = -1
"""Plane number for a file that must contain exactly one gray plane."""

MAX_LABELS: Final = 65_535
"""Maximum number of objects in a uint16 label image."""

BIT_DEPTHS: Final = (8, 10, 12, 14, 16)
"""Numbers of bits that the values of a 16-bit file can be recognised to use: cameras deliver 10, 12 or 14."""

_MAX_PX: Final = 2**30  # as OpenCV allows

_JPEG: Final = b"\xff\xd8\xff"
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PNG_DEPTH: Final = 24  # position of the bit depth in a PNG
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_DEPTH = 256, 257, 258  # numbers of the tags ImageWidth, ImageLength, BitsPerSample

_PHOTOMETRIC: Final = (
    *(PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB),
    PHOTOMETRIC.YCBCR,  # in JPEG compression, decoded to RGB
)

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def read_plane(path: Path, plane: int = ONLY_PLANE) -> Pixels:
    """Read one plane of an image file.

    Parameters
    ----------
    path
        A PNG, TIFF or JPEG file or an OME-Zarr store, 8 or 16 bit.
    plane
        Plane to read, counted through the pages of a TIFF and then through the samples of a page (red, green, blue for
        colour files), or through the channels of a store; `ONLY_PLANE` if the file must be gray. A gray JPEG gives the
        same plane for every number.

    Returns
    -------
    ndarray
        Shape (H, W), uint8 or uint16.

    Raises
    ------
    ImageError
        If the file is missing, unreadable, truncated, of another type or lacks that plane.
    """
    return _read_file(path).plane(plane)


class _Decoded(NamedTuple):
    """The decoded content of a file."""

    name: str
    pages: list[Pixels]
    is_jpeg: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.pages[0].shape[:2]

    def plane(self, plane: int) -> Pixels:
        """Return one plane (H, W), counted through pages and their samples."""
        samples = 1 if self.pages[0].ndim == 2 else self.pages[0].shape[2]
        n_planes = samples * len(self.pages)
        if plane == ONLY_PLANE or (n_planes == 1 and self.is_jpeg):
            if n_planes > 1:
                raise ImageError(f"{self.name}: expected one gray plane, found {n_planes}")
            return self.pages[0]
        if not 0 <= plane < n_planes:
            raise ImageError(f"{self.name}: expected a plane {plane}, found {n_planes} planes")
        return _sample(self.pages[plane // samples], plane % samples, samples)


class _OpenStore(NamedTuple):
    """A store, whose channels are decoded when they are asked for."""

    name: str
    store: Store

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.store.shape[-2:]

    def plane(self, plane: int) -> Pixels:
        """Return one channel (H, W)."""
        n_planes = self.store.n_planes
        if plane == ONLY_PLANE and n_planes > 1:
            raise ImageError(f"{self.name}: expected one gray plane, found {n_planes}")
        if plane >= n_planes:
            raise ImageError(f"{self.name}: expected a plane {plane}, found {n_planes} planes")
        return read_plane_of(self.store, max(plane, 0))


def _read_file(path: Path) -> _Decoded | _OpenStore:
    if is_store(path):
        return _OpenStore(path.name, open_store(path))
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise ImageError(f"missing file {path.name}") from None
    except OSError as error:
        raise ImageError(f"unreadable file {path.name}: {error.strerror}") from None
    except ValueError:  # a NUL in a path of a table
        raise ImageError(f"missing file {path.name!r}") from None
    except MemoryError:
        raise ImageError(f"unreadable file {path.name}: larger than the memory") from None
    return _Decoded(path.name, _decode(content, path.name), content.startswith(_JPEG))


def _sample(page: Pixels, sample: int, samples: int) -> Pixels:
    return page if samples == 1 else cast(Pixels, np.ascontiguousarray(page[..., sample]))


def _decode(content: bytes, name: str) -> list[Pixels]:
    """Return the pages of a file, (H, W) or (H, W, samples); only a TIFF can have several.

    Whatever a decoder only warns of is a failure: most decoders fill in what is damaged or missing.
    """
    if content.startswith(_JPEG):
        pages = [_decode_jpeg(content, name)]
    elif content.startswith(_TIFF):
        pages = _decode_tiff(content, name)
    else:
        pages = [_decode_other(content, name)]
    for page in pages:
        if page.dtype not in (np.uint8, np.uint16):
            gaps = " with NaN" if page.dtype.kind == "f" and np.isnan(page).any() else ""
            raise ImageError(f"{name}: expected 8 or 16 bit, found {page.dtype}{gaps}")
        if page.shape[2:] != pages[0].shape[2:]:
            raise ImageError(f"{name}: expected pages of one kind, found gray and coloured ones")
    return pages


def _decode_jpeg(content: bytes, name: str) -> Pixels:
    # OpenCV and Pillow return a JPEG that is cut off or damaged in the middle without any error.
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(height, width, name)
        if color not in ("Gray", "YCbCr", "RGB"):
            raise ImageError(f"{name}: expected a gray or RGB JPEG, found {color}")
        pixels = simplejpeg.decode_jpeg(content, "GRAY" if color == "Gray" else "RGB", strict=True)
    except ValueError as error:
        raise ImageError(f"truncated or damaged JPEG {name} ({error})") from None
    return cast(Pixels, pixels[..., 0] if color == "Gray" else pixels)


class _Errors(logging.Handler):
    """Collects the errors that a library logs in this thread while it goes on; warnings of odd tags are harmless."""

    def __init__(self, library: str) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        self._logger = logging.getLogger(library)
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.messages.append(record.getMessage())

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


def _decode_tiff(content: bytes, name: str) -> list[Pixels]:
    # OpenCV goes on after an error of libtiff; tifffile raises, or logs it.
    with _Errors("tifffile") as errors:
        try:
            with TiffFile(io.BytesIO(content)) as file:
                pages = [_decode_page(page.aspage(), name) for page in file.pages]
        except ImageError:
            raise
        except Exception as error:  # every codec raises its own types
            errors.messages.insert(0, str(error) or type(error).__name__)
    if errors.messages:
        raise ImageError(f"truncated or damaged TIFF {name} ({' '.join(errors.messages[0].split())})")
    return pages


def _decode_page(page: TiffPage, name: str) -> Pixels:
    _check_size(page.imagelength, page.imagewidth, name)
    if page.photometric not in _PHOTOMETRIC:
        raise ImageError(f"{name}: expected a gray or RGB TIFF, found {getattr(page.photometric, 'name', 'another')}")
    if not all(page.databytecounts):
        raise ImageError(f"truncated or damaged TIFF {name} (parts of the pixels were never written)")
    pixels = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise ImageError(f"{name}: expected pages of rows and columns, found the axes {page.axes}")
    if page.photometric == PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.invert(pixels)
    return cast(Pixels, pixels)


def _decode_other(content: bytes, name: str) -> Pixels:
    # OpenCV silently fills in the rest of a truncated PNG.
    if content.startswith(b"\x89PNG") and b"IEND" not in content[-64:]:
        raise ImageError(f"truncated PNG {name}")
    page: Any = None
    with suppress(cv2.error):
        page = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if page is None:
        raise ImageError(f"{name} is not an image that can be decoded")
    if page.ndim == 3 and page.shape[2] >= 3:  # OpenCV's order is blue, green, red
        page = page[..., [2, 1, 0, *range(3, page.shape[2])]]
    return cast(Pixels, page)


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > _MAX_PX:
        raise ImageError(f"{name}: expected at most {_MAX_PX:,} px, found {height} x {width}")


def read_channels(image: Mapping[Any, Any], channels: Sequence[Channel]) -> Pixels:
    """Read channels of one image into one array of shape (C, H, W); otherwise like `read_planes`."""
    return cast(Pixels, np.stack(read_planes(image, channels)))


def read_planes(image: Mapping[Any, Any], channels: Sequence[Channel]) -> list[Pixels]:
    """Read channels of one image; a file that contains several of them is decoded once.

    Parameters
    ----------
    image
        A row of the image table (`hpa.images`).
    channels
        Which channels, in the order wanted.

    Returns
    -------
    list of ndarray
        C planes of shape (H, W), all uint8 or all uint16. 16-bit values of a lower bit_depth in the row are scaled to
        16 bits.

    Raises
    ------
    ImageError
        If a plane cannot be read, the planes differ in size or depth, the size is not that in the row, or a value
        exceeds the bit_depth.
    """
    planes: list[Pixels] = []
    decoded: dict[str, _Decoded | _OpenStore] = {}
    for channel in channels:
        path = image[f"path_{channel}"]
        try:
            if path not in decoded:
                decoded[path] = _read_file(Path(path))
            planes.append(decoded[path].plane(int(image[f"plane_{channel}"])))
        except ImageError as error:
            raise ImageError(f"{channel} channel: {error}") from None
        if planes[-1].shape != planes[0].shape:
            raise ImageError(
                f"channels of different size: {channels[0]} {planes[0].shape}, {channel} {planes[-1].shape}"
            )
        if planes[-1].dtype != planes[0].dtype:
            raise ImageError(
                f"channels of different depth: {channels[0]} {planes[0].dtype}, {channel} {planes[-1].dtype}"
            )
    _check_listed_size(image, next(iter(decoded.values())).shape)
    bit_depth = int(image.get("bit_depth", BIT_DEPTHS[-1]))
    return [_expand(plane, bit_depth, channel) for plane, channel in zip(planes, channels, strict=True)]


def checksum_files(image: Mapping[Any, Any], channels: Sequence[Channel]) -> str:
    """Return the checksums of the files of some channels as a text, ``"blue=1c291ca3 yellow=60b2a5f1"``.

    Parameters
    ----------
    image
        A row of the image table.
    channels
        Which channels; a file that cannot be read is left out.
    """
    checksums = []
    for channel in channels:
        with suppress(OSError, ValueError, ImageError):
            path = Path(image[f"path_{channel}"])
            crc = checksum(path) if is_store(path) else zlib.crc32(read_regular(path))
            checksums.append(f"{channel}={crc:08x}")
    return " ".join(checksums)


def replaced_files(image: Mapping[Any, Any], checksums: str) -> list[Channel]:
    """Return the channels whose files are no longer those that `checksum_files` described."""
    channels = [cast(Channel, part.partition("=")[0]) for part in checksums.split()]
    same = set(checksum_files(image, channels).split())
    return [channel for channel, part in zip(channels, checksums.split(), strict=True) if part not in same]


def _check_listed_size(image: Mapping[Any, Any], shape: tuple[int, ...]) -> None:
    """Check the size that the file's header had when the image table was made; 0 is unknown."""
    listed = int(image.get("height_px", 0)), int(image.get("width_px", 0))
    if all(listed) and shape != listed:
        raise ImageError(
            f"expected {listed[0]} x {listed[1]} px as when the work folder was made, found {shape[0]} x "
            f"{shape[1]} px; make the work folder again with the new files"
        )


def depth_of(highest: int) -> int:
    """Return the smallest of `BIT_DEPTHS` that holds a value.

    Examples
    --------
    >>> [depth_of(value) for value in (255, 256, 4095, 65535)]
    [8, 10, 12, 16]
    """
    return next(depth for depth in BIT_DEPTHS if highest < 2**depth)


def expand_to_16_bits(plane: NDArray[np.uint16], bit_depth: int) -> NDArray[np.uint16]:
    """Scale values of `bit_depth` bits to the full range of 16 bits.

    The high bits are repeated below the low ones: 0 stays 0, the highest value becomes 65,535, and each value is within
    1 of the exact product.

    Parameters
    ----------
    plane
        Values below ``2**bit_depth``.
    bit_depth
        One of `BIT_DEPTHS`.
    """
    if bit_depth == BIT_DEPTHS[-1]:
        return plane
    return np.asarray(plane << (16 - bit_depth) | plane >> (2 * bit_depth - 16), dtype=np.uint16)


def _expand(plane: Pixels, bit_depth: int, channel: Channel) -> Pixels:
    if plane.dtype != np.uint16 or bit_depth == BIT_DEPTHS[-1]:
        return plane
    highest = int(plane.max(initial=0))
    if highest >= 2**bit_depth:
        raise ImageError(
            f"{channel} channel: expected values up to {2**bit_depth - 1:,} (data.bit_depth = {bit_depth}), found "
            f"{highest:,}; make a new work folder with --set data.bit_depth={depth_of(highest)}"
        )
    return expand_to_16_bits(cast(NDArray[np.uint16], plane), bit_depth)


def write_label_image(path: Path, labels: NDArray[np.integer[Any]]) -> None:
    """Write a label image as a 16-bit PNG, atomically.

    Parameters
    ----------
    path
        The file to write.
    labels
        Shape (H, W), 0 for background and 1..n for objects.

    Raises
    ------
    ImageError
        If it has more objects than 16 bits can represent.
    """
    if labels.size and labels.max() > MAX_LABELS:
        raise ImageError(f"expected at most {MAX_LABELS} objects, found {labels.max()}")
    # Run-length encoding suits label images: it takes a third of the time of other strategies and files are no larger.
    # Differences to the row above give files a seventh to a third smaller than differences to the previous pixel, which
    # are read in two thirds of the time.
    options = [
        cv2.IMWRITE_PNG_STRATEGY,
        cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER,
        cv2.IMWRITE_PNG_FILTER_UP,
    ]
    _, content = cv2.imencode(".png", labels.astype(np.uint16), options)
    write_bytes(path, content.tobytes())


class Header(NamedTuple):
    """What the header of an image file says.

    Parameters
    ----------
    height_px, width_px
        Size of the first page.
    bits
        Bits per sample; 0 if the format does not say.
    """

    height_px: int
    width_px: int
    bits: int


def read_header(path: Path) -> Header | None:
    """Read the header of an image file or a store; return None if it is damaged or of another type."""
    try:
        if is_store(path):
            store = open_store(path)
            height, width = store.shape[-2:]
            return Header(height, width, 8 * np.dtype(store.dtype).itemsize)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and of odd tags, which are read all the same
            with Image.open(path) as image:
                bits = 8 if image.format == "JPEG" else 0
                if image.format == "PNG":
                    with path.open("rb") as file:
                        bits = file.read(_PNG_DEPTH + 1)[-1]
                elif image.format == "TIFF":
                    tags = getattr(image, "tag_v2", {})
                    # Pillow turns the size by the tag Orientation, but pixels are read as they are stored.
                    return Header(tags[_TIFF_HEIGHT], tags[_TIFF_WIDTH], max(tags.get(_TIFF_DEPTH, (1,))))
                return Header(image.height, image.width, bits)
    except Exception:  # damaged files make readers raise whatever they lead them to
        return None


def read_label_image(path: Path) -> NDArray[np.uint16]:
    """Read a label image of shape (H, W).

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    return read_plane(path).astype(np.uint16, copy=False)
