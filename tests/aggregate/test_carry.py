import numpy as np
from scipy.special import expit, logit

from aggregate.thresholds.transfer import transfer_thresholds
from bench.simulated import draw_images, score_cells


def test_one_model_needs_no_carrying() -> None:
    draw = np.random.default_rng(0)
    values, shares = np.array([0.2, 0.9]), np.array([0.3, 0.1])
    one = draw.random((1, 50, 2)).astype(np.float32)
    np.testing.assert_array_equal(transfer_thresholds(values, shares, one, "spread"), values)
    np.testing.assert_array_equal(transfer_thresholds(values, shares, np.repeat(one, 3, axis=0), "none"), values)
    np.testing.assert_allclose(
        transfer_thresholds(values, shares, np.repeat(one, 3, axis=0), "spread"), values, atol=1e-6
    )


def test_shares_are_met_on_the_mean() -> None:
    by_model = np.random.default_rng(0).random((3, 200, 2))
    carried = transfer_thresholds(np.array([0.5, 0.5]), np.array([0.25, 0.1]), by_model, "shares")
    assert (by_model.mean(axis=0) > carried).sum(axis=0).tolist() == [50, 20]


def test_spread_in_closed_form() -> None:
    """Small normal logits: the mean of two models is narrower by the square root of 2, around the same middle."""
    z = 0.02 * np.random.default_rng(0).standard_normal((2, 200_000, 1))
    carried = transfer_thresholds(expit(np.array([0.03])), np.array([0.1]), expit(z), "spread")
    np.testing.assert_allclose(logit(carried), 0.03 / np.sqrt(2), rtol=0.01)


def test_spread_undoes_the_loss_of_the_mean_of_models() -> None:
    """Simulated cells: as they stand, thresholds predict too little on the mean of models; carried, about right."""
    rng = np.random.default_rng(3)
    images = draw_images(4000, 0.7, rng)
    scores = [
        np.maximum.reduceat(score_cells(images, np.zeros(28), 1.0, rng), images.first_rows, axis=0) for _ in range(5)
    ]
    by_model = np.stack(scores)
    frequent = images.targets.sum(axis=0) > 100
    values = np.quantile(by_model[0], 0.95, axis=0)
    wanted = (by_model > values).mean(axis=(0, 1))[frequent]
    as_they_stand = (by_model.mean(axis=0) > values).mean(axis=0)[frequent]
    carried = transfer_thresholds(values.astype(np.float64), np.zeros(28), by_model, "spread")
    mended = (by_model.mean(axis=0) > carried).mean(axis=0)[frequent]
    assert np.median(as_they_stand / wanted) < 0.9
    assert abs(np.median(mended / wanted) - 1) < 0.05
