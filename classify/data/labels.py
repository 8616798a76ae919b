"""What is known of every crop through its image: target, fold and split."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from classify.data.crops import CropSource, FoldCrops
from hpa.vocabulary import Vocabulary

NO_FOLD: Final = -2
"""Fold of crops whose image is in no fold: test images, and train images whose target is unknown."""


@dataclass(frozen=True)
class CropLabels:
    """What crops inherit from their images; one entry a crop.

    Parameters
    ----------
    targets
        Multi-hot, shape (N, K).
    images
        Number of the image, shape (N,).
    folds
        Fold of the image; -1 trained on and never scored, `NO_FOLD` in none. Shape (N,).
    is_test
        Whether the image is a test image, shape (N,).
    fallback
        Whether the crop stands for an image without a kept cell, shape (N,).
    image_ids, cell_labels
        The crop's key, shape (N,).
    sources
        Source of the image, shape (N,).
    antibodies
        Number of the image's antibody, -1 where unknown, shape (N,).
    completeness
        Share of the cell that is seen, shape (N,).
    masked
        Of which classes nothing is known, shape (N, K); None where there are none.
    """

    targets: NDArray[np.bool_]
    images: NDArray[np.int64]
    folds: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    fallback: NDArray[np.bool_]
    image_ids: NDArray[np.object_]
    cell_labels: NDArray[np.int64]
    sources: NDArray[np.object_]
    antibodies: NDArray[np.int64]
    completeness: NDArray[np.float32]
    masked: NDArray[np.bool_] | None = None

    def as_new(self) -> "CropLabels":
        """Return the same crops as models of another work folder see them: all new, in no fold."""
        return replace(self, folds=np.full_like(self.folds, NO_FOLD), is_test=np.ones_like(self.is_test))

    def fold_crops(self, source: CropSource, fold: int) -> FoldCrops:
        """Return what the model of `fold` is trained and validated on.

        It is trained on the images of all other folds and those that are never scored, without fallback crops; it
        is validated on all crops of its own fold's images.
        """
        training = (self.folds != NO_FOLD) & (self.folds != fold) & ~self.fallback
        return FoldCrops(
            source,
            np.flatnonzero(training),
            np.flatnonzero(self.folds == fold),
            self.targets,
            self.images,
            image_ids=self.image_ids,
            cell_labels=self.cell_labels,
            sources=self.sources,
            antibodies=self.antibodies,
            completeness=self.completeness,
            masked=self.masked,
        )


def label_crops(crops: pd.DataFrame, images: pd.DataFrame, folds: pd.DataFrame, vocabulary: Vocabulary) -> CropLabels:
    """Look up every crop's image.

    Parameters
    ----------
    crops
        The crop table: image_id, cell_label, fallback, completeness.
    images
        The image table: image_id, source, split, target, masked, antibody.
    folds
        The table of folds: image_id, fold.
    vocabulary
        Of the targets.
    """
    of_image = pd.Index(images["image_id"]).get_indexer(pd.Index(crops["image_id"]))
    if (of_image < 0).any():
        # Not a user's mistake: the store was cut from this very image table.
        raise RuntimeError(f"crops of {crops['image_id'][of_image < 0].iloc[0]!r}, an image not in the image table")
    masked = vocabulary.multi_hot(images["unknown_classes"])
    in_fold = pd.Series(folds["fold"].to_numpy(), index=folds["image_id"])
    return CropLabels(
        targets=vocabulary.multi_hot(images["target"])[of_image],
        images=of_image.astype(np.int64),
        folds=in_fold.reindex(crops["image_id"]).fillna(NO_FOLD).to_numpy(dtype=np.int64),
        is_test=(images["split"] == "test").to_numpy()[of_image],
        fallback=crops["fallback"].to_numpy(dtype=bool),
        image_ids=crops["image_id"].to_numpy(dtype=object),
        cell_labels=crops["cell_label"].to_numpy(dtype=np.int64),
        sources=images["source"].to_numpy(dtype=object)[of_image],
        antibodies=pd.factorize(images["antibody"])[0].astype(np.int64)[of_image],
        completeness=crops["completeness"].to_numpy(dtype=np.float32),
        masked=masked[of_image] if masked.any() else None,
    )
