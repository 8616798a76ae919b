"""Scoring folders of label images."""

from pathlib import Path

import pandas as pd

from hpa.errors import ImageError, UserError
from hpa.pixels import read_plane
from segment.score import score_images, summarise

_MASK = "_mask"


def score_folders(masks: Path, reference: Path) -> str:
    """Score the label images of one folder against those of another.

    Parameters
    ----------
    masks
        Predicted label images ``<id>.png``.
    reference
        Reference label images ``<id>_mask.png`` or ``<id>.png``; each must have a predicted one of its size.

    Returns
    -------
    str
        A table of the images and one of all of them together.

    Raises
    ------
    UserError
        If a folder has no label images, a predicted one is missing or sizes differ.
    """
    references = {path.stem.removesuffix(_MASK): path for path in sorted(reference.glob("*.png"))}
    if not references:
        raise UserError(f"expected label images <id>{_MASK}.png or <id>.png in {reference}, found none")
    triples = []
    for image_id, path in references.items():
        try:
            triples.append((image_id, read_plane(masks / f"{image_id}.png"), read_plane(path)))
        except ImageError as error:
            raise UserError(
                f"expected a label image of {image_id} in {masks} and in {reference}, found: {error}"
            ) from None
        found, wanted = (labels.shape for labels in triples[-1][1:])
        if found != wanted:
            raise UserError(f"expected label images of one size for {image_id}, found {found} and {wanted}")
    scores = score_images(triples)
    wide = scores.pivot(index="image_id", columns="iou", values="ap").add_prefix("AP@")
    counts = scores[scores["iou"] == scores["iou"].min()].set_index("image_id")[["tp", "fp", "fn"]]
    table = wide.join(counts)
    return f"{_text(table.reset_index())}\n\n{_text(summarise(scores))}"


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.3f}")
