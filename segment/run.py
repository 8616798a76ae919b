"""Run the segment stage: images in, label images of cells and nuclei out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic import PositiveFloat

from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.work.cluster import check_cluster
from hpa.work.device import Computation, default_workers, one_thread, resolve_device
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder
from hpa.work.mapping import FAILURE, Chunk, discard, failure_reason
from hpa.work.records import read_record
from hpa.work.stage import begin
from segment.config import SegmentSection
from segment.inference.diameter import (
    estimate_diameter_px,
    own_diameter_px,
    sample_rows,
    typical_diameter_px,
)
from segment.inference.predict import cached_network, run_network, uses_bfloat16
from segment.inference.preprocess import NetworkInput, channels_of, channels_to_read, load_input, size_name
from segment.masks import COLUMNS, MASKS, Masks, has_masks, read_masks, stage_folder
from segment.network.compact import NUCLEUS_PLANE
from segment.network.weights import COMPACT, check_weights
from segment.postprocess.decode import decode
from segment.results import conclude, imported_from, is_imported, write_image

_GROUP: Final = 8  # images whose tiles fill batches together; a larger group only holds more memory

_DIAMETERS: Final = "diameters.json"


@dataclass(frozen=True)
class _Context:
    work: WorkFolder
    section: SegmentSection
    channels: tuple[str, ...]
    device: str
    diameters_px: Mapping[str, float]


def run(work: WorkFolder, *, device: str = "auto", workers: int = 0, dask: str = "", overwrite: bool = False) -> int:
    """Segment the cells and nuclei of every image of a work folder.

    The masks do not depend on the number of workers: on a CPU every worker computes with one thread.

    Parameters
    ----------
    work
        The work folder.
    device
        Device of the network: "auto", "cpu", "cuda", "cuda:1", "mps".
    workers
        Number of processes; 0 uses one per processor, or four with a GPU.
    dask
        Address of a Dask scheduler whose workers segment the images instead.
    overwrite
        Discard existing results and start over.

    Returns
    -------
    int
        0, or 1 if more images failed than the recipe allows.

    Raises
    ------
    UserError
        If the recipe's network is not available, the run has no ER or nucleus channel, or an input of the existing
        masks changed.
    """
    data, section = work.data, work.section("segment", SegmentSection)
    if not overwrite and (source := imported_from(work)):
        if not is_imported(work):
            raise UserError(
                f"expected the masks imported from {source}, found an import that has not finished; complete it with "
                f"`python -m segment import {work.root} --masks {source}`, or segment the images with --overwrite"
            )
        print(f"segment: keeping the masks imported from {source}; --overwrite segments the images instead")
        failed = len(read_images(work.images)) - len(read_masks(work))
        return int(failed > data.max_failures)
    channels = channels_to_read(section, data)
    device = resolve_device(device)
    folder = stage_folder(work)
    inputs = {"images.parquet": work.images, f"the weights of {section.network}": check_weights(section.network)}
    command = f"python -m segment run {work.root}"
    here = Computation.here(device, 1, bfloat16=uses_bfloat16(section.precision, device))
    stage = begin(
        folder,
        command,
        data,
        section,
        inputs,
        overwrite=overwrite,
        check=lambda: check_cluster(dask),
        computation=here,
    )
    assert stage.computation is not None, "the stage was begun with one"
    section = section.model_copy(update={"precision": "bf16" if stage.computation.bfloat16 else "32"})
    images = read_images(work.images, channels_of(channels)).drop(columns="target")
    diameters = _find_diameters(folder, images, section, channels, device)
    return stage.run_over_images(
        images,
        _process,
        _Context(work, section, channels, device, diameters),
        lambda parts: conclude(work, images, parts, channels) | {"diameters_px": diameters},
        label="segment",
        outputs=[MASKS],
        intact=lambda context, part: has_masks(context.work, part["image_id"]),
        workers=workers or default_workers(device),
        dask=dask,
    )


def find_diameter_px(
    images: Sequence[NetworkInput], shape: tuple[int, int], section: SegmentSection, device: str
) -> float:
    """Segment images with the compact network to estimate the diameter of a typical cell in them.

    Parameters
    ----------
    images
        Images of one size, prepared at the typical diameter (`segment.inference.diameter.typical_diameter_px`).
    shape
        Their height and width.
    section
        How to make masks from the network output.
    device
        Device of the network.

    Returns
    -------
    float
        Equivalent diameter, in px of the source; the typical one if there are no cells.
    """
    areas: list[int] = []
    with one_thread(device):
        for masks in _segment(images, COMPACT, section, device):
            if isinstance(masks, Masks):  # other images are reported when they are processed themselves
                areas.extend(np.bincount(masks.cells.ravel())[1:])
    return estimate_diameter_px(areas, typical_diameter_px(*shape), shape)


def _segment(
    images: Sequence[NetworkInput], network: str, section: SegmentSection, device: str
) -> Iterator[Masks | str]:
    """Yield the masks of each image, or the reason why it failed: nothing in an image ends the stage."""
    net = cached_network(network, device, section.precision)
    try:
        outputs = run_network(net, images)
    except UserError:
        raise
    except Exception as error:  # whatever the image makes the network or its libraries raise
        if len(images) == 1:
            yield failure_reason(error, "segmented")
            return
        for image in images:  # find out which of them it was
            yield from _segment([image], network, section, device)
        return
    for image, output in zip(images, outputs, strict=True):
        try:
            yield decode(output, image.planes[NUCLEUS_PLANE], section, image.shape)
        except Exception as error:
            yield failure_reason(error, "segmented")


def _find_diameters(
    folder: Path, images: pd.DataFrame, section: SegmentSection, channels: tuple[str, ...], device: str
) -> dict[str, float]:
    """Estimate the diameter for every image size from a sample of the images, or return the stored estimates."""
    path = folder / _DIAMETERS
    sizes = set() if section.diameter_px else _sizes(images)
    if path.exists():
        try:
            stored = read_record(path, dict[str, PositiveFloat], "it is made again")
            if stored.keys() == sizes:
                return stored
            discard(path, "expected one diameter per size of image, found others")
        except UserError as error:
            discard(path, str(error))
    diameters = {}
    if not section.diameter_px:
        for _, rows in sample_rows(images).groupby(["height_px", "width_px"]):
            shape = int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0])
            sample = []
            for row in rows.to_dict("records"):
                with suppress(ImageError):  # reported when the image itself is processed
                    sample.append(load_input(row, channels, typical_diameter_px(*shape)))
            diameters[size_name(*shape)] = find_diameter_px(sample, shape, section, device)
    write_json(path, diameters)
    return diameters


def _sizes(images: pd.DataFrame) -> set[str]:
    known = images.loc[
        (images["height_px"] > 0) & (images["width_px"] > 0), ["height_px", "width_px"]
    ].drop_duplicates()
    return {size_name(int(height), int(width)) for height, width in known.itertuples(index=False)}


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for start in range(0, len(chunk.images), _GROUP):
        rows.extend(_process_group(context, chunk.images.iloc[start : start + _GROUP]))
    part = pd.DataFrame(rows, columns=[*COLUMNS, FAILURE])
    order = {image_id: place for place, image_id in enumerate(chunk.image_ids)}
    return part.sort_values("image_id", key=lambda ids: ids.map(order)).astype({"flags": object, FAILURE: object})


def _process_group(context: _Context, images: pd.DataFrame) -> list[dict[str, Any]]:
    section = context.section
    inputs: dict[str, NetworkInput] = {}
    rows: list[dict[str, Any]] = []
    for row in images.to_dict("records"):
        try:
            inputs[row["image_id"]] = load_input(row, context.channels, section.diameter_px, context.diameters_px)
        except ImageError as error:
            rows.append({"image_id": row["image_id"], FAILURE: str(error)})
    with one_thread(context.device):
        found = dict(
            zip(inputs, _segment(list(inputs.values()), section.network, section, context.device), strict=True)
        )
        if not section.diameter_px:
            own = _inputs_at_own_diameter(context, images, inputs, found)
            again = zip(own, _segment(list(own.values()), section.network, section, context.device), strict=True)
            found |= {image_id: masks for image_id, masks in again if isinstance(masks, Masks)}
    for image_id, masks in found.items():
        if isinstance(masks, Masks):
            rows.append(write_image(context.work, image_id, masks, inputs[image_id], section))
        else:
            rows.append({"image_id": image_id, FAILURE: masks})
    return rows


def _inputs_at_own_diameter(
    context: _Context, images: pd.DataFrame, inputs: Mapping[str, NetworkInput], found: Mapping[str, Masks | str]
) -> dict[str, NetworkInput]:
    """Prepare those images again whose cells are much larger or smaller than those of the data set."""
    own: dict[str, NetworkInput] = {}
    for row in images.to_dict("records"):
        masks = found.get(row["image_id"])
        if not isinstance(masks, Masks):
            continue
        if own_px := own_diameter_px(masks.cells, inputs[row["image_id"]].diameter_px):
            with suppress(ImageError):  # too large at the new scale: the first masks stay
                own[row["image_id"]] = load_input(row, context.channels, own_px)
    return own
