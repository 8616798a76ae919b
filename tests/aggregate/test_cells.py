import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aggregate.__main__ import main
from aggregate.cells import score_cells
from aggregate.run import run
from aggregate.thresholds import read_thresholds
from bench.simulated_work import COLUMNS, make_work, probabilities_path
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.scores import macro_f1
from hpa.vocabulary import HPA28
from hpa.work import WorkFolder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Return a work folder after a run."""
    work = make_work(tmp_path_factory.mktemp("cells") / "work", test=55)
    run(work, figures=False)
    return work


def _truth(work: WorkFolder) -> pd.DataFrame:
    crops = pd.read_parquet(probabilities_path(work))
    cells = crops.groupby(["image_id", "cell_label"], as_index=False)[COLUMNS].mean()
    draw = np.random.default_rng(0)
    target = [" ".join(str(c) for c in np.flatnonzero(draw.random(28) < 0.1)) for _ in range(len(cells))]
    return cells.assign(target=target)


def test_cells_against_a_loop(work: WorkFolder, tmp_path: Path) -> None:
    truth = _truth(work)
    path = tmp_path / "cells.csv"
    truth[["image_id", "cell_label", "target"]].sample(frac=1, random_state=0).to_csv(path, index=False)
    told = score_cells(work, path, "cells", resamples=20)
    known = read_thresholds(work.root / "aggregate" / "thresholds.json", HPA28)
    assert known.mean_values is not None
    is_train = truth["image_id"] < "i00060"
    predictions = [
        row > (known.values if train else known.mean_values)
        for row, train in zip(truth[COLUMNS].to_numpy(np.float32), is_train, strict=True)
    ]
    targets = HPA28.multi_hot(HPA28.parse(text) for text in truth["target"])
    assert told["macro_f1"] == pytest.approx(macro_f1(targets, np.stack(predictions)), abs=1e-4)
    assert told["images"] == told["labelled"] == len(truth)
    assert told["bootstrap"]["groups"] == 115
    assert main(["cells", str(work.root), str(path), "--bootstrap", "0"]) == 0


def test_classes_unknown_of_an_image_are_not_scored_in_its_cells(work: WorkFolder, tmp_path: Path) -> None:
    """By a loop over classes and the cells of images of which they are known."""
    copy = WorkFolder(tmp_path / "work")
    shutil.copytree(work.root, copy.root)
    truth = _truth(copy)
    images = read_images(copy.images)
    masked = [(0, 3) if n % 2 and split == "train" else () for n, split in enumerate(images["split"])]
    images["target"] = [tuple(sorted(set(t) - set(m))) for t, m in zip(images["target"], masked, strict=True)]
    write_images(copy.images, images.assign(masked=pd.Series(masked, dtype=object)), HPA28, copy.data.channels)
    truth[["image_id", "cell_label", "target"]].to_csv(tmp_path / "cells.csv", index=False)
    told, before = (score_cells(one, tmp_path / "cells.csv", "cells", resamples=0) for one in (copy, work))
    values = read_thresholds(copy.root / "aggregate" / "thresholds.json", HPA28)
    open_images = set(images.loc[[len(m) > 0 for m in masked], "image_id"])
    scores = truth[COLUMNS].to_numpy(np.float32)
    for c in (0, 3):
        hits = wrong = missed = 0
        for row, image_id, text in zip(scores, truth["image_id"], truth["target"], strict=True):
            if image_id in open_images:
                continue
            cut = values.values if image_id < "i00060" else values.stored
            said, is_so = bool(row[c] > cut[c]), str(c) in text.split()
            hits, wrong, missed = hits + (said and is_so), wrong + (said and not is_so), missed + (is_so and not said)
        assert told["classes"][c]["f1"] == pytest.approx(2 * hits / max(2 * hits + wrong + missed, 1))
    others = [c for c in range(28) if c not in (0, 3)]
    assert [told["classes"][c]["f1"] for c in others] == [before["classes"][c]["f1"] for c in others]
    assert told["classes"][0]["support"] < before["classes"][0]["support"]


def test_tables_of_cells_that_are_wrong(work: WorkFolder, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    for text, sentence in (
        ("image_id,target\na,1\n", "columns image_id, cell_label, target"),
        ("image_id,cell_label,target\ni00000,1,1\ni00000,1,2\n", "found cell 1 of image i00000 twice"),
        ("image_id,cell_label,target\ni00000,one,1\n", "numbers as cell_label"),
        ("image_id,cell_label,target\nnobody,1,1\n", "expected cells of"),
        ("image_id,cell_label,target\ni00000,1,99\n", r"found '99' in '99' \(.*i00000, cell 1\)"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            score_cells(work, path, "cells")
