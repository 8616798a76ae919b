"""Pretrained backbones of several widths: macro F1 of new heads by the time of a prediction."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.classification.runs import Job, image_probabilities, read, run
from bench.classification.scores import Truth, score
from bench.classification.world import FULL, TINY, World
from bench.pretraining.cells import DEVICE, network_of
from classify.inference.evaluate import BATCH, predict_batches
from classify.network.pretrained import Pretrained

_SEEDS: Final = (0, 1, 2)


def widths(tiny: bool, pretrained: Iterable[Path]) -> Iterator[dict[str, object]]:
    """Score new heads on the frozen features of each backbone, and time the network.

    Parameters
    ----------
    tiny
        Use a small atlas.
    pretrained
        Files of the weights, each in the folder of its pretraining.

    Yields
    ------
    dict
        A row per backbone: parameters, crops a second of processor time in a prediction, and mean AP and macro F1 of
        test images and their cells, the mean of three seeds of the heads.
    """
    world = World.of(TINY if tiny else FULL)
    truth = Truth(world)
    cells = (world.work("cells", world.size.crop_px), "cells")
    for weights in pretrained:
        heads = replace(world.size, backbone=weights.stem).heads(str(weights.resolve()))
        network, section = network_of(Pretrained.load(weights))
        source = read(*cells)[0]
        rows = np.resize(np.arange(len(source)), BATCH if tiny else 8 * BATCH)
        taken = []
        for _ in range(3):
            started = time.process_time()
            for _ in predict_batches(network, source, rows, section, DEVICE):
                pass
            taken.append(time.process_time() - started)
        found = []
        for seed in _SEEDS:
            ran = run(Job(f"frozen-{weights.parent.name}", heads, cells, cells, seed))
            found.append(vars(score(truth, cells[0], image_probabilities(ran), ran.table).score))
        yield {
            "backbone": weights.parent.name,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "crops per second": len(rows) / min(taken),
            **{key: float(np.mean([one[key] for one in found])) for key in found[0]},
        }
