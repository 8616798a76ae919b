"""Measure the segment stage: ``uv run python -m bench.segment [--tiny] [PART ...]``.

Parts; without a name, all of them run. They use processors unless stated, and synthetic images that no training draws:

accuracy    AP at IoU 0.5, 0.75 and 0.9 of a watershed without a network, of Cellpose as documented, of Cellpose's masks
            computed at network size, and of the default path
earlier     the same of the default path on the synthetic images of an earlier atlas, which had few touching cells and
            few lobed nuclei, and counted a cell from 45% of its nucleus (commit 2ef9039, in a temporary worktree)
nuclei      pairs of near nuclei that the mask step merges, or leaves apart, wrongly, and the AP if every nucleus were a
            cell, or if the true nuclei were known
sizes       the default path on images of one data set whose cells are 0.65 to 1.5 times as large as usual: one diameter
            for all, a diameter for each image (`diameter_px = 0`), and the true diameters
brightness  the same as accuracy with nuclei, or cells with their nuclei, dimmed to 0.05 to 1 of their light
speed       the stage, at the same diameter and at those that it estimates, relative to Cellpose as documented (one
            image at a time, same network), and the path relative to decoding the PNG files plus the forward pass
workers     two worker processes relative to one, with one thread each
memory      peak memory of a run over 100 and over 400 images
gpu         if there is a GPU: the big network with random weights, with batches filled across images, relative to the
            documented loop; images per second, and the fraction of time in which the network computes
real        AP and F1 of a plain watershed, of our watershed, of the default path and of the maximum of ER and
            microtubules on real images with masks, over a range of diameters and at the estimated one, with the
            differences to the plain watershed (CELLWISE_REAL_DATA, ../shared/real)

``--tiny`` uses a few images, only to show that everything runs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.measure import run_parts, split_words
from bench.segmentation.brightness import brightness
from bench.segmentation.images import as_documented, earlier_scenes, planes_of, print_scores, scenes
from bench.segmentation.nuclei import nuclei
from bench.segmentation.real_images import DIAMETERS_PX, real
from bench.segmentation.sizes import sizes
from bench.segmentation.speed import gpu, gpu_with_big_network, memory, speed, workers
from hpa.atlas.scene import Scene
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import cached_network, segment_images
from segment.inference.preprocess import prepare_input
from segment.network.compact import CompactNetwork
from segment.network.weights import load_network
from segment.training.scenes import REFERENCE_PLANES
from segment.watershed import watershed_cells

_JOINED = ("yellow|red", "blue")


def accuracy(net: CompactNetwork, drawn: list[Scene], name: str = "synthetic images", *, peers: bool = True) -> None:
    """Print the AP of each method on synthetic images, with or without those methods that are not ours."""
    images = [planes_of(scene) for scene in drawn]
    diameter = typical_diameter_px(*images[0].shape[1:])
    seen = [prepare_input(image, diameter) for image in images]
    joined = [prepare_input(scene.channels[list(REFERENCE_PLANES)][[0, 2, 1]], diameter, _JOINED) for scene in drawn]
    cellpose, whole = SegmentSection(postprocess="cellpose"), SegmentSection(min_visible_nucleus=0.2)
    found = {
        "default path": [masks.cells for masks in segment_images(net, seen, SegmentSection())],
        "default, min_visible_nucleus 0.2": [masks.cells for masks in segment_images(net, seen, whole)],
        "maximum of ER and microtubules": [masks.cells for masks in segment_images(net, joined, SegmentSection())],
        "maximum, min_visible_nucleus 0.2": [masks.cells for masks in segment_images(net, joined, whole)],
    }
    if peers:
        found |= {
            "watershed without a network": [watershed_cells(image) for image in seen],
            "Cellpose as documented": as_documented(net, images),
            "Cellpose's masks, network size": [masks.cells for masks in segment_images(net, seen, cellpose)],
        }
    print_scores(f"accuracy, {len(drawn)} {name}", found, drawn)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the named parts, or all."""
    parts, tiny = split_words(arguments)
    net = load_network("compact", torch.device("cpu"))
    known: dict[str, Callable[[Path], None]] = {
        "accuracy": lambda _: accuracy(net, scenes(2 if tiny else 40)),
        "earlier": lambda folder: accuracy(
            net, earlier_scenes(2 if tiny else 40, folder), "images of an earlier atlas", peers=False
        ),
        "nuclei": lambda _: nuclei(net, scenes(2 if tiny else 40)),
        "sizes": lambda _: sizes(net, 3 if tiny else 36),
        "brightness": lambda _: brightness(net, scenes(2 if tiny else 40)),
        "speed": lambda folder: speed(
            cached_network("compact", "cpu", "auto"), folder, *((1, 8, 1) if tiny else (4, 256, 3))
        ),
        "workers": lambda folder: workers(folder, *((160, 1) if tiny else (512, 3))),
        "memory": lambda folder: memory(folder, *((8, 16) if tiny else (100, 400))),
        "gpu": lambda _: gpu(net, 1, 2) if tiny else gpu_with_big_network(),
        "real": lambda _: real(net, DIAMETERS_PX[::5] if tiny else DIAMETERS_PX),
    }
    run_parts(known, parts)


if __name__ == "__main__":
    main()
