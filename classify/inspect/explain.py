"""The command `explain`: where and in which cell an image shows a class, and which images were most wrong.

Each crop of an image is scored by the model that never saw the image; the cell with the highest probability gives the
image its class where crops are pooled by the maximum. Its Grad-CAM, and those of the other cells by their probability,
are pasted back onto the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from classify.data.crops import CropLabels, read_crops, select_channels
from classify.data.normalisation import crop_levels
from classify.inspect.gradcam import class_maps
from classify.models import read_labelled_crops, stage_folder, trained_checkpoints
from classify.network.checkpoint import Checkpoint
from classify.network.model import Network
from classify.probabilities import class_columns, read_probabilities
from crops.config import CropsSection, Window
from crops.store import CropStore
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.pictures import WHITE, Color, FigureFormat, Picture, composite, save_tiles, titled
from hpa.pixels import read_channels
from hpa.vocabulary import Vocabulary
from hpa.work.device import resolve_device
from hpa.work.files import write_csv
from hpa.work.folder import WorkFolder

FOLDER: Final = "explain"
_TILE_PX: Final = 300
_IMAGE_PX: Final = 512  # side to which large images are reduced before they are drawn
_CLASSES: Final = 4  # drawn for an image, unless some are asked for
_CELLS: Final = 3  # drawn for each class
_LINE: Final = 46  # letters above a tile
_BOX: Final = ["min_row_px", "min_col_px", "max_row_px", "max_col_px"]
_RIGHT: Final[Color] = (90, 220, 90)
_WRONG: Final[Color] = (90, 90, 255)


@dataclass(frozen=True)
class ScoredImage:
    """An image with n crops and what models that never saw it say of K classes.

    Parameters
    ----------
    image_id
        The image.
    fold
        Fold of the first model that scored it.
    cell_labels
        Shape (n,).
    cells
        Probabilities of the crops, averaged over the models, shape (n, K).
    image
        Highest probability of a crop, averaged over the models, shape (K,).
    targets, known
        Labels of the image and whether they are known, shape (K,) each.
    """

    image_id: str
    fold: int
    cell_labels: NDArray[np.int64]
    cells: NDArray[np.float64]
    image: NDArray[np.float64]
    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]

    @property
    def loss(self) -> float:
        """Cross-entropy of the image's probabilities, averaged over the known classes."""
        return float(self.losses[self.known].mean()) if self.known.any() else 0.0

    @property
    def losses(self) -> NDArray[np.float64]:
        """Cross-entropy of each class, 0 where unknown, shape (K,)."""
        p = self.image.clip(1e-7, 1 - 1e-7)
        return np.where(self.known, -np.log(np.where(self.targets, p, 1 - p)), 0.0)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Classes above 0.5, or the highest one, shape (K,)."""
        above = self.image > 0.5
        return above if above.any() else self.image == self.image.max()

    def best_cells(self, class_number: int) -> NDArray[np.int64]:
        """Return the positions of the crops by falling probability of a class."""
        return np.argsort(-self.cells[:, class_number], kind="stable")


def explain(
    work: WorkFolder,
    image_ids: Sequence[str],
    *,
    worst: int = 0,
    classes: Sequence[str] = (),
    device: str = "auto",
    figure_format: FigureFormat = "png",
) -> int:
    """Explain images, and draw those that were most wrong.

    Writes to ``classify/<window>/explain/`` a picture of each image named by its id and, of all of them,
    ``cells.csv``: the probability of each cell for the classes drawn; and ``worst.csv`` with a picture.

    Parameters
    ----------
    work
        The work folder, after ``predict``.
    image_ids
        Images to explain.
    worst
        Number of labelled images to draw, those with the highest cross-entropy.
    classes
        Names of the classes to draw; by default those that are true or predicted, at most four.
    device
        Device to run on.
    figure_format
        Format of the pictures; the report shows PNGs.

    Returns
    -------
    int
        The exit code 0.

    Raises
    ------
    UserError
        If there are no predictions, or no such image or class.
    """
    if not image_ids and not worst:
        raise UserError("expected Ids of images, or --worst with their number, found neither")
    chosen = torch.device(resolve_device(device))
    vocabulary = work.data.classes
    numbers = [vocabulary.index(name) for name in classes]
    for window in work.section("crops", CropsSection).windows:
        explained = _Window.open(work, window, chosen, figure_format)
        for image_id in image_ids:
            if image_id not in explained.scored:
                raise UserError(f"expected an image with predictions in {work.root}, found {image_id!r}")
        tables = [explained.draw(image_id, numbers) for image_id in image_ids]
        if tables:
            write_csv(explained.folder / "cells.csv", pd.concat(tables, ignore_index=True))
            print(f"see {explained.folder / 'cells.csv'}")
        if worst:
            explained.draw_worst(worst)
    return 0


def score_images(table: pd.DataFrame, labels: CropLabels, vocabulary: Vocabulary) -> dict[str, ScoredImage]:
    """Arrange a table of probabilities by image.

    Parameters
    ----------
    table
        `classify.probabilities`.
    labels
        Labels of the crops of the window.
    vocabulary
        The vocabulary of the run.
    """
    columns = class_columns(vocabulary)
    first = pd.Series(range(len(labels.image_ids)), index=labels.image_ids).groupby(level=0).first()
    scored = {}
    for image_id, rows in table.groupby("image_id", sort=True):
        by_cell = rows.groupby("cell_label")[columns].mean()
        row = int(first[image_id])
        scored[str(image_id)] = ScoredImage(
            str(image_id),
            int(rows["fold"].min()),
            by_cell.index.to_numpy(dtype=np.int64),
            by_cell.to_numpy(dtype=np.float64),
            rows.groupby("fold")[columns].max().mean().to_numpy(dtype=np.float64),
            labels.targets[row],
            labels.known[row] & ~labels.is_test[row],
        )
    return scored


def worst_images(scored: dict[str, ScoredImage], n: int) -> list[ScoredImage]:
    """Return the labelled images with the highest cross-entropy, worst first."""
    labelled = [image for image in scored.values() if image.known.any()]
    return sorted(labelled, key=lambda image: (-image.loss, image.image_id))[:n]


def paste_maps(
    maps: NDArray[np.float32], boxes: NDArray[np.int64], shape: tuple[int, int], scale: float = 1.0
) -> NDArray[np.float32]:
    """Paste maps of crops back onto their image; where crops overlap, the highest value counts.

    Parameters
    ----------
    maps
        Shape (n, S, S).
    boxes
        Windows of the crops in pixels of the image (first row, first column, and beyond the last of each), shape
        (n, 4); they may reach beyond the frame.
    shape
        Height and width of the picture.
    scale
        Pixels of the picture per pixel of the image.

    Returns
    -------
    ndarray
        Shape `shape`, float32.
    """
    pasted = np.zeros(shape, dtype=np.float32)
    for one, box in zip(maps, boxes, strict=True):
        top, left, bottom, right = np.rint(box * scale).astype(int)
        resized = cv2.resize(one, (max(1, right - left), max(1, bottom - top)), interpolation=cv2.INTER_LINEAR)
        inside = np.s_[max(top, 0) : min(bottom, shape[0]), max(left, 0) : min(right, shape[1])]
        part = resized[max(-top, 0) : max(-top, 0) + pasted[inside].shape[0]]
        part = part[:, max(-left, 0) : max(-left, 0) + pasted[inside].shape[1]]
        pasted[inside] = np.maximum(pasted[inside], part)
    return pasted


def heated(picture: Picture, heat: NDArray[np.float32]) -> Picture:
    """Draw a map of values 0 to 1 over a picture in gray."""
    gray = picture.max(axis=2, keepdims=True).repeat(3, axis=2)
    color = cv2.applyColorMap(np.rint(255 * heat.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = (0.75 * heat.clip(0, 1))[..., None]
    return np.asarray(gray * (1 - share) + color * share, dtype=np.uint8)


@dataclass(frozen=True)
class _Window:
    """The crops, predictions and models of a window."""

    work: WorkFolder
    folder: Path
    store: CropStore
    labels: CropLabels
    scored: dict[str, ScoredImage]
    images: pd.DataFrame
    paths: dict[int, Path]
    device: torch.device
    networks: dict[int, tuple[Checkpoint, Network]]
    figure_format: FigureFormat

    @classmethod
    def open(cls, work: WorkFolder, window: Window, device: torch.device, figure_format: FigureFormat) -> "_Window":
        """Read the predictions of a window."""
        path = stage_folder(work, window) / "probabilities.parquet"
        if not path.is_file():
            raise UserError(f"expected predictions (`python -m classify predict {work.root}`), found no {path}")
        store, labels = read_labelled_crops(work, window, work.data)
        vocabulary = work.data.classes
        scored = score_images(read_probabilities(path, vocabulary), labels, vocabulary)
        images = read_images(work.images).set_index("image_id")
        paths = trained_checkpoints(work, work.section("crops", CropsSection).train_window_for(window))
        return cls(work, path.parent / FOLDER, store, labels, scored, images, paths, device, {}, figure_format)

    def draw(self, image_id: str, numbers: Sequence[int]) -> pd.DataFrame:
        """Draw an image and return the rows of ``cells.csv``."""
        image, vocabulary = self.scored[image_id], self.work.data.classes
        chosen = list(numbers) or _drawn_classes(image)
        tiles, rows = [], []
        for number in chosen:
            tiles += self._tiles(image, number, _CELLS)
            name = vocabulary.classes[number]
            truth = bool(image.targets[number]) if image.known[number] else None
            for rank, place in enumerate(image.best_cells(number), start=1):
                rows.append(
                    {
                        "image_id": image_id,
                        "class": name,
                        "is_true": truth,
                        "image_probability": image.image[number],
                        "rank": rank,
                        "cell_label": image.cell_labels[place],
                        "probability": image.cells[place, number],
                    }
                )
            best = rows[-len(image.cells)]
            print(
                f"{image_id}: {name} {image.image[number]:.2f}, most in cell {best['cell_label']}"
                f" ({best['probability']:.2f})"
            )
        path = self.folder / f"{image_id}.{self.figure_format}"
        save_tiles(tiles, 2 + _CELLS, path)
        print(f"see {path}")
        return pd.DataFrame(rows)

    def draw_worst(self, n: int) -> None:
        """Draw and list the images that were most wrong."""
        vocabulary = self.work.data.classes
        tiles, rows = [], []
        for image in worst_images(self.scored, n):
            number = int(image.losses.argmax())
            tiles += self._tiles(image, number, 1)
            rows.append(
                {
                    "image_id": image.image_id,
                    "fold": image.fold,
                    "loss": image.loss,
                    "true": _names(image.targets, vocabulary),
                    "predicted": _predicted(image, vocabulary),
                    "most_wrong": vocabulary.classes[number],
                    "probability": image.image[number],
                }
            )
        if not rows:
            raise UserError(f"expected images with labels in {self.work.root}, found none")
        write_csv(self.folder / "worst.csv", pd.DataFrame(rows))
        path = self.folder / f"worst.{self.figure_format}"
        save_tiles(tiles, 3, path)
        print(f"see {path} and {self.folder / 'worst.csv'}")

    def _tiles(self, image: ScoredImage, number: int, cells: int) -> list[Picture]:
        """Draw the image, the image with the maps of a class, and the crops that show the class most."""
        vocabulary = self.work.data.classes
        rows = self._rows(image)
        maps = self._maps(image, number, rows)
        weighted = maps * image.cells[:, number, None, None].astype(np.float32)
        best = image.best_cells(number)
        title = f"{image.image_id}\nis {_names(image.targets, vocabulary) if image.known.any() else 'not known'}"
        says = f"says {_predicted(image, vocabulary)}\n{vocabulary.classes[number]} {image.image[number]:.2f}"
        agrees = not image.known[number] or (image.image[number] > 0.5) == image.targets[number]
        color = _RIGHT if agrees else _WRONG
        plain, hot = self._image(image, weighted, rows, best[0])
        tiles = [_tile(plain, title, WHITE), _tile(hot, says, color)]
        channels = self.work.data.channels
        for place in best[:cells]:
            picture = composite(self.store.pixels(rows[[place]])[0], channels)
            lines = f"cell {image.cell_labels[place]}\n{vocabulary.classes[number]} {image.cells[place, number]:.2f}"
            both = np.concatenate([picture, heated(picture, maps[place])], axis=1)
            tiles.append(_tile(both, lines, color))
        return [*tiles, *[np.zeros_like(tiles[0])] * (cells - len(best[:cells]))]

    def _image(
        self, image: ScoredImage, maps: NDArray[np.float32], rows: NDArray[np.int64], best: int
    ) -> tuple[Picture, Picture]:
        """Draw the image, and the image with maps pasted onto it and a box around the best crop."""
        try:
            planes: Any = read_channels(self.images.loc[image.image_id].to_dict(), self.work.data.channels)
        except ImageError as error:  # the files may have moved since: the crops are still there
            print(f"{image.image_id}: drawn without its image ({error})")
            nothing = np.zeros((_TILE_PX, _TILE_PX, 3), np.uint8)
            return nothing, nothing
        picture = composite(planes, self.work.data.channels)
        scale = min(1.0, _IMAGE_PX / max(picture.shape[:2]))
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
        boxes = self.store.table[_BOX].to_numpy(dtype=np.int64)[rows]
        hot = heated(picture, paste_maps(maps, boxes, (height, width), scale))
        top, left, bottom, right = np.rint(boxes[best] * scale).astype(int).tolist()
        for drawn in (picture, hot):
            cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), (255, 255, 255), 1)
        return picture, hot

    def _rows(self, image: ScoredImage) -> NDArray[np.int64]:
        """Return the rows of the store in the order of the image's cells."""
        own = np.flatnonzero(self.labels.image_ids == image.image_id)
        own = own[np.argsort(self.labels.cell_labels[own])]
        return own[np.searchsorted(self.labels.cell_labels[own], image.cell_labels)]

    def _maps(self, image: ScoredImage, number: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if image.fold not in self.networks:
            checkpoint = Checkpoint.load(self.paths[image.fold])
            self.networks[image.fold] = checkpoint, checkpoint.network(self.device)
        checkpoint, network = self.networks[image.fold]
        section = checkpoint.section
        source = select_channels(self.store, section.channels, checkpoint.channels)
        levels = crop_levels(source, rows, self.labels, checkpoint.statistics, section.normalise)
        own = None if levels is None else levels[rows]
        return class_maps(network, read_crops(source, rows, section.outside_cell), own, number)


def _drawn_classes(image: ScoredImage) -> list[int]:
    chosen = np.flatnonzero(image.predicted | (image.targets & image.known))
    return [int(c) for c in chosen[np.argsort(-image.image[chosen], kind="stable")][:_CLASSES]]


def _predicted(image: ScoredImage, vocabulary: Vocabulary) -> str:
    """Return the predicted classes, the most probable first."""
    chosen = np.flatnonzero(image.predicted)
    return ", ".join(vocabulary.classes[c] for c in chosen[np.argsort(-image.image[chosen], kind="stable")])


def _names(hot: NDArray[np.bool_], vocabulary: Vocabulary) -> str:
    return ", ".join(vocabulary.classes[c] for c in np.flatnonzero(hot)) or "nothing"


def _tile(picture: Picture, title: str, color: Color) -> Picture:
    return titled(picture, "\n".join(line[:_LINE] for line in title.split("\n")), _TILE_PX, color)
