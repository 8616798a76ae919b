"""A backbone small enough for tests that train."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn


class _TinyBackbone(nn.Module):
    """What `classify.model` needs of a ResNet18: conv1 and fc, and 64 filters between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1: nn.Module = nn.Identity()
        self.bn1 = nn.BatchNorm2d(64)
        self.fc: nn.Module = nn.Linear(64, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.bn1(self.conv1(x)).relu().mean((2, 3)))
        return out


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Networks this small lose more to threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a network of one convolution in the place of ResNet18."""
    monkeypatch.setattr("classify.model.resnet18", _TinyBackbone)
