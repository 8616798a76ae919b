"""The cells of a finished run in one AnnData file, for scanpy, squidpy and other tools of single cells.

``X`` has the probabilities, a column per class; ``obs`` the columns of ``aggregate/cells.csv``; ``obsm["spatial"]`` the
place of each cell in its image, column before row as squidpy has it, in px; and, after `classify embed`,
``obsm["X_embedding"]`` the features of the shipped backbone, and ``obsm["X_umap"]`` or ``obsm["X_pca"]`` the map, NaN
for cells that are not on it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aggregate.cell_labels import read_cells
from classify.inspect.embedding import embedding_folder, read_embedding
from classify.probabilities import class_columns
from crops.h5sc import write_h5ad
from crops.store import open_store
from hpa.errors import UserError
from hpa.work.files import read_csv
from hpa.work.folder import WorkFolder

_NUMBERS = ("row_px", "col_px", "area_px")


def export_cells(work: WorkFolder, out: Path) -> int:
    """Write the cells of a run and return how many there are.

    Parameters
    ----------
    work
        The work folder; its recipe predicts windows around cells.
    out
        The file to write; it appears complete or not at all.

    Raises
    ------
    UserError
        If the run is not finished, or anndata is not installed.
    """
    cells, vocabulary = read_cells(work), work.data.classes
    keys = ["image_id", "cell_label"]
    obs = read_csv(work.root / "aggregate" / "cells.csv", keys).astype({"cell_label": np.int64})
    if not obs[keys].equals(cells[keys].astype({"cell_label": np.int64})):
        raise UserError(
            f"expected the same cells in cells.csv and cells.parquet of {work.root}/aggregate, found others; rerun"
            f" `python -m aggregate run {work.root} --overwrite`"
        )
    numbers = [name for name in _NUMBERS if name in obs]
    obs[numbers] = obs[numbers].apply(pd.to_numeric)
    obsm: dict[str, Any] = {}
    if "row_px" in obs:
        obsm["spatial"] = obs[["col_px", "row_px"]].to_numpy(np.float32)
    if embedding_folder(work, "cells").is_dir():
        store = open_store(work, "cells")
        embedding = read_embedding(work, "cells", store)
        rows = _rows_of(obs[keys], store.table[keys])
        obsm["X_embedding"] = np.asarray(embedding.features[rows], dtype=np.float32)
        places = np.full((len(store), 2), np.nan, dtype=np.float32)
        places[embedding.places["row"]] = embedding.places[["map_1", "map_2"]].to_numpy()
        obsm[f"X_{embedding.method.lower()}"] = places[rows]
    obs.index = [f"{image_id}_{label}" for image_id, label in zip(obs["image_id"], obs["cell_label"], strict=True)]
    var = pd.DataFrame(index=list(vocabulary.classes))
    scores = cells[class_columns(vocabulary)].to_numpy(np.float32)
    write_h5ad(out, scores, obs, var, obsm, {"run": work.root.resolve().name, "vocabulary": vocabulary.name})
    return len(obs)


def _rows_of(keys: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Return the position of each cell in the store."""
    positions = pd.Series(np.arange(len(table)), index=pd.MultiIndex.from_frame(table))
    return positions.loc[pd.MultiIndex.from_frame(keys)].to_numpy()
