"""Make submissions for Kaggle 2021 (Human Protein Atlas - Single Cell Classification): one entry per cell and class.

Masks are run-length encoded in COCO's compressed form.
"""

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy.ndimage import find_objects

from hpa.errors import ImageError, UserError
from hpa.layouts.conversion import NEGATIVE, containment_matrix
from hpa.vocabulary import HPA19, Vocabulary

COLUMNS: Final = ("ID", "ImageWidth", "ImageHeight", "PredictionString")


def check_covered(vocabulary: Vocabulary) -> None:
    """Check that each of the 19 classes of 2021 but Negative contains a class of a vocabulary.

    Raises
    ------
    UserError
        If one does not.
    """
    members = containment_matrix(vocabulary, HPA19)
    for c, name in enumerate(HPA19.classes):
        if name != NEGATIVE and not members[:, c].any():
            raise UserError(
                f"expected classes that cover all those of Kaggle 2021, found none for {name!r} in {vocabulary.name}"
            )


def join_classes(probabilities: NDArray[np.floating[Any]], vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Convert probabilities of the classes of a run into those of the 19 classes of 2021.

    Parameters
    ----------
    probabilities
        Shape (N, K).
    vocabulary
        Of the run.

    Returns
    -------
    ndarray
        Shape (N, 19): the maximum over the classes that each class of 2021 contains. Negative is taken from the
        vocabulary, or else is 1 minus the highest of the other classes.

    Raises
    ------
    UserError
        If one of the classes of 2021 contains no class of the vocabulary.
    """
    check_covered(vocabulary)
    scores = np.asarray(probabilities, dtype=np.float64)
    members = containment_matrix(vocabulary, HPA19)
    joined = np.zeros((len(scores), len(HPA19)))
    for c, name in enumerate(HPA19.classes):
        if name != NEGATIVE:
            joined[:, c] = scores[:, members[:, c]].max(axis=1)
    negative = HPA19.index(NEGATIVE)
    own = NEGATIVE in vocabulary.classes
    joined[:, negative] = scores[:, vocabulary.index(NEGATIVE)] if own else 1 - joined.max(axis=1)
    return joined


def prediction_string(masks: Mapping[int, str], cells: NDArray[np.int64], probabilities: NDArray[np.float64]) -> str:
    """Return the entries of an image: triples of class, confidence and packed mask for every cell and class.

    Parameters
    ----------
    masks
        Packed masks by cell_label.
    cells
        Shape (n,), labels of the cells that have probabilities.
    probabilities
        Shape (n, 19).

    Raises
    ------
    UserError
        If a cell has no mask.
    """
    parts = []
    for cell, row in zip(cells.tolist(), probabilities, strict=True):
        if cell not in masks:
            raise UserError(f"expected a mask of every cell with probabilities, found none of cell {cell}")
        parts += [f"{c} {p:.6g} {masks[cell]}" for c, p in enumerate(row)]
    return " ".join(parts)


def check_cells(table: pd.DataFrame) -> None:
    """Check that all entries are triples of a class of 2021, a confidence within 0..1 and a mask.

    Raises
    ------
    UserError
        Naming the first image with another entry.
    """
    classes = {str(c) for c in range(len(HPA19))}
    for image_id, text in zip(table["ID"], table["PredictionString"], strict=True):
        words = text.split()
        wrong = len(words) % 3 != 0 or not set(words[::3]) <= classes
        if wrong or not all(map(_is_share, words[1::3])):
            raise UserError(
                f"expected a class 0..{len(HPA19) - 1}, a confidence within 0..1 and a mask for each entry of "
                f"image {image_id}, found something else"
            )


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def cell_table(
    images: pd.DataFrame,
    cells: pd.DataFrame,
    columns: list[str],
    vocabulary: Vocabulary,
    read_mask: Callable[[str], NDArray[np.uint16]],
) -> pd.DataFrame:
    """Return the submission table.

    Parameters
    ----------
    images
        image_id, height_px and width_px of the test images, in order.
    cells
        One row per cell: image_id, cell_label (0 for a full frame) and the columns of its probabilities.
    columns
        Names of these columns, in the order of the vocabulary.
    vocabulary
        Of the run.
    read_mask
        Function that returns the label image of an image_id.

    Returns
    -------
    DataFrame
        `COLUMNS`; an image without cells has an empty string.

    Raises
    ------
    UserError
        If a mask is missing.
    """
    of_image = dict(tuple(cells.groupby("image_id", sort=False)))
    strings = []
    for row in images.to_dict("records"):
        own = of_image.get(row["image_id"])
        if own is None:
            strings.append("")
            continue
        labels = own["cell_label"].to_numpy(np.int64)
        try:
            masks = dict(pack_cells(read_mask(row["image_id"]))) if (labels > 0).any() else {}
        except ImageError as error:
            raise UserError(f"expected the mask of image {row['image_id']}, found: {error}") from None
        masks[0] = pack_frame(int(row["height_px"]), int(row["width_px"]))
        strings.append(prediction_string(masks, labels, join_classes(own[columns].to_numpy(np.float64), vocabulary)))
    sizes = images[["width_px", "height_px"]].to_numpy(np.int64)
    table = pd.DataFrame({"ID": list(images["image_id"]), "ImageWidth": sizes[:, 0], "ImageHeight": sizes[:, 1]})
    return table.assign(PredictionString=strings)


def pack_counts(counts: bytes) -> str:
    """Return compressed counts as zlib-compressed base64 text."""
    return base64.b64encode(zlib.compress(counts, zlib.Z_BEST_COMPRESSION)).decode("ascii")


def pack_cells(labels: NDArray[np.uint16]) -> Iterator[tuple[int, str]]:
    """Yield cell_label and packed mask of every cell of a label image (H, W)."""
    frame = np.zeros(labels.shape, np.uint8, order="F")  # pycocotools goes down the columns
    for index, box in enumerate(find_objects(labels)):
        if box is not None:
            frame[box] = labels[box] == index + 1
            yield index + 1, pack_counts(coco.encode(frame)["counts"])
            frame[box] = 0


def pack_frame(height: int, width: int) -> str:
    """Return the packed mask of a full frame."""
    return pack_counts(coco.encode(np.ones((height, width), np.uint8, order="F"))["counts"])
