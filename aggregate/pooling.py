"""From the probabilities of crops to those of images."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from classify.probabilities import class_columns
from hpa.vocabulary import Vocabulary


def pool_max(probabilities: NDArray[np.float32], first_rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the maximum over each bag.

    Parameters
    ----------
    probabilities
        Shape (n, K): the crops, those of one bag next to each other.
    first_rows
        Shape (m,): where each bag begins, rising from 0.

    Returns
    -------
    ndarray
        Shape (m, K).
    """
    return np.maximum.reduceat(probabilities, first_rows, axis=0)


def pool_images(crops: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    """Pool the crops of each image within each fold's model, then average the models.

    A maximum of means would be smaller than the maxima that thresholds are tuned on, so the order matters.

    Parameters
    ----------
    crops
        The table of crop probabilities (`classify.probabilities`).
    vocabulary
        Of the run.

    Returns
    -------
    DataFrame
        One row an image that has crops, sorted by image_id: image_id, origin, n_crops and p of each class (float32).
    """
    columns = class_columns(vocabulary)
    crops = crops.sort_values(["image_id", "fold", "cell_label"], kind="stable")
    keys = crops[["image_id", "fold"]]
    first_rows = np.flatnonzero((keys != keys.shift()).any(axis=1).to_numpy())
    pooled = pd.DataFrame(pool_max(crops[columns].to_numpy(np.float32), first_rows), columns=columns)
    heads = crops.iloc[first_rows].reset_index(drop=True)
    sizes = np.diff(np.append(first_rows, len(crops)))
    bags = pd.concat([heads[["image_id", "origin"]], pd.Series(sizes, name="n_crops"), pooled], axis=1)
    images = bags.groupby("image_id", sort=True).agg(
        {"origin": "first", "n_crops": "first"} | dict.fromkeys(columns, "mean")
    )
    return images.astype(dict.fromkeys(columns, "float32") | {"n_crops": "int32"}).reset_index()


def complete(
    pooled: pd.DataFrame, image_ids: list[str], prior: NDArray[np.float64], vocabulary: Vocabulary
) -> pd.DataFrame:
    """Give every image a row: where no crop could be read, the training frequencies, with origin ``prior``.

    Parameters
    ----------
    pooled
        What `pool_images` returned.
    image_ids
        All images, in the order wanted.
    prior
        Shape (K,), the frequency of each class among the train images.
    vocabulary
        Of the run.
    """
    columns = class_columns(vocabulary)
    images = pooled.set_index("image_id").reindex(image_ids)
    missing = images["origin"].isna()
    images.loc[missing, columns] = prior.astype(np.float32)
    images = images.fillna({"origin": "prior", "n_crops": 0})
    return images.astype(dict.fromkeys(columns, "float32") | {"n_crops": "int32"}).reset_index()
