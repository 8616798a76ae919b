"""The image table, ``images.parquet``: one row an image, made by init and never changed after it.

Columns: image_id, source, split (``train`` or ``test``), target (sorted class indices of the run's vocabulary, empty
where unknown), antibody (null where unknown), height_px and width_px (0 where no header could be read) and, for every
channel C of the run, path_C, plane_C (`hpa.pixels.ONLY_PLANE` for a file that must be gray) and bytes_C (0 where the
file is missing). Train rows stand first, test rows last and in the order of the sample submission.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
import pandera.pandas as pa

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.files import write_parquet
from hpa.vocabulary import Vocabulary

# An id becomes a file name in the work folder, so it must never be able to point elsewhere.
_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}")


def check_id(image_id: str) -> str:
    """Return `image_id` if it can serve as a file name.

    Raises
    ------
    UserError
        If it is empty, overlong or has characters other than letters, digits, ``_ . + -`` and blanks.
    """
    if not _ID.fullmatch(image_id):
        raise UserError(f"expected image ids of letters, digits and '_.+- ', found {image_id!r}")
    return image_id


def check_ids(ids: Sequence[str], where: str) -> None:
    """Check that ids can be file names and that none stands twice.

    Raises
    ------
    UserError
        Naming the first id that breaks the rule.
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

    columns = {
        "image_id": pa.Column(str, unique=True),
        "source": pa.Column(str),
        "split": pa.Column(str, pa.Check.isin(["train", "test"])),
        "target": pa.Column(object, pa.Check(is_target, element_wise=True)),
        "antibody": pa.Column(object, nullable=True),
        "height_px": pa.Column("int32", pa.Check.ge(0)),
        "width_px": pa.Column("int32", pa.Check.ge(0)),
    }
    for channel in channels:
        columns[f"path_{channel}"] = pa.Column(str)
        columns[f"plane_{channel}"] = pa.Column("int16", pa.Check.ge(-1))
        columns[f"bytes_{channel}"] = pa.Column("int64", pa.Check.ge(0))
    return pa.DataFrameSchema(columns, strict=True, ordered=True)


def write_images(path: Path, images: pd.DataFrame, vocabulary: Vocabulary, channels: Sequence[Channel]) -> None:
    """Check the image table and write it.

    Raises
    ------
    pandera.errors.SchemaError
        If it breaks the contract.
    """
    images_schema(vocabulary, channels).validate(images)
    write_parquet(path, images.assign(target=pd.Series([[int(c) for c in t] for t in images["target"]], dtype=object)))


def read_images(path: Path) -> pd.DataFrame:
    """Read the image table; targets come back as tuples of class indices.

    Raises
    ------
    UserError
        If there is none.
    """
    if not path.exists():
        raise UserError(f"expected {path} (made by `python -m pipeline init`), found no such file")
    images = pd.read_parquet(path)
    images["target"] = [tuple(int(c) for c in target) for target in images["target"]]
    return images
