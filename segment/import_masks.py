"""Import masks made elsewhere instead of segmenting the images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.work.cluster import check_cluster
from hpa.work.device import default_workers, one_thread, resolve_device
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder
from hpa.work.mapping import FAILURE, Chunk
from hpa.work.stage import begin
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
        If the folder has no label images, or the stage already has masks of another origin.
    """
    data, section = work.data, work.section("segment", SegmentSection)
    channels, device = channels_to_read(section, data), resolve_device(device)
    external = find_external_masks(masks.resolve())
    folder = stage_folder(work)
    command = f"python -m segment import {work.root} --masks {masks}"
    if not overwrite and folder.exists() and imported_from(work) != str(masks.resolve()):
        raise UserError(
            f"expected no masks in {folder}, found some of another origin; replace them with `{command} --overwrite`"
        )
    inputs = {"images.parquet": work.images}
    stage = begin(folder, command, data, section, inputs, overwrite=overwrite, check=lambda: check_cluster(dask))
    write_json(folder / IMPORTED, asdict(ImportRecord(str(masks.resolve()))))
    images = read_images(work.images).drop(columns="target")
    return stage.run_over_images(
        images,
        _process,
        _Context(work, section, channels, device, external),
        lambda parts: conclude(work, images, parts, channels),
        label="import",
        outputs=[MASKS],
        intact=lambda context, part: has_masks(context.work, part["image_id"]),
        workers=workers or default_workers(device),
        dask=dask,
    )


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    rows = []
    for image in chunk.images.to_dict("records"):
        try:
            rows.append(_import_image(context, image))
        except ImageError as error:
            rows.append({"image_id": image["image_id"], FAILURE: str(error)})
    return pd.DataFrame(rows, columns=[*COLUMNS, FAILURE]).astype({"flags": object, FAILURE: object})


def _import_image(context: _Context, image: Mapping[Any, Any]) -> dict[str, Any]:
    image_id = str(image["image_id"])
    path = context.external.cells_path(image_id)
    if path is None:
        raise ImageError("the folder has no label image for this id")
    network_input = load_input(image, context.channels, context.section.diameter_px)
    cells = read_external_mask(path, network_input.shape)
    nuclei = assign_nuclei_to_cells(_nuclei(context, image_id, network_input), cells)
    masks = Masks(cells.astype(np.uint16), nuclei.astype(np.uint16))
    return write_image(context.work, image_id, masks, network_input, context.section)


def _nuclei(context: _Context, image_id: str, image: NetworkInput) -> Any:
    path = context.external.nuclei_path(image_id)
    if path is not None:
        return read_external_mask(path, image.shape)
    with one_thread(context.device):
        output = run_network(cached_network(COMPACT, context.device), [image])[0]
    return decode_nuclei(output, image.planes[NUCLEUS_PLANE], context.section, image.shape).astype(np.int32)
