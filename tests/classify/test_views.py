"""The eight views of a crop, and what is made of them."""

from typing import Any

import numpy as np
import torch

from classify.config import ClassifySection
from classify.inference.evaluate import predict_batches
from classify.inference.views import dihedral
from classify.network.model import Network
from tests.classify.world import bright_crops

CPU = torch.device("cpu")
SOURCE = bright_crops(np.random.default_rng(0).random((6, 3)) < 0.5)
ROWS = np.arange(6)


def test_the_views_are_numpys_turns_and_mirrors() -> None:
    crop = np.arange(2 * 9).reshape(2, 3, 3)
    expected = {np.rot90(view, k, (1, 2)).tobytes() for view in (crop, crop[:, ::-1]) for k in range(4)}
    views = dihedral(torch.from_numpy(crop)[None])
    assert {view[0].numpy().tobytes() for view in views} == expected
    assert len(expected) == 8
    np.testing.assert_array_equal(views[0][0].numpy(), crop)


def _look(views: Any, crops: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    section = ClassifySection(backbone="cnn3", test_views=views, embedding_dim=3)
    torch.manual_seed(0)
    network = Network(section, 4, 3, [60.0] * 4, [50.0] * 4).eval()
    source = SOURCE if crops is None else type(SOURCE)(crops, SOURCE.own)
    (said,) = predict_batches(network, source, ROWS, section, CPU)
    assert said.embeddings is not None
    return said.probabilities, said.features, said.embeddings


def test_mean_and_maximum_are_of_the_eight_single_views() -> None:
    singles = [_look("one", view.numpy()) for view in dihedral(torch.from_numpy(SOURCE.crops))]
    probabilities = np.stack([p for p, _, _ in singles])
    assert np.ptp(probabilities, axis=0).max() > 1e-4, "the network tells the views apart"
    np.testing.assert_allclose(_look("mean")[0], probabilities.mean(0), rtol=1e-5)
    np.testing.assert_allclose(_look("maximum")[0], probabilities.max(0), rtol=1e-5)
    np.testing.assert_allclose(_look("mean")[1], np.stack([f for _, f, _ in singles]).mean(0), rtol=1e-4, atol=1e-6)


def test_a_turned_crop_is_seen_alike() -> None:
    turned = np.rot90(SOURCE.crops, 1, (2, 3)).copy()
    for one, other in zip(_look("mean"), _look("mean", turned), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_embeddings_of_many_views_still_have_unit_length() -> None:
    np.testing.assert_allclose(np.linalg.norm(_look("mean")[2], axis=1), 1, rtol=1e-5)
