"""The optimizer and the learning rate over the steps."""

from math import cos, inf, pi
from typing import Any, Literal

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from classify.config import ClassifySection
from classify.training.optimizer import decay_groups, new_optimizer, start_schedule


def _rates(schedule: str, steps: int, **change: Any) -> list[float]:
    """Return the learning rate of each step of a training with the highest rate 0.5."""
    section = ClassifySection.model_validate({"learning_rate": 0.5, "schedule": schedule} | change)
    optimizer = new_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}], section)
    scheduler = start_schedule(optimizer, section, section.schedule, section.learning_rate, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return rates


def _half_cosine(part: float) -> float:
    """Fall from 1 to 0 as `part` goes from 0 to 1."""
    return (1 + cos(pi * part)) / 2


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 100])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_cycle_rises_for_a_quarter_of_the_steps_and_falls_to_zero(steps: int, optimizer: str) -> None:
    rise = steps / 4
    expected = [
        1 - 0.96 * _half_cosine(step / rise) if step < rise else _half_cosine((step - rise) / (steps - rise))
        for step in range(steps)
    ]
    assert _rates("one-cycle", steps, optimizer=optimizer) == pytest.approx([0.5 * rate for rate in expected], abs=3e-6)


def test_one_cycle_leaves_momentum_alone() -> None:
    for name, key, value in [("adamw", "betas", (0.9, 0.999)), ("sgd", "momentum", 0.9)]:
        section = ClassifySection.model_validate({"optimizer": name})
        optimizer = new_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}], section)
        start_schedule(optimizer, section, "one-cycle", 0.1, 8)
        assert optimizer.param_groups[0][key] == value


@pytest.mark.parametrize("steps", [1, 4, 100])
def test_cosine_falls_to_zero(steps: int) -> None:
    assert _rates("cosine", steps) == pytest.approx([0.5 * _half_cosine(step / steps) for step in range(steps)])


def test_constant_rate() -> None:
    assert _rates("constant", 3) == [0.5] * 3


def test_plateau_drops_after_every_three_validations_without_progress() -> None:
    section = ClassifySection(learning_rate=0.5, schedule="plateau", monitor="loss")
    optimizer = new_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}], section)
    scheduler = start_schedule(optimizer, section, "plateau", 0.5, 10)
    assert isinstance(scheduler, ReduceLROnPlateau)
    rates, lowest, waited, expected = [], inf, 0, [0.5]
    for loss in [3.0, 2.0, 2.0, 2.5, 2.1, 2.0, 1.99999, 1.99999, float("nan"), 2.0]:
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        expected.append(expected[-1] * (0.1 if waited == 3 else 1))
        waited %= 3
    assert rates == pytest.approx(expected[1:])
    assert rates == pytest.approx([0.5] * 4 + [0.05] * 4 + [0.05, 0.005])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_norms_and_biases_do_not_decay(name: Literal["adamw", "adam", "sgd"]) -> None:
    """With zero gradients, only decay changes a weight."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    for parameter in layers.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    section = ClassifySection(optimizer=name, weight_decay=0.1, learning_rate=0.1, schedule="constant")
    optimizer = new_optimizer(decay_groups(layers.parameters(), section.weight_decay), section)
    assert start_schedule(optimizer, section, "constant", 0.1, 1) is None
    optimizer.step()
    moved = {key for key, parameter in layers.named_parameters() if (parameter < 1).all()}
    still = {key for key, parameter in layers.named_parameters() if (parameter == 1).all()}
    assert moved == {"0.weight", "2.weight"}
    assert still == {"0.bias", "1.weight", "1.bias", "2.bias"}
