"""Averages of the weights over a training, which are scored and kept in place of the last weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from classify.config import ClassifySection
from classify.data.batches import Batch
from classify.network.model import Network


class WeightAverage:
    """The average of a network's weights: exponential over steps (EMA), or equal over the last epochs (SWA).

    SWA is Izmailov et al. 2018, https://arxiv.org/abs/1803.05407; both are torch's.

    Parameters
    ----------
    network
        The network that is trained.
    section
        Recipe section.
    epochs
        Number of epochs of the training.
    """

    def __init__(self, network: Network, section: ClassifySection, epochs: int) -> None:
        self._by_step = section.ema_decay > 0
        self._first_epoch = epochs - section.swa_epochs + 1 if section.swa_epochs else 0
        if self._by_step:
            # Running statistics of batch norm are averaged too.
            average = get_ema_multi_avg_fn(section.ema_decay)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
        elif self._first_epoch:
            self._average = AveragedModel(network)

    @property
    def exists(self) -> bool:
        """Whether the recipe averages."""
        return self._by_step or self._first_epoch > 0

    def to(self, device: torch.device) -> None:
        """Move the average to the device of the training."""
        if self.exists:
            self._average.to(device)

    def after_step(self, network: Network) -> None:
        """Take in the weights after a step."""
        if self._by_step:
            self._average.update_parameters(network)

    def after_epoch(self, network: Network, epoch: int) -> bool:
        """Take in the weights after an epoch, from 1, and return whether that changed the average."""
        if not self._first_epoch or epoch < self._first_epoch:
            return False
        self._average.update_parameters(network)
        return True

    def measure_norms(self, batches: Iterable[Batch]) -> None:
        """Measure the running statistics of batch norm with the average of an epoch, which no step ever had."""
        average = self._average.module.train()
        device = next(average.parameters()).device
        update_bn((((_to(batch.pixels, device), _to(batch.levels, device)),) for batch in batches), _Unpacked(average))
        average.eval()

    def of(self, network: Network) -> Network:
        """Return the network that is scored and kept: the average, or the trained one while there is none."""
        if not self.exists or int(self._average.n_averaged) == 0:
            return network
        averaged = self._average.module
        assert isinstance(averaged, Network)
        return averaged

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""
        return dict(self._average.state_dict()) if self.exists else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        if self.exists:
            self._average.load_state_dict(state)


class _Unpacked(nn.Module):
    """A network that takes pixels and levels as one argument, as `update_bn` passes them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: tuple[Tensor, Tensor | None]) -> Any:
        return self.network(*inputs)


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
