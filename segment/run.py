"""The run of the segment stage: images in, label images of cells and nuclei out."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from json import loads
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.config import read_section
from hpa.errors import ImageError, UserError
from hpa.files import write_json
from hpa.images import read_images
from hpa.mapping import FAILURE, Chunk, cut_chunks, map_chunks, write_failures
from hpa.pixels import read_channels
from hpa.work import WorkFolder, begin
from segment.cellpose_core import BaseModel
from segment.config import SegmentSection
from segment.decode import decode
from segment.diameter import estimate_diameter_px, sample_rows, typical_diameter_px
from segment.figures import write_overlays
from segment.masks import COLUMNS, join_flags, stage_folder, write_masks, write_pair
from segment.models import check_model, load_model
from segment.predict import Seen, answers, see

CHANNELS: Final[tuple[Channel, ...]] = ("yellow", "blue")
"""What the network reads: ER, nucleus."""

_DIAMETERS: Final = "diameters.json"


@dataclass(frozen=True)
class _Context:
    work: WorkFolder
    section: SegmentSection
    device: str
    diameters_px: Mapping[str, float]


def run(work: WorkFolder, *, device: str = "auto", workers: int = 0, overwrite: bool = False) -> int:
    """Find the cells and nuclei of every image of a work folder.

    The masks do not depend on the number of workers: on a processor every worker computes with one thread.

    Parameters
    ----------
    work
        The work folder.
    device
        Where the network runs: "auto", "cpu", "cuda", "cuda:1", "mps".
    workers
        Processes; 0 takes one a processor, or one altogether where there is a GPU.
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
    data, section = work.data, read_section(work.recipe, "segment", SegmentSection)
    if missing := [channel for channel in CHANNELS if channel not in data.channels]:
        raise UserError(
            f"expected the channels {', '.join(CHANNELS)} to segment on, found no {' and no '.join(missing)} in [data]"
        )
    device = _device(device)
    check_model(section.network)
    folder = stage_folder(work)
    command = f"python -m segment run {work.root}"
    stage = begin(folder, command, data, section, {"images.parquet": work.images}, overwrite=overwrite)
    images = read_images(work.images).drop(columns="target")
    context = _Context(work, section, device, _diameters(folder, images, section, device))
    chosen = workers or (os.cpu_count() or 1 if device == "cpu" else 1)
    parts = map_chunks(
        _process,
        context,
        cut_chunks(images),
        folder / "parts",
        workers=chosen,
        what="segment",
        preload=["segment.run"],
    )
    failed = write_failures(folder / "failures.csv", parts)
    masks = parts.loc[parts[FAILURE].isna(), list(COLUMNS)].reset_index(drop=True)
    write_masks(work, masks)
    write_overlays(work, images, masks, CHANNELS)
    counts = {"images": len(images), "masks": len(masks), "failures": failed, "cells": int(masks["n_cells"].sum())}
    stage.finish(counts | {"diameters_px": dict(context.diameters_px)})
    return int(failed > data.max_failures)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):  # torch built without CUDA raises the latter
        raise UserError(
            f"expected a device that this machine has (auto, cpu, cuda, cuda:1, mps), found {name!r}"
        ) from None
    return name


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    # A convolution gives other bits on another number of threads; with one, workers change nothing but the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _network(name: str, device: str) -> BaseModel:
    return load_model(name, torch.device(device))


def _diameters(folder: Path, images: pd.DataFrame, section: SegmentSection, device: str) -> dict[str, float]:
    """Find, once, the diameter of a typical cell at every image size."""
    path = folder / _DIAMETERS
    if path.exists():
        found: dict[str, float] = loads(path.read_text())
        return found
    diameters = {}
    if not section.diameter_px:
        for _, rows in sample_rows(images).groupby(["height_px", "width_px"]):
            height, width = int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0])
            diameters[_size(height, width)] = _estimate(rows, (height, width), section, device)
    write_json(path, diameters)
    return diameters


def _estimate(rows: pd.DataFrame, shape: tuple[int, int], section: SegmentSection, device: str) -> float:
    seen: list[Seen] = []
    areas: list[int] = []
    for row in rows.to_dict("records"):
        with suppress(ImageError):  # told when its own turn comes
            seen.append(see(read_channels(row, CHANNELS), typical_diameter_px(*shape)))
    section = section.model_copy(update={"postprocess": "nuclei"})
    with _one_thread(device):
        for image, answer in zip(seen, answers(_network("compact", device), seen), strict=True):
            with suppress(ImageError):
                areas.extend(np.bincount(decode(answer, image.planes[1], section, image.shape).cells.ravel())[1:])
    return estimate_diameter_px(areas, *shape)


def _size(height_px: int, width_px: int) -> str:
    return f"{height_px}x{width_px}"


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    seen: dict[str, Seen] = {}
    rows: list[dict[str, Any]] = []
    for row in chunk.images.to_dict("records"):
        try:
            seen[row["image_id"]] = _see(context, row)
        except ImageError as error:
            rows.append({"image_id": row["image_id"], FAILURE: str(error)})
    with _one_thread(context.device):
        found = answers(_network(context.section.network, context.device), list(seen.values()))
        for (image_id, image), answer in zip(seen.items(), found, strict=True):
            try:
                rows.append(_segment(context, image_id, image, answer))
            except ImageError as error:
                rows.append({"image_id": image_id, FAILURE: str(error)})
    part = pd.DataFrame(rows, columns=[*COLUMNS, FAILURE])
    order = {image_id: place for place, image_id in enumerate(chunk.image_ids)}
    return part.sort_values("image_id", key=lambda ids: ids.map(order)).astype({"flags": object, FAILURE: object})


def _segment(context: _Context, image_id: str, image: Seen, answer: NDArray[np.float32]) -> dict[str, Any]:
    masks = decode(answer, image.planes[1], context.section, image.shape)
    row = write_pair(context.work, image_id, masks.cells, masks.nuclei)
    flags = {
        "no signal": not image.has_signal,
        "no cell": row["n_cells"] == 0,
        "crowded": row["n_cells"] > context.section.crowded,
    }
    return row | {"flags": join_flags(flags), FAILURE: None}


def _see(context: _Context, image: Mapping[Any, Any]) -> Seen:
    planes = read_channels(image, CHANNELS)
    height, width = planes.shape[1:]
    diameter = context.section.diameter_px or context.diameters_px.get(_size(height, width))
    return see(planes, diameter or typical_diameter_px(height, width))
