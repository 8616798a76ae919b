"""Pseudo-labels of cells: against a naive loop, and what is trained on them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest

from classify.cell_targets import read_cell_targets, train_on_cells, write_cell_targets
from classify.data.crops import FoldCrops
from classify.prediction import predict
from classify.probabilities import KEY, class_columns, read_probabilities, write_probabilities
from classify.run import train
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from pipeline.__main__ import main
from pipeline.relabel import label_cells, write_labels
from tests.support.bright_crops import bright_fold
from tests.support.bright_crops import make_work as bright_work
from tests.support.simulation.work import make_work

RECIPE = {
    "classify": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "backbone": "cnn3", "pretrained": "none"},
    "aggregate": {"cell_share": 0.999},
}


def test_cells_keep_the_classes_of_their_image_that_they_show(tmp_path: Path) -> None:
    """Three models score all cells; each labels those of the folds that it was trained on, in a naive loop."""
    work = make_work(tmp_path / "work", ["aggregate.cell_share=0.7"])
    own = pd.read_parquet(work.root / "classify" / "cells" / "probabilities.parquet").drop_duplicates(KEY[:2])
    rng, p = np.random.default_rng(0), class_columns(HPA28)
    every = [
        own.assign(fold=np.int16(f), origin="test", **dict(zip(p, rng.random((28, len(own)), np.float32), strict=True)))
        for f in range(3)
    ]
    table = pd.concat(every).sort_values(KEY, ignore_index=True)
    write_probabilities(tmp_path / "scores.parquet", table, HPA28)
    labelled = label_cells(work, tmp_path / "scores.parquet")
    found = labelled.set_index(["image_id", "cell_label", "fold"])["target"].to_dict()
    assert len(found) == len(labelled)
    targets = read_images(work.images).set_index("image_id")["target"]
    folds = read_folds(work.folds).set_index("image_id")["fold"]
    kept = 0
    for key, cells in table.groupby(["image_id", "fold"]):
        image_id, fold = cast(tuple[str, int], key)
        if folds.get(image_id, fold) == fold:  # a test image, or one that the model is scored on
            continue
        shown = set()
        scores = cells[p].to_numpy()
        for label, row in zip(cells["cell_label"], scores, strict=True):
            expected = tuple(c for c in sorted(targets[image_id]) if row[c] >= np.float32(0.7) * scores[:, c].max())
            if set(expected) == set(targets[image_id]):
                assert (image_id, label, fold) not in found
                kept += 1
            else:
                assert found.pop((image_id, label, fold)) == expected
            shown |= set(expected)
        assert shown == set(targets[image_id]), "every class of an image stays with a cell"
    assert not found, "no other cell has labels"
    assert kept


def test_labels_of_a_fold_do_not_reach_the_model_that_is_scored_on_it(tmp_path: Path) -> None:
    """Draw the labels of fold 0 anew: neither round scores fold 0 differently, so random labels stay at chance."""
    scores, labels = [], []
    for name in ("drawn", "drawn-anew"):
        first = bright_work(tmp_path / name, [0, 1, 0, 1, 0, 1, -1, 0, 1, 1], recipe=RECIPE)
        images = read_images(first.images)
        if name == "drawn-anew":
            fold_0 = images["image_id"].isin([f"train{i}" for i in (0, 2, 4, 7)])
            images.loc[fold_0, "target"] = pd.Series([(5,), (1, 2), (0, 7), (2,)], index=images.index[fold_0])
            write_images(first.images, images, HPA28, first.data.channels)
        train(first)
        predict(first)
        second = WorkFolder(tmp_path / f"{name}-second")
        shutil.copytree(first.root, second.root, ignore=shutil.ignore_patterns("classify"))
        second.recipe.write_text(second.recipe.read_text().replace("[classify]", '[classify]\nlabels = "cells"'))
        write_labels(first, second)
        train(second)
        predict(second)
        own = read_probabilities(second.root / "classify/cells/probabilities.parquet", HPA28)
        scores.append(own)
        labels.append(read_cell_targets(second.root / "cell_labels.parquet"))
    for tables in (scores, labels):
        one, other = (table[table["fold"] == 0].reset_index(drop=True) for table in tables)
        pd.testing.assert_frame_equal(one, other)
    assert (labels[0]["fold"] == 0).any()
    others = [table[table["fold"] == 1] for table in scores]
    assert not np.allclose(others[0][class_columns(HPA28)], others[1][class_columns(HPA28)]), "labels do matter"


def _of_all_classes(crops: FoldCrops) -> FoldCrops:
    """Return crops of three classes as crops of all 28."""
    hot = np.zeros((len(crops.labels.targets), 28), dtype=bool)
    hot[:, :3] = crops.labels.targets
    return replace(crops, labels=replace(crops.labels, targets=hot, known=np.ones_like(hot)))


def test_only_training_crops_get_labels_of_cells(tmp_path: Path) -> None:
    crops, vocabulary = _of_all_classes(bright_fold()), HPA28
    labels, hot = crops.labels, crops.labels.targets
    rows = [0, 5, int(crops.validation[0])]
    keys = {"image_id": labels.image_ids[rows].astype(str), "cell_label": labels.cell_labels[rows].astype(np.int32)}
    table = pd.concat(
        [
            pd.DataFrame({**keys, "fold": np.int16(0), "target": [(7,), (), (7,)]}),
            pd.DataFrame({**keys, "fold": np.int16(1), "target": [(8,), (8,), (8,)]}),
        ],
        ignore_index=True,
    )
    write_cell_targets(tmp_path / "cell_labels.parquet", table)
    read = read_cell_targets(tmp_path / "cell_labels.parquet")
    changed = train_on_cells(crops, read, 0, vocabulary).labels.targets
    assert np.flatnonzero(changed[0]).tolist() == [7]
    assert not changed[5].any()
    others = np.setdiff1d(np.arange(len(hot)), rows[:2])
    np.testing.assert_array_equal(changed[others], hot[others])


def test_a_round_may_change_no_cell(tmp_path: Path) -> None:
    """With a share of 0 each cell keeps all classes of its image, and the second models train on these."""
    work = make_work(tmp_path / "work", ["aggregate.cell_share=0"])
    table = label_cells(work, work.root / "classify" / "cells" / "probabilities.parquet")
    assert len(table) == 0
    write_cell_targets(tmp_path / "cell_labels.parquet", table)
    read = read_cell_targets(tmp_path / "cell_labels.parquet")
    crops = _of_all_classes(bright_fold())
    after = train_on_cells(crops, read, 0, HPA28)
    np.testing.assert_array_equal(after.labels.targets, crops.labels.targets)


def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_work(tmp_path / "frames", ['crops.windows=["full_frame"]'])
    make_work(tmp_path / "cells")
    assert main(["relabel", str(tmp_path / "frames"), str(tmp_path / "new")]) == 2
    assert "expected a run that trains on cells to relabel" in capsys.readouterr().err
    assert main(["relabel", str(tmp_path / "cells"), str(tmp_path / "new"), "--set", "classify.objective=bag"]) == 2
    assert 'expected objective = "cell" with labels = "cells"' in capsys.readouterr().err
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"bad\.parquet"):
        read_cell_targets(tmp_path / "bad.parquet")
    table = pd.DataFrame({"image_id": ["a", "a"], "cell_label": [1, 1], "fold": [0, 0], "target": [(1,), (2,)]})
    table.to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="as its stage wrote it"):
        read_cell_targets(tmp_path / "twice.parquet")
