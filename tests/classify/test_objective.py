"""The class losses and the objective against their formulas."""

import itertools
import math
from typing import Literal, get_args

import numpy as np
import pytest
import torch

from classify.config import ClassifySection, Pooling
from classify.losses.classification import class_loss
from classify.losses.objective import batch_loss, pool_bags
from classify.losses.triplets import triplet_loss
from classify.network.model import Outputs
from tests.support.bright_crops import batch_of


def _naive_focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float, alpha: float) -> float:
    losses = []
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        q = p if y else 1 - p
        weight = 1.0 if alpha < 0 else alpha if y else 1 - alpha
        losses.append(-weight * (1 - q) ** gamma * math.log(q))
    return float(np.mean(losses))


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, gamma: float, alpha: float = -1.0) -> torch.Tensor:
    return class_loss(logits, targets, ClassifySection(focal_gamma=gamma, focal_alpha=alpha))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, -1.0), (0.5, 0.25), (0.0, 0.9)])
def test_focal_loss_matches_its_formula(gamma: float, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator) * 3
    targets = (torch.rand(5, 4, generator=generator) < 0.3).float()
    expected = _naive_focal(logits, targets, gamma, alpha)
    assert focal_loss(logits, targets, gamma, alpha).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_equals_cross_entropy() -> None:
    logits = torch.tensor([[0.3, -2.0], [4.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert focal_loss(logits, targets, gamma=0.0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_focal_loss_of_bfloat16_is_computed_in_float32() -> None:
    loss = focal_loss(torch.tensor([[-20.0]], dtype=torch.bfloat16), torch.tensor([[1.0]]), gamma=0.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(20.0, rel=1e-5)


def test_objective_adds_the_weighted_triplet_loss() -> None:
    section = ClassifySection(embedding_dim=3, triplet_weight=0.25, focal_gamma=1.0)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, 3, generator=generator)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 3, generator=generator), dim=1)
    targets = torch.eye(3)[[0, 0, 1, 1, 2, 2, 0, 1]]
    focal = focal_loss(logits, targets, gamma=1.0)
    batch = batch_of(targets)
    triplets = triplet_loss(embeddings, targets, batch.antibodies, section)
    assert triplets > 0
    assert batch_loss(Outputs(logits, None, logits, None), batch, section) == focal
    assert batch_loss(Outputs(logits, embeddings, logits, None), batch, section) == focal + 0.25 * triplets


def test_unknown_targets_do_not_count_in_the_focal_loss() -> None:
    """The loss is the mean over known entries, by an explicit loop; without any it is a differentiable zero."""
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 4, generator=draw, requires_grad=True)
    targets = (torch.rand(6, 4, generator=draw) < 0.4).float()
    unknown = torch.rand(6, 4, generator=draw) < 0.3
    with_unknown = targets.masked_fill(unknown, float("nan"))
    single = [
        focal_loss(logits[i : i + 1, c : c + 1], targets[i : i + 1, c : c + 1], 2.0)
        for i in range(6)
        for c in range(4)
        if not unknown[i, c]
    ]
    loss = focal_loss(logits, with_unknown, 2.0)
    assert loss.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[unknown] == 0).all()
    assert logits.grad.isfinite().all()
    assert focal_loss(logits, torch.full_like(targets, float("nan")), 2.0).item() == 0


@pytest.mark.parametrize("loss", ["focal", "bce"])
@pytest.mark.parametrize("objective", ["cell", "bag", "dual"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_unknown_targets_do_not_count_in_any_objective(
    loss: Literal["focal", "bce"], objective: Literal["cell", "bag", "dual"], power: float
) -> None:
    """The objective is the mean over known classes, and unknown ones have no gradient."""
    section = ClassifySection(loss=loss, objective=objective, completeness_power=power, cell_weight=0.3)
    draw = torch.Generator().manual_seed(5)
    values = torch.randn(6, 4, generator=draw)
    bags = torch.tensor([0, 0, 0, 1, 1, 2])
    targets = (torch.rand(3, 4, generator=draw) < 0.5).float()[bags]
    weights = torch.rand(6, generator=draw) + 0.1
    with_unknown = targets.clone()
    with_unknown[:, 2] = float("nan")  # of all
    logits = values.clone().requires_grad_()
    found = batch_loss(Outputs(logits, None, logits, None), batch_of(with_unknown, bags, weights), section)
    known = [0, 1, 3]
    without = batch_of(targets[:, known], bags, weights)
    expected = batch_loss(Outputs(values[:, known], None, values, None), without, section)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[:, 2] == 0).all()
    assert gradient.isfinite().all()
    assert (gradient[:, known] != 0).any()


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("objective", ["cell", "bag", "dual"])
def test_every_objective_equals_a_loop_over_known_classes(
    objective: Literal["cell", "bag", "dual"], pooling: Pooling
) -> None:
    """Unknown classes differ between images; a crop, or a pooled image, gives one term per known class."""
    section = ClassifySection(objective=objective, pooling=pooling, cell_weight=0.3, top_k=2, focal_gamma=1.5)
    draw = torch.Generator().manual_seed(7)
    bags = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    logits, attention = torch.randn(8, 5, generator=draw), torch.randn(8, generator=draw)
    alpha = torch.rand(5, generator=draw) * 4 if pooling == "auto" else None
    scores = attention if pooling == "attention" else None
    targets = (torch.rand(4, 5, generator=draw) < 0.5).float()
    known = torch.rand(4, 5, generator=draw) < 0.6
    known[3] = False  # nothing is known of the last image
    batch = batch_of(targets.masked_fill(~known, float("nan"))[bags], bags)
    found = batch_loss(Outputs(logits, None, logits, scores), batch, section, alpha)
    of_crops, of_images = [], []
    for b, c in itertools.product(range(4), range(5)):
        if not known[b, c]:
            continue
        own = bags == b
        one = pool_bags(
            logits[own][:, [c]],
            None if scores is None else scores[own],
            torch.zeros(int(own.sum()), dtype=torch.int64),
            torch.ones(int(own.sum())),
            section,
            None if alpha is None else alpha[[c]],
        )
        of_images.append(_naive_focal(torch.logit(one), targets[b, c], 1.5, -1.0))
        of_crops += [_naive_focal(z, targets[b, c], 1.5, -1.0) for z in logits[own, c]]
    expected = {"cell": np.mean(of_crops), "bag": np.mean(of_images)}
    expected["dual"] = expected["bag"] + 0.3 * expected["cell"]
    assert found.item() == pytest.approx(float(expected[objective]), rel=1e-4)


def test_unknown_targets_are_no_negatives_in_the_objective() -> None:
    """Two crops of one class, and a third for which it is unknown: no negative, so no triplet."""
    section = ClassifySection(embedding_dim=3, triplet_weight=1.0)
    embeddings = torch.nn.functional.normalize(torch.ones(3, 3), dim=1)  # all in one place, within the margin
    logits, unknown = torch.zeros(3, 2), float("nan")
    known_loss, unknown_loss = (
        batch_loss(Outputs(logits, embeddings, logits, None), batch_of(targets), section)
        - batch_loss(Outputs(logits, None, logits, None), batch_of(targets), section)
        for targets in (torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 0], [unknown, 1]]))
    )
    assert known_loss > 0
    assert unknown_loss == 0


@pytest.mark.parametrize("loss", ["focal", "bce"])
def test_loss_without_known_targets_is_a_differentiable_zero(loss: Literal["focal", "bce"]) -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), requires_grad=True)
    nothing = torch.full((3, 4), float("nan"))
    for weights in (None, torch.ones(3)):
        found = class_loss(logits, nothing, ClassifySection(loss=loss), weights)
        (gradient,) = torch.autograd.grad(found, logits)
        assert found.item() == 0
        assert (gradient == 0).all()


def test_weights_equal_repetitions() -> None:
    """A row of weight three counts as three rows, for every loss."""
    generator = torch.Generator().manual_seed(3)
    logits, targets = torch.randn(3, 4, generator=generator), torch.eye(4)[:3]
    rows = [0, 1, 1, 1, 2, 2]
    for section in (ClassifySection(), ClassifySection(loss="bce"), ClassifySection(focal_alpha=0.3)):
        weighted = class_loss(logits, targets, section, torch.tensor([1.0, 3.0, 2.0]))
        torch.testing.assert_close(weighted, class_loss(logits[rows], targets[rows], section))


def test_bce_equals_focal_loss_without_focus() -> None:
    logits, targets = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)), torch.eye(4)[:3]
    bce = class_loss(logits, targets, ClassifySection(loss="bce"))
    torch.testing.assert_close(bce, class_loss(logits, targets, ClassifySection(focal_gamma=0.0)))
