"""The models of a trained run, for crops in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellwise.cells import Crops
from hpa.errors import UserError
from hpa.vocabulary import VOCABULARIES, Vocabulary
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from classify.inference.evaluate import CropOutputs
    from classify.network.checkpoint import Checkpoint


@dataclass(frozen=True)
class Classifier:
    """The classifiers of a trained run, one per fold.

    Parameters
    ----------
    checkpoints
        The models by fold.
    recipe
        The recipe of the run.
    device
        Where the networks run.
    code
        Folder of the Python file of a backbone of the user's own.
    """

    checkpoints: Mapping[int, "Checkpoint"]
    recipe: Recipe
    device: "torch.device"
    code: Path | None = None

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", code: str | Path | None = None) -> Self:
        """Load the models of a trained work folder or a bundle.

        Parameters
        ----------
        path
            The work folder or the bundle.
        device
            Device of the networks: "auto", "cpu", "cuda", ...
        code
            Folder of the Python file of a backbone of your own, as for ``--code``; its code is run.

        Raises
        ------
        UserError
            If it is neither, has no trained models, or the device is not available.
        """
        import torch

        from classify.models import trained_checkpoints
        from classify.network.checkpoint import load_checkpoints
        from hpa.work.device import resolve_device
        from pipeline.apply import open_model

        model = open_model(Path(path))
        window = model.recipe.crops.windows[0]
        paths = trained_checkpoints(model.work, model.recipe.crops.train_window_for(window))
        own = None if code is None else Path(code)
        return cls(load_checkpoints(paths), model.recipe, torch.device(resolve_device(device)), own)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the run: its classes and their order."""
        return VOCABULARIES[self._first.vocabulary]

    @property
    def size_px(self) -> int:
        """Height and width of the crops that the models expect."""
        return self._first.size_px

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels that the models expect, in their order."""
        return tuple(self._first.channels)

    @property
    def _first(self) -> "Checkpoint":
        return next(iter(self.checkpoints.values()))

    def predict(self, crops: Crops) -> pd.DataFrame:
        """Return the class probabilities of crops, as ``classify predict`` does for test images.

        Parameters
        ----------
        crops
            Crops of one image.

        Returns
        -------
        DataFrame
            One row per crop and fold: image_id, cell_label, fold, and one column ``p_<class>`` per class.

        Raises
        ------
        UserError
            If the crops have another size or other channels than those the models were trained on.
        """
        from classify.probabilities import class_columns

        columns = class_columns(self.vocabulary)
        parts = []
        for fold in self.checkpoints:
            probabilities = self._run(crops, fold).probabilities
            key = crops.table[["image_id", "cell_label"]].assign(fold=fold)
            parts.append(pd.concat([key, pd.DataFrame(probabilities, columns=columns)], axis=1))
        return pd.concat(parts).sort_values(["image_id", "cell_label", "fold"], ignore_index=True)

    def embed(self, crops: Crops, fold: int | None = None) -> NDArray[np.float32]:
        """Return the embeddings of crops, or their features if the network has no embedding head.

        Each fold's model has a space of its own unless its backbone is frozen, so do not compare vectors of two folds.

        Parameters
        ----------
        crops
            Crops of one image.
        fold
            Whose model to use; None uses the first.

        Returns
        -------
        ndarray
            Shape (n, D), float32.

        Raises
        ------
        UserError
            If there is no such fold, or the crops do not fit the models.
        """
        if fold is not None and fold not in self.checkpoints:
            raise UserError(f"expected a fold among {', '.join(map(str, self.checkpoints))}, found {fold}")
        outputs = self._run(crops, next(iter(self.checkpoints)) if fold is None else fold)
        return outputs.features if outputs.embeddings is None else outputs.embeddings

    def _run(self, crops: Crops, fold: int) -> "CropOutputs":
        from classify.inference.predict import predict_crops
        from classify.own_code import code_from

        for what, expected, found in (
            ("px", self.size_px, crops.pixels.shape[-1]),
            ("channels", ", ".join(self.channel_names), ", ".join(crops.channel_names)),
        ):
            if expected != found:
                raise UserError(f"expected crops of {expected} ({what}) as in training, found {found}")
        with code_from(self.code):
            return predict_crops(self.checkpoints[fold], crops.pixels, crops.masks, self.device)
