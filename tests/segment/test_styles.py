"""Samples for training: looks and orientations."""

from dataclasses import replace

import numpy as np
import pytest

from segment.network.cellpose import flows_from_labels
from segment.network.compact import ER, MICROTUBULES, NUCLEUS_PLANE
from segment.postprocess.nuclei import nucleus_cores
from segment.training.augment import Sample, augment, clear_rim, nucleus_distance, restyle
from segment.training.train import Training, batches, train
from tests.segment.shapes import discs


def sample(side_px: int = 48) -> Sample:
    centres = [(14.0, 12.0), (30.0, 33.0)]
    cells, nuclei = discs((side_px, side_px), centres, 10), discs((side_px, side_px), centres, 4)
    planes = np.stack([(cells > 0) * 90.0, (nuclei > 0) * 180.0, (cells > 0) * 60.0]).astype(np.float16)
    flows = flows_from_labels(cells).astype(np.float16)
    return Sample(planes, cells, nuclei, flows, nucleus_cores(nuclei), nucleus_distance(cells, nuclei))


def test_reach_is_a_share_of_the_way_out() -> None:
    one = sample()
    reach = nucleus_distance(one.cells, one.nuclei)
    assert not reach[(one.cells == 0) | (one.nuclei > 0)].any()
    assert [reach[one.cells == label].max() for label in (1, 2)] == [1, 1]


def test_looks_differ_by_draw_and_are_finite() -> None:
    one = sample()
    first, again, other = (restyle(one, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for seed in range(40):
        assert np.isfinite(restyle(one, np.random.default_rng(seed))).all()


def test_some_looks_lack_er_or_microtubules_and_never_the_nucleus() -> None:
    looks = [restyle(sample(), np.random.default_rng(seed)) for seed in range(60)]
    there = np.array([look.any(axis=(1, 2)) for look in looks])
    assert there[:, NUCLEUS_PLANE].all()
    for plane in (ER, MICROTUBULES):
        assert 0 < (~there[:, plane]).sum() < 60
    assert there[:, [ER, MICROTUBULES]].any(axis=1).all(), "never both"


def test_what_an_image_lacks_no_look_invents() -> None:
    one = sample()
    planes = one.planes.copy()
    planes[MICROTUBULES] = 0
    for seed in range(20):
        look = restyle(replace(one, planes=planes), np.random.default_rng(seed))
        assert not look[MICROTUBULES].any()
        assert look[ER].any()


def test_the_rim_stays_blank() -> None:
    one = sample()
    for seed in range(20):
        look = restyle(replace(one, blank_px=5), np.random.default_rng(seed))
        assert not look[:, :5].any()
        assert not look[:, :, -5:].any()
        assert look[:, 5:-5, 5:-5].any()
    assert clear_rim(one.cells, 14).sum() < one.cells.sum()
    assert not clear_rim(one.cells, 14)[:14].any()
    assert np.array_equal(clear_rim(one.cells, 0), one.cells)


def test_flows_turn_with_the_image() -> None:
    """Flows of a turned label image are the turned flows of the label image."""
    one = sample()
    for seed in range(12):
        _, target = augment(one, np.random.default_rng(seed))
        turned = [np.flip(cells, axes) for cells in (one.cells, one.cells.T) for axes in ((), (0,), (1,), (0, 1))]
        errors = [
            np.abs(flows_from_labels(cells) - target[3:]).mean()
            for cells in turned
            if np.array_equal(cells > 0, target[2] > 0)
        ]
        assert min(errors) < 0.01


def test_batches_hold_every_image_once_and_one_size_each() -> None:
    samples = [sample(side) for side in (48, 64) for _ in range(11)]
    drawn = list(batches(samples, (0, 3)))
    assert sorted(np.concatenate(drawn)) == list(range(22))
    assert all(len({samples[index].cells.shape for index in batch}) == 1 for batch in drawn)
    assert not np.array_equal(np.concatenate(drawn), np.concatenate(list(batches(samples, (0, 4)))))


def test_training_is_reproducible() -> None:
    samples = [sample()] * 4
    (first, losses), (second, again) = (train(samples, Training(seed=1, epochs=2)) for _ in range(2))
    assert losses == again
    for key, value in first.state_dict().items():
        assert value.equal(second.state_dict()[key])


@pytest.mark.slow
def test_training_learns_from_few_images() -> None:
    from segment.training.scenes import draw_samples

    _, losses = train(draw_samples(seed=11, images=32, workers=2), Training(seed=11, epochs=14))
    assert losses[-1] < 0.65 * losses[0]
