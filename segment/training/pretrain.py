"""Making the weights that ship: draw, train, save, score on synthetic images never trained on."""

import os
import time
from pathlib import Path
from typing import Any, Final

import torch

from hpa.atlas import draw_scene
from hpa.work.files import atomic_write, write_json
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import segment_images
from segment.inference.preprocess import prepare_input
from segment.network.compact import CompactNetwork, save_weights
from segment.score import score_images, summarise
from segment.training.scenes import REFERENCE_PLANES, draw_samples
from segment.training.train import Training, train

_UNSEEN_STREAM: Final = 7_302  # neither the training's stream nor an atlas's


def pretrain(out: Path, *, images: int, epochs: int, seed: int, workers: int, threads: int) -> dict[str, Any]:
    """Train the compact network and write its weights, with a JSON file of figures beside them.

    Parameters
    ----------
    out
        The weights to write; the figures go to the same name with the suffix ``.json``.
    images, epochs
        Synthetic images and how often each is seen.
    seed
        Of images, weights and order.
    workers
        Processes that draw; 0 takes one a processor.
    threads
        Of the training. The weights depend on it, because sums are added up in another order; two threads that
        share their processors with other work are slower than one.

    Returns
    -------
    dict
        The figures.
    """
    started = time.monotonic()
    samples = draw_samples(seed, images, workers or os.cpu_count() or 1)
    torch.set_num_threads(threads)
    drawn = time.monotonic()
    net, losses = train(samples, Training(seed=seed, epochs=epochs))
    trained = time.monotonic()
    with atomic_write(out) as partial:
        save_weights(net, partial)
    figures = {
        "images": images,
        "epochs": epochs,
        "seed": seed,
        "threads": threads,
        "seconds_drawing": round(drawn - started, 1),
        "seconds_training": round(trained - drawn, 1),
        "bytes": out.stat().st_size,
        "losses": [round(loss, 4) for loss in losses],
        "unseen": score_synthetic(net, range(32)),
    }
    write_json(out.with_suffix(".json"), figures)
    return figures


def score_synthetic(net: CompactNetwork, numbers: range) -> list[dict[str, float]]:
    """Score the default path on synthetic images that no training ever draws.

    Parameters
    ----------
    net
        The network.
    numbers
        Which of these images.

    Returns
    -------
    list of dict
        One for each IoU threshold (`segment.score.summarise`).
    """
    scenes = [draw_scene((_UNSEEN_STREAM, number), protein=False) for number in numbers]
    diameter_px = typical_diameter_px(*scenes[0].cells.shape)
    seen = [prepare_input(scene.channels[list(REFERENCE_PLANES[:2])], diameter_px) for scene in scenes]
    masks = segment_images(net, seen, SegmentSection())
    triples = (
        (str(number), found.cells, scene.cells) for number, found, scene in zip(numbers, masks, scenes, strict=True)
    )
    return [
        {str(key): float(value) for key, value in row.items()}
        for row in summarise(score_images(triples)).to_dict("records")
    ]
