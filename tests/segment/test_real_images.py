"""Score the shipped weights on real images of the Human Protein Atlas, which were not used for training."""

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


@pytest.mark.real_data("images512", "masks512")
def test_shipped_weights_on_real_images(real_data: Path) -> None:
    """The reference masks are the output of another program, not drawn by hand."""
    references = {path.stem.removesuffix("_mask"): read_plane(path) for path in (real_data / "masks512").glob("*.png")}
    planes = [
        np.stack([read_plane(real_data / "images512" / f"{image_id}_{channel}.png") for channel in ("yellow", "blue")])
        for image_id in references
    ]
    inputs = [prepare_input(image, typical_diameter_px(*image.shape[1:])) for image in planes]
    found = segment_images(load_network("compact", torch.device("cpu")), inputs, SegmentSection())
    triples = [(i, masks.cells, truth) for (i, truth), masks in zip(references.items(), found, strict=True)]
    ours = summarise(score_images(triples)).iloc[0]
    # These bounds guard against regressions; they lie one or two cells below the current scores (docs/results.md).
    assert ours["mean_ap"] >= 0.78
    assert ours["pooled_f1"] >= 0.87


@pytest.mark.real_data("images2048")
def test_full_and_reduced_size_give_the_same_cells(real_data: Path) -> None:
    """The same field of view must have the same cells at 2048 px and at 512 px."""
    planes = np.stack(
        [read_plane(next((real_data / "images2048").glob(f"*_{channel}.png"))) for channel in ("yellow", "blue")]
    )
    small = np.stack([cv2.resize(plane, (512, 512), interpolation=cv2.INTER_AREA) for plane in planes])
    net = load_network("compact", torch.device("cpu"))
    inputs = [prepare_input(image, typical_diameter_px(*image.shape[1:])) for image in (planes, small)]
    large, reduced = (masks.cells for masks in segment_images(net, inputs, SegmentSection()))
    assert large.shape == planes.shape[1:]
    scores = summarise(score_images([("field", reduce_labels(large, (512, 512)), reduced)]))
    assert scores["pooled_f1"].iloc[0] >= 0.9
