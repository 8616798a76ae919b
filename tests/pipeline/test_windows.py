"""Recipes whose windows follow no cell, or that train on one kind of window and predict on others."""

import json
from pathlib import Path

import pandas as pd
import pytest

from classify.probabilities import class_columns, read_probabilities
from hpa.atlas import synthesize
from hpa.vocabulary import HPA28
from pipeline.__main__ import main
from pipeline.demo import demo

FIVE = """
[crops]
windows = ["five_crop"]
train_window = "random"
count = 2
[classify]
backbone = "cnn3"
[aggregate]
bootstrap = 10
"""


def test_without_windows_around_cells_nothing_is_segmented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "five.toml").write_text(FIVE)
    work, new = tmp_path / "work", tmp_path / "new"
    assert demo(work, tmp_path / "five.toml", 6, 3, 0, tiny=True) == 0
    told = capsys.readouterr().out
    assert "segment: skipped, since no window of the recipe follows cells" in told
    assert "AP@0.5" not in told
    figures = json.loads((work / "demo.json").read_text())
    assert figures["images"] == 9
    assert {"segment", "crops", "cells", "segmentation_ap50"} & {*figures, *figures["seconds"]} == {"crops"}
    assert main(["apply", str(work), "--data", str(work / "atlas"), "--out", str(new)]) == 0
    assert {path.name for path in (new / "crops").iterdir()} == {"five_crop"}, "random windows are only trained on"
    for root, rows in ((work, 3), (new, 9)):
        assert not (root / "segment").exists()
        assert pd.read_csv(root / "aggregate" / "submission.csv", dtype=str)["Id"].nunique() == rows


@pytest.mark.slow
def test_trained_on_random_windows_and_predicted_on_five_and_whole(tmp_path: Path) -> None:
    synthesize(tmp_path / "atlas", 16, 4, seed=5, size_px=256)
    work = tmp_path / "work"
    keys = ["classify.epochs=1", "crops.size_px=32", "data.folds=2", 'crops.windows=["five_crop", "full_frame"]']
    settings = [word for key in [*keys, "crops.train_window=random"] for word in ("--set", key)]
    assert main(["init", str(work), "--data", str(tmp_path / "atlas"), *settings]) == 0
    assert main(["run", str(work)]) == 0
    checkpoints = sorted(str(path.relative_to(work / "classify")) for path in work.rglob("checkpoint.pt"))
    assert checkpoints == ["random/fold-0/checkpoint.pt", "random/fold-1/checkpoint.pt"]
    p = class_columns(HPA28)
    windows = ("five_crop", "full_frame")
    scored = {w: read_probabilities(work / "classify" / w / "probabilities.parquet", HPA28) for w in windows}
    images = pd.read_parquet(work / "aggregate" / "images.parquet").set_index("image_id")
    assert len(images) == 20
    assert (images["n_crops"] == 5).all(), "those of the first kind of window"
    pooled = [rows.groupby(["image_id", "fold"])[p].max().groupby("image_id").mean() for rows in scored.values()]
    pd.testing.assert_frame_equal(images[p].sort_index(), (pooled[0] + pooled[1]) / 2, rtol=1e-5, check_dtype=False)
