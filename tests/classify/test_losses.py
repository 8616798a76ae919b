"""The losses against their formulas written out, and the triplets against a loop."""

import itertools
import math
from typing import Literal, get_args

import numpy as np
import pytest
import torch

from classify.config import ClassifySection, Mining, Pooling
from classify.losses.classification import class_loss, focal_loss
from classify.losses.objective import batch_loss, pool_bags
from classify.losses.triplets import antibody_pairs, label_pairs, mine, multi_label_triplets, triplet_loss
from classify.network.model import Outputs
from tests.classify.world import batch_of


def _naive_focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float, alpha: float) -> float:
    losses = []
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        q = p if y else 1 - p
        weight = 1.0 if alpha < 0 else alpha if y else 1 - alpha
        losses.append(-weight * (1 - q) ** gamma * math.log(q))
    return float(np.mean(losses))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, -1.0), (0.5, 0.25), (0.0, 0.9)])
def test_focal_loss_is_its_formula(gamma: float, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator) * 3
    targets = (torch.rand(5, 4, generator=generator) < 0.3).float()
    expected = _naive_focal(logits, targets, gamma, alpha)
    assert focal_loss(logits, targets, gamma, alpha).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits = torch.tensor([[0.3, -2.0], [4.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert focal_loss(logits, targets, gamma=0.0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_focal_loss_of_half_precision_is_computed_in_full() -> None:
    loss = focal_loss(torch.tensor([[-20.0]], dtype=torch.bfloat16), torch.tensor([[1.0]]), gamma=0.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(20.0, rel=1e-5)


def _naive_triplets(targets: np.ndarray, jaccard: float) -> list[tuple[int, int, int]]:
    sets = [set(np.flatnonzero(row)) for row in targets]
    found = []
    for a, p, n in itertools.product(range(len(sets)), repeat=3):
        if a == p or not sets[a] or not sets[a] & sets[p] or sets[a] & sets[n]:
            continue
        if len(sets[a] & sets[p]) >= jaccard * len(sets[a] | sets[p]):
            found.append((a, p, n))
    return found


@pytest.mark.parametrize("jaccard", [0.01, 0.5, 1.0])
def test_triplets_are_those_of_a_loop(jaccard: float) -> None:
    targets = np.random.default_rng(3).random((14, 5)) < 0.3
    assert not targets.any(axis=1).all(), "the world should hold an empty target"
    a, p, n = multi_label_triplets(torch.from_numpy(targets), jaccard)
    found = list(zip(a.tolist(), p.tolist(), n.tolist(), strict=True))
    assert found == _naive_triplets(targets, jaccard)
    assert found


def test_an_overlap_of_exactly_the_threshold_is_enough() -> None:
    targets = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    a, _, _ = multi_label_triplets(targets, 1 / 3)
    assert a.tolist() == [0, 1]


def test_triplet_loss_is_its_formula() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(10, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    targets = np.random.default_rng(1).random((10, 4)) < 0.4
    points = embeddings.double().numpy()
    violations = [
        float(np.linalg.norm(points[a] - points[p]) - np.linalg.norm(points[a] - points[n]) + 0.3)
        for a, p, n in _naive_triplets(targets, 0.5)
    ]
    active = [violation for violation in violations if violation > 0]
    loss = triplet_loss(
        embeddings, torch.from_numpy(targets), torch.full((10,), -1), ClassifySection(triplet_margin=0.3)
    )
    assert loss.item() == pytest.approx(sum(active) / len(active), rel=1e-4)


@pytest.mark.parametrize("mining", ["all", "semi-hard", "batch-hard"])
def test_no_triplet_gives_a_zero_that_can_be_differentiated(mining: Mining) -> None:
    section = ClassifySection(triplet_mining=mining)
    embeddings = torch.nn.functional.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    loss = triplet_loss(embeddings, torch.ones(4, 2), torch.full((4,), -1), section)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert loss.item() == 0
    assert torch.count_nonzero(gradient) == 0


def test_the_objective_adds_the_weighted_triplet_loss_to_the_focal_loss() -> None:
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


def test_what_is_unknown_does_not_count() -> None:
    """The mean over the known entries, by an explicit loop; nothing known is a zero that can be differentiated."""
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 4, generator=draw, requires_grad=True)
    targets = (torch.rand(6, 4, generator=draw) < 0.4).float()
    unknown = torch.rand(6, 4, generator=draw) < 0.3
    masked = targets.masked_fill(unknown, float("nan"))
    single = [
        focal_loss(logits[i : i + 1, c : c + 1], targets[i : i + 1, c : c + 1], 2.0)
        for i in range(6)
        for c in range(4)
        if not unknown[i, c]
    ]
    loss = focal_loss(logits, masked, 2.0)
    assert loss.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[unknown] == 0).all()
    assert logits.grad.isfinite().all()
    assert focal_loss(logits, torch.full_like(targets, float("nan")), 2.0).item() == 0


@pytest.mark.parametrize("loss", ["focal", "bce"])
@pytest.mark.parametrize("objective", ["cell", "bag", "dual"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_what_is_unknown_counts_in_no_objective(
    loss: Literal["focal", "bce"], objective: Literal["cell", "bag", "dual"], power: float
) -> None:
    """The objective over known classes only is the mean over them, and what is unknown has no gradient."""
    section = ClassifySection(loss=loss, objective=objective, completeness_power=power, cell_weight=0.3)
    draw = torch.Generator().manual_seed(5)
    values = torch.randn(6, 4, generator=draw)
    bags = torch.tensor([0, 0, 0, 1, 1, 2])
    targets = (torch.rand(3, 4, generator=draw) < 0.5).float()[bags]
    weights = torch.rand(6, generator=draw) + 0.1
    masked = targets.clone()
    masked[:, 2] = float("nan")  # of all
    logits = values.clone().requires_grad_()
    found = batch_loss(Outputs(logits, None, logits, None), batch_of(masked, bags, weights), section)
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
def test_every_objective_is_a_loop_over_what_is_known(
    objective: Literal["cell", "bag", "dual"], pooling: Pooling
) -> None:
    """Each image masks its own classes; a crop, or the pooled crops of an image, is one term for every known class."""
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


def _triplets_of_known(targets: np.ndarray, jaccard: float) -> list[tuple[int, int, int]]:
    """Compare two crops class by class; NaN is unknown."""

    def compare(i: int, j: int) -> tuple[int, int, int, bool]:
        both = own = either = 0
        undecided = False
        for x, y in zip(targets[i], targets[j], strict=True):
            if np.isnan(x) or np.isnan(y):
                undecided |= x == 1 or y == 1
                continue
            both, own, either = both + int(x and y), own + int(x), either + int(x or y)
        return both, own, either, undecided

    found = []
    for a, p, n in itertools.product(range(len(targets)), repeat=3):
        common, _, union, _ = compare(a, p)
        shared, labels, _, undecided = compare(a, n)
        if a != p and common and common / union >= jaccard and not shared and labels and not undecided:
            found.append((a, p, n))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_triplets_take_only_what_is_known_of_both(seed: int) -> None:
    draw = np.random.default_rng(seed)
    targets = (draw.random((10, 5)) < 0.35).astype(np.float32)
    targets[draw.random((10, 5)) < 0.2] = np.nan
    expected = _triplets_of_known(targets, 0.5)
    found = zip(*(t.tolist() for t in multi_label_triplets(torch.from_numpy(targets), 0.5)), strict=True)
    assert list(found) == expected
    assert expected


def test_the_triplet_loss_of_a_batch_takes_only_what_is_known() -> None:
    """Two crops of one class, and a third that may well have it: no negative, so no triplet."""
    section = ClassifySection(embedding_dim=3, triplet_weight=1.0)
    embeddings = torch.nn.functional.normalize(torch.ones(3, 3), dim=1)  # all in one place, within the margin
    logits, unknown = torch.zeros(3, 2), float("nan")
    told, open_ = (
        batch_loss(Outputs(logits, embeddings, logits, None), batch_of(targets), section)
        - batch_loss(Outputs(logits, None, logits, None), batch_of(targets), section)
        for targets in (torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 0], [unknown, 1]]))
    )
    assert told > 0
    assert open_ == 0


@pytest.mark.parametrize("loss", ["focal", "bce"])
def test_nothing_known_is_a_zero_that_can_be_differentiated(loss: Literal["focal", "bce"]) -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), requires_grad=True)
    nothing = torch.full((3, 4), float("nan"))
    for weights in (None, torch.ones(3)):
        found = class_loss(logits, nothing, ClassifySection(loss=loss), weights)
        (gradient,) = torch.autograd.grad(found, logits)
        assert found.item() == 0
        assert (gradient == 0).all()


def test_weights_are_repetitions() -> None:
    """A row that weighs three times as much counts as three rows, whichever the loss."""
    generator = torch.Generator().manual_seed(3)
    logits, targets = torch.randn(3, 4, generator=generator), torch.eye(4)[:3]
    rows = [0, 1, 1, 1, 2, 2]
    for section in (ClassifySection(), ClassifySection(loss="bce"), ClassifySection(focal_alpha=0.3)):
        weighted = class_loss(logits, targets, section, torch.tensor([1.0, 3.0, 2.0]))
        torch.testing.assert_close(weighted, class_loss(logits[rows], targets[rows], section))


def test_bce_is_focal_loss_without_focus() -> None:
    logits, targets = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)), torch.eye(4)[:3]
    bce = class_loss(logits, targets, ClassifySection(loss="bce"))
    torch.testing.assert_close(bce, class_loss(logits, targets, ClassifySection(focal_gamma=0.0)))


def _world(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    embeddings = torch.nn.functional.normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)), dim=1)
    return embeddings, *label_pairs(torch.from_numpy(np.random.default_rng(seed).random((12, 4)) < 0.4), 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_semi_hard_triplets_are_those_of_a_loop(seed: int) -> None:
    embeddings, positive, negative = _world(seed)
    points, margin = embeddings.numpy(), 0.4
    expected = []
    for a, p, n in itertools.product(range(12), repeat=3):
        gap = np.linalg.norm(points[a] - points[n]) - np.linalg.norm(points[a] - points[p])
        if positive[a, p] and negative[a, n] and 0 < gap < margin:
            expected.append((a, p, n))
    found = zip(*(t.tolist() for t in mine(embeddings, positive, negative, "semi-hard", margin)), strict=True)
    assert list(found) == expected
    assert expected


@pytest.mark.parametrize("seed", range(4))
def test_batch_hard_takes_the_farthest_positive_and_the_nearest_negative(seed: int) -> None:
    embeddings, positive, negative = _world(seed)
    points = embeddings.numpy()
    expected = []
    for a in range(12):
        positives = [i for i in range(12) if positive[a, i]]
        negatives = [i for i in range(12) if negative[a, i]]
        if positives and negatives:
            far = max(positives, key=lambda i: np.linalg.norm(points[a] - points[i]))
            near = min(negatives, key=lambda i: np.linalg.norm(points[a] - points[i]))
            expected.append((a, far, near))
    found = zip(*(t.tolist() for t in mine(embeddings, positive, negative, "batch-hard", 0.2)), strict=True)
    assert list(found) == expected
    assert expected


def test_crops_of_one_known_antibody_are_positives() -> None:
    pairs = antibody_pairs(torch.tensor([4, -1, 4, -1, 7]))
    assert torch.nonzero(pairs).tolist() == [[0, 2], [2, 0]]


def test_by_antibody_other_crops_with_the_same_labels_are_neither() -> None:
    section = ClassifySection(triplet_positives="antibody", triplet_margin=0.5)
    embeddings = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1.0], [1.0, 0.1]]), dim=1)
    targets = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]])
    antibodies = torch.tensor([5, 5, 6, 8])
    d01, d02, d12 = (float((embeddings[a] - embeddings[b]).norm()) for a, b in [(0, 1), (0, 2), (1, 2)])
    active = [v for v in (d01 - d02 + 0.5, d01 - d12 + 0.5) if v > 0]
    loss = triplet_loss(embeddings, targets, antibodies, section)
    assert loss.item() == pytest.approx(sum(active) / len(active), rel=1e-4)
