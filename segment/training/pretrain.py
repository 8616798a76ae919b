"""Train the shipped weights of the compact network: draw synthetic images, train, save, score on new ones."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from hpa.atlas import draw_scene
from hpa.errors import UserError
from hpa.work.files import atomic_write, write_json
from hpa.work.processes import available_processors
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import segment_images
from segment.inference.preprocess import prepare_input
from segment.network.compact import CompactNetwork, check_weights_file, save_weights
from segment.network.weights import load_network
from segment.score import score_images, summarise
from segment.training.scenes import REFERENCE_PLANES, draw_samples
from segment.training.train import Training, train

_TEST_STREAM: Final = 7_302  # differs from the streams of training and of any atlas
_TEST_IMAGES: Final = 32


def pretrain(
    out: Path, *, images: int, epochs: int, seed: int, workers: int, threads: int, start: str = ""
) -> dict[str, Any]:
    """Train the compact network on synthetic images, and write its weights with a JSON record beside them.

    Parameters
    ----------
    out
        File of weights to write; the record has the same name with the suffix ``.json``.
    images
        Number of synthetic images.
    epochs
        Number of passes over all images.
    seed
        Seed of the images, the initial weights, the order and the augmentation.
    workers
        Processes that draw images; 0 uses one per processor.
    threads
        Threads of the training. The weights depend on it, because it changes the order of floating-point sums. Two
        threads on processors that other work uses too are slower than one.
    start
        Weights to start from (`segment.network.weights.load_network`), with a third of the learning rate; empty starts
        from random weights.

    Returns
    -------
    dict
        The record: settings, seconds, losses and scores.

    Raises
    ------
    UserError
        If `out` cannot be the file of weights, or `start` is not the compact network.
    """
    check_weights_file(out)
    started = time.monotonic()
    settings, first = Training(seed=seed, epochs=epochs), None
    if start:
        first = load_network(start, torch.device("cpu"))
        if not isinstance(first, CompactNetwork):
            raise UserError(f"expected weights of the compact network to start from, found others in {start}")
        settings = replace(settings, max_learning_rate=settings.max_learning_rate / 3)
    samples = draw_samples(seed, images, workers or available_processors())
    torch.set_num_threads(threads)
    drawn = time.monotonic()
    net, losses = train(samples, settings, first)
    trained = time.monotonic()
    with atomic_write(out) as partial:
        save_weights(net, partial)
    record = {
        "images": images,
        "epochs": epochs,
        "seed": seed,
        "threads": threads,
        "start": start,
        "seconds_drawing": round(drawn - started, 1),
        "seconds_training": round(trained - drawn, 1),
        "bytes": out.stat().st_size,
        "losses": [round(loss, 4) for loss in losses],
        "unseen": score_synthetic(net, range(_TEST_IMAGES)),
    }
    write_json(out.with_suffix(".json"), record)
    return record


def score_synthetic(net: CompactNetwork, numbers: range) -> list[dict[str, float]]:
    """Score the default segmentation on synthetic images that are never used for training.

    Parameters
    ----------
    net
        The network.
    numbers
        Numbers of the images to draw.

    Returns
    -------
    list of dict
        One per IoU threshold (`segment.score.summarise`).
    """
    scenes = [draw_scene((_TEST_STREAM, number), protein=False) for number in numbers]
    diameter_px = typical_diameter_px(*scenes[0].cells.shape)
    images = [prepare_input(scene.channels[list(REFERENCE_PLANES[:2])], diameter_px) for scene in scenes]
    masks = segment_images(net, images, SegmentSection())
    triples = (
        (str(number), found.cells, scene.cells) for number, found, scene in zip(numbers, masks, scenes, strict=True)
    )
    return [
        {str(key): float(value) for key, value in row.items()}
        for row in summarise(score_images(triples)).to_dict("records")
    ]
