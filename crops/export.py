"""Export a store for other programs: as AnnData, WebDataset shards or PNG folders by class."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import OutsideCell, Window
from crops.store import CropStore, open_store
from hpa.channels import Channel
from hpa.errors import UserError
from hpa.images import read_images
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder

ExportFormat = Literal["anndata", "webdataset", "png"]

UNKNOWN: Final = "unknown"
"""Name of the PNG folder for crops whose image has no known class."""

RECORD: Final = "export.json"
"""File in an exported folder that says what was exported, and that it may be replaced."""

_ANNDATA_SUFFIX: Final = ".h5sc"
_BLOCK: Final = 256
_PER_TAR: Final = 4096


def export_crops(
    work: WorkFolder,
    window: Window,
    export_format: ExportFormat,
    out: Path | None,
    outside_cell: OutsideCell,
    *,
    overwrite: bool = False,
) -> Path:
    """Export one store of a work folder.

    Parameters
    ----------
    work
        The work folder; its crops stage must be done.
    window
        The window of the store.
    export_format
        ``anndata`` (one ``.h5sc`` file), ``webdataset`` (a folder of tar files) or ``png`` (one folder per class).
    out
        The file or folder to create; None uses ``export/<window>`` in the work folder.
    outside_cell
        What to do with the pixels outside each crop's own cell.
    overwrite
        Replace an earlier export; nothing else is ever replaced.

    Returns
    -------
    Path
        The file or folder created.

    Raises
    ------
    UserError
        If there is no finished store, or `out` exists and `overwrite` is false or it is no earlier export.
    """
    store = open_store(work, window)
    out = out or work.root / "export" / (
        f"{window}{_ANNDATA_SUFFIX}" if export_format == "anndata" else f"{window}-{export_format}"
    )
    out = out.absolute()
    if out.exists():
        _check_replaceable(out, export_format)
        if not overwrite:
            raise UserError(f"expected a new place for the export, found {out}; --overwrite replaces it")
    crops, channels = join_image_labels(work, store), work.data.channels
    if export_format == "anndata":
        from crops.h5sc import write_h5sc

        write_h5sc(store, crops, channels, out, outside_cell)
        return out
    with _new_folder(out, {"work": str(work.root.absolute()), "window": window, "format": export_format}) as folder:
        if export_format == "webdataset":
            write_tars(store, crops, folder, window, outside_cell)
        else:
            write_pngs(store, crops, channels, folder, outside_cell)
    return out


def join_image_labels(work: WorkFolder, store: CropStore) -> pd.DataFrame:
    """Return the crop table with split, target, antibody and class names of each crop's image.

    Class names are joined by ``;``. Targets and class names are empty strings where no class is known.

    Parameters
    ----------
    work
        The work folder with the image table.
    store
        One of its stores.
    """
    vocabulary = work.data.classes
    images = read_images(work.images)
    labels = pd.DataFrame(
        {
            "image_id": images["image_id"],
            "split": images["split"],
            "target": [vocabulary.format(target) for target in images["target"]],
            "antibody": images["antibody"].fillna(""),
            "classes": [";".join(vocabulary.classes[c] for c in target) for target in images["target"]],
        }
    )
    return store.table.merge(labels, on="image_id", how="left", validate="many_to_one")


def write_tars(store: CropStore, crops: pd.DataFrame, folder: Path, name: str, outside_cell: OutsideCell) -> None:
    """Write WebDataset shards ``<name>-000000.tar`` with a ``.npy``, ``.mask.npy`` and ``.json`` file per crop.

    Parameters
    ----------
    store, crops
        The crops, and the table that describes them (`join_image_labels`).
    folder, name
        The folder to write to, and the prefix of the file names.
    outside_cell
        What to do with the pixels outside each crop's own cell.
    """
    for number, start in enumerate(range(0, len(store), _PER_TAR)):
        with tarfile.open(folder / f"{name}-{number:06d}.tar", "w") as tar:
            for row, pixels, own in _crops(store, outside_cell, start, min(start + _PER_TAR, len(store))):
                description = json.dumps(crops.iloc[row].to_dict(), default=_to_python).encode()
                # Keys are numbers because WebDataset splits names at dots, which image ids may contain.
                parts = {"npy": _npy(pixels), "mask.npy": _npy(own.view(np.uint8)), "json": description}
                for suffix, content in parts.items():
                    member = tarfile.TarInfo(f"{row:09d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def write_pngs(
    store: CropStore, crops: pd.DataFrame, channels: tuple[Channel, ...], folder: Path, outside_cell: OutsideCell
) -> None:
    """Write ``<class>/<image_id>_<cell_label>.png`` with the red, green and blue channels of each crop.

    A crop is written to the folder of each of its classes.

    Parameters
    ----------
    store, crops
        The crops, and the table that describes them (`join_image_labels`).
    channels
        The channels of the store.
    folder
        The folder to write to.
    outside_cell
        What to do with the pixels outside each crop's own cell.
    """
    for row, pixels, _ in _crops(store, outside_cell, 0, len(store)):
        crop = crops.iloc[row]
        done, content = cv2.imencode(".png", rgb(pixels, channels)[..., ::-1])
        assert done
        for name in crop["classes"].split(";"):
            path = folder / (name.replace("/", "-") or UNKNOWN) / f"{crop['image_id']}_{crop['cell_label']}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.tobytes())


def rgb(pixels: NDArray[np.uint8], channels: tuple[Channel, ...]) -> NDArray[np.uint8]:
    """Return the red, green and blue channels of a crop (C, S, S) as a picture (S, S, 3), missing ones black."""
    picture = np.zeros((*pixels.shape[1:], 3), dtype=np.uint8)
    for i, channel in enumerate(("red", "green", "blue")):
        if channel in channels:
            picture[..., i] = pixels[channels.index(channel)]
    return picture


def _crops(
    store: CropStore, outside_cell: OutsideCell, start: int, end: int
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.bool_]]]:
    for first in range(start, end, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, end))
        yield from zip(rows.tolist(), store.batch(rows, outside_cell), store.masks(rows), strict=True)


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _to_python(value: Any) -> Any:
    """Convert a NumPy scalar, which JSON does not know."""
    item: Callable[[], Any] = value.item
    return item()


def _check_replaceable(out: Path, export_format: ExportFormat) -> None:
    """Check that what is to be replaced is an earlier export, not a folder or file of something else."""
    if export_format == "anndata":
        if out.is_dir() or out.suffix != _ANNDATA_SUFFIX:
            raise UserError(f"expected an earlier export, a file {_ANNDATA_SUFFIX}, to replace, found {out}")
    elif not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file()):
        raise UserError(f"expected an earlier export, a folder with {RECORD}, to replace, found {out}")


@contextmanager
def _new_folder(out: Path, record: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to fill, which is renamed to `out` when it is complete, and removed if it cannot be."""
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        write_json(unfinished / RECORD, record)
        if out.is_dir():
            shutil.rmtree(out)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
