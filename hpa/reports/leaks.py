"""Report leaks in a data set: near-duplicates, contradictory labels, splits that separate images of one group.

The report is written to ``leaks/`` of a work folder: ``pairs.csv`` (the pairs that look alike, the closest
first, at most a million), ``conflicts.csv``
(groups of train images with contradictory labels), ``train_test.csv`` (train images that look like test images),
``pairs.png`` (the closest pairs) and ``leaks.json`` (the figures of the report).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpa.config import DataSection
from hpa.images import read_images
from hpa.pictures import FigureFormat, image_row, save_tiles
from hpa.reports.adversarial import adversarial_validation, cheap_features
from hpa.splitting.folds import read_folds
from hpa.splitting.groups import join_groups, largest_group
from hpa.splitting.hashes import HASHED
from hpa.splitting.near_duplicates import (
    find_similar,
    is_label_list,
    pairs_within,
    read_label_list,
    read_pairs,
)
from hpa.splitting.quality import SplitQuality, measure_image_splits, measure_split
from hpa.splitting.scan import scan_images
from hpa.work.files import write_csv, write_json
from hpa.work.folder import WorkFolder

_SHOWN_PAIRS: Final = 8
_MAX_LISTED: Final = 1_000_000
_TILE_PX: Final = 192
_AUC: Final = "AUC of train against test images"


def report_leaks(
    work: WorkFolder, lists: Sequence[Path] = (), *, workers: int = 0, figure_format: FigureFormat = "png"
) -> None:
    """Write and print the report on leaks in a work folder's data set.

    Parameters
    ----------
    work
        The work folder.
    lists
        Published lists to compare with the data set: pairs that look alike
        (`hpa.splitting.near_duplicates.read_pairs`), or test images whose labels are public (`read_label_list` in the
        same module).
    workers
        Number of processes that hash images, if init has not done so; 0 uses one per processor.
    figure_format
        Format of the pictures.

    Raises
    ------
    UserError
        If a list cannot be read, or the run has no channel to compare images by.
    """
    section, folder = work.data, work.root / "leaks"
    published = [(path, read_label_list(path) if is_label_list(path) else read_pairs(path)) for path in lists]
    names = Counter(path.name for path in lists)
    images = read_images(work.images)
    similar = find_similar(work.root / "scan", images, section, workers=workers)
    scanned = scan_images(work.root / "scan", images, section.channels)
    groups = join_groups(len(images), [list(images["antibody"]), list(images["well"])], similar.edges)
    is_test = (images["split"] == "test").to_numpy()
    pairs = pair_table(images, similar.closest_pairs(), section)
    crossing = pair_table(
        images, (pair for pair in similar.closest_pairs() if is_test[pair[0]] != is_test[pair[1]]), section
    )
    conflicts = label_conflicts(images, groups, section)
    write_csv(folder / "pairs.csv", pairs)
    write_csv(folder / "conflicts.csv", conflicts)
    write_csv(folder / "train_test.csv", crossing)
    if len(pairs):
        _draw(folder / f"pairs.{figure_format}", images, pairs, section)
    adversarial = adversarial_validation(cheap_features(images, scanned), is_test, groups, section.seed)
    splits = _splits(work, images, groups, section)
    figures: dict[str, Any] = {
        "images": len(images),
        "groups": len(np.unique(groups)),
        "largest group": largest_group(groups),
        "pairs that look alike": similar.n_pairs,
        "largest set that looks alike": largest_group(join_groups(len(images), [], similar.edges)),
        "images with a flat or unreadable plane": similar.unusable,
        "groups with contradictory labels": len(conflicts),
        "train images that look like a test image": int((similar.like(is_test) & ~is_test).sum()),
        _AUC: None if adversarial is None else round(adversarial.auc, 3),
        "most informative features": None if adversarial is None else ", ".join(adversarial.top_features),
    }
    for path, listed in published:
        name = path.name if names[path.name] == 1 else str(path)
        if isinstance(listed, set):
            figures[f"test images with a label in {name}"] = int(images.loc[is_test, "image_id"].isin(listed).sum())
            continue
        within = pairs_within(listed, images["image_id"])
        separated = int((groups[within[:, 0]] != groups[within[:, 1]]).sum())
        figures[f"pairs of {name} in the data set"] = len(within)
        figures[f"pairs of {name} in two groups"] = separated
    write_json(folder / "leaks.json", figures | {"splits": [split._asdict() for split in splits]})
    _print(figures, splits, folder)


def pair_table(
    images: pd.DataFrame, pairs: Iterable[tuple[int, int, NDArray[np.uint8]]], section: DataSection
) -> pd.DataFrame:
    """Tabulate the first million of the pairs that look alike.

    Parameters
    ----------
    images
        The image table.
    pairs
        Positions of the two images in the table and the number of differing bits of each compared channel
        (`SimilarImages.closest_pairs`).
    section
        Vocabulary and channels are read.

    Returns
    -------
    DataFrame
        image_id, source, split, antibody and target of the two images, with the suffixes ``_a`` and ``_b``, and for
        each compared channel C ``bits_C``, the number of differing bits.
    """
    listed = list(islice(pairs, _MAX_LISTED))
    texts = [section.classes.format(target) for target in images["target"]]
    described = images[["image_id", "source", "split", "antibody"]].assign(target=texts)
    table = pd.DataFrame()
    for side, at in (("a", [a for a, _, _ in listed]), ("b", [b for _, b, _ in listed])):
        table = pd.concat([table, described.iloc[at].reset_index(drop=True).add_suffix(f"_{side}")], axis=1)
    hashed = [channel for channel in HASHED if channel in section.channels]
    bits = np.array([bits for _, _, bits in listed], np.uint8).reshape(-1, len(hashed))
    return table.assign(**{f"bits_{channel}": bits[:, i] for i, channel in enumerate(hashed)})


def label_conflicts(images: pd.DataFrame, groups: NDArray[np.int32], section: DataSection) -> pd.DataFrame:
    """List the groups in which a train image has a class that another one is known not to have.

    Parameters
    ----------
    images
        The image table.
    groups
        Group of each image, shape (N,).
    section
        The vocabulary is read.

    Returns
    -------
    DataFrame
        One row per group: group_of (an image of the group), images (their number), targets (each with its number of
        images).
    """
    train = (images["split"] == "train") & (images["unknown_classes"].map(len) < len(section.classes))
    texts = pd.Series([section.classes.format(target) for target in images.loc[train, "target"]], dtype=str)
    positive = section.classes.multi_hot(images.loc[train, "target"])
    negative = ~positive & ~section.classes.multi_hot(images.loc[train, "unknown_classes"])
    ids = images.loc[train, "image_id"].to_numpy()
    rows = []
    for _, labels in texts.groupby(groups[train.to_numpy()]):
        if labels.nunique() > 1 and (positive[labels.index].any(axis=0) & negative[labels.index].any(axis=0)).any():
            counted = ", ".join(f"{text} ({count})" for text, count in labels.value_counts().items())
            rows.append({"group_of": ids[labels.index[0]], "images": len(labels), "targets": counted})
    return pd.DataFrame(rows, columns=["group_of", "images", "targets"])


def _splits(
    work: WorkFolder, images: pd.DataFrame, groups: NDArray[np.int32], section: DataSection
) -> list[SplitQuality]:
    folds = read_folds(work.folds)
    scored = folds[folds["fold"] >= 0]
    if scored["fold"].nunique() < 2:
        return []
    at = pd.Index(images["image_id"]).get_indexer(pd.Index(scored["image_id"]))
    targets = section.classes.multi_hot(images["target"].iloc[at])
    own = measure_split("this run", scored["fold"].to_numpy(), targets, groups[at])
    return [own, *measure_image_splits(targets, groups[at], int(scored["fold"].nunique()), section.seed)]


def _draw(out: Path, images: pd.DataFrame, pairs: pd.DataFrame, section: DataSection) -> None:
    by_id = images.set_index("image_id", drop=False)
    columns = [column for column in pairs.columns if column.startswith("bits_")]

    def bits(pair: Mapping[Any, Any]) -> str:
        return ", ".join(str(pair[column]) for column in columns)

    tiles = []
    for pair in pairs.head(_SHOWN_PAIRS).to_dict("records"):
        for side in "ab":
            title = f"{pair[f'image_id_{side}']} ({pair[f'split_{side}']}): {pair[f'target_{side}']}"
            if side == "b":
                title = f"differs in {bits(pair)} bits: {title}"
            row = by_id.loc[pair[f"image_id_{side}"]].to_dict()
            tiles.append(image_row(row, section.channels, title, _TILE_PX))
    save_tiles(tiles, 2, out)


def _print(figures: dict[str, Any], splits: Sequence[SplitQuality], folder: Path) -> None:
    console = Console(width=110)
    table = Table(box=None, show_header=False, pad_edge=False)
    if figures[_AUC] is not None:
        figures = figures | {_AUC: f"{figures[_AUC]} (0.5: indistinguishable, 1: always distinguished)"}
    for name, value in figures.items():
        table.add_row(escape(name), "-" if value is None else escape(str(value)))
    console.print(table)
    if splits:
        table = Table(
            title="folds of this run compared with common splits by image",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for heading in ("split", "groups split", "size difference", "worst class share", "classes missing in a fold"):
            table.add_column(heading, justify="left" if heading == "split" else "right")
        for split in splits:
            shares = f"{split.size_spread:.2%}", f"{split.worst_share:.1%}"
            table.add_row(split.name, str(split.groups_split), *shares, str(split.missing))
        console.print(table)
    console.print(f"report written to {escape(str(folder))}", soft_wrap=True)
