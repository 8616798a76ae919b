"""Pseudo-labels of cells: against a naive loop, and what is trained on them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from classify.cell_targets import read_cell_targets, train_on_cells, write_cell_targets
from classify.probabilities import class_columns
from hpa.errors import UserError
from hpa.images import read_images
from hpa.vocabulary import HPA28
from pipeline.__main__ import main
from pipeline.relabel import label_cells
from tests.support.bright_crops import bright_fold
from tests.support.simulation.work import make_work


def test_cells_keep_the_classes_of_their_image_that_they_show(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", ["aggregate.cell_share=0.7"])
    found = label_cells(work).set_index(["image_id", "cell_label"])["target"].to_dict()
    table = pd.read_parquet(work.root / "classify" / "cells" / "probabilities.parquet")
    targets = read_images(work.images).set_index("image_id")["target"]
    kept = 0
    for image_id, cells in table[table["origin"] == "oof"].groupby("image_id"):
        shown = set()
        p = cells[class_columns(HPA28)].to_numpy()
        for label, row in zip(cells["cell_label"], p, strict=True):
            expected = tuple(c for c in sorted(targets[image_id]) if row[c] >= np.float32(0.7) * p[:, c].max())
            if set(expected) == set(targets[image_id]):
                assert (image_id, label) not in found
                kept += 1
            else:
                assert found.pop((image_id, label)) == expected
            shown |= set(expected)
        assert shown == set(targets[image_id]), "every class of an image stays with a cell"
    assert not found, "cells of test images have no labels"
    assert kept


def test_only_training_crops_get_labels_of_cells(tmp_path: Path) -> None:
    crops = bright_fold()
    vocabulary = HPA28
    hot = np.zeros((len(crops.labels.targets), 28), dtype=bool)
    hot[:, :3] = crops.labels.targets
    labels = crops.labels.__class__(**{**crops.labels.__dict__, "targets": hot, "known": np.ones_like(hot)})
    crops = crops.__class__(crops.source, labels, crops.training, crops.validation)
    rows = [0, 5, int(crops.validation[0])]
    table = pd.DataFrame(
        {
            "image_id": labels.image_ids[rows].astype(str),
            "cell_label": labels.cell_labels[rows].astype(np.int32),
            "target": [(7,), (), (7,)],
        }
    )
    write_cell_targets(tmp_path / "cell_labels.parquet", table)
    changed = train_on_cells(crops, read_cell_targets(tmp_path / "cell_labels.parquet"), vocabulary).labels.targets
    assert np.flatnonzero(changed[0]).tolist() == [7]
    assert not changed[5].any()
    others = np.setdiff1d(np.arange(len(hot)), rows[:2])
    np.testing.assert_array_equal(changed[others], hot[others])


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
    table = pd.DataFrame({"image_id": ["a", "a"], "cell_label": [1, 1], "target": [(1,), (2,)]})
    table.to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="as its stage wrote it"):
        read_cell_targets(tmp_path / "twice.parquet")
