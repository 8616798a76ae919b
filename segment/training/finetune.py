"""Train the compact network further: on your own label images, or on those of a teacher network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.pixels import write_label_image
from hpa.work.device import resolve_device
from hpa.work.files import atomic_write, write_json
from hpa.work.folder import WorkFolder
from segment.config import SegmentSection
from segment.external_masks import find_external_masks, read_external_mask
from segment.inference.predict import cached_network, run_network, segment_images
from segment.inference.preprocess import NetworkInput, channels_to_read, load_input, reduce_labels
from segment.network.compact import NUCLEUS_PLANE, CompactNetwork, check_weights_file, save_weights
from segment.network.weights import COMPACT, load_network
from segment.postprocess.cells import assign_nuclei_to_cells
from segment.postprocess.decode import decode_nuclei
from segment.postprocess.labels import Labels
from segment.score import score_images, summarise
from segment.training.augment import Sample
from segment.training.scenes import draw_samples, make_sample
from segment.training.train import Training, train

_LEARNING_RATE: Final = 5e-4  # a sixth of that of pretraining, to preserve what was learned
_MAX_SIDE_PX: Final = 208
_MULTIPLE: Final = 16
_MIN_SAMPLES: Final = 64  # an epoch of fewer samples has too few steps to learn
_HOLD_OUT_EVERY: Final = 5

_LabelledImage = tuple[NetworkInput, Labels]


def fine_tune(
    work: WorkFolder, masks: Path, out: Path, *, epochs: int, seed: int = 0, device: str = "auto"
) -> dict[str, Any]:
    """Train the compact network further on label images, mixed with as many synthetic images.

    Every fifth image is held out for scoring, before and after training.

    Parameters
    ----------
    work
        The work folder with the images.
    masks
        Folder of label images (`segment.external_masks.find_external_masks`).
    out
        File of weights to write; a record goes to the same name with the suffix ``.json``.
    epochs
        Number of passes over all images.
    seed
        Seed of the order, the augmentation and the synthetic images.
    device
        Device that finds nuclei and computes scores; the training itself runs on the CPU.

    Returns
    -------
    dict
        The record: numbers of images, settings, losses and scores.

    Raises
    ------
    UserError
        If no image of the work folder has a label image, or `out` cannot be the file of weights.
    """
    return _train_further(work, masks, out, read_images(work.images), epochs=epochs, seed=seed, device=device)


def _train_further(
    work: WorkFolder, masks: Path, out: Path, images: pd.DataFrame, *, epochs: int, seed: int, device: str
) -> dict[str, Any]:
    check_weights_file(out)
    section = work.section("segment", SegmentSection)
    network = load_network(COMPACT, torch.device(resolve_device(device)))
    labelled = _load_labelled(images, masks, section, channels_to_read(section, work.data))
    if not labelled:
        raise UserError(f"expected label images for images of {work.root} in {masks}, found none")
    held_out = labelled[::_HOLD_OUT_EVERY] if len(labelled) >= _HOLD_OUT_EVERY else []
    training = [image for index, image in enumerate(labelled) if not held_out or index % _HOLD_OUT_EVERY]
    samples = [sample for image, cells in training for sample in _make_samples(image, cells, network, section)]
    samples += draw_samples(seed, len(training), workers=1)
    samples *= -(-_MIN_SAMPLES // len(samples))  # each repetition is augmented differently
    tuned, losses = train(samples, Training(seed=seed, epochs=epochs, max_learning_rate=_LEARNING_RATE), start=network)
    with atomic_write(out) as partial:
        save_weights(tuned, partial)
    record = {
        "images": len(training),
        "held_out": len(held_out),
        "epochs": epochs,
        "seed": seed,
        "losses": [round(loss, 4) for loss in losses],
        "before": _score(network, held_out, section),
        "after": _score(tuned, held_out, section),
    }
    write_json(out.with_suffix(".json"), record)
    return record


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
    """Segment some images with a teacher network, and train the compact network on its masks.

    Parameters
    ----------
    work
        The work folder.
    teacher
        Network as named in a recipe.
    out
        File of weights to write; the teacher's masks go to the folder ``<out>-masks`` beside it.
    images
        Number of images that the teacher segments, evenly spaced in the image table.
    epochs, seed, device
        As in `fine_tune`.

    Returns
    -------
    dict
        The record of `fine_tune`.

    Raises
    ------
    UserError
        If the teacher is not available, or `out` cannot be the file of weights.
    """
    check_weights_file(out)
    section = work.section("segment", SegmentSection)
    network = cached_network(teacher, resolve_device(device), section.precision)
    table = read_images(work.images)
    chosen = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(images, len(table))).round().astype(int))]
    folder = out.with_name(out.stem + "-masks")
    segmented = []
    for image_id, image in _load_readable(chosen, channels_to_read(section, work.data), section):
        for masks in segment_images(network, [image], section):
            write_label_image(folder / f"{image_id}.png", masks.cells)
            segmented.append(image_id)
    # Not all masks in the folder: an earlier run may have left those of another teacher.
    chosen = chosen[chosen["image_id"].isin(segmented)]
    return _train_further(work, folder, out, chosen, epochs=epochs, seed=seed, device=device)


def format_summary(record: dict[str, Any], out: Path) -> str:
    """Summarise a training run for the terminal: scores before and after, and how to use the weights."""
    scores = [
        f"held out, IoU {before['iou']:.2f}: AP {before['mean_ap']:.3f} before, {after['mean_ap']:.3f} after"
        for before, after in zip(record["before"], record["after"], strict=True)
    ]
    return "\n".join(
        [
            f"trained on {record['images']} images, {record['held_out']} held out",
            *scores,
            f'set network = "{out.resolve()}" in [segment] of a recipe to use the weights',
        ]
    )


def _load_readable(
    images: pd.DataFrame, channels: tuple[str, ...], section: SegmentSection
) -> list[tuple[str, NetworkInput]]:
    loaded = []
    for row in images.to_dict("records"):
        try:
            loaded.append((str(row["image_id"]), load_input(row, channels, section.diameter_px)))
        except ImageError as error:
            print(f"segment: {row['image_id']} is skipped: {error}")
    return loaded


def _load_labelled(
    images: pd.DataFrame, masks: Path, section: SegmentSection, channels: tuple[str, ...]
) -> list[_LabelledImage]:
    """Load every image that has a label image, together with that label image."""
    external = find_external_masks(masks)
    images = images[[external.cells_path(image_id) is not None for image_id in images["image_id"]]]
    labelled = []
    for image_id, image in _load_readable(images, channels, section):
        path = external.cells_path(image_id)
        assert path is not None
        try:
            labelled.append((image, read_external_mask(path, image.shape)))
        except ImageError as error:
            print(f"segment: {image_id} is skipped: {error}")
    return labelled


def _make_samples(image: NetworkInput, cells: Labels, network: CompactNetwork, section: SegmentSection) -> list[Sample]:
    """Cut an image into training samples, with the nuclei that the network finds within the labelled cells."""
    shape = (image.planes.shape[1], image.planes.shape[2])
    (output,) = run_network(network, [image])
    small = reduce_labels(cells.astype(np.uint16), shape)
    found = decode_nuclei(output, image.planes[NUCLEUS_PLANE], section, shape).astype(np.int32)
    nuclei: NDArray[np.uint16] = assign_nuclei_to_cells(found, small).astype(np.uint16)
    return [
        make_sample(image.planes[:, rows, columns], small[rows, columns], nuclei[rows, columns])
        for rows in _sample_windows(shape[0])
        for columns in _sample_windows(shape[1])
    ]


def _sample_windows(side: int) -> list[slice]:
    """Return windows of equal length, a multiple of 16, that cover a side except for a remainder."""
    n = -(-side // _MAX_SIDE_PX)
    length = max(_MULTIPLE, side // n // _MULTIPLE * _MULTIPLE)
    starts = np.linspace(0, side - length, n).round().astype(int) if n > 1 else [(side - length) // 2]
    return [slice(int(start), int(start) + length) for start in starts]


def _score(network: CompactNetwork, held_out: Sequence[_LabelledImage], section: SegmentSection) -> list[Any]:
    if not held_out:
        return []
    predicted = segment_images(network, [image for image, _ in held_out], section)
    triples = (
        (str(index), masks.cells, cells)
        for index, (masks, (_, cells)) in enumerate(zip(predicted, held_out, strict=True))
    )
    rows: list[Any] = summarise(score_images(triples)).to_dict("records")
    return rows
