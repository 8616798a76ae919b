"""Read label images made by other programs (HPA-Cell-Segmentation, napari, Cellpose) or by hand."""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

from hpa.errors import ImageError, UserError
from hpa.pixels import MAX_LABELS, read_plane
from hpa.work.files import read_regular
from segment.postprocess.labels import Labels

_CELL_ENDINGS: Final = ("_mask", "_masks", "_cp_masks", "_cellmask", "_predictedmask", "_seg", "")
_NUCLEUS_ENDINGS: Final = ("_nuclei", "_nucleimask")
_SUFFIXES: Final = (".png", ".tif", ".tiff", ".npy")
_SEG: Final = "_seg.npy"  # written by Cellpose: a pickled dictionary


@dataclass(frozen=True)
class ExternalMasks:
    """The label images of a folder.

    Parameters
    ----------
    files
        Path of each file by its name without suffix.
    """

    files: dict[str, Path]

    def image_ids(self) -> list[str]:
        """Return the ids of the images that have a file of cells, by the names of the files."""
        ids = set()
        for name in self.files:
            if not name.endswith(_NUCLEUS_ENDINGS):
                ending = max((end for end in _CELL_ENDINGS if name.endswith(end)), key=len)
                ids.add(name.removesuffix(ending))
        return sorted(ids)

    def cells_path(self, image_id: str) -> Path | None:
        """Return the file of an image's cells, or None if there is none."""
        return self._first(image_id, _CELL_ENDINGS)

    def nuclei_path(self, image_id: str) -> Path | None:
        """Return the file of an image's nuclei, or None if there is none."""
        return self._first(image_id, _NUCLEUS_ENDINGS)

    def _first(self, image_id: str, endings: tuple[str, ...]) -> Path | None:
        return next((self.files[image_id + end] for end in endings if image_id + end in self.files), None)


def find_external_masks(folder: Path) -> ExternalMasks:
    """List the label images of a folder.

    The file of an image's cells is named ``<id>_mask``, ``<id>_masks``, ``<id>_cp_masks``, ``<id>_cellmask``,
    ``<id>_predictedmask``, ``<id>_seg`` or ``<id>``, that of its nuclei ``<id>_nuclei`` or ``<id>_nucleimask``. The
    format is PNG, TIFF or NPY. If there are several, the first in this order is used: Cellpose saves masks beside the
    image, which is ``<id>``.

    Raises
    ------
    UserError
        If the folder has no such file.
    """
    files: dict[str, Path] = {}
    paths = sorted(path for path in folder.glob("*.*") if path.is_file())
    for suffix in _SUFFIXES:
        for path in paths:
            if path.suffix.lower() == suffix:
                files.setdefault(path.stem, path)
    if not files:
        raise UserError(f"expected label images <id>_mask.png, .tif or .npy in {folder}, found none")
    return ExternalMasks(files)


def read_external_mask(path: Path, shape: tuple[int, int]) -> Labels:
    """Read a label image of any integer type; its labels need not be consecutive.

    Parameters
    ----------
    path
        PNG, TIFF, NPY, or Cellpose's ``_seg.npy``.
    shape
        Height and width of the image.

    Returns
    -------
    ndarray
        Shape `shape`, int32, relabelled 1..n in the order of the labels in the file.

    Raises
    ------
    ImageError
        If the file cannot be read, is not a label image, or has another size.
    """
    try:
        labels = _read(path)
    except ImageError:
        raise
    except Exception as error:  # each format raises its own types
        raise ImageError(f"{path.name} cannot be read: {str(error) or type(error).__name__}") from None
    if labels.shape != shape:
        raise ImageError(f"{path.name}: expected a label image of the image's size {shape}, found {labels.shape}")
    if labels.dtype.kind not in "iuf" or not _are_counts(labels):
        raise ImageError(f"{path.name}: expected integers from 0, found other values ({labels.dtype})")
    values, indices = np.unique(labels, return_inverse=True)
    new_labels = np.cumsum(values > 0) * (values > 0)
    if new_labels.max(initial=0) > MAX_LABELS:
        raise ImageError(f"{path.name}: expected at most {MAX_LABELS} objects, found {new_labels.max()}")
    return new_labels[indices].reshape(shape).astype(np.int32)


def _are_counts(labels: NDArray[Any]) -> bool:
    """Return whether all numbers are integers from 0; infinities are not."""
    return bool(np.isfinite(labels).all() and (labels == np.trunc(labels)).all() and labels.min(initial=0) >= 0)


def _read(path: Path) -> NDArray[Any]:
    if path.suffix.lower() == ".png":
        return read_plane(path)
    if path.suffix.lower() in (".tif", ".tiff"):
        return np.asarray(tifffile.imread(io.BytesIO(read_regular(path)))).squeeze()
    if path.name.endswith(_SEG):
        return np.asarray(_PlainArrays(read_regular(path)).load()["masks"]).squeeze()
    return np.asarray(np.load(io.BytesIO(read_regular(path)), allow_pickle=False)).squeeze()


class _PlainArrays(pickle.Unpickler):
    """Unpickler for the dictionary of a ``_seg.npy`` that allows only plain arrays.

    An arbitrary pickle could run any code, and looking up a name imports its module, which runs code too. So only the
    exact names that pickled arrays of NumPy 1 and 2 contain are looked up.
    """

    _ALLOWED: Final = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
            *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
            ("_codecs", "encode"),
        }
    )

    def __init__(self, content: bytes) -> None:
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        read_header(stream)
        super().__init__(stream)

    def load(self) -> dict[str, Any]:
        """Return the dictionary."""
        content: dict[str, Any] = super().load().item()
        return content

    def find_class(self, module: str, name: str) -> Any:
        """Return the few globals that plain arrays need; refuse all others."""
        if (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it contains more than plain arrays ({module}.{name})")
