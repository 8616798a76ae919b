"""Batches of the training loop, and that training is reproducible and learns."""

import numpy as np
import pytest

from segment.training.train import Training, batches, train
from tests.support.shapes import make_sample


def test_batches_contain_every_image_once_and_one_size_each() -> None:
    samples = [make_sample(side) for side in (48, 64) for _ in range(11)]
    drawn = list(batches(samples, (0, 3)))
    assert sorted(np.concatenate(drawn)) == list(range(22))
    assert all(len({samples[index].cells.shape for index in batch}) == 1 for batch in drawn)
    assert not np.array_equal(np.concatenate(drawn), np.concatenate(list(batches(samples, (0, 4)))))


def test_training_is_reproducible() -> None:
    samples = [make_sample()] * 4
    (first, losses), (second, again) = (train(samples, Training(seed=1, epochs=2)) for _ in range(2))
    assert losses == again
    for key, value in first.state_dict().items():
        assert value.equal(second.state_dict()[key])


@pytest.mark.slow
def test_training_learns_from_few_images() -> None:
    from segment.training.scenes import draw_samples

    _, losses = train(draw_samples(seed=11, images=32, workers=2), Training(seed=11, epochs=14))
    assert losses[-1] < 0.65 * losses[0]
