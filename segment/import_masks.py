"""Taking masks that were made elsewhere instead of finding cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpa.channels import Channel
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.work.device import default_workers, one_thread, resolve_device
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder, begin
from hpa.work.mapping import FAILURE, Chunk, cut_chunks, map_chunks
from segment.config import SegmentSection
from segment.external_masks import ExternalMasks, find_masks, read_external_mask
from segment.inference.inputs import channels_to_read, load_input
from segment.inference.predict import NetworkInput, network, run_network
from segment.masks import COLUMNS, stage_folder
from segment.network.compact import NUCLEUS_PLANE
from segment.network.weights import COMPACT
from segment.postprocess.cells import assign_nuclei_to_cells
from segment.postprocess.decode import Masks, decode_nuclei
from segment.results import IMPORTED, conclude, imported_from, row_of


@dataclass(frozen=True)
class _Context:
    work: WorkFolder
    section: SegmentSection
    channels: tuple[Channel, ...]
    device: str
    foreign: ExternalMasks


def take(
    work: WorkFolder, masks: Path, *, device: str = "auto", workers: int = 0, dask: str = "", overwrite: bool = False
) -> int:
    """Take the masks of a folder as those of a work folder's images.

    Nuclei come from the folder too where it has them, else the compact network finds them; each belongs to the cell
    that holds most of it. An image without a label image is a failure.

    Parameters
    ----------
    work
        The work folder.
    masks
        The folder (`segment.external_masks.find_masks`).
    device, workers, dask, overwrite
        As of `segment.run.run`.

    Returns
    -------
    int
        0, or 1 if more images failed than the recipe allows.

    Raises
    ------
    UserError
        If the folder has no label images, or other masks are there already.
    """
    data, section = work.data, work.section("segment", SegmentSection)
    channels, device = channels_to_read(section, data), resolve_device(device)
    foreign = find_masks(masks.resolve())
    folder = stage_folder(work)
    command = f"python -m segment import {work.root} --masks {masks}"
    if not overwrite and folder.exists() and imported_from(work) != str(masks.resolve()):
        raise UserError(f"expected no masks in {folder}, found other ones; replace them with `{command} --overwrite`")
    stage = begin(folder, command, data, section, {"images.parquet": work.images}, overwrite=overwrite)
    write_json(folder / IMPORTED, {"masks": str(masks.resolve())})
    images = read_images(work.images).drop(columns="target")
    parts = map_chunks(
        _process,
        _Context(work, section, channels, device, foreign),
        cut_chunks(images),
        folder / "parts",
        workers=workers or default_workers(device),
        what="import",
        preload=["segment.import_masks"],
        dask=dask,
    )
    counts = conclude(work, images, parts, channels)
    stage.finish(counts)
    return int(counts["failures"] > data.max_failures)


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    rows = []
    for image in chunk.images.to_dict("records"):
        try:
            rows.append(_take_one(context, image))
        except ImageError as error:
            rows.append({"image_id": image["image_id"], FAILURE: str(error)})
    return pd.DataFrame(rows, columns=[*COLUMNS, FAILURE]).astype({"flags": object, FAILURE: object})


def _take_one(context: _Context, image: Mapping[Any, Any]) -> dict[str, Any]:
    image_id = str(image["image_id"])
    path = context.foreign.cells_of(image_id)
    if path is None:
        raise ImageError("no label image of this id was there to import")
    seen = load_input(image, context.channels, context.section.diameter_px)
    cells = read_external_mask(path, seen.shape)
    nuclei = assign_nuclei_to_cells(_nuclei(context, image_id, seen), cells)
    masks = Masks(cells.astype(np.uint16), nuclei.astype(np.uint16))
    return row_of(context.work, image_id, masks, seen, context.section)


def _nuclei(context: _Context, image_id: str, seen: NetworkInput) -> Any:
    path = context.foreign.nuclei_of(image_id)
    if path is not None:
        return read_external_mask(path, seen.shape)
    with one_thread(context.device):
        answer = run_network(network(COMPACT, context.device), [seen])[0]
    return decode_nuclei(answer, seen.planes[NUCLEUS_PLANE], context.section, seen.shape).astype(np.int32)
