"""The optimizer and the learning rate over the steps."""

from typing import Literal

import pytest
import torch

from classify.config import ClassifySection
from classify.training.optimizer import cosine, new_optimizer, one_cycle, plateau


def test_one_cycle_values() -> None:
    shares = [one_cycle(step, 8) for step in range(9)]
    assert shares[:4] == pytest.approx([0.04, 0.52, 1.0, 0.9330], abs=1e-4)
    assert shares[5] == pytest.approx(0.5)
    assert shares[8] == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_one_cycle_stays_within_bounds_for_any_length(steps: int) -> None:
    shares = [one_cycle(step, steps) for step in range(steps + 1)]
    assert all(0 <= share <= 1 for share in shares)
    assert all(share > 0 for share in shares[:-1])


def test_optimizer_follows_the_schedule() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, scheduler = new_optimizer([weight], ClassifySection(learning_rate=0.5), steps=8)
    assert scheduler is not None
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5 * one_cycle(step, 8) for step in range(8)])


def test_cosine_values() -> None:
    assert [cosine(step, 4) for step in range(5)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)


def test_plateau_drops_after_every_three_validations_without_progress() -> None:
    losses = [3.0, 2.0, 2.0, 2.5, 2.1, 2.0, 1.9, 1.9, 1.9, 1.9]
    shares = [plateau(losses[:n]) for n in range(len(losses) + 1)]
    assert shares == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_norms_and_biases_do_not_decay(name: Literal["adamw", "adam", "sgd"]) -> None:
    """With zero gradients, only decay changes a weight."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    for parameter in layers.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    section = ClassifySection(optimizer=name, weight_decay=0.1, learning_rate=0.1, schedule="constant")
    optimizer, scheduler = new_optimizer(layers.parameters(), section, steps=1)
    assert scheduler is not None
    optimizer.step()
    moved = {key for key, parameter in layers.named_parameters() if (parameter < 1).all()}
    still = {key for key, parameter in layers.named_parameters() if (parameter == 1).all()}
    assert moved == {"0.weight", "2.weight"}
    assert still == {"0.bias", "1.weight", "1.bias", "2.bias"}
