"""What the training of one fold's network is given: data, settings, its place; and the batches of every epoch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.data.batches import Batch, TrainingCrops, epoch_loader, split_batches, training_batches
from classify.data.crops import FeatureSource, FoldCrops
from classify.data.normalisation import Statistics, crop_levels
from classify.data.seeds import Purpose, derive_seed
from classify.losses.triplets import new_arcface
from classify.network.model import Network, new_network
from classify.network.pretrained import Start
from classify.training.devices import Rank

LogName = Literal["csv", "tensorboard"]


@dataclass(frozen=True)
class FoldTraining:
    """The training of one fold's network: its data, settings and place.

    Parameters
    ----------
    crops
        Training and validation crops, with their levels (`with_levels`).
    section
        Recipe section.
    seed
        The recipe's seed.
    fold
        Number of the fold.
    folder
        Folder of the fold's files.
    device
        Device to run on.
    workers
        Number of processes that read and augment crops; 0 does so in this process.
    start
        The weights that the network starts from; None for random ones.
    keep
        Function that keeps the weights after an epoch, from 1; None keeps none.
    rank
        The place of this process among several that train together, None for one alone.
    logs
        Logs of the epochs that are written beside the history: ``"csv"``, ``"tensorboard"``.
    """

    crops: FoldCrops
    section: ClassifySection
    seed: int
    fold: int
    folder: Path
    device: torch.device
    workers: int
    start: Start | None = None
    keep: Callable[[dict[str, Tensor], int], None] | None = None
    rank: Rank | None = None
    logs: tuple[LogName, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether this process validates and writes files."""
        return self.rank is None or self.rank.number == 0

    @property
    def held_heads(self) -> dict[str, Tensor]:
        """The weights that the recipe holds the heads near, by their names in the network."""
        if self.start is None or self.section.heads != "pretrained":
            return {}
        return {name: tensor for name, tensor in self.start.heads.items() if name.startswith("head.")}

    def with_levels(self, statistics: Statistics) -> Self:
        """Return the training with the levels of its crops, if its normalisation depends on more than the crop."""
        crops = self.crops
        if isinstance(crops.source, FeatureSource):
            return self
        rows = np.concatenate([crops.training, crops.validation])
        levels = crop_levels(crops.source, rows, crops.labels, statistics, self.section.normalise)
        return replace(self, crops=replace(crops, levels=levels))

    def new_network(self, statistics: Statistics) -> Network:
        """Return the untrained network, its head at the frequencies of the classes among the known labels."""
        rows, labels = self.crops.training, self.crops.labels
        frequencies = labels.targets[rows].sum(axis=0) / np.maximum(labels.known[rows].sum(axis=0), 1)
        seed = derive_seed(Purpose.WEIGHTS, self.seed, self.fold)
        network = new_network(self.section, seed, statistics.mean, statistics.std, frequencies, self.start)
        if self.section.arcface_weight:
            own_seed = derive_seed(Purpose.WEIGHTS, self.seed, self.fold, row=1)
            network.arcface = new_arcface(labels.antibodies, self.section, own_seed)
        return network

    def batches(self, epoch: int, parts: int) -> list[NDArray[np.int64]]:
        """Return the rows of every batch of an epoch (from 0), each batch split into `parts`.

        Of several processes, each has one part.
        """
        every = self._split(epoch, parts)
        return every if self.rank is None else every[self.rank.number :: self.rank.devices.world]

    def sizes(self, epoch: int) -> list[list[int]]:
        """Return the number of crops that each process has of each batch."""
        assert self.rank is not None, "one process has all"
        lengths = [len(part) for part in self._split(epoch, 1)]
        world = self.rank.devices.world
        return [lengths[first : first + world] for first in range(0, len(lengths), world)]

    def _split(self, epoch: int, parts: int) -> list[NDArray[np.int64]]:
        batches = training_batches(self.crops, self.section, self.seed, self.fold, epoch)
        parts *= 1 if self.rank is None else self.rank.devices.world
        if parts == 1:
            return batches
        return split_batches(batches, self.crops.labels.images, parts, keep_bags=self.section.objective != "cell")

    def loader(self, epoch: int, parts: int) -> DataLoader[Batch]:
        """Return the loader of an epoch's batches, augmented by the recipe."""
        crops = TrainingCrops(self.crops, self.section, Augmentation(self.section, self.seed, self.fold), epoch)
        return epoch_loader(crops, self.batches(epoch, parts), self.workers, pin=self.device.type == "cuda")
