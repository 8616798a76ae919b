"""Fixtures: a backbone small enough for tests that train, and a single thread."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn


def _tiny(_: str) -> nn.Sequential:
    layers = {"conv1": nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), "bn1": nn.BatchNorm2d(64)}
    return nn.Sequential(OrderedDict(layers | {"relu": nn.ReLU(inplace=True)}))


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Use one thread: networks this small lose more to threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say nothing of other programs on the machine that runs the tests."""
    monkeypatch.setattr("classify.preparation.warn_if_busy", lambda *_: None)


@pytest.fixture(autouse=True)
def _every_epoch_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the file to resume from after every epoch, however short it is."""
    monkeypatch.setattr("classify.training.loop._SAVING_SHARE", 1e9)


@pytest.fixture(autouse=True)
def _no_shipped_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start from random weights unless a test says otherwise: what is shipped may change."""
    monkeypatch.setattr("classify.config.WEIGHTS", tmp_path / "shipped")


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every backbone by a single convolution."""
    monkeypatch.setattr("classify.network.model.new_backbone", _tiny)
