"""Read label images of other programs, and refuse unusable files."""

import pickle
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from hpa.errors import ImageError
from segment.external_masks import read_external_mask
from tests.support.shapes import discs

LABELS = np.array([0, 7, 300, 2])[discs((40, 50), [(10, 10), (10, 30), (30, 20)], 6)]


NUMBERED = np.array([0, 2, 3, 1])[discs((40, 50), [(10, 10), (10, 30), (30, 20)], 6)]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64, np.float32])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_any_integer_type_is_read_and_labels_become_consecutive(tmp_path: Path, suffix: str, dtype: Any) -> None:
    path = tmp_path / f"a_mask{suffix}"
    if suffix == ".npy":
        np.save(path, LABELS.astype(dtype))
    else:
        tifffile.imwrite(path, LABELS.astype(dtype))
    assert np.array_equal(read_external_mask(path, (40, 50)), NUMBERED)


def test_png_and_seg_npy_are_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a_cp_masks.png"), LABELS.astype(np.uint16))
    assert np.array_equal(read_external_mask(tmp_path / "a_cp_masks.png", (40, 50)), NUMBERED)
    content: Any = {"masks": LABELS.astype(np.uint16), "outlines": LABELS, "filename": "a.png", "flows": [LABELS * 1.5]}
    np.save(tmp_path / "a_seg.npy", content)
    assert np.array_equal(read_external_mask(tmp_path / "a_seg.npy", (40, 50)), NUMBERED)


class Harmful:
    """Object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_harmful_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a_seg.npy", np.array({"masks": Harmful(tmp_path / "harm")}, dtype=object))
    with pytest.raises(ImageError, match="more than plain arrays"):
        read_external_mask(tmp_path / "a_seg.npy", (40, 50))
    np.save(tmp_path / "b.npy", np.array([Harmful(tmp_path / "harm")], dtype=object))
    with pytest.raises(ImageError, match="cannot be read"):
        read_external_mask(tmp_path / "b.npy", (40, 50))
    assert not (tmp_path / "harm").exists()
    with pytest.raises(FileNotFoundError):  # unpickling it elsewhere does run the code
        pickle.loads(pickle.dumps(Harmful(tmp_path / "no" / "folder")))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:30], "of the image's size"),
        (LABELS + 0.5, "integers from 0"),
        (LABELS - 1, "integers from 0"),
        (LABELS > 0, "integers from 0"),
    ],
)
def test_files_that_are_not_label_images_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", labels)
    with pytest.raises(ImageError, match=message):
        read_external_mask(tmp_path / "a.npy", (40, 50))


def test_more_objects_than_a_label_image_can_hold_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(256 * 257).reshape(256, 257))
    with pytest.raises(ImageError, match="at most 65535 objects, found 65791"):
        read_external_mask(tmp_path / "a.npy", (256, 257))


HOSTILE = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("shutil", "rmtree"),
    ("pathlib", "Path.touch"),
    ("pickle", "loads"),
    ("codecs", "encode"),
    ("_codecs", "decode"),
    ("numpy.f2py.__main__", "dtype"),
    ("numpy.f2py", "ndarray"),
    ("numpy.testing", "scalar"),
    ("numpy", "load"),
    ("numpy", "save"),
    ("numpy", "memmap"),
    ("numpy.ctypeslib", "load_library"),
    ("numpy.lib.npyio", "_reconstruct"),
    ("numpy.core.multiarray", "fromfile"),
    ("numpy._core.multiarray", "dtype"),
]


@pytest.mark.parametrize(("module", "name"), HOSTILE, ids=[".".join(pair) for pair in HOSTILE])
def test_hostile_pickle_looks_up_nothing(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pickle calls ``module.name('touched')``; already importing some modules runs their code."""
    monkeypatch.chdir(tmp_path)
    call = pickle.PROTO + b"\x04" + pickle.SHORT_BINUNICODE + bytes([len(module)]) + module.encode()
    call += pickle.SHORT_BINUNICODE + bytes([len(name)]) + name.encode() + pickle.STACK_GLOBAL
    call += pickle.SHORT_BINUNICODE + b"\x07touched" + pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
    np.save(tmp_path / "a_seg.npy", np.array({"masks": NUMBERED}, dtype=object))
    header = (tmp_path / "a_seg.npy").read_bytes()
    header = header[: header.index(b"\n") + 1]
    (tmp_path / "a_seg.npy").write_bytes(header + call)
    before = set(sys.modules)
    with pytest.raises(ImageError, match=f"more than plain arrays .{module}.{name}"):
        read_external_mask(tmp_path / "a_seg.npy", (40, 50))
    assert set(sys.modules) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a_seg.npy"]


@pytest.mark.parametrize(
    "labels",
    [
        np.ones((40, 50), dtype=complex),
        np.full((40, 50), "1"),
        np.full((40, 50), b"1"),
        np.ones((40, 50), dtype="datetime64[s]"),
        np.ones((40, 50), dtype="timedelta64[s]"),
        np.ones((40, 50), dtype=[("a", "i4")]),
        np.full((40, 50), np.inf),
        np.full((40, 50), np.nan),
        np.full((40, 50), 1.5),
        np.ones((40, 50), dtype=bool),
        np.full((40, 50), -1),
    ],
    ids=lambda labels: f"{labels.dtype} {labels.flat[0]}",
)
def test_arrays_without_labels_are_image_errors(labels: np.ndarray[Any, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", labels)
    with pytest.raises(ImageError, match="expected integers from 0, found other values"):
        read_external_mask(tmp_path / "a.npy", (40, 50))
