"""The run of the segment stage: images in, label images of cells and nuclei out."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.images import read_images
from hpa.work.device import default_workers, one_thread, resolve_device
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder, begin
from hpa.work.mapping import FAILURE, Chunk, cut_chunks, map_chunks
from segment.config import SegmentSection
from segment.inference.diameter import estimate_diameter_px, sample_rows, typical_diameter_px
from segment.inference.inputs import channels_to_read, load_input, size_name
from segment.inference.predict import NetworkInput, network, run_network
from segment.masks import COLUMNS, read_masks, stage_folder
from segment.network.compact import NUCLEUS_PLANE
from segment.network.weights import checked_weights
from segment.postprocess.decode import decode
from segment.results import conclude, imported_from, row_of

_GROUP: Final = 8  # images of a chunk whose tiles fill batches together; more only hold more memory

_DIAMETERS: Final = "diameters.json"


@dataclass(frozen=True)
class _Context:
    work: WorkFolder
    section: SegmentSection
    channels: tuple[Channel, ...]
    device: str
    diameters_px: Mapping[str, float]


def run(work: WorkFolder, *, device: str = "auto", workers: int = 0, dask: str = "", overwrite: bool = False) -> int:
    """Find the cells and nuclei of every image of a work folder.

    The masks do not depend on the number of workers: on a processor every worker computes with one thread.

    Parameters
    ----------
    work
        The work folder.
    device
        Where the network runs: "auto", "cpu", "cuda", "cuda:1", "mps".
    workers
        Processes; 0 takes one a processor, or four where there is a GPU.
    dask
        Address of a Dask scheduler whose workers do the work instead.
    overwrite
        Begin anew.

    Returns
    -------
    int
        0, or 1 if more images failed than the recipe allows.

    Raises
    ------
    UserError
        If the recipe's network cannot be had, the run has no ER or nucleus channel, or something the masks were made
        from changed.
    """
    data, section = work.data, work.section("segment", SegmentSection)
    if not overwrite and (source := imported_from(work)):
        print(f"segment: the masks were imported from {source}; --overwrite finds cells anew")
        failed = len(read_images(work.images)) - len(read_masks(work))
        return int(failed > data.max_failures)
    channels = channels_to_read(section, data)
    device = resolve_device(device)
    folder = stage_folder(work)
    inputs = {"images.parquet": work.images, f"the weights of {section.network}": checked_weights(section.network)}
    stage = begin(folder, f"python -m segment run {work.root}", data, section, inputs, overwrite=overwrite)
    images = read_images(work.images).drop(columns="target")
    context = _Context(work, section, channels, device, _diameters(folder, images, section, channels, device))
    chosen = workers or default_workers(device)
    parts = map_chunks(
        _process,
        context,
        cut_chunks(images),
        folder / "parts",
        workers=chosen,
        what="segment",
        preload=["segment.run"],
        dask=dask,
    )
    counts = conclude(work, images, parts, channels)
    stage.finish(counts | {"diameters_px": dict(context.diameters_px)})
    return int(counts["failures"] > data.max_failures)


def _diameters(
    folder: Path, images: pd.DataFrame, section: SegmentSection, channels: tuple[Channel, ...], device: str
) -> dict[str, float]:
    """Find, once, the diameter of a typical cell at every image size."""
    path = folder / _DIAMETERS
    if path.exists():
        found: dict[str, float] = loads(path.read_text())
        return found
    diameters = {}
    if not section.diameter_px:
        for _, rows in sample_rows(images).groupby(["height_px", "width_px"]):
            height, width = int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0])
            diameters[size_name(height, width)] = estimate_on(rows, (height, width), section, channels, device)
    write_json(path, diameters)
    return diameters


def estimate_on(
    rows: pd.DataFrame,
    shape: tuple[int, int],
    section: SegmentSection,
    channels: tuple[Channel, ...],
    device: str,
) -> float:
    """Estimate the diameter of a typical cell, in px of the source, from what the compact network finds in images.

    Parameters
    ----------
    rows
        Rows of the image table, all of one size.
    shape
        That size.
    section
        How masks are made.
    channels
        What the network reads.
    device
        Where it runs.
    """
    seen: list[NetworkInput] = []
    areas: list[int] = []
    for row in rows.to_dict("records"):
        with suppress(ImageError):  # told when its own turn comes
            seen.append(load_input(row, channels, typical_diameter_px(*shape)))
    with one_thread(device):
        for image, answer in zip(seen, run_network(network("compact", device), seen), strict=True):
            with suppress(ImageError):
                areas.extend(
                    np.bincount(decode(answer, image.planes[NUCLEUS_PLANE], section, image.shape).cells.ravel())[1:]
                )
    return estimate_diameter_px(areas, *shape)


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for start in range(0, len(chunk.images), _GROUP):
        rows.extend(_process_group(context, chunk.images.iloc[start : start + _GROUP]))
    part = pd.DataFrame(rows, columns=[*COLUMNS, FAILURE])
    order = {image_id: place for place, image_id in enumerate(chunk.image_ids)}
    return part.sort_values("image_id", key=lambda ids: ids.map(order)).astype({"flags": object, FAILURE: object})


def _process_group(context: _Context, images: pd.DataFrame) -> list[dict[str, Any]]:
    seen: dict[str, NetworkInput] = {}
    rows: list[dict[str, Any]] = []
    for row in images.to_dict("records"):
        try:
            section = context.section
            seen[row["image_id"]] = load_input(row, context.channels, section.diameter_px, context.diameters_px)
        except ImageError as error:
            rows.append({"image_id": row["image_id"], FAILURE: str(error)})
    with one_thread(context.device):
        found = run_network(network(context.section.network, context.device), list(seen.values()))
        for (image_id, image), answer in zip(seen.items(), found, strict=True):
            try:
                rows.append(_segment(context, image_id, image, answer))
            except ImageError as error:
                rows.append({"image_id": image_id, FAILURE: str(error)})
    return rows


def _segment(context: _Context, image_id: str, image: NetworkInput, answer: NDArray[np.float32]) -> dict[str, Any]:
    masks = decode(answer, image.planes[NUCLEUS_PLANE], context.section, image.shape)
    return row_of(context.work, image_id, masks, image, context.section)
