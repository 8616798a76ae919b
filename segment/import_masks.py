"""Import masks made elsewhere instead of segmenting the images."""

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.work.cluster import check_cluster
from hpa.work.device import default_workers, one_thread, resolve_device
from hpa.work.files import read_regular, write_json
from hpa.work.folder import WorkFolder
from hpa.work.mapping import FAILURE, Chunk, failure_reason
from hpa.work.stage import RECORD, begin
from segment.config import SegmentSection
from segment.external_masks import ExternalMasks, find_external_masks, read_external_mask
from segment.inference.predict import cached_network, run_network
from segment.inference.preprocess import NetworkInput, channels_to_read, load_input
from segment.masks import COLUMNS, MASKS, Masks, has_masks, stage_folder
from segment.network.compact import NUCLEUS_PLANE
from segment.network.weights import COMPACT
from segment.postprocess.cells import assign_nuclei_to_cells
from segment.postprocess.decode import decode_nuclei
from segment.results import IMPORTED, ImportRecord, conclude, imported_from, write_image

_SOURCES: Final = "sources"  # column of the parts: checksums of the files that the masks were imported from


@dataclass(frozen=True)
class _Context:
    work: WorkFolder
    section: SegmentSection
    channels: tuple[str, ...]
    device: str
    external: ExternalMasks


def import_masks(
    work: WorkFolder, masks: Path, *, device: str = "auto", workers: int = 0, dask: str = "", overwrite: bool = False
) -> int:
    """Import the label images of a folder as the masks of a work folder.

    Nuclei are imported too where the folder has them; otherwise the compact network finds them. Each nucleus belongs
    to the cell that holds most of it. An image without a label image is a failure.

    Parameters
    ----------
    work
        The work folder.
    masks
        The folder (`segment.external_masks.find_external_masks`).
    device, workers, dask, overwrite
        As of `segment.run.run`.

    Returns
    -------
    int
        0, or 1 if more images failed than the recipe allows.

    Raises
    ------
    UserError
        If the folder has no label image of any image, is that of the stage itself, or the stage already has masks of
        another origin.
    """
    data, section = work.data, work.section("segment", SegmentSection)
    channels, device = channels_to_read(section, data), resolve_device(device)
    masks, folder = masks.resolve(), stage_folder(work)
    if masks.is_relative_to(folder.resolve()):
        raise UserError(f"expected masks from elsewhere, found the folder of the stage itself, {masks}; copy it first")
    external = find_external_masks(masks)
    images = read_images(work.images).drop(columns="target")
    if not any(external.cells_path(image_id) for image_id in images["image_id"]):
        raise UserError(
            f"expected label images named after the images, {images['image_id'].iloc[0]}_mask.png for one, in {masks}, "
            f"found only others, such as {min(external.files)}"
        )
    command = f"python -m segment import {work.root} --masks {masks}"
    if not overwrite and _has_results(folder) and imported_from(work) != str(masks):
        raise UserError(
            f"expected no masks in {folder}, found some of another origin; replace them with `{command} --overwrite`"
        )
    inputs = {"images.parquet": work.images}
    stage = begin(folder, command, data, section, inputs, overwrite=overwrite, check=lambda: check_cluster(dask))
    write_json(folder / IMPORTED, asdict(ImportRecord(str(masks))))
    return stage.run_over_images(
        images,
        _process,
        _Context(work, section, channels, device, external),
        lambda parts: conclude(work, images, parts, channels),
        label="import",
        outputs=[MASKS],
        intact=_is_intact,
        workers=workers or default_workers(device),
        dask=dask,
    )


def _has_results(folder: Path) -> bool:
    """Return whether the stage has anything but the record that it has begun."""
    return folder.exists() and any(path.name != RECORD for path in folder.iterdir())


def _is_intact(context: _Context, part: pd.DataFrame) -> bool:
    """Return whether the masks of a part are there and those that they were imported from are unchanged."""
    ids = part["image_id"]
    sources = [_checksums(context.external, image_id) for image_id in ids]
    return has_masks(context.work, ids) and list(part.get(_SOURCES, ())) == sources


def _checksums(external: ExternalMasks, image_id: str) -> str:
    paths = (external.cells_path(image_id), external.nuclei_path(image_id))
    return " ".join(f"{zlib.crc32(read_regular(path)):08x}" if path else "none" for path in paths)


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for image in chunk.images.to_dict("records"):
        image_id = str(image["image_id"])
        try:
            masks, network_input = _read(context, image_id, image)
            sources = _checksums(context.external, image_id)
        except UserError:
            raise
        except Exception as error:  # whatever the image or its masks make the network or its libraries raise
            rows.append({"image_id": image_id, FAILURE: failure_reason(error, "imported")})
            continue
        rows.append(write_image(context.work, image_id, masks, network_input, context.section) | {_SOURCES: sources})
    part = pd.DataFrame(rows, columns=[*COLUMNS, _SOURCES, FAILURE])
    return part.astype({"flags": object, _SOURCES: object, FAILURE: object})


def _read(context: _Context, image_id: str, image: Mapping[Any, Any]) -> tuple[Masks, NetworkInput]:
    path = context.external.cells_path(image_id)
    if path is None:
        raise ImageError("the folder has no label image for this id")
    network_input = load_input(image, context.channels, context.section.diameter_px)
    cells = read_external_mask(path, network_input.shape)
    nuclei = assign_nuclei_to_cells(_nuclei(context, image_id, network_input), cells)
    return Masks(cells.astype(np.uint16), nuclei.astype(np.uint16)), network_input


def _nuclei(context: _Context, image_id: str, image: NetworkInput) -> Any:
    path = context.external.nuclei_path(image_id)
    if path is not None:
        return read_external_mask(path, image.shape)
    with one_thread(context.device):
        output = run_network(cached_network(COMPACT, context.device), [image])[0]
    return decode_nuclei(output, image.planes[NUCLEUS_PLANE], context.section, image.shape).astype(np.int32)
