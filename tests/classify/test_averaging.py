"""Averages of the weights, against naive loops over the weights that the training goes through."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from classify.config import ClassifySection
from classify.data.batches import training_batches
from classify.network.model import Network
from classify.training.averaging import WeightAverage
from classify.training.fit import fit
from hpa.config import parse_section
from hpa.errors import UserError
from tests.support.bright_crops import bright_fold

CPU = torch.device("cpu")
SECTION = ClassifySection(epochs=3, batch_size=8, learning_rate=1e-2, augment="none", phases=(), schedule="constant")


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _fit(folder: Path, **change: Any) -> dict[str, Tensor]:
    return fit(bright_fold(), SECTION.model_copy(update=change), 0, 0, folder, CPU).state_dict


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ema_is_that_of_a_naive_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int) -> None:
    steps: list[dict[str, Tensor]] = []
    after_step = WeightAverage.after_step

    def recording(average: WeightAverage, network: Network) -> None:
        steps.append(_copy(network))
        after_step(average, network)

    monkeypatch.setattr(WeightAverage, "after_step", recording)
    found = _fit(tmp_path / "average", ema_decay=0.8, accumulate=accumulate)
    assert len(steps) == 3 * 4 // accumulate
    for name, tensor in found.items():
        expected = steps[0][name].double()
        for step in steps[1:]:
            expected = 0.8 * expected + 0.2 * step[name].double()
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)
    last = _fit(tmp_path / "last", accumulate=accumulate)
    assert all(torch.equal(steps[-1][name], tensor) for name, tensor in last.items())


@pytest.mark.usefixtures("tiny_backbone")
def test_swa_is_the_mean_of_the_last_epochs_with_norms_of_its_own(tmp_path: Path) -> None:
    """With a constant rate, the weights after an epoch are those of a training of so many epochs."""
    found = _fit(tmp_path / "average", epochs=4, swa_epochs=3)
    ends = [_fit(tmp_path / str(epochs), epochs=epochs) for epochs in (2, 3, 4)]
    for name in ("backbone.conv1.weight", "backbone.bn1.weight", "head.weight", "head.bias"):
        torch.testing.assert_close(found[name], torch.stack([end[name] for end in ends]).mean(0))
    crops = bright_fold()
    network = Network(SECTION, 4, 3, [0.0] * 4, [1.0] * 4)
    fitted = fit(crops, SECTION.model_copy(update={"epochs": 4, "swa_epochs": 3}), 0, 0, tmp_path / "again", CPU)
    network.mean.copy_(torch.tensor(fitted.statistics.mean).reshape(1, -1, 1, 1))
    network.std.copy_(torch.tensor(fitted.statistics.std).reshape(1, -1, 1, 1))
    network.load_state_dict(found)
    means = []
    with torch.inference_mode():
        for rows in training_batches(crops, SECTION, 0, 0, 3):
            x = network.prepare(torch.from_numpy(crops.source.pixels(rows)))
            means.append(network.backbone.get_submodule("conv1")(x).mean((0, 2, 3)))
    torch.testing.assert_close(found["backbone.bn1.running_mean"], torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("tiny_backbone")
def test_the_average_is_what_is_validated(tmp_path: Path) -> None:
    """An average that hardly moves from the first step's weights has hardly another loss than after that step."""
    _fit(tmp_path, ema_decay=0.999999, validate_every=1)
    losses = pd.read_csv(tmp_path / "history.csv")["validation_loss"]
    assert losses.max() - losses.min() < 1e-4
    _fit(tmp_path / "last", validate_every=1)
    losses = pd.read_csv(tmp_path / "last" / "history.csv")["validation_loss"]
    assert losses.max() - losses.min() > 1e-2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"swa_epochs": 2, "ema_decay": 0.9}, "expected ema_decay = 0 with swa_epochs, found 0.9"),
        ({"swa_epochs": 2, "patience": 3}, "expected patience = 0 with swa_epochs"),
        ({"swa_epochs": 2, "checkpoint": "best"}, "expected checkpoint = 'last' with swa_epochs"),
        ({"swa_epochs": 4, "epochs": 3}, "expected at most as many swa_epochs as epochs, found 4"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_averages_that_exclude_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_section(ClassifySection, "classify", values)


@pytest.mark.usefixtures("tiny_backbone")
def test_one_epoch_makes_an_average() -> None:
    network = Network(SECTION, 4, 3, [0.0] * 4, [1.0] * 4)
    average = WeightAverage(network, SECTION.model_copy(update={"swa_epochs": 1}), epochs=3)
    assert [average.after_epoch(network, epoch) for epoch in (1, 2)] == [False, False]
    assert average.of(network) is network
    assert average.after_epoch(network, 3)
    assert average.of(network) is not network
