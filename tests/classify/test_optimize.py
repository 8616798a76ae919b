"""The learning rate over the steps."""

import pytest
import torch

from classify.config import ClassifySection
from classify.optimize import new_optimizer, one_cycle


def test_one_cycle_by_hand() -> None:
    shares = [one_cycle(step, 8) for step in range(9)]
    assert shares[:4] == pytest.approx([0.04, 0.52, 1.0, 0.9330], abs=1e-4)
    assert shares[5] == pytest.approx(0.5)
    assert shares[8] == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_one_cycle_stays_within_bounds_for_any_length(steps: int) -> None:
    shares = [one_cycle(step, steps) for step in range(steps + 1)]
    assert all(0 <= share <= 1 for share in shares)
    assert all(share > 0 for share in shares[:-1])


def test_the_optimizer_follows_the_schedule() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, scheduler = new_optimizer([weight], ClassifySection(learning_rate=0.5), steps=8)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5 * one_cycle(step, 8) for step in range(8)])
