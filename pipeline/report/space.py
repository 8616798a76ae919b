"""The map of the cells, and the nearest neighbours of some, in the space of the shipped backbone that all share."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classify.inspect.embedding import read_embedding
from classify.inspect.retrieval import normalise_rows, rank_by_similarity
from classify.probabilities import class_columns
from crops.export import join_image_labels
from crops.store import open_store
from hpa.splitting.folds import read_folds
from pipeline.report.cells import crop_photos
from pipeline.report.evidence import Evidence
from pipeline.report.media import Photo

_POINTS: Final = 3000
_GROUPS: Final = 8
_QUERIES: Final = 6
_NEIGHBOURS: Final = 5
_SIDE: Final = 560
_METHODS: Final = {"UMAP": "UMAP", "PCA": "the first two principal components; cellwise[umap] gives a clearer map"}


@dataclass(frozen=True)
class Cloud:
    """The cells of one class on the map.

    Parameters
    ----------
    name
        The class.
    path
        Their places, as the attribute ``d`` of an SVG path of dots.
    count
        Number of cells.
    """

    name: str
    path: str
    count: int


@dataclass(frozen=True)
class Neighbour:
    """A cell beside a query.

    Parameters
    ----------
    photo
        The cell.
    classes
        Labels of its image: those it shares with the query if there are any, else all.
    shared
        Whether it shares any.
    """

    photo: Photo
    classes: str
    shared: bool


@dataclass(frozen=True)
class Space:
    """The part of the page.

    Parameters
    ----------
    clouds
        Cells by class.
    side
        Width and height of the map, in px.
    method
        How the map was made.
    colored_by
        What the classes on the map are.
    queries
        Each query, its classes, and its neighbours.
    shared, chance
        Share of nearest neighbours that share a label with their query, and that of random cells; None without labels.
    """

    clouds: tuple[Cloud, ...]
    side: int
    method: str
    colored_by: str
    queries: tuple[tuple[Photo, str, tuple[Neighbour, ...]], ...]
    shared: float | None
    chance: float | None


def make_space(evidence: Evidence) -> Space:
    """Draw the map and find neighbours.

    Raises
    ------
    UserError
        If there is no embedding of the crops.
    """
    store = open_store(evidence.work, evidence.window)
    embedding = read_embedding(evidence.work, evidence.window, store)
    rng = np.random.default_rng(evidence.work.data.seed)
    shown = np.sort(rng.choice(len(embedding.places), min(_POINTS, len(embedding.places)), replace=False))
    places = embedding.places.iloc[shown]
    rows = places["row"].to_numpy()
    vectors = normalise_rows(np.asarray(embedding.features[rows], dtype=np.float32))
    named, what = _classes(evidence, store, rows)
    return Space(
        _clouds(places[["map_1", "map_2"]].to_numpy(np.float64), named),
        _SIDE,
        _METHODS[embedding.method],
        what,
        *_neighbours(evidence, store, rows, vectors, rng),
    )


def _classes(evidence: Evidence, store: Any, rows: NDArray[np.int64]) -> tuple[list[str], str]:
    """Return a class for each cell: its likeliest one, or the only label of its image."""
    keys = store.table[["image_id", "cell_label"]].iloc[rows]
    if (evidence.work.root / "aggregate" / "cells.parquet").is_file():
        cells = evidence.cells
        columns = class_columns(evidence.vocabulary)
        best = cells[["image_id", "cell_label"]].assign(best=cells[columns].to_numpy().argmax(axis=1))
        numbers = keys.merge(best, on=["image_id", "cell_label"], how="left")["best"]
        names = [evidence.vocabulary.classes[int(c)] if c == c else "unknown" for c in numbers]
        return names, "the likeliest class of each cell"
    labels = join_image_labels(evidence.work, store)["classes"].iloc[rows]
    return ["unknown" if not text or ";" in text else text for text in labels], "the only label of the cell's image"


def _clouds(places: NDArray[np.float64], named: list[str]) -> tuple[Cloud, ...]:
    low, high = np.percentile(places, [0.5, 99.5], axis=0)
    scaled = ((places - low) / np.maximum(high - low, 1e-9)).clip(0, 1) * (_SIDE - 24) + 12
    names = np.array(named, dtype=object)
    found, counts = np.unique(names.astype(str), return_counts=True)
    order = [name for name in found[np.argsort(-counts, kind="stable")].tolist() if name != "unknown"]
    clouds = []
    for group in [*([name] for name in order[:_GROUPS]), [*order[_GROUPS:], "unknown"]]:
        own = np.isin(names, group)
        dots = "".join(f"M{across:.1f} {_SIDE - down:.1f}h0" for across, down in scaled[own])
        if own.any():
            clouds.append(
                Cloud(group[0] if len(group) == 1 and group[0] != "unknown" else "other", dots, int(own.sum()))
            )
    return tuple(reversed(clouds))


def _neighbours(
    evidence: Evidence, store: Any, rows: NDArray[np.int64], vectors: NDArray[np.float32], rng: np.random.Generator
) -> tuple[tuple[tuple[Photo, str, tuple[Neighbour, ...]], ...], float | None, float | None]:
    joined = join_image_labels(evidence.work, store).iloc[rows]
    text = joined["classes"].to_numpy(object)
    labels = [frozenset(names.split(";")) if names else frozenset() for names in text]
    groups = _groups(evidence, joined["image_id"].to_numpy(object))
    labelled = np.flatnonzero([bool(names) for names in labels])
    # One query of each class in turn, so that rare classes are seen too.
    pool = rng.permutation(labelled if len(labelled) else len(rows))
    seen: set[str] = set()
    queries = []
    for row in pool.tolist():
        new = labels[row] - seen
        if new or not len(labelled):
            queries.append(row)
            seen |= labels[row]
        if len(queries) == _QUERIES:
            break
    shown = []
    for row in queries:
        candidates = labelled if len(labelled) else np.arange(len(rows))
        near = rank_by_similarity(vectors, row, candidates[groups[candidates] != groups[row]])[:_NEIGHBOURS]
        photos = crop_photos(evidence, store, rows[[row, *near]], [text[k].replace(";", ", ") for k in (row, *near)])
        found = tuple(
            Neighbour(picture, _listed(labels[k] & labels[row] or labels[k]), bool(labels[k] & labels[row]))
            for picture, k in zip(photos[1:], near, strict=True)
        )
        shown.append((photos[0], _listed(labels[row]), found))
    return tuple(shown), *_shared(evidence, joined, vectors, groups, labelled)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _shared(
    evidence: Evidence, joined: Any, vectors: NDArray[np.float32], groups: NDArray[Any], labelled: NDArray[np.int64]
) -> tuple[float | None, float | None]:
    """Return how often the nearest labelled cell of another group shares a label, and how often a random one does."""
    if len(labelled) < 2:
        return None, None
    vocabulary = evidence.vocabulary
    hot = vocabulary.multi_hot(vocabulary.parse(text) for text in joined["target"].iloc[labelled])
    similar = vectors[labelled] @ vectors[labelled].T
    share = (hot.astype(np.float32) @ hot.T.astype(np.float32)) > 0
    others = groups[labelled][:, None] != groups[labelled][None]
    judged = others.any(axis=1)
    nearest = np.where(others, similar, -np.inf).argmax(axis=1)
    own = share[np.arange(len(labelled)), nearest][judged]
    random = (share & others).sum(axis=1)[judged] / others.sum(axis=1)[judged]
    return (float(own.mean()), float(random.mean())) if judged.any() else (None, None)


def _groups(evidence: Evidence, image_ids: NDArray[np.object_]) -> NDArray[Any]:
    """Return the leak group of each cell; an image in no fold is a group of its own."""
    numbers = {image_id: -1 - place for place, image_id in enumerate(dict.fromkeys(image_ids))}
    if evidence.work.folds.is_file():
        folds = read_folds(evidence.work.folds)
        numbers |= dict(zip(folds["image_id"], folds["group"], strict=True))
    return np.array([numbers[image_id] for image_id in image_ids])
