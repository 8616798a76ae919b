"""``images.csv`` and ``cells.csv`` against the tables they are named from."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aggregate.__main__ import main
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.simulation.work import COLUMNS, make_work


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Return a work folder after a run, one image of which could not be segmented."""
    made = make_work(tmp_path_factory.mktemp("named") / "work", train=60, test=30)
    (made.root / "segment").mkdir()
    (made.root / "segment" / "failures.csv").write_text('image_id,reason\ni00003,"blue: damaged, <b>cut</b>"\n')
    (made.root / "crops" / "cells" / "failures.csv").write_text("image_id,reason\ni00004,red: cut off\n")
    crops = pd.read_parquet(made.root / "crops" / "cells" / "crops.parquet")
    place = np.arange(len(crops))
    crops = crops.assign(
        min_row_px=place, max_row_px=place + 11, min_col_px=-5, max_col_px=6, area_px=100 + place,
        touches_border=place % 2 == 0, has_nucleus=place % 3 > 0, n_nuclei=place % 3,
    )  # fmt: skip
    crops.to_parquet(made.root / "crops" / "cells" / "crops.parquet")
    assert main(["run", str(made.root)]) == 0
    return made


def _read(work: WorkFolder, name: str) -> pd.DataFrame:
    return pd.read_csv(work.root / "aggregate" / name, dtype=str, keep_default_na=False)


def test_images_have_the_names_of_their_numbers(work: WorkFolder) -> None:
    images, scored = _read(work, "images.csv"), pd.read_parquet(work.root / "aggregate" / "images.parquet")
    assert list(images["image_id"]) == list(scored["image_id"])
    assert list(images["origin"]) == list(scored["origin"])
    fold = read_folds(work.folds).set_index("image_id")["fold"]
    targets = pd.read_parquet(work.images).set_index("image_id")["target"]
    by_id = scored.set_index("image_id")
    for row in images.to_dict("records"):
        assert row["fold"] == (str(fold[row["image_id"]]) if row["split"] == "train" else "")
        assert row["labels"] == "; ".join(HPA28.classes[c] for c in targets[row["image_id"]])
        probabilities = [float(text) for text in row["probabilities"].split("; ")]
        columns = [f"p_{name}" for name in row["predicted"].split("; ")]
        expected = by_id.loc[row["image_id"], columns].to_numpy(np.float64)
        np.testing.assert_allclose(np.array(probabilities), expected, atol=5.1e-5)
        assert probabilities == sorted(probabilities, reverse=True)
    assert images.set_index("image_id").at["i00003", "flags"] == "blue: damaged, <b>cut</b>"
    assert images.set_index("image_id").at["i00004", "flags"] == "red: cut off"


def test_test_images_are_predicted_as_in_the_submission(work: WorkFolder) -> None:
    images = _read(work, "images.csv").set_index("image_id")
    submission = pd.read_csv(work.root / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)
    for image_id, text in zip(submission["Id"], submission["Predicted"], strict=True):
        names = str(images.at[image_id, "predicted"]).split("; ")
        assert sorted(names) == sorted(HPA28.classes[c] for c in HPA28.parse(text))


def test_evaluating_the_table_gives_the_metrics_of_the_run(work: WorkFolder, tmp_path: Path) -> None:
    table, out = str(work.root / "aggregate" / "images.csv"), tmp_path / "metrics.json"
    assert main(["evaluate", table, table, "--bootstrap", "0", "--out", str(out)]) == 0
    found, expected = json.loads(out.read_text()), json.loads((work.root / "aggregate" / "metrics.json").read_text())
    for name in ("images", "macro_f1", "micro_f1", "samples_f1", "exact_match"):
        assert found[name] == pytest.approx(expected[name])
    assert found["unscored"] == 30  # the test images


def test_cells_have_the_names_of_their_numbers_and_their_places(work: WorkFolder) -> None:
    cells, numbers = _read(work, "cells.csv"), pd.read_parquet(work.root / "aggregate" / "cells.parquet")
    crops = pd.read_parquet(work.root / "crops" / "cells" / "crops.parquet").set_index(["image_id", "cell_label"])
    assert len(cells) == len(numbers)
    assert set(cells["origin"]) == {"oof", "test"}
    for row, of in zip(cells.to_dict("records"), numbers.to_dict("records"), strict=True):
        crop = crops.loc[(of["image_id"], of["cell_label"])]
        assert (row["image_id"], int(row["cell_label"])) == (of["image_id"], of["cell_label"])
        indices = {HPA28.index(name) for name in row["predicted"].split("; ") if name}
        assert indices == set(HPA28.parse(of["predicted"]))
        assert (float(row["row_px"]), float(row["col_px"])) == (crop["min_row_px"] + 5.5, 0.5)
        assert int(row["area_px"]) == crop["area_px"]
        flags = [("touches border", crop["touches_border"]), ("no nucleus", crop["n_nuclei"] == 0)]
        flags.append(("several nuclei", crop["n_nuclei"] > 1))
        assert row["flags"] == "; ".join(name for name, is_set in flags if is_set)


def test_evaluate_takes_tables_of_cells(work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same scores as `aggregate cells`, which reads the Parquet table of the work folder."""
    path = work.root / "aggregate" / "cells.csv"
    numbers = pd.read_parquet(work.root / "aggregate" / "cells.parquet").iloc[::3]
    numbers = numbers.assign(target=[HPA28.format(np.flatnonzero(row > 0.5)) for row in numbers[COLUMNS].to_numpy()])
    truth = tmp_path / "truth.csv"
    numbers[["image_id", "cell_label", "target"]].to_csv(truth, index=False)
    of_table, of_work = tmp_path / "table.json", tmp_path / "work.json"
    assert main(["evaluate", str(path), str(truth), "--bootstrap", "0", "--out", str(of_table)]) == 0
    assert main(["cells", str(work.root), str(truth), "--bootstrap", "0", "--out", str(of_work)]) == 0
    found, expected = json.loads(of_table.read_text()), json.loads(of_work.read_text())
    assert found["images"] == expected["images"] == len(numbers)
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"])
    of_images = str(work.root / "aggregate" / "images.csv")
    assert main(["evaluate", of_images, str(truth)]) == 2
    assert "expected predictions of the cells of" in capsys.readouterr().err
    twice = tmp_path / "twice.csv"
    pd.concat([numbers, numbers[:1]])[["image_id", "cell_label", "target"]].to_csv(twice, index=False)
    assert main(["evaluate", str(path), str(twice)]) == 2
    first = numbers.iloc[0]
    assert f"found cell {first['cell_label']} of image {first['image_id']} twice" in capsys.readouterr().err
