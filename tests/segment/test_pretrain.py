"""Score the shipped weights on synthetic images that were not used for training."""

from typing import Any

import torch

from segment.network.weights import load_network
from segment.training.pretrain import score_synthetic


def test_shipped_weights_on_new_synthetic_images() -> None:

    half: dict[str, Any] = score_synthetic(load_network("compact", torch.device("cpu")), range(100, 108))[0]
    assert half["mean_ap"] >= 0.85
