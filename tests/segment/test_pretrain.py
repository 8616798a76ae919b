"""Score the shipped weights on synthetic images that were not used for training; record what a training did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import segment.training.pretrain
from segment.network.weights import load_network
from segment.training.pretrain import pretrain, score_synthetic
from tests.support.shapes import make_sample


def test_shipped_weights_on_new_synthetic_images() -> None:

    half: dict[str, Any] = score_synthetic(load_network("compact", torch.device("cpu")), range(100, 108))[0]
    assert half["mean_ap"] >= 0.85


def test_a_training_is_recorded_beside_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment.training.pretrain, "_TEST_IMAGES", 1)
    monkeypatch.setattr(
        segment.training.pretrain, "draw_samples", lambda seed, images, workers: [make_sample()] * images
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # other tests keep theirs
    out = tmp_path / "weights.pt"
    record = pretrain(out, images=2, epochs=1, seed=3, workers=1, threads=1)
    assert json.loads(out.with_suffix(".json").read_text()) == record
    assert (record["images"], record["epochs"], record["seed"], len(record["losses"])) == (2, 1, 3, 1)
    assert record["bytes"] == out.stat().st_size
    assert {row["images"] for row in record["unseen"]} == {1}
    load_network(str(out), torch.device("cpu"))
