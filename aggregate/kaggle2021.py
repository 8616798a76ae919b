"""The submission of Kaggle 2021 (Human Protein Atlas - Single Cell Classification): one entry a cell and class."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.run_length import packed_cells, packed_frame
from hpa.errors import ImageError, UserError
from hpa.vocabulary import Vocabulary

JOINED: Final[Mapping[str, tuple[str, ...]]] = {
    "Nucleoplasm": ("Nucleoplasm",),
    "Nuclear membrane": ("Nuclear membrane",),
    "Nucleoli": ("Nucleoli",),
    "Nucleoli fibrillar center": ("Nucleoli fibrillar center",),
    "Nuclear speckles": ("Nuclear speckles",),
    "Nuclear bodies": ("Nuclear bodies",),
    "Endoplasmic reticulum": ("Endoplasmic reticulum",),
    "Golgi apparatus": ("Golgi apparatus",),
    "Intermediate filaments": ("Intermediate filaments",),
    "Actin filaments": ("Actin filaments", "Focal adhesion sites"),
    "Microtubules": ("Microtubules",),
    "Mitotic spindle": ("Mitotic spindle",),
    "Centrosome": ("Microtubule organizing center", "Centrosome"),
    "Plasma membrane": ("Plasma membrane", "Cell junctions"),
    "Mitochondria": ("Mitochondria",),
    "Aggresome": ("Aggresome",),
    "Cytosol": ("Cytosol",),
    "Vesicles and punctate cytosolic patterns": (
        "Cytoplasmic bodies",
        "Lipid droplets",
        "Peroxisomes",
        "Endosomes",
        "Lysosomes",
    ),
}
"""The first 18 classes of 2021, in its numbering, and the classes of 2018 that each is. The nineteenth is Negative;
2018's microtubule ends, cytokinetic bridge and rods & rings have no partner."""

NEGATIVE: Final = "Negative"
COLUMNS: Final = ("ID", "ImageWidth", "ImageHeight", "PredictionString")


def join_classes(probabilities: NDArray[np.floating[Any]], vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Turn probabilities of a run's classes into those of 2021's 19.

    Parameters
    ----------
    probabilities
        Shape (N, K).
    vocabulary
        That of 2018, or one with 2021's own names.

    Returns
    -------
    ndarray
        Shape (N, 19): the maximum within each joined class, and for Negative what the highest of these leaves of 1.

    Raises
    ------
    UserError
        If a class is missing.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    names = {name: (name,) for name in JOINED} if NEGATIVE in vocabulary.classes else JOINED
    joined = [scores[:, [vocabulary.index(part) for part in parts]].max(axis=1) for parts in names.values()]
    if NEGATIVE in vocabulary.classes:
        return np.column_stack([*joined, scores[:, vocabulary.index(NEGATIVE)]])
    return np.column_stack([*joined, 1 - np.max(joined, axis=0)])


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
