"""Reading which images belong together, from a table of other people's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.external.labels import first_column, id_column
from hpa.errors import UserError
from hpa.splitting.groups import join_groups
from hpa.work.tables import read_csv_or_parquet

_GROUPS: Final = ("group", "Group", "antibody", "Antibody", "well", "Well")


def read_groups(path: Path, image_ids: Sequence[str], column: str = "") -> tuple[NDArray[np.int32], str]:
    """Read which images belong together, for a bootstrap over them.

    Parameters
    ----------
    path
        A table with a column of ids and one of groups, such as antibodies.
    image_ids
        The N images; those that it does not name, or without a value, are groups of their own.
    column
        The column of groups; empty finds it by its usual names.

    Returns
    -------
    ndarray, str
        The number of each image's group, shape (N,), and the name of the column.

    Raises
    ------
    UserError
        If the table or the column is not as expected, or none of the images is in it.
    """
    table = read_csv_or_parquet(path)
    ids = id_column(table, path)
    chosen = first_column(table, (column,) if column else _GROUPS, path)
    named = dict(zip(table[ids].astype(str), table[chosen].astype(object), strict=True))
    if not named.keys() & set(image_ids):
        raise UserError(f"expected groups of the {len(image_ids)} scored images in {path}, found none of them")
    values = [named.get(image_id) for image_id in image_ids]
    known = [None if pd.isna(value) or value == "" else str(value) for value in values]
    return join_groups(len(known), [known]), chosen
