"""The image table, ``images.parquet``: one row per image, written by init and never changed afterwards.

Columns: image_id, source (for an image in several sources, their names joined by ``+``), split (``train`` or ``test``),
target (sorted class indices of the run's vocabulary, empty where unknown), unknown_classes (classes without a known
label, neither trained on nor scored; all classes for a train image without a target), antibody (null where unknown),
well (null where unknown; any key other than the antibody whose images must stay in one group), height_px and width_px
(0 if no header could be read), bit_depth (bits that the values of 16-bit files use, the same for all images; every
reader scales them to 16 bits) and, for every channel C of the run, path_C, plane_C (`hpa.pixels.ONLY_PLANE` for a file
that must be gray) and bytes_C (0 if the file is missing). Train rows come first, test rows last and in the order of the
sample submission.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pandera.pandas as pa

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.pixels import BIT_DEPTHS
from hpa.vocabulary import Vocabulary
from hpa.work.files import check_table, read_parquet, write_parquet
from hpa.work.folder import FORMAT, FORMAT_KEY

# An id becomes a file name in the work folder, so it must not be able to point elsewhere.
_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}")


_COLUMNS: Final = {
    "image_id": pa.Column(str, unique=True),
    "source": pa.Column(str),
    "split": pa.Column(str, pa.Check.isin(["train", "test"])),
    "target": pa.Column(object),
    "unknown_classes": pa.Column(object),
    "antibody": pa.Column(object, nullable=True),
    "well": pa.Column(object, nullable=True),
    "height_px": pa.Column("int32", pa.Check.ge(0)),
    "width_px": pa.Column("int32", pa.Check.ge(0)),
    "bit_depth": pa.Column("int16", pa.Check.isin(BIT_DEPTHS)),
}

# The checks that need neither vocabulary nor channels. The dtype of texts read from a file depends on pandas.
_COMMON_SCHEMA: Final = pa.DataFrameSchema(
    _COLUMNS | {column: pa.Column(nullable=True) for column in ("antibody", "well")}
)


def check_id(image_id: str) -> str:
    """Return `image_id` if it can serve as a file name.

    Raises
    ------
    UserError
        If it is empty, has more than 200 characters, does not begin with a letter, a digit or ``_``, or has characters
        other than letters, digits, ``_ . + -`` and blanks.
    """
    if not _ID.fullmatch(image_id):
        raise UserError(
            f"expected image ids of at most 200 letters, digits and '_.+- ' that begin with a letter, digit or _, "
            f"found {image_id!r}"
        )
    return image_id


def check_ids(ids: Sequence[str], where: str) -> None:
    """Check that ids can be file names and that none occurs twice.

    Raises
    ------
    UserError
        For the first id that breaks the rule, with its name.
    """
    seen = set()
    for image_id in ids:
        if check_id(image_id) in seen:
            raise UserError(f"expected every image id once in {where}, found {image_id!r} twice")
        seen.add(image_id)


def images_schema(vocabulary: Vocabulary, channels: Sequence[Channel]) -> pa.DataFrameSchema:
    """Return the schema of the image table for a run's vocabulary and channels."""

    def is_target(target: Sequence[int]) -> bool:
        return list(target) == sorted(set(target)) and all(0 <= c < len(vocabulary) for c in target)

    class_indices = pa.Column(object, pa.Check(is_target, element_wise=True))
    columns = _COLUMNS | {"target": class_indices, "unknown_classes": class_indices}
    return pa.DataFrameSchema(columns | _channel_columns(channels), strict=True, ordered=True)


def _channel_columns(channels: Sequence[Channel]) -> dict[str, pa.Column]:
    columns = {}
    for channel in channels:
        columns[f"path_{channel}"] = pa.Column(str)
        columns[f"plane_{channel}"] = pa.Column("int16", pa.Check.ge(-1))
        columns[f"bytes_{channel}"] = pa.Column("int64", pa.Check.ge(0))
    return columns


def write_images(path: Path, images: pd.DataFrame, vocabulary: Vocabulary, channels: Sequence[Channel]) -> None:
    """Validate the image table and write it.

    Parameters
    ----------
    path
        The file to write.
    images
        The image table. The columns unknown_classes, well and bit_depth may be absent: then all classes are known, no
        well is, and 16-bit files use all their bits.
    vocabulary, channels
        Vocabulary and channels of the run.

    Raises
    ------
    pandera.errors.SchemaError
        If the table violates the schema.
    """
    images = images.copy()
    if "unknown_classes" not in images:
        images.insert(
            list(images.columns).index("target") + 1, "unknown_classes", pd.Series([()] * len(images), dtype=object)
        )
    if "well" not in images:
        images.insert(list(images.columns).index("antibody") + 1, "well", pd.Series([None] * len(images), dtype=object))
    if "bit_depth" not in images:
        images.insert(list(images.columns).index("width_px") + 1, "bit_depth", np.int16(BIT_DEPTHS[-1]))
    images_schema(vocabulary, channels).validate(images)
    for column in ("target", "unknown_classes"):
        images[column] = pd.Series([[int(c) for c in labels] for labels in images[column]], dtype=object)
    write_parquet(path, images, {FORMAT_KEY: str(FORMAT).encode()})


def read_images(path: Path, channels: Sequence[Channel] = ()) -> pd.DataFrame:
    """Read the image table; target and unknown_classes are tuples of class indices.

    Parameters
    ----------
    path
        Its file.
    channels
        Channels whose files are needed.

    Raises
    ------
    UserError
        If there is none, or it violates the part of the schema that is common to all runs or to these channels.
    """
    schema = _COMMON_SCHEMA.add_columns(_channel_columns(channels))
    images = check_table(read_parquet(path, "python -m pipeline init"), schema, path)
    for column in ("target", "unknown_classes"):
        try:
            images[column] = [tuple(int(c) for c in labels) for labels in images[column]]
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"expected class indices as {column} in {path}, found others") from None
    return images
