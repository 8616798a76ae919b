from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hpa.channels import CHANNELS
from hpa.errors import ImageError
from hpa.pixels import read_channels, read_label_image, read_plane, write_label_image


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

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            decoded.append(real.__name__)
            return real(*arguments)

        return call

    for name in ("imdecode", "imdecodemulti"):
        monkeypatch.setattr(cv2, name, counted(getattr(cv2, name)))
    stack = [_gray() // (n + 1) for n in range(3)]
    cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack(stack[::-1]))
    cv2.imwritemulti(str(tmp_path / "stack.tif"), stack)
    for n, file in enumerate(("rgb.png", "stack.tif")):
        image = {f"path_{c}": str(tmp_path / file) for c in CHANNELS} | {
            f"plane_{c}": plane for plane, c in enumerate(CHANNELS)
        }
        np.testing.assert_array_equal(read_channels(image, CHANNELS[:3]), stack)
        assert len(decoded) == n + 1


def test_labels_beyond_8_bits_round_trip(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [256, 65_535, 2]])
    write_label_image(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.png"), labels)
    with pytest.raises(ImageError, match="at most 65535 objects, found 65536"):
        write_label_image(tmp_path / "b.png", labels + 1)
    assert not (tmp_path / "b.png").exists()
