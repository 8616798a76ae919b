"""Score the shipped weights on real images of the Human Protein Atlas, which were not used for training."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hpa.pixels import read_plane
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import segment_images
from segment.inference.preprocess import prepare_input, reduce_labels
from segment.network.weights import load_network
from segment.score import score_images, summarise

REAL = Path(os.environ.get("CELLWISE_REAL_DATA", Path(__file__).parents[3] / "shared" / "real"))


@pytest.mark.skipif(not (REAL / "masks512").is_dir(), reason=f"no real images at {REAL}")
def test_shipped_weights_on_real_images() -> None:
    """The reference masks are the output of another program, not drawn by hand."""
    references = {path.stem.removesuffix("_mask"): read_plane(path) for path in (REAL / "masks512").glob("*.png")}
    planes = [
        np.stack([read_plane(REAL / "images512" / f"{image_id}_{channel}.png") for channel in ("yellow", "blue")])
        for image_id in references
    ]
    inputs = [prepare_input(image, typical_diameter_px(*image.shape[1:])) for image in planes]
    found = segment_images(load_network("compact", torch.device("cpu")), inputs, SegmentSection())
    triples = [(i, masks.cells, truth) for (i, truth), masks in zip(references.items(), found, strict=True)]
    ours = summarise(score_images(triples)).iloc[0]
    # These bounds guard against regressions; they lie one or two cells below the current scores (docs/results.md).
    assert ours["mean_ap"] >= 0.78
    assert ours["pooled_f1"] >= 0.87


@pytest.mark.skipif(not (REAL / "images2048").is_dir(), reason=f"no real images at {REAL}")
def test_full_and_reduced_size_give_the_same_cells() -> None:
    """The same field of view must have the same cells at 2048 px and at 512 px."""
    planes = np.stack(
        [read_plane(next((REAL / "images2048").glob(f"*_{channel}.png"))) for channel in ("yellow", "blue")]
    )
    small = np.stack([cv2.resize(plane, (512, 512), interpolation=cv2.INTER_AREA) for plane in planes])
    net = load_network("compact", torch.device("cpu"))
    inputs = [prepare_input(image, typical_diameter_px(*image.shape[1:])) for image in (planes, small)]
    large, reduced = (masks.cells for masks in segment_images(net, inputs, SegmentSection()))
    assert large.shape == planes.shape[1:]
    scores = summarise(score_images([("field", reduce_labels(large, (512, 512)), reduced)]))
    assert scores["pooled_f1"].iloc[0] >= 0.9
