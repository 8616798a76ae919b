"""The runs whose crop probabilities are joined: where they lie, that they agree, and their images as rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.config import AggregateSection
from aggregate.pooling.bags import Bags, read_bags, read_quality
from aggregate.pooling.ensembles import ranks
from aggregate.pooling.trained import Trained, read_trained
from hpa.config import read_toml
from hpa.errors import UserError
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.folder import WorkFolder, open_work


@dataclass(frozen=True)
class Source:
    """One run and window.

    Parameters
    ----------
    name
        How the user calls it.
    work
        Its work folder.
    window
        How its crops are placed.
    """

    name: str
    work: WorkFolder
    window: str

    @property
    def probabilities(self) -> Path:
        """The table of crop probabilities."""
        return self.work.root / "classify" / self.window / "probabilities.parquet"

    @property
    def pooling(self) -> Path:
        """How its models were trained to be pooled."""
        return self.probabilities.with_name("pooling.json")

    @property
    def crops(self) -> Path:
        """The table of crops."""
        return self.work.root / "crops" / self.window / "crops.parquet"

    @property
    def chose_on_scored_rows(self) -> bool:
        """Whether its checkpoints were chosen on the rows that they score; the key is another stage's, so read bare."""
        return bool(read_toml(self.work.recipe).get("classify", {}).get("checkpoint") == "best")

    def trained(self, section: AggregateSection) -> Trained | None:
        """Return how its models were trained to be pooled; None where the recipe pools otherwise."""
        return read_trained(self.pooling, self.crops) if section.pooling == "trained" else None

    def inputs(self, section: AggregateSection) -> dict[str, Path]:
        """Return the files that its pooled scores are made from, by the name told to the user.

        Raises
        ------
        UserError
            If it is to be pooled as trained and was not trained so.
        """
        trained = self.trained(section)
        paths = [self.probabilities] if trained is None else [self.probabilities, self.pooling]
        if section.min_quality or (trained is not None and trained.completeness is not None):
            paths.append(self.crops)
        return {f"{self.name}: {path.name}": path for path in paths}


def find_sources(work: WorkFolder, windows: Sequence[str], section: AggregateSection) -> list[Source]:
    """Return this run, once for each kind of window that it predicts, then those its recipe joins.

    Raises
    ------
    UserError
        If a joined run is no work folder, or is of other images, folds or another vocabulary.
    """
    sources = [Source(f"{work.root}:{window}", work, window) for window in windows]
    for text, (root, other_window) in zip(section.join, section.joined, strict=True):
        other = open_work(root)
        _check_joinable(work, other)
        sources.append(Source(text, other, other_window or windows[0]))
    return sources


def _check_joinable(work: WorkFolder, other: WorkFolder) -> None:
    ours, theirs = work.data.vocabulary, other.data.vocabulary
    if ours != theirs:
        raise UserError(f"expected joined runs of the vocabulary {ours}, found {theirs} in {other.root}")
    columns = ["image_id", "split"]
    images, others = (pd.read_parquet(w.images, columns=columns).sort_values("image_id") for w in (work, other))
    if not np.array_equal(images.to_numpy(), others.to_numpy()):
        odd = sorted(set(images["image_id"]) ^ set(others["image_id"]))
        what = f"image {odd[0]} in one of them only" if odd else "other splits"
        raise UserError(f"expected joined runs to have the same images, found {what} ({work.root} and {other.root})")
    folds, other_folds = (read_folds(w.folds).set_index("image_id")["fold"] for w in (work, other))
    if not folds.sort_index().equals(other_folds.sort_index()):
        raise UserError(f"expected joined runs to have the same folds, found others in {other.root}")


@dataclass(frozen=True)
class Rows:
    """Images as one model each has scored them.

    Parameters
    ----------
    scores
        Shape (R, V, N, K), float32: R runs, V poolings, N images.
    n_crops
        Shape (N,), of the first run that has crops of the image; 0 where none has, and such a row gets the prior.
    """

    scores: NDArray[np.float32]
    n_crops: NDArray[np.int64]

    def take(self, chosen: NDArray[Any]) -> Self:
        """Return some of the images."""
        return type(self)(self.scores[:, :, chosen], self.n_crops[chosen])


@dataclass(frozen=True)
class Pooled:
    """The images of one or several runs, pooled within each model.

    Parameters
    ----------
    bags
        One a run.
    n_classes
        K.
    """

    bags: Sequence[Bags]
    n_classes: int

    def out_of_fold(self, image_ids: Sequence[str], folds: NDArray[np.integer]) -> Rows:
        """Return the rows of train images, each by the model that has not seen it.

        Raises
        ------
        UserError
            If a row is of another fold than the image.
        """
        parts = [self._places(bags, image_ids, folds, is_oof=True) for bags in self.bags]
        return self._rows(parts)

    def by_model(self, image_ids: Sequence[str]) -> list[Rows]:
        """Return the rows of test images, once for each model.

        Raises
        ------
        UserError
            If not every model has scored every test image that has crops.
        """
        models = sorted({int(fold) for bags in self.bags for fold in bags.table.loc[~bags.table["is_oof"], "fold"]})
        per_image = [bags.table[~bags.table["is_oof"]].groupby("image_id").size() for bags in self.bags]
        for counts in per_image:
            if (counts != len(models)).any():
                odd = counts.index[counts != len(models)][0]
                raise UserError(f"expected scores of {len(models)} models for every test image, found fewer for {odd}")
        n = len(image_ids)
        return [
            self._rows([self._places(bags, image_ids, np.full(n, fold), is_oof=False) for bags in self.bags])
            for fold in models
        ]

    def check_images(self, known: Sequence[str], where: str) -> None:
        """Check that every bag is of an image of the run.

        Raises
        ------
        UserError
            Naming the first that is not.
        """
        for bags in self.bags:
            unexpected_ids = np.setdiff1d(
                bags.table["image_id"].to_numpy(object).astype(str), np.array(known, dtype=str)
            )
            if len(unexpected_ids):
                raise UserError(
                    f"expected crops of the images of {where} only, found crops of {unexpected_ids[0]}; "
                    "make the crops and their probabilities anew"
                )

    def _places(
        self, bags: Bags, image_ids: Sequence[str], folds: NDArray[np.integer], *, is_oof: bool
    ) -> NDArray[np.int64]:
        """Return the bag of every image, -1 for none."""
        own = np.flatnonzero(bags.table["is_oof"].to_numpy(bool) == is_oof)
        table = bags.table.iloc[own]
        if is_oof:
            fold_of = pd.Series(folds, index=list(image_ids)).reindex(table["image_id"]).to_numpy(np.float64)
            # Images that are in a fold only because their group is have rows too, which nobody asks for.
            wrong = np.flatnonzero((fold_of != table["fold"].to_numpy()) & (fold_of >= 0))
            if len(wrong):
                row = table.iloc[wrong[0]]
                raise UserError(
                    f"expected out-of-fold rows of the folds in folds.parquet, found image {row['image_id']} "
                    f"scored by the model of fold {row['fold']}"
                )
        key = pd.MultiIndex.from_arrays([table["image_id"], table["fold"].astype(np.int64)])
        wanted = pd.MultiIndex.from_arrays([list(image_ids), np.asarray(folds, dtype=np.int64)])
        found = pd.Series(own, index=key).reindex(wanted)
        places: NDArray[np.int64] = found.fillna(-1).to_numpy(np.int64)
        return places

    def _rows(self, places: list[NDArray[np.int64]]) -> Rows:
        n_crops = np.zeros(len(places[0]), dtype=np.int64)
        scores = np.zeros((len(places), len(self.bags[0].scores), len(n_crops), self.n_classes), dtype=np.float32)
        for run, (bags, place) in enumerate(zip(self.bags, places, strict=True)):
            have = np.flatnonzero(place >= 0)
            scores[run][:, have] = bags.scores[:, place[have]]
            sizes = bags.table["n_crops"].to_numpy(np.int64)
            n_crops[have] = np.where(n_crops[have] > 0, n_crops[have], sizes[place[have]])
        return Rows(_filled(scores, places), n_crops)


def _filled(scores: NDArray[np.float32], places: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Let a run without crops of an image take the scores of the first run that has some."""
    has = np.stack(places) >= 0
    first = has.argmax(axis=0)
    for run in range(len(scores)):
        lacks = np.flatnonzero(~has[run] & has.any(axis=0))
        scores[run][:, lacks] = scores[first[lacks], :, lacks].swapaxes(0, 1)
    return scores


def read_pooled(sources: Sequence[Source], vocabulary: Vocabulary, section: AggregateSection) -> Pooled:
    """Read and pool the crop probabilities of every run."""
    bags = [
        read_bags(s.probabilities, vocabulary, section, read_quality(s.crops, section), s.trained(section))
        for s in sources
    ]
    return Pooled(bags, len(vocabulary))


def rank_rows(rows: Rows, folds: NDArray[np.integer]) -> Rows:
    """Return rows with ranks among the images of the same model in place of scores, for joining by rank."""
    scores = rows.scores.copy()
    for fold in np.unique(folds):
        own = np.flatnonzero((folds == fold) & (rows.n_crops > 0))
        scores[:, :, own] = ranks(scores[:, :, own])
    return Rows(scores, rows.n_crops)
