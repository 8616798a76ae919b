"""Read the crop probabilities of joined runs, pool them while reading, and align the images of all runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.config import AggregateSection
from aggregate.pooling.ensembles import ranks
from aggregate.pooling.formulas import LearnedPooling, pool_as_trained, pool_bags, read_learned_pooling
from classify.probabilities import Part, stream_probabilities
from hpa.config import read_toml
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import read_parquet
from hpa.work.folder import WorkFolder, open_work


@dataclass(frozen=True)
class ScoredRun:
    """One run and one of its windows.

    Parameters
    ----------
    name
        The name under which messages refer to it.
    work
        Its work folder.
    window
        How its crops are placed; ``cells/neighbours`` are the labels transferred from the nearest crops.
    """

    name: str
    work: WorkFolder
    window: str

    @property
    def probabilities(self) -> Path:
        """Path of the table of crop probabilities."""
        return self.work.root / "classify" / self.window / "probabilities.parquet"

    @property
    def pooling(self) -> Path:
        """Path of ``pooling.json``: how its models were trained to be pooled."""
        return self.probabilities.with_name("pooling.json")

    @property
    def crops(self) -> Path:
        """Path of the table of crops."""
        return self.work.root / "crops" / self.window.removesuffix("/neighbours") / "crops.parquet"

    @property
    def chose_on_scored_rows(self) -> bool:
        """Whether its checkpoints were chosen on the rows that they score.

        The key belongs to the section of another stage, so it is read without that section's model.
        """
        return bool(read_toml(self.work.recipe).get("classify", {}).get("checkpoint") == "best")

    def learned_pooling(self, section: AggregateSection) -> LearnedPooling | None:
        """Return how its models were trained to be pooled; None if the recipe pools by a formula."""
        return read_learned_pooling(self.pooling, self.crops) if section.pooling == "trained" else None

    def inputs(self, section: AggregateSection) -> dict[str, Path]:
        """Return the files that its pooled scores depend on, keyed by the name used in messages.

        Raises
        ------
        UserError
            If the recipe pools as trained and the models were not trained to be pooled.
        """
        learned = self.learned_pooling(section)
        paths = [self.probabilities] if learned is None else [self.probabilities, self.pooling]
        if section.min_quality or (learned is not None and learned.completeness is not None):
            paths.append(self.crops)
        return {f"{self.name}: {path.name}": path for path in paths}


def find_sources(work: WorkFolder, windows: Sequence[str], section: AggregateSection) -> list[ScoredRun]:
    """Return this run, once per window that it predicts, followed by the runs that its recipe joins.

    Raises
    ------
    UserError
        If a joined run is no work folder, or has other images, other folds or another vocabulary.
    """
    # Named by their roles and not by their paths, so that a work folder can be moved.
    sources = [ScoredRun(window, work, window) for window in windows]
    for number, (root, other_window) in enumerate(section.joined(work.root), start=1):
        other = open_joined(work, root)
        _check_joinable(work, other)
        sources.append(ScoredRun(f"joined run {number}", other, other_window or windows[0]))
    return sources


def open_joined(work: WorkFolder, root: Path) -> WorkFolder:
    """Return a run that the recipe of another one joins.

    Raises
    ------
    UserError
        If it is no work folder, with what can be done about it.
    """
    if not WorkFolder(root).recipe.is_file():
        raise UserError(
            f"expected a work folder to join at {root}, found none; put it there, or correct aggregate.join in"
            f" {work.recipe}, whose names are relative to {work.root}"
        )
    return open_work(root)


def _check_joinable(work: WorkFolder, other: WorkFolder) -> None:
    ours, theirs = work.data.classes.name, other.data.classes.name
    if ours != theirs:
        raise UserError(f"expected joined runs of the vocabulary {ours}, found {theirs} in {other.root}")
    columns = ["image_id", "split"]
    images, other_images = (read_images(w.images)[columns].sort_values("image_id") for w in (work, other))
    if not np.array_equal(images.to_numpy(), other_images.to_numpy()):
        unpaired = sorted(set(images["image_id"]) ^ set(other_images["image_id"]))
        what = f"image {unpaired[0]} in only one of them" if unpaired else "different splits"
        raise UserError(f"expected joined runs to have the same images, found {what} ({work.root} and {other.root})")
    folds, other_folds = (read_folds(w.folds).set_index("image_id")["fold"] for w in (work, other))
    if not folds.sort_index().equals(other_folds.sort_index()):
        raise UserError(f"expected joined runs to have the same folds, found different ones in {other.root}")


@dataclass(frozen=True)
class PooledBags:
    """The crops of images, pooled within each model.

    Parameters
    ----------
    table
        One row per bag (an image scored by one model), sorted by image_id, then fold: image_id, fold, is_oof,
        n_crops (those that were pooled).
    scores
        Shape (V, M, K), float32: the M bags, pooled in V ways.
    """

    table: pd.DataFrame
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class CropQuality:
    """Quality of each crop, and the minimum that the recipe asks for.

    Parameters
    ----------
    values
        By image_id and cell_label.
    minimum
        Crops below it are skipped, unless an image has no other.
    """

    values: pd.Series
    minimum: float

    def keeps(self, part: Part) -> NDArray[np.bool_]:
        """Return which rows of a part are pooled; a crop without a quality value is kept."""
        ids = np.array(part.image_ids, dtype=object)[part.images]
        found = self.values.reindex(pd.MultiIndex.from_arrays([ids, part.cell_labels])).to_numpy(np.float64)
        good: NDArray[np.bool_] = ~(found < self.minimum)
        any_good = np.zeros(len(part.image_ids), dtype=bool)
        np.logical_or.at(any_good, part.images, good)
        return good | ~any_good[part.images]


def read_quality(path: Path, section: AggregateSection) -> CropQuality | None:
    """Read the quality of every crop from a crop table; None if the recipe keeps all crops.

    Raises
    ------
    UserError
        If the crop table has no such numeric column.
    """
    if not section.min_quality:
        return None
    crops = read_parquet(path, "python -m crops run")
    if section.quality not in crops.columns or not pd.api.types.is_numeric_dtype(crops[section.quality]):
        raise UserError(f"expected a numeric column for aggregate.quality in {path}, found {section.quality!r}")
    return CropQuality(crops.set_index(["image_id", "cell_label"])[section.quality], section.min_quality)


def read_bags(
    path: Path,
    vocabulary: Vocabulary,
    section: AggregateSection,
    quality: CropQuality | None = None,
    learned: LearnedPooling | None = None,
) -> PooledBags:
    """Read and pool a table of crop probabilities, in memory that does not grow with the number of crops.

    Raises
    ------
    UserError
        If the table breaks its contract.
    """
    return pool_parts(stream_probabilities(path, vocabulary), len(vocabulary), section, quality, learned)


def pool_parts(
    parts: Iterable[Part],
    n_classes: int,
    section: AggregateSection,
    quality: CropQuality | None = None,
    learned: LearnedPooling | None = None,
) -> PooledBags:
    """Pool the crops of each image within each fold's model.

    The order matters: averaging the models before the maximum over crops would give lower values than the maxima that
    thresholds are tuned on. The models are therefore averaged afterwards, by `aggregate.run`.
    """
    columns = {"image_id": object, "fold": np.int16, "is_oof": bool, "n_crops": np.int64}
    tables = [pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})]
    scores = [np.empty((len(section.kinds), 0, n_classes), dtype=np.float32)]
    for part in parts:
        table, pooled = _pool_part(part, section, quality, learned)
        tables.append(table)
        scores.append(pooled)
    return PooledBags(pd.concat(tables[1:] or tables, ignore_index=True), np.concatenate(scores, axis=1))


def _pool_part(
    part: Part, section: AggregateSection, quality: CropQuality | None, learned: LearnedPooling | None
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    rows = np.lexsort((part.folds, part.images))  # a stable sort, so that cells keep their order
    if quality is not None:
        rows = rows[quality.keeps(part)[rows]]
    images, folds = part.images[rows], part.folds[rows]
    first_rows = np.flatnonzero(np.append(True, (images[1:] != images[:-1]) | (folds[1:] != folds[:-1])))
    probabilities = part.probabilities[rows]
    table = pd.DataFrame(
        {
            "image_id": np.array(part.image_ids, dtype=object)[images[first_rows]],
            "fold": folds[first_rows],
            "is_oof": part.is_oof[rows][first_rows],
            "n_crops": np.diff(np.append(first_rows, len(rows))),
        }
    )
    if learned is None:
        return table, np.stack([pool_bags(probabilities, first_rows, kind, section) for kind in section.formulas])
    weights = learned.weights(np.array(part.image_ids, dtype=object)[images], part.cell_labels[rows])
    attention = None if part.attention is None else part.attention[rows]
    pooled = pool_as_trained(probabilities, first_rows, learned.trained, folds[first_rows], weights, attention)
    return table, pooled[None]


@dataclass(frozen=True)
class ImageScores:
    """Images, each scored by one model per run.

    Parameters
    ----------
    scores
        Shape (R, V, N, K), float32: R runs, V poolings, N images.
    n_crops
        Shape (N,), number of crops in the first run that has any of the image. An image with 0 crops gets the prior.
    """

    scores: NDArray[np.float32]
    n_crops: NDArray[np.int64]

    def take(self, rows: NDArray[Any]) -> Self:
        """Return some of the images, chosen by a boolean mask or by indices of shape (M,)."""
        return type(self)(self.scores[:, :, rows], self.n_crops[rows])


@dataclass(frozen=True)
class PooledRuns:
    """The images of one or several runs, pooled within each model.

    Parameters
    ----------
    bags
        One per run.
    n_classes
        K.
    """

    bags: Sequence[PooledBags]
    n_classes: int

    def out_of_fold(self, image_ids: Sequence[str], folds: NDArray[np.integer]) -> ImageScores:
        """Return the scores of train images, each by the model that was not trained on it.

        Raises
        ------
        UserError
            If an image was scored by the model of another fold.
        """
        return self._align([self._bag_of_image(bags, image_ids, folds, is_oof=True) for bags in self.bags])

    def by_model(self, image_ids: Sequence[str]) -> list[ImageScores]:
        """Return the scores of test images, once per model.

        Raises
        ------
        UserError
            If a model did not score every test image that has crops.
        """
        models = sorted({int(fold) for bags in self.bags for fold in bags.table.loc[~bags.table["is_oof"], "fold"]})
        per_image = [bags.table[~bags.table["is_oof"]].groupby("image_id").size() for bags in self.bags]
        for counts in per_image:
            if (counts != len(models)).any():
                image_id = counts.index[counts != len(models)][0]
                raise UserError(
                    f"expected scores of {len(models)} models for every test image, found fewer for {image_id}"
                )
        n = len(image_ids)
        return [
            self._align([self._bag_of_image(bags, image_ids, np.full(n, fold), is_oof=False) for bags in self.bags])
            for fold in models
        ]

    def check_images(self, image_ids: Sequence[str], where: str) -> None:
        """Check that every bag belongs to one of the given images.

        Parameters
        ----------
        image_ids
            The images of the run.
        where
            What they come from, for the message.

        Raises
        ------
        UserError
            Naming the first image that is not among them.
        """
        for bags in self.bags:
            unexpected_ids = np.setdiff1d(
                bags.table["image_id"].to_numpy(object).astype(str), np.array(image_ids, dtype=str)
            )
            if len(unexpected_ids):
                raise UserError(
                    f"expected crops of the images of {where} only, found crops of {unexpected_ids[0]}; "
                    "rerun the crops and classify stages"
                )

    def _bag_of_image(
        self, bags: PooledBags, image_ids: Sequence[str], folds: NDArray[np.integer], *, is_oof: bool
    ) -> NDArray[np.int64]:
        """Return the index of the bag of every image, -1 if it has none."""
        own = np.flatnonzero(bags.table["is_oof"].to_numpy(bool) == is_oof)
        table = bags.table.iloc[own]
        if is_oof:
            fold_of = pd.Series(folds, index=list(image_ids)).reindex(table["image_id"]).to_numpy(np.float64)
            # Images that are not scored, and only follow their group into a fold, have bags too: ignore these (NaN).
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

    def _align(self, places: list[NDArray[np.int64]]) -> ImageScores:
        n_crops = np.zeros(len(places[0]), dtype=np.int64)
        scores = np.zeros((len(places), len(self.bags[0].scores), len(n_crops), self.n_classes), dtype=np.float32)
        for run, (bags, place) in enumerate(zip(self.bags, places, strict=True)):
            have = np.flatnonzero(place >= 0)
            scores[run][:, have] = bags.scores[:, place[have]]
            sizes = bags.table["n_crops"].to_numpy(np.int64)
            n_crops[have] = np.where(n_crops[have] > 0, n_crops[have], sizes[place[have]])
        return ImageScores(_fill_missing_runs(scores, places), n_crops)


def _fill_missing_runs(scores: NDArray[np.float32], places: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Fill in, for a run without crops of an image, the scores of the first run that has some."""
    has = np.stack(places) >= 0
    first = has.argmax(axis=0)
    for run in range(len(scores)):
        lacks = np.flatnonzero(~has[run] & has.any(axis=0))
        scores[run][:, lacks] = scores[first[lacks], :, lacks].swapaxes(0, 1)
    return scores


def read_pooled(sources: Sequence[ScoredRun], vocabulary: Vocabulary, section: AggregateSection) -> PooledRuns:
    """Read and pool the crop probabilities of every source."""
    bags = [
        read_bags(s.probabilities, vocabulary, section, read_quality(s.crops, section), s.learned_pooling(section))
        for s in sources
    ]
    return PooledRuns(bags, len(vocabulary))


def rank_images(images: ImageScores, folds: NDArray[np.integer]) -> ImageScores:
    """Replace scores by ranks among the images scored by the same model, for joining by rank.

    Parameters
    ----------
    images
        Scores of N images; those without crops keep their scores and are not ranked.
    folds
        Shape (N,): the fold whose model scored each image.
    """
    scores = images.scores.copy()
    for fold in np.unique(folds):
        own = np.flatnonzero((folds == fold) & (images.n_crops > 0))
        scores[:, :, own] = ranks(scores[:, :, own])
    return ImageScores(scores, images.n_crops)
