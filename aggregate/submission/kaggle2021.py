"""The submission of Kaggle 2021 (Human Protein Atlas - Single Cell Classification): one entry a cell and class."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.submission.run_length import packed_cells, packed_frame
from hpa.errors import ImageError, UserError
from hpa.layouts.conversion import NEGATIVE, containment_matrix
from hpa.vocabulary import HPA19, Vocabulary

COLUMNS: Final = ("ID", "ImageWidth", "ImageHeight", "PredictionString")


def join_classes(probabilities: NDArray[np.floating[Any]], vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Turn probabilities of a run's classes into those of 2021's 19.

    Parameters
    ----------
    probabilities
        Shape (N, K).
    vocabulary
        Of the run.

    Returns
    -------
    ndarray
        Shape (N, 19): the maximum over the classes that lie within each class of 2021; Negative is the vocabulary's
        own, and where it has none what the highest of the others leaves of 1.

    Raises
    ------
    UserError
        If no class of the vocabulary lies within one of 2021's.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    members = containment_matrix(vocabulary, HPA19)
    joined = np.zeros((len(scores), len(HPA19)))
    for c, name in enumerate(HPA19.classes):
        if name == NEGATIVE:
            continue
        if not members[:, c].any():
            raise UserError(
                f"expected classes of which each of 2021's can be made, found none for {name!r} in {vocabulary.name}"
            )
        joined[:, c] = scores[:, members[:, c]].max(axis=1)
    negative = HPA19.index(NEGATIVE)
    own = NEGATIVE in vocabulary.classes
    joined[:, negative] = scores[:, vocabulary.index(NEGATIVE)] if own else 1 - joined.max(axis=1)
    return joined


def prediction_string(masks: Mapping[int, str], cells: NDArray[np.int64], probabilities: NDArray[np.float64]) -> str:
    """Write triples of class, confidence and packed mask, one for every cell and class.

    Parameters
    ----------
    masks
        Packed mask by cell_label.
    cells
        Shape (n,), cell labels that have probabilities.
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
    """Check the entries of a submission.

    Raises
    ------
    UserError
        Naming the image of which an entry is no triple of a class of 2021, a confidence within 0..1 and a mask.
    """
    classes = {str(c) for c in range(len(HPA19))}
    for image_id, text in zip(table["ID"], table["PredictionString"], strict=True):
        words = text.split()
        wrong = len(words) % 3 != 0 or not set(words[::3]) <= classes
        if wrong or not all(0 <= float(confidence) <= 1 for confidence in words[1::3]):
            raise UserError(
                f"expected a class 0..{len(HPA19) - 1}, a confidence within 0..1 and a mask for each entry of "
                f"image {image_id}, found otherwise"
            )


def cell_table(
    images: pd.DataFrame,
    cells: pd.DataFrame,
    columns: list[str],
    vocabulary: Vocabulary,
    read_mask: Callable[[str], NDArray[np.uint16]],
) -> pd.DataFrame:
    """Make the submission.

    Parameters
    ----------
    images
        image_id, height_px and width_px of the test images, in order.
    cells
        One row a cell: image_id, cell_label (0 for a whole frame) and the columns of its probabilities.
    columns
        Names of these, in the vocabulary's order.
    vocabulary
        Of the run.
    read_mask
        From an image_id to its label image.

    Returns
    -------
    DataFrame
        `COLUMNS`; an image that no cell could be read from has an empty string.
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
            masks = dict(packed_cells(read_mask(row["image_id"]))) if (labels > 0).any() else {}
        except ImageError as error:
            raise UserError(f"expected the mask of image {row['image_id']}, found: {error}") from None
        masks[0] = packed_frame(int(row["height_px"]), int(row["width_px"]))
        strings.append(prediction_string(masks, labels, join_classes(own[columns].to_numpy(np.float64), vocabulary)))
    sizes = images[["width_px", "height_px"]].to_numpy(np.int64)
    table = pd.DataFrame({"ID": list(images["image_id"]), "ImageWidth": sizes[:, 0], "ImageHeight": sizes[:, 1]})
    return table.assign(PredictionString=strings)
