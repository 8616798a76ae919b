"""One training, told in full: what is trained, how, and where."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.data.crops import Batch, FoldCrops, TrainingCrops, epoch_loader
from classify.data.normalisation import Statistics
from classify.data.sampling import split_batches, training_batches
from classify.data.seeds import Purpose, derive_seed
from classify.network.model import Network, check_input, new_network
from hpa.errors import UserError


@dataclass(frozen=True)
class Task:
    """The training of one fold.

    Parameters
    ----------
    crops
        What is trained and validated on, with the levels of its crops.
    section
        How.
    seed
        The recipe's.
    fold
        Number of the fold.
    folder
        Where its files lie.
    device
        Where it runs.
    workers
        Processes that read and vary crops; 0 does it in this one.
    """

    crops: FoldCrops
    section: ClassifySection
    seed: int
    fold: int
    folder: Path
    device: torch.device
    workers: int

    def network(self, statistics: Statistics) -> Network:
        """Return the network as training begins, its output at the classes' frequencies among the known labels."""
        rows = self.crops.training
        frequencies = self.crops.targets[rows].sum(axis=0) / np.maximum(self.crops.known(rows).sum(axis=0), 1)
        seed = derive_seed(Purpose.WEIGHTS, self.seed, self.fold)
        return new_network(self.section, seed, statistics.mean, statistics.std, frequencies)

    def batches(self, epoch: int, parts: int) -> list[NDArray[np.int64]]:
        """Return the rows of every batch of an epoch (from 0), each batch cut into `parts` where memory is short."""
        batches = training_batches(self.crops, self.section, self.seed, self.fold, epoch)
        if parts == 1:
            return batches
        return split_batches(batches, self.crops.images, parts, whole_bags=self.section.objective != "cell")

    def loader(self, epoch: int, parts: int) -> DataLoader[Batch]:
        """Return what makes the batches of an epoch, varied as the recipe has it."""
        crops = TrainingCrops(self.crops, self.section, Augmentation(self.section, self.seed, self.fold), epoch)
        return epoch_loader(crops, self.batches(epoch, parts), self.workers, pin=self.device.type == "cuda")

    def keys(self, rows: NDArray[np.int64]) -> pd.DataFrame:
        """Return image_id and cell_label of some crops."""
        return pd.DataFrame({"image_id": self.crops.image_ids[rows], "cell_label": self.crops.cell_labels[rows]})


def check_sides(network: Network, crops: FoldCrops, random_crop_px: int) -> None:
    """Check that the network can take the crops, whole and at the side of random ones (0 for none).

    Raises
    ------
    UserError
        If a random crop is larger than a crop, or the network cannot take a side.
    """
    shape = crops.source.pixels(crops.training[:1]).shape
    for side in {shape[2], random_crop_px or shape[2]}:
        if side > shape[2]:
            raise UserError(f"expected classify.random_crop_px of at most {shape[2]}, the crops' side, found {side}")
        check_input(network, shape[1], side)
