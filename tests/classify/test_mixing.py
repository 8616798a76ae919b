"""Mixup and cutmix: the proportion of pixels is that of the targets, and what is unknown stays unknown."""

from typing import Any

import numpy as np
import pytest
import torch

from classify.config import ClassifySection
from classify.data.batches import Batch
from classify.training.mixing import mix
from hpa.config import parse_section
from hpa.errors import UserError


def _batch(n: int = 6, classes: int = 3) -> Batch:
    """Return crops whose first class alternates, so that the proportion can be read off the mixture."""
    targets = torch.from_numpy(np.random.default_rng(0).random((n, classes)) < 0.5).float()
    targets[:, 0] = torch.arange(n) % 2
    rows = torch.arange(n)
    pixels = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    return Batch(pixels, targets, rows, torch.linspace(0.5, 1, n), torch.full((n,), -1), rows, None)


X = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(4))
def test_mixup_mixes_crops_targets_and_weights_in_one_proportion(seed: int) -> None:
    batch = _batch()
    mixed, labels = mix(X, batch, ClassifySection(mixup=0.8), seed)
    own = labels.targets[1, 0].item()  # a crop with the class, mixed with one without
    torch.testing.assert_close(mixed, own * X + (1 - own) * X.roll(1, 0))
    torch.testing.assert_close(labels.targets, own * batch.targets + (1 - own) * batch.targets.roll(1, 0))
    torch.testing.assert_close(labels.weights, own * batch.weights + (1 - own) * batch.weights.roll(1, 0))


@pytest.mark.parametrize("seed", range(4))
def test_cutmix_mixes_targets_by_area(seed: int) -> None:
    batch = _batch()
    mixed, labels = mix(X, batch, ClassifySection(cutmix=1.0), seed)
    own, other = (mixed == X).all(1), (mixed == X.roll(1, 0)).all(1)
    assert (own ^ other).all(), "every pixel is of one of two crops"
    assert labels.targets[1, 0].item() == pytest.approx(own[1].float().mean().item())
    rows, columns = other[0].any(1), other[0].any(0)
    assert torch.equal(other[0], rows[:, None] & columns[None, :]), "one rectangle"


def test_a_class_unknown_of_one_crop_is_unknown_of_both_mixtures() -> None:
    batch = _batch()
    targets = batch.targets.clone()
    targets[2, 1] = torch.nan
    for section in (ClassifySection(mixup=0.5), ClassifySection(cutmix=0.5)):
        _, labels = mix(X, batch._replace(targets=targets), section, 0)
        assert labels.targets.isnan().nonzero().tolist() == [[2, 1], [3, 1]]


def test_each_batch_gets_one_of_two_kinds_by_its_seed_alone() -> None:
    section = ClassifySection(mixup=0.5, cutmix=0.5)
    state = torch.get_rng_state()
    one, other = [[mix(X, _batch(), section, seed)[0] for seed in range(12)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    replaced = [bool(((mixed == X) | (mixed == X.roll(1, 0))).all()) for mixed in one]
    assert 0 < sum(replaced) < 12


@pytest.mark.parametrize(
    "change",
    [{"objective": "bag"}, {"embedding_dim": 4}, {"trainable": "heads"}],
    ids=lambda change: next(iter(change)),
)
def test_mixing_what_cannot_be_mixed_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"expected {next(iter(change))} = .* with mixup or cutmix"):
        parse_section(ClassifySection, "classify", {"mixup": 0.2} | change)
