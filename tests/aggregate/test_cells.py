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
