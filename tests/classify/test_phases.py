"""Phases of a training: what is trained in each, at which rate and size, and that they resume to the same result."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from classify.config import ClassifySection
from classify.network.backbones import new_backbone
from classify.network.model import Network, new_network
from classify.network.parts import find_stages
from classify.network.pretrained import Start
from classify.preparation import check_network
from classify.training.fit import fit
from classify.training.optimizer import FACTOR, parameter_groups
from hpa.config import DataSection, parse_section
from hpa.errors import UserError
from tests.support.bright_crops import bright_fold

CPU = torch.device("cpu")
BASE: dict[str, Any] = {"backbone": "cnn3", "batch_size": 8, "learning_rate": 0.02, "validate_every": 1}


def _section(phases: Sequence[Any], **change: Any) -> ClassifySection:
    return parse_section(ClassifySection, "classify", BASE | {"phases": list(phases)} | change)


def _start() -> Start:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Start(new_backbone("cnn3").state_dict())


def _fit(section: ClassifySection, folder: Path, start: Start | None = None) -> dict[str, Tensor]:
    return fit(bright_fold(), section, 0, 0, folder, CPU, start=start).state_dict


def _moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


HEADS = {"head.weight", "head.bias"}
STEM = {"backbone.conv1.weight", "backbone.conv1.bias"}
SECOND = {"backbone.conv2.weight", "backbone.conv2.bias"}
THIRD = {"backbone.conv3.weight", "backbone.conv3.bias"}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["heads"], HEADS),
        (["stem"], STEM),
        (["stages"], SECOND | THIRD),
        (["stage1", "heads"], SECOND | HEADS),
        (["stage2"], THIRD),
        (["all"], HEADS | STEM | SECOND | THIRD),
    ],
)
def test_a_phase_moves_what_it_names_and_nothing_else(tmp_path: Path, parts: list[str], expected: set[str]) -> None:
    """The weights after one more phase are, bit for bit, those before it where they are frozen."""
    first = {"epochs": 1, "trainable": ["all"], "schedule": "constant"}
    before = _fit(_section([first]), tmp_path / "before")
    after = _fit(_section([first, first | {"trainable": parts}]), tmp_path / "after")
    assert _moved(before, after) == expected


def test_new_parts_are_heads_and_the_stem_of_other_channels(tmp_path: Path) -> None:
    section = _section([{"epochs": 1, "trainable": ["new"]}])
    start = _start()
    trained = _fit(section, tmp_path / "pretrained", start)
    assert all(torch.equal(trained[f"backbone.{n}"], t) for n, t in start.backbone.items() if "conv1" not in n)
    network = new_network(section, 0, [0.0] * 4, [1.0] * 4, [0.5] * 3, start)
    assert network.parameters_of(["new"]) == HEADS | STEM
    random = new_network(section, 0, [0.0] * 4, [1.0] * 4, [0.5] * 3)
    assert random.parameters_of(["new"]) == random.parameters_of(["all"]), "without pretrained weights all is new"


def _rates(section: ClassifySection, folder: Path) -> list[float]:
    _fit(section, folder)
    rates: list[float] = pd.read_csv(folder / "history.csv")["learning_rate"].to_list()
    return rates


def test_each_phase_has_its_own_rate_and_schedule(tmp_path: Path) -> None:
    """There are 4 steps an epoch; `history.csv` has the rate of the last one, step 4 e - 1."""
    phases = [
        {"epochs": 2, "learning_rate": 0.1, "schedule": "constant"},
        {"epochs": 3, "learning_rate": 0.01, "schedule": "cosine"},
        {"epochs": 1},
    ]
    cosine = [0.01 * (1 + math.cos(math.pi * step / 12)) / 2 for step in (3, 7, 11)]
    last = 0.02 * (1 + math.cos(math.pi * (3 - 1) / 3)) / 2  # one cycle over 4 steps, the first of which rises
    assert _rates(_section(phases), tmp_path) == pytest.approx([0.1, 0.1, *cosine, last], rel=1e-3)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "plateau", "constant"])
def test_phases_that_continue_are_one_training(tmp_path: Path, schedule: str) -> None:
    """Where nothing else changes between phases, three of them give the bytes of one."""
    one = _fit(_section([], epochs=5, schedule=schedule), tmp_path / "one")
    phases = [{"epochs": 1}, {"epochs": 2, "schedule": "continue"}, {"epochs": 2, "schedule": "continue"}]
    three = _fit(_section(phases, schedule=schedule), tmp_path / "three")
    assert not _moved(one, three)
    assert (tmp_path / "one/history.csv").read_bytes() == (tmp_path / "three/history.csv").read_bytes()


def test_training_crops_are_resized_by_the_phase_and_validation_by_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[tuple[bool, int]] = []
    forward = nn.Sequential.forward

    def watched(chain: nn.Sequential, x: Tensor) -> Tensor:
        sides.append((chain.training, x.shape[2]))
        output: Tensor = forward(chain, x)  # type: ignore[no-untyped-call]
        return output

    phases = [{"epochs": 1, "input_px": 8}, {"epochs": 1, "input_px": 12}, {"epochs": 1, "input_px": 0}]
    section = _section(phases, input_px=24)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Sequential, "forward", watched)
        _fit(section, tmp_path)
    assert {side for training, side in sides if training} == {8, 12, 16}
    order = [side for training, side in sides if training]
    assert order == sorted(order)
    assert {side for training, side in sides[10:] if not training} == {24}


def test_stages_of_backbones_are_those_of_their_authors() -> None:
    resnet = find_stages(new_backbone("resnet18"))
    assert resnet.count == 4
    for name, stage in resnet.of_parameters.items():
        assert stage == (int(name[5]) if name.startswith("layer") else 0), name
    densenet = find_stages(new_backbone("densenet121"))
    assert densenet.of_parameters["features.denseblock3.denselayer1.conv1.weight"] == 3
    assert densenet.of_parameters["features.norm5.weight"] == 4
    assert densenet.of_parameters["features.conv0.weight"] == 0
    assert find_stages(new_backbone("convnext_tiny")).count == 4
    assert find_stages(new_backbone("cnn3")).count == 2


def test_layer_rates_are_factors_on_the_stages() -> None:
    section = ClassifySection(backbone="resnet18", layer_rates=0.5, backbone_rate=0.1, pretrained="none")
    network = Network(section, 4, 3, [0.0] * 4, [1.0] * 4, start=Start(new_backbone("resnet18").state_dict()))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {
        names[id(parameter)]: group[FACTOR]
        for group in parameter_groups(network, section)
        for parameter in group["params"]
    }
    assert found.keys() == set(names.values())
    for name, factor in found.items():
        if name.startswith("head."):
            assert factor == 1
        else:
            stage = int(name.removeprefix("backbone.layer")[0]) if "layer" in name else 0
            assert factor == pytest.approx(0.1 * 0.5 ** (4 - stage)), name
    listed = section.model_copy(update={"layer_rates": (0.1, 0.2, 0.3, 0.4, 1.0)})
    factors = {group[FACTOR] for group in parameter_groups(network, listed)}
    assert sorted(factors) == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.1, 1.0])
    with pytest.raises(UserError, match=r"expected 5 classify.layer_rates for resnet18, .* found 2"):
        parameter_groups(network, section.model_copy(update={"layer_rates": (1.0, 1.0)}))


def test_layer_rates_scale_the_steps(tmp_path: Path) -> None:
    """With plain gradient descent for one step, a weight moves in proportion to its rate."""
    change = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 32, "augment": "none"}
    section = _section([{"epochs": 1, "schedule": "constant"}], **change)
    slow = section.model_copy(update={"layer_rates": (0.25, 0.5, 1.0)})
    # Powers of two, so that the products are exact.
    start = new_network(section, 0, [0.0] * 4, [1.0] * 4, [0.5] * 3).state_dict()
    full, scaled = _fit(section, tmp_path / "full"), _fit(slow, tmp_path / "scaled")
    still = _fit(section.model_copy(update={"learning_rate": 1e-30}), tmp_path / "still")
    assert start.keys() == still.keys()
    for name, factor in {
        "backbone.conv1.weight": 0.25,
        "backbone.conv2.weight": 0.5,
        "backbone.conv3.weight": 1.0,
    }.items():
        torch.testing.assert_close(
            scaled[name] - still[name], factor * (full[name] - still[name]), rtol=1e-3, atol=1e-7
        )


def test_closed_phases_set_the_number_of_epochs() -> None:
    section = _section([{"epochs": 3}, {"epochs": 4}])
    assert section.epochs == 7
    assert parse_section(ClassifySection, "classify", section.model_dump(mode="json")) == section


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze_epochs": 2}, "expected the key 'phases' in .*, found its former name 'freeze_epochs'"),
        (
            {"phases": [{"epoch": 2}]},
            r"known keys in \[classify\] phases, entry 1, found 'epoch' \(did you mean 'epochs'",
        ),
        ({"phases": [{"epochs": 2}, {"epochs": 3}], "epochs": 20}, "expected epochs = 5, the sum over the phases"),
        ({"phases": [{}, {"epochs": 3}]}, "expected epochs in all phases but the last, found none in phase 1"),
        ({"phases": [{"schedule": "continue"}]}, "expected a schedule in the first phase"),
        (
            {"phases": [{"epochs": 1}, {"schedule": "continue", "learning_rate": 1e-3}]},
            "expected no learning_rate where",
        ),
        (
            {"phases": [{"epochs": 1}, {"trainable": ["layer4"]}]},
            r"\[classify\] phases, entry 2, trainable, entry 1 \(expected all, new, .*\), found 'layer4'",
        ),
        ({"phases": [{"trainable": []}]}, "phases, entry 1, trainable"),
        ({"phases": 3}, "phases"),
        ({"phases": [3]}, "phases"),
        ({"trainable": "heads", "phases": [{"trainable": ["stem"]}]}, "expected phases of heads"),
        ({"feature_stages": [3, 2]}, "expected feature_stages in rising order"),
    ],
)
def test_unusable_phases_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_section(ClassifySection, "classify", values)


def test_parts_that_the_backbone_lacks_are_refused_before_anything_begins() -> None:
    data = DataSection(channels=("green",))
    with pytest.raises(
        UserError, match=r'expected parts of cnn3 in classify.phases, which has 2 stages, found "stage4"'
    ):
        check_network(_section([{"epochs": 1, "trainable": ["heads", "stage4"]}]), data, 32)
    with pytest.raises(UserError, match=r"expected classify.feature_stages among the stages of cnn3 .1, 2., found 3"):
        check_network(_section([], feature_stages=[1, 3]), data, 32)
    with pytest.raises(UserError, match=r"expected crops large enough for the backbone, found 4 px"):
        check_network(_section([{"epochs": 1, "input_px": 4}]), data, 32)


def test_a_phase_that_trains_nothing_is_refused(tmp_path: Path) -> None:
    section = _section([{"epochs": 1, "trainable": ["stages"]}]).model_copy(update={"trainable": "heads"})
    with pytest.raises(UserError, match=r"expected something to train in phase 1 of classify.phases, found no stages"):
        _fit(section, tmp_path, _start())


def test_random_depth_is_drawn_by_the_epoch_alone(tmp_path: Path) -> None:
    """EfficientNets drop layers at random."""
    section = ClassifySection(backbone="efficientnet_b0", epochs=1, batch_size=8, phases=(), input_px=32)
    torch.manual_seed(1)
    one = fit(bright_fold(16, 4), section, 0, 0, tmp_path / "one", CPU).state_dict
    torch.manual_seed(2)
    other = fit(bright_fold(16, 4), section, 0, 0, tmp_path / "other", CPU).state_dict
    assert not _moved(one, other)
