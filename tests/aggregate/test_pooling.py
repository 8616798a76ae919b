import numpy as np
import pandas as pd

from aggregate.pooling import complete, pool_images
from classify.probabilities import class_columns
from hpa.vocabulary import Vocabulary

VOCABULARY = Vocabulary("two", ("a", "b"))


def _crops() -> pd.DataFrame:
    rows = [
        # image, cell, fold, origin, p of a, p of b
        ("t", 1, 0, "test", 0.9, 0.1),
        ("t", 2, 0, "test", 0.1, 0.4),
        ("t", 1, 1, "test", 0.1, 0.2),
        ("t", 2, 1, "test", 0.7, 0.6),
        ("o", 3, 1, "oof", 0.5, 0.25),
    ]
    columns = ["image_id", "cell_label", "fold", "origin", *class_columns(VOCABULARY)]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys(class_columns(VOCABULARY), "float32"))


def test_pooled_within_a_fold_then_averaged() -> None:
    images = pool_images(_crops().sample(frac=1, random_state=0), VOCABULARY)
    assert list(images["image_id"]) == ["o", "t"]
    assert list(images["n_crops"]) == [1, 2]
    assert list(images["origin"]) == ["oof", "test"]
    np.testing.assert_allclose(images["p_a"], [0.5, (0.9 + 0.7) / 2], atol=1e-7)
    np.testing.assert_allclose(images["p_b"], [0.25, (0.4 + 0.6) / 2], atol=1e-7)


def test_random_bags_against_a_loop() -> None:
    draw = np.random.default_rng(0)
    columns = class_columns(VOCABULARY)
    rows = [
        (f"i{i:02d}", cell, fold, "test", *draw.random(2))
        for i in range(20)
        for cell in range(1, 1 + draw.integers(1, 6))
        for fold in range(3)
    ]
    crops = pd.DataFrame(rows, columns=["image_id", "cell_label", "fold", "origin", *columns])
    crops = crops.astype(dict.fromkeys(columns, "float32"))
    pooled = pool_images(crops, VOCABULARY).set_index("image_id")
    for image_id, of_image in crops.groupby("image_id"):
        maxima = [of_fold[columns].to_numpy().max(axis=0) for _, of_fold in of_image.groupby("fold")]
        np.testing.assert_allclose(pooled.loc[image_id, columns].to_numpy(float), np.mean(maxima, axis=0), atol=1e-6)


def test_an_image_without_crops_gets_the_prior() -> None:
    images = complete(pool_images(_crops(), VOCABULARY), ["x", "t", "o"], np.array([0.75, 0.5]), VOCABULARY)
    assert list(images["image_id"]) == ["x", "t", "o"]
    assert list(images["origin"]) == ["prior", "test", "oof"]
    assert list(images["n_crops"]) == [0, 2, 1]
    assert images.loc[0, "p_a"] == 0.75
    assert images.loc[0, "p_b"] == 0.5
    assert images["p_a"].dtype == np.float32
