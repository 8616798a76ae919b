import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

import hpa.pixels
from hpa.channels import CHANNELS
from hpa.errors import ImageError
from hpa.pixels import read_channels, read_header, read_label_image, read_plane, write_label_image


def _gray(shape: tuple[int, int] = (5, 7), depth: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(depth).max, shape).astype(depth)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_gray_files_round_trip(tmp_path: Path, suffix: str, depth: type) -> None:
    pixels = _gray(depth=depth)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
    found = read_plane(tmp_path / f"a{suffix}")
    assert found.dtype == depth
    np.testing.assert_array_equal(found, pixels)


def test_planes_of_a_colour_file_are_red_green_blue(tmp_path: Path) -> None:
    blue_green_red = np.stack([np.full((3, 4), value, np.uint8) for value in (30, 20, 10)], axis=2)
    cv2.imwrite(str(tmp_path / "a.png"), blue_green_red)
    assert [int(read_plane(tmp_path / "a.png", plane)[0, 0]) for plane in range(3)] == [10, 20, 30]
    with pytest.raises(ImageError, match="expected a plane 3, found 3"):
        read_plane(tmp_path / "a.png", 3)
    with pytest.raises(ImageError, match="expected one gray plane, found 3"):
        read_plane(tmp_path / "a.png")


def test_unusable_files_raise_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing file gone\.png"):
        read_plane(tmp_path / "gone.png")
    whole = cv2.imencode(".png", _gray((64, 64)))[1].tobytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    cases = {
        "cut.png": (whole[:-100], "truncated PNG"),
        "empty.png": (b"", "not an image"),
        "text.png": (b"hello", "not an image"),
        "broken.png": (bytes(broken), "not an image"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=reason):
            read_plane(tmp_path / name)
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((3, 3), np.float32))
    with pytest.raises(ImageError, match="expected 8 or 16 bit, found float32"):
        read_plane(tmp_path / "float.tif")


def test_channels_of_different_size_or_depth_raise(tmp_path: Path) -> None:
    image: dict[str, object] = {}
    for channel, pixels in {"red": _gray(), "green": _gray((5, 8)), "blue": _gray(depth=np.uint16)}.items():
        cv2.imwrite(str(tmp_path / f"{channel}.png"), pixels)
        image |= {f"path_{channel}": str(tmp_path / f"{channel}.png"), f"plane_{channel}": -1}
    np.testing.assert_array_equal(read_channels(image, ("red", "red")), np.stack([_gray(), _gray()]))
    with pytest.raises(ImageError, match=r"different size: red \(5, 7\), green \(5, 8\)"):
        read_channels(image, ("red", "green"))
    with pytest.raises(ImageError, match="different depth: red uint8, blue uint16"):
        read_channels(image, ("red", "blue"))


def test_file_of_several_channels_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the RGB files of Jovian and the stacks of plates."""
    decoded: list[str] = []
    real = hpa.pixels._decode

    def counted(content: bytes, name: str) -> Any:
        decoded.append(name)
        return real(content, name)

    monkeypatch.setattr(hpa.pixels, "_decode", counted)
    stack = [_gray() // (n + 1) for n in range(3)]
    cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack(stack[::-1]))
    cv2.imwritemulti(str(tmp_path / "stack.tif"), stack)
    for n, file in enumerate(("rgb.png", "stack.tif")):
        image = {f"path_{c}": str(tmp_path / file) for c in CHANNELS} | {
            f"plane_{c}": plane for plane, c in enumerate(CHANNELS)
        }
        np.testing.assert_array_equal(read_channels(image, CHANNELS[:3]), stack)
        assert len(decoded) == n + 1


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
def test_tiffs_of_all_kinds_give_the_pixels_that_were_written(tmp_path: Path, compression: str, depth: type) -> None:
    gray = _gray((40, 30), depth)
    color = np.stack([gray, gray // 2, gray // 3], axis=2)
    kinds: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "strips": (gray, {"rowsperstrip": 7}),
        "tiles": (gray, {"tile": (16, 16)}),
        "big endian": (gray, {"byteorder": ">"}),
        "BigTIFF": (gray, {"bigtiff": True}),
        "inverted": (np.invert(gray), {"photometric": "miniswhite"}),
        "colour": (color, {"photometric": "rgb"}),
        "planar": (np.moveaxis(color, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        "pages": (np.moveaxis(color, -1, 0), {"photometric": "minisblack"}),
    }
    for name, (pixels, options) in kinds.items():
        tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, **options)
        several = name in ("colour", "planar", "pages")
        for plane in range(3 if several else 1):
            found = read_plane(tmp_path / "a.tif", plane)
            assert found.dtype == depth
            np.testing.assert_array_equal(found, color[..., plane] if several else gray, err_msg=name)


def test_tiffs_that_are_no_gray_or_rgb_pixels_raise(tmp_path: Path) -> None:
    colors = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", _gray(), photometric="palette", colormap=colors)
    with pytest.raises(ImageError, match="expected a gray or RGB TIFF, found PALETTE"):
        read_plane(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", _gray((32, 32)), tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        counts = list(file.pages[0].aspage().databytecounts)
        file.pages[0].aspage().tags["TileByteCounts"].overwrite([*counts[:-1], 0])
    with pytest.raises(ImageError, match="parts of the pixels were never written"):
        read_plane(tmp_path / "a.tif")


def _encoded(kind: str) -> bytes:
    pixels = cv2.GaussianBlur(_gray((96, 96)), (0, 0), 2)
    if kind == "tif":
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels, compression="zlib", rowsperstrip=16)
        return stream.getvalue()
    color = cv2.merge([pixels, pixels, np.zeros_like(pixels)])
    return cv2.imencode(f".{kind}", pixels if kind == "png" else color)[1].tobytes()


@pytest.mark.parametrize(("kind", "end"), [("jpg", b"\xff\xd9"), ("png", b"\0\0\0\0IEND\xaeB`\x82"), ("tif", b"")])
def test_files_cut_anywhere_raise_even_with_an_end_mark(tmp_path: Path, kind: str, end: bytes) -> None:
    whole = _encoded(kind)
    (tmp_path / "a").write_bytes(whole)
    read_plane(tmp_path / "a", 0)
    for share in (0.5, 0.6, 0.7, 0.8, 0.9, 0.97):
        (tmp_path / "a").write_bytes(whole[: int(len(whole) * share)] + end)
        with pytest.raises(ImageError):
            read_plane(tmp_path / "a", 0)


@pytest.mark.parametrize("kind", ["png", "tif"])  # a JPEG has no checksums
def test_files_damaged_anywhere_raise(tmp_path: Path, kind: str) -> None:
    whole = _encoded(kind)
    for position in np.linspace(len(whole) * 0.3, len(whole) * 0.7, 20).astype(int):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        (tmp_path / "a").write_bytes(damaged)
        with pytest.raises(ImageError):
            read_plane(tmp_path / "a")


def test_bytes_after_the_end_of_a_jpeg_are_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(_encoded("jpg") + bytes(200))
    assert read_plane(tmp_path / "a.jpg", 0).shape == (96, 96)


def test_an_image_of_another_size_than_listed_raises(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), _gray((5, 8)))
    image = {"path_red": str(tmp_path / "a.png"), "plane_red": -1, "height_px": 5, "width_px": 8}
    assert read_channels(image, ("red",)).shape == (1, 5, 8)
    with pytest.raises(ImageError, match="expected 5 x 7 px as when the work folder was made, found 5 x 8 px"):
        read_channels(image | {"width_px": 7}, ("red",))
    assert read_channels(image | {"height_px": 0, "width_px": 0}, ("red",)).shape == (1, 5, 8)


def test_labels_beyond_8_bits_round_trip(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [256, 65_535, 2]])
    write_label_image(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.png"), labels)
    with pytest.raises(ImageError, match="at most 65535 objects, found 65536"):
        write_label_image(tmp_path / "b.png", labels + 1)
    assert not (tmp_path / "b.png").exists()


def test_errors_that_a_decoder_only_logs_are_failures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), _gray((32, 32)))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tag = file.pages[0].aspage().tags["PlanarConfiguration"]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[tag.offset + 2] = 193  # its data type
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match=r"truncated or damaged TIFF .* invalid data type 193"):
        read_plane(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


def test_headers(tmp_path: Path) -> None:
    for suffix, depth in ((".png", np.uint8), (".png", np.uint16), (".tif", np.uint16), (".jpg", np.uint8)):
        cv2.imwrite(str(tmp_path / f"a{suffix}"), _gray((5, 7), depth))
        assert read_header(tmp_path / f"a{suffix}") == (5, 7, np.iinfo(depth).bits)
    for turn in (1, 6):  # 6: to be shown turned by 90 degrees; pixels are used as they are stored
        tifffile.imwrite(tmp_path / "a.tif", _gray(), extratags=[(274, "H", 1, turn, True)])
        assert read_plane(tmp_path / "a.tif").shape == (5, 7)
        assert read_header(tmp_path / "a.tif") == (5, 7, 8)
    large = struct.pack(">IIBBBBB", 10_500, 10_500, 16, 0, 0, 0, 0)  # Pillow warns of it
    chunks = [(b"IHDR", large), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [struct.pack(">I", len(b)) + t + b + struct.pack(">I", zlib.crc32(t + b)) for t, b in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    assert read_header(tmp_path / "a.png") == (10_500, 10_500, 16)
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert read_header(tmp_path / "a.png") is None
