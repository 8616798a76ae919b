"""Overview of a data set: distribution of the labels, brightness and size of the images, and a sheet of examples.

The report is written to ``explore/`` of a work folder: ``classes.csv`` and the pictures ``classes.png``,
``labels_per_image.png``, ``cooccurrence.png``, ``intensities.png``, ``sizes.png`` (`hpa.reports.plots`) and
``sheet.png``.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpa.channels import Channel
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.layouts.sources import SEPARATOR
from hpa.pictures import FigureFormat, image_row, save_tiles
from hpa.reports.plots import plot_classes, plot_cooccurrence, plot_intensities, plot_labels_per_image, plot_sizes
from hpa.splitting.groups import join_groups
from hpa.splitting.scan import BINS, scan_images
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_csv
from hpa.work.folder import WorkFolder

_TILE_PX: Final = 224


def explore(
    work: WorkFolder,
    *,
    ids: Sequence[str] = (),
    n_images: int = 12,
    rare_first: bool = True,
    seed: int = 0,
    workers: int = 0,
    figure_format: FigureFormat = "png",
) -> None:
    """Draw the overview pictures and print the table of classes.

    Parameters
    ----------
    work
        The work folder.
    ids
        Images of the sheet; if empty, images are chosen.
    n_images, rare_first, seed
        Number of images chosen for the sheet, whether those with the rarest classes come first or the choice is random,
        and the seed of the choice.
    workers
        Number of processes that scan the images, if that has not been done yet; 0 uses one per processor.
    figure_format
        Format of the pictures.

    Raises
    ------
    UserError
        If an id is not in the data set.
    """
    section, folder = work.data, work.root / "explore"
    images = read_images(work.images)
    shown = _choose(images, ids, n_images, rare_first, seed, section.classes)
    scanned = scan_images(work.root / "scan", images, section.channels, workers=workers)
    train = images[(images["split"] == "train") & (images["unknown_classes"].map(len) < len(section.classes))]
    classes = class_counts(train, section.classes)
    if len(train):
        write_csv(folder / "classes.csv", classes)
        targets = section.classes.multi_hot(train["target"])
        plot_classes(folder / f"classes.{figure_format}", classes)
        plot_labels_per_image(folder / f"labels_per_image.{figure_format}", targets.sum(axis=1))
        plot_cooccurrence(
            folder / f"cooccurrence.{figure_format}",
            cooccurrence(targets),
            correlation(targets),
            section.classes.classes,
        )
    plot_intensities(folder / f"intensities.{figure_format}", mean_histograms(images, scanned, section.channels))
    plot_sizes(folder / f"sizes.{figure_format}", image_sizes(images))
    save_tiles(_sheet(shown, section), 1, folder / f"sheet.{figure_format}")
    _print(images, classes if len(train) else None)
    Console(width=110).print(f"report written to {escape(str(folder))}", soft_wrap=True)


def class_counts(train: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    """Count the images of every class.

    Parameters
    ----------
    train
        The train images of the image table.
    vocabulary
        Vocabulary of the run.

    Returns
    -------
    DataFrame
        One row per class: class, images, share (of the images where the class is known), alone (images with no other
        class), groups, with (the class it most often occurs with), unknown (images where the class is unknown), and
        ``images of S`` for every source S.
    """
    targets = vocabulary.multi_hot(train["target"])
    groups = join_groups(len(train), [list(train["antibody"]), list(train["well"])])
    together = cooccurrence(targets)
    np.fill_diagonal(together, 0)
    known = ~vocabulary.multi_hot(train["unknown_classes"])
    partner = [vocabulary.classes[row.argmax()] if row.any() else "" for row in together]
    table = pd.DataFrame(
        {
            "class": vocabulary.classes,
            "images": targets.sum(axis=0),
            "share": targets.sum(axis=0) / np.maximum(known.sum(axis=0), 1),
            "alone": targets[targets.sum(axis=1) == 1].sum(axis=0),
            "groups": [len(np.unique(groups[targets[:, c]])) for c in range(len(vocabulary))],
            "with": partner,
            "unknown": (~known).sum(axis=0),
        }
    )
    for source in source_names(train):
        table[f"images of {source}"] = targets[of_source(train, source)].sum(axis=0)
    return table


def cooccurrence(targets: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the images that have both of two classes.

    Parameters
    ----------
    targets
        Multi-hot targets, shape (N, K).

    Returns
    -------
    ndarray
        Shape (K, K), the number of images of each class on the diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> from hpa.reports.explore import cooccurrence
    >>> cooccurrence(np.array([[True, True], [True, False]]))
    array([[2, 1],
           [1, 1]])
    """
    hot = targets.astype(np.int64)
    return hot.T @ hot


def correlation(targets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the correlation of classes over images (phi coefficient).

    Parameters
    ----------
    targets
        Multi-hot targets, shape (N, K).

    Returns
    -------
    ndarray
        Shape (K, K); 0 for a class that all images or none have.
    """
    n = len(targets)
    share = targets.mean(axis=0)
    deviation = np.sqrt(share * (1 - share))
    covariance = cooccurrence(targets) / n - np.outer(share, share)
    product = np.outer(deviation, deviation)
    phi: NDArray[np.float64] = np.divide(covariance, product, out=np.zeros_like(covariance), where=product > 1e-12)
    return phi


def mean_histograms(
    images: pd.DataFrame, scanned: pd.DataFrame, channels: Sequence[Channel]
) -> dict[Channel, dict[str, NDArray[np.float64]]]:
    """Compute the mean intensity histogram of every channel and source, in `BINS` bins over the range of the depth.

    Parameters
    ----------
    images, scanned
        The image table and the scan (`hpa.splitting.scan`), row by row; unreadable images are skipped.
    channels
        Channels of the run.

    Returns
    -------
    dict
        By channel and source, the share of pixels in each bin, shape (BINS,); zeros if no image can be read.
    """
    readable = (scanned["depth"] > 0).to_numpy()
    return {
        channel: {
            source: np.stack(list(scanned.loc[of_source(images, source) & readable, f"histogram_{channel}"])).mean(
                axis=0
            )
            if (of_source(images, source) & readable).any()
            else np.zeros(BINS)
            for source in source_names(images)
        }
        for channel in channels
    }


def image_sizes(images: pd.DataFrame) -> pd.DataFrame:
    """Count the images of each source and size: source, size (height x width) and images, most frequent first."""
    sizes = images["height_px"].astype(str) + " x " + images["width_px"].astype(str)
    sizes = sizes.where(images["height_px"] > 0, "unknown")
    counted = pd.DataFrame({"source": images["source"], "size": sizes}).value_counts()
    return counted.rename("images").reset_index()


def source_names(images: pd.DataFrame) -> list[str]:
    """Return the names of the sources, in order of appearance."""
    return list(dict.fromkeys(name for source in images["source"].unique() for name in source.split(SEPARATOR)))


def of_source(images: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    """Return which images of the table a source has, bool (N,)."""
    return np.array([name in source.split(SEPARATOR) for source in images["source"]], dtype=bool)


def _choose(
    images: pd.DataFrame, ids: Sequence[str], n_images: int, rare_first: bool, seed: int, vocabulary: Vocabulary
) -> pd.DataFrame:
    if ids:
        unknown = [image_id for image_id in ids if image_id not in set(images["image_id"])]
        if unknown:
            raise UserError(f"expected image ids of the data set, found {unknown[0]!r}")
        return images.set_index("image_id", drop=False).loc[list(ids)]
    order = np.random.default_rng(seed).permutation(len(images))
    if rare_first:
        # One image of every class, the rarest class first, then a second round; images without a class come last.
        targets = vocabulary.multi_hot(images["target"])[order]
        counts = np.append(targets.sum(axis=0), len(images) + 1)
        rarest = np.where(targets, counts[:-1], len(images) + 1).argmin(axis=1)
        rarest[~targets.any(axis=1)] = len(vocabulary)
        round_ = pd.Series(rarest).groupby(rarest).cumcount().to_numpy()
        order = order[np.lexsort((counts[rarest], round_, rarest == len(vocabulary)))]
    return images.iloc[order[:n_images]]


def _sheet(shown: pd.DataFrame, section: DataSection) -> list[NDArray[np.uint8]]:
    tiles = []
    for row in shown.to_dict("records"):
        names = ", ".join(section.classes.classes[c] for c in row["target"]) or row["split"]
        tiles.append(image_row(row, section.channels, f"{row['image_id']}: {names}", _TILE_PX))
    return tiles


def _print(images: pd.DataFrame, classes: pd.DataFrame | None) -> None:
    console = Console(width=110)
    if classes is None:
        console.print("no train image has a known label: the table and the plots of classes are omitted")
    else:
        console.print(_class_table(classes))
    for source in source_names(images):
        splits = images.loc[of_source(images, source), "split"].value_counts()
        console.print(
            f"{escape(source)}: {splits.get('train', 0)} train and {splits.get('test', 0)} test images", soft_wrap=True
        )


def _class_table(classes: pd.DataFrame) -> Table:
    table = Table(title="classes in the train images", title_justify="left", box=None, pad_edge=False)
    headings = ("class", "images", "share", "alone", "groups", "most often with")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in (headings[0], headings[-1]) else "right")
    for row in classes.sort_values("images", ascending=False, kind="stable").to_dict("records"):
        numbers = (str(row["images"]), f"{row['share']:.2%}", str(row["alone"]), str(row["groups"]))
        table.add_row(row["class"], *numbers, row["with"])
    return table
