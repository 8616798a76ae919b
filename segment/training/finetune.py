"""Training the compact network further: on a user's own masks, or on those of a big teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from hpa.channels import Channel
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.pixels import write_labels
from hpa.work.device import resolve_device
from hpa.work.files import atomic_write, write_json
from hpa.work.folder import WorkFolder
from segment.config import SegmentSection
from segment.external_masks import find_masks, read_external_mask
from segment.inference.inputs import channels_to_read, load_input
from segment.inference.predict import NetworkInput, run_network, segment_images
from segment.inference.preprocess import reduce_labels
from segment.network.compact import NUCLEUS_PLANE, CompactNetwork, save_weights
from segment.network.weights import COMPACT, load_model
from segment.postprocess.cells import assign_nuclei_to_cells
from segment.postprocess.decode import decode_nuclei
from segment.score import score_images, summarise
from segment.training.augment import Sample
from segment.training.scenes import draw_samples, sample_of
from segment.training.train import Training, train

_RATE: Final = 5e-4  # a sixth of that from scratch: what was learned is to be kept
_MAX_SIDE_PX: Final = 208
_MULTIPLE: Final = 16
_MIN_SAMPLES: Final = 64  # an epoch of fewer has too few steps to learn in
_HELD_OUT: Final = 5  # every fifth image scores and does not train


def fine_tune(
    work: WorkFolder, masks: Path, out: Path, *, epochs: int, seed: int = 0, device: str = "auto"
) -> dict[str, Any]:
    """Train the compact network further on a user's label images, mixed with as many synthetic images.

    Every fifth image is held out and scored before and after.

    Parameters
    ----------
    work
        The work folder whose images they belong to.
    masks
        The folder of label images (`segment.external_masks.find_masks`).
    out
        The weights to write; figures go to the same name with the suffix ``.json``.
    epochs
        How often each image is seen.
    seed
        Of order, looks and synthetic images.
    device
        Where nuclei are found and scores are made; the training itself runs on the processor.

    Returns
    -------
    dict
        The figures.

    Raises
    ------
    UserError
        If no image of the work folder has a label image.
    """
    section = work.section("segment", SegmentSection)
    network = load_model(COMPACT, torch.device(resolve_device(device)))
    pairs = _pairs(work, masks, section, channels_to_read(section, work.data))
    if not pairs:
        raise UserError(f"expected label images of images of {work.root} in {masks}, found none")
    held = pairs[::_HELD_OUT] if len(pairs) >= _HELD_OUT else []
    kept = [pair for place, pair in enumerate(pairs) if not held or place % _HELD_OUT]
    samples = [piece for pair in kept for piece in _samples(*pair, network, section)]
    samples += draw_samples(seed, len(kept), workers=1)
    samples *= -(-_MIN_SAMPLES // len(samples))  # every repetition has a look of its own
    tuned, losses = train(samples, Training(seed=seed, epochs=epochs, top_rate=_RATE), start=network)
    with atomic_write(out) as partial:
        save_weights(tuned, partial)
    figures = {
        "images": len(kept),
        "held_out": len(held),
        "epochs": epochs,
        "seed": seed,
        "losses": [round(loss, 4) for loss in losses],
        "before": _score(network, held, section),
        "after": _score(tuned, held, section),
    }
    write_json(out.with_suffix(".json"), figures)
    return figures


def distill(
    work: WorkFolder,
    teacher: str,
    out: Path,
    *,
    images: int,
    epochs: int,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Let a big network segment some images, and train the compact one on its masks.

    Parameters
    ----------
    work
        The work folder.
    teacher
        A network as a recipe names it.
    out
        The weights to write; the teacher's masks go to a folder ``<out>-masks`` beside it.
    images
        How many images the teacher segments, evenly over the image table.
    epochs, seed, device
        As of `fine_tune`.

    Returns
    -------
    dict
        The figures.

    Raises
    ------
    UserError
        If the teacher cannot be had.
    """
    section = work.section("segment", SegmentSection)
    network = load_model(teacher, torch.device(resolve_device(device)))
    table = read_images(work.images)
    chosen = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(images, len(table))).round().astype(int))]
    folder = out.with_name(out.stem + "-masks")
    for image_id, seen in _readable(chosen, channels_to_read(section, work.data), section):
        for found in segment_images(network, [seen], section):
            write_labels(folder / f"{image_id}.png", found.cells)
    return fine_tune(work, folder, out, epochs=epochs, seed=seed, device=device)


def told(figures: dict[str, Any], out: Path) -> str:
    """Return what a person wants to know of a training: scores before and after, and how to go on."""
    scores = [
        f"held out, IoU {before['iou']:.2f}: AP {before['mean_ap']:.3f} before, {after['mean_ap']:.3f} after"
        for before, after in zip(figures["before"], figures["after"], strict=True)
    ]
    return "\n".join(
        [
            f"trained on {figures['images']} images, {figures['held_out']} held out",
            *scores,
            f'set network = "{out.resolve()}" in [segment] of a recipe to use it',
        ]
    )


def _readable(
    images: pd.DataFrame, channels: tuple[Channel, ...], section: SegmentSection
) -> list[tuple[str, NetworkInput]]:
    found = []
    for row in images.to_dict("records"):
        try:
            found.append((str(row["image_id"]), load_input(row, channels, section.diameter_px)))
        except ImageError as error:
            print(f"segment: {row['image_id']} is left out: {error}")
    return found


def _pairs(
    work: WorkFolder, masks: Path, section: SegmentSection, channels: tuple[Channel, ...]
) -> list[tuple[NetworkInput, Any]]:
    """Return what the network sees of every image that has a label image, with that."""
    foreign = find_masks(masks)
    images = read_images(work.images)
    images = images[[foreign.cells_of(image_id) is not None for image_id in images["image_id"]]]
    pairs = []
    for image_id, seen in _readable(images, channels, section):
        path = foreign.cells_of(image_id)
        try:
            pairs.append((seen, read_external_mask(path, seen.shape))) if path else None
        except ImageError as error:
            print(f"segment: {image_id} is left out: {error}")
    return pairs


def _samples(seen: NetworkInput, cells: Any, network: CompactNetwork, section: SegmentSection) -> list[Sample]:
    """Cut what the network sees into pieces to train on; nuclei are those that the network finds in the cells."""
    shape = seen.planes.shape[1:]
    answer = run_network(network, [seen])[0]
    small = reduce_labels(cells.astype(np.uint16), (shape[0], shape[1]))
    nuclei = assign_nuclei_to_cells(
        decode_nuclei(answer, seen.planes[NUCLEUS_PLANE], section, (shape[0], shape[1])).astype(np.int32), small
    ).astype(np.uint16)
    return [
        sample_of(seen.planes[:, rows, columns], small[rows, columns], nuclei[rows, columns])
        for rows in _pieces(shape[0])
        for columns in _pieces(shape[1])
    ]


def _pieces(side: int) -> list[slice]:
    """Return windows of one length, a multiple of 16, that cover a side but for a rest at its ends."""
    n = -(-side // _MAX_SIDE_PX)
    length = max(_MULTIPLE, side // n // _MULTIPLE * _MULTIPLE)
    starts = np.linspace(0, side - length, n).round().astype(int) if n > 1 else [(side - length) // 2]
    return [slice(int(start), int(start) + length) for start in starts]


def _score(network: CompactNetwork, held: Sequence[tuple[NetworkInput, Any]], section: SegmentSection) -> list[Any]:
    if not held:
        return []
    found = segment_images(network, [seen for seen, _ in held], section)
    triples = ((str(i), masks.cells, pair[1]) for i, (masks, pair) in enumerate(zip(found, held, strict=True)))
    rows: list[Any] = summarise(score_images(triples)).to_dict("records")
    return rows
