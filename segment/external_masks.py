"""Label images made elsewhere: by HPA-Cell-Segmentation, in napari, by Cellpose or by hand."""

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
from segment.postprocess.labels import Labels

_CELLS: Final = ("", "_mask", "_masks", "_cp_masks", "_cellmask", "_predictedmask", "_seg")
_NUCLEI: Final = ("_nuclei", "_nucleimask")
_SUFFIXES: Final = (".png", ".tif", ".tiff", ".npy")
_SEG: Final = "_seg.npy"  # Cellpose's own file: a pickled dictionary


@dataclass(frozen=True)
class ExternalMasks:
    """A folder of label images made elsewhere.

    Parameters
    ----------
    files
        By their names without suffix.
    """

    files: dict[str, Path]

    def cells_path(self, image_id: str) -> Path | None:
        """Return the file of an image's cells, None if there is none."""
        return self._first(image_id, _CELLS)

    def nuclei_path(self, image_id: str) -> Path | None:
        """Return the file of an image's nuclei, None if there is none."""
        return self._first(image_id, _NUCLEI)

    def _first(self, image_id: str, endings: tuple[str, ...]) -> Path | None:
        return next((self.files[image_id + end] for end in endings if image_id + end in self.files), None)


def find_external_masks(folder: Path) -> ExternalMasks:
    """List the label images of a folder.

    Cells are ``<id>``, ``<id>_mask``, ``_masks``, ``_cp_masks``, ``_cellmask``, ``_predictedmask`` or ``_seg``, nuclei
    ``<id>_nuclei`` or ``<id>_nucleimask``, each PNG, TIFF or NPY; of several the first named here counts.

    Raises
    ------
    UserError
        If there is none.
    """
    files: dict[str, Path] = {}
    for suffix in _SUFFIXES:
        for path in sorted(folder.glob(f"*{suffix}")):
            files.setdefault(path.stem, path)
    if not files:
        raise UserError(f"expected label images <id>_mask.png, .tif or .npy in {folder}, found none")
    return ExternalMasks(files)


def read_external_mask(path: Path, shape: tuple[int, int]) -> Labels:
    """Read a label image of any integer type, with labels that need not be consecutive.

    Parameters
    ----------
    path
        PNG, TIFF, NPY, or Cellpose's ``_seg.npy``.
    shape
        Height and width of its image.

    Returns
    -------
    ndarray
        Shape `shape`, labels 1..n in the order of the file's.

    Raises
    ------
    ImageError
        If it cannot be read, is no label image, or is of another size.
    """
    try:
        labels = _read(path)
    except ImageError:
        raise
    except Exception as error:  # every format has its own kinds
        raise ImageError(f"{path.name} cannot be read: {str(error) or type(error).__name__}") from None
    if labels.shape != shape:
        raise ImageError(f"{path.name}: expected a label image of the image's size {shape}, found {labels.shape}")
    whole = np.issubdtype(labels.dtype, np.integer) or np.array_equal(labels, np.trunc(labels))
    if labels.dtype == bool or not whole or labels.min(initial=0) < 0:
        raise ImageError(f"{path.name}: expected whole numbers from 0, found other values ({labels.dtype})")
    values, places = np.unique(labels, return_inverse=True)
    numbers = np.cumsum(values > 0) * (values > 0)
    if numbers.max(initial=0) > MAX_LABELS:
        raise ImageError(f"{path.name}: expected at most {MAX_LABELS} objects, found {numbers.max()}")
    return numbers[places].reshape(shape).astype(np.int32)


def _read(path: Path) -> NDArray[Any]:
    if path.suffix.lower() == ".png":
        return read_plane(path)
    if path.suffix.lower() in (".tif", ".tiff"):
        return np.asarray(tifffile.imread(path)).squeeze()
    if path.name.endswith(_SEG):
        return np.asarray(_PlainArrays(path.read_bytes()).load()["masks"]).squeeze()
    return np.asarray(np.load(path, allow_pickle=False)).squeeze()


class _PlainArrays(pickle.Unpickler):
    """Reads the dictionary of a ``_seg.npy`` and nothing else: a pickle from elsewhere could run any code."""

    _ALLOWED: Final = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode"})

    def __init__(self, content: bytes) -> None:
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        read_header(stream)
        super().__init__(stream)

    def load(self) -> dict[str, Any]:
        """Return the dictionary."""
        found: dict[str, Any] = super().load().item()
        return found

    def find_class(self, module: str, name: str) -> Any:
        """Return what plain arrays are made of; anything else is refused."""
        if module.split(".")[0] in ("numpy", "_codecs") and name in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds more than plain arrays ({module}.{name})")
