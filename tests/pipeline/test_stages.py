"""Runs of all stages: recipes without cells, separate windows for training and prediction, and interrupted runs."""

import json
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from classify.probabilities import class_columns, read_probabilities
from hpa.atlas import synthesize
from hpa.vocabulary import HPA28
from pipeline.__main__ import main
from pipeline.demo import demo
from tests.support.processes import data_files, run_killed

FIVE_CROP = """
[crops]
windows = ["five_crop"]
train_window = "random"
count = 2
[classify]
backbone = "cnn3"
[aggregate]
bootstrap = 10
"""
SMALL = ["--set", "classify.epochs=2", "--set", "crops.size_px=32", "--set", "data.folds=2"]


def test_segmentation_is_skipped_if_no_window_follows_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "five_crop.toml").write_text(FIVE_CROP)
    work, new = tmp_path / "work", tmp_path / "new"
    assert demo(work, tmp_path / "five_crop.toml", 6, 3, 0, tiny=True) == 0
    output = capsys.readouterr().out
    assert "segment: skipped, since no window of the recipe follows cells" in output
    assert "AP@0.5" not in output
    figures = json.loads((work / "demo.json").read_text())
    assert figures["images"] == 9
    assert {"segment", "crops", "cells", "segmentation_ap50"} & {*figures, *figures["seconds"]} == {"crops"}
    assert main(["apply", str(work), "--data", str(work / "atlas"), "--out", str(new)]) == 0
    windows = {path.name for path in (new / "crops").iterdir()}
    assert windows == {"five_crop"}, "random windows are only needed for training"
    for root, rows in ((work, 3), (new, 9)):
        assert not (root / "segment").exists()
        assert pd.read_csv(root / "aggregate" / "submission.csv", dtype=str)["Id"].nunique() == rows


@pytest.mark.slow
def test_train_on_random_windows_and_predict_on_five_crop_and_full_frame(tmp_path: Path) -> None:
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
    assert (images["n_crops"] == 5).all(), "crops of the first kind of window are counted"
    pooled = [rows.groupby(["image_id", "fold"])[p].max().groupby("image_id").mean() for rows in scored.values()]
    pd.testing.assert_frame_equal(images[p].sort_index(), (pooled[0] + pooled[1]) / 2, rtol=1e-5, check_dtype=False)


@pytest.mark.slow
def test_a_killed_and_resumed_run_writes_the_same_files_as_an_uninterrupted_one(tmp_path: Path) -> None:
    atlas = tmp_path / "atlas"
    synthesize(atlas, 40, 8, seed=5, size_px=256)
    assert main(["init", str(tmp_path / "fresh"), "--data", str(atlas), *SMALL]) == 0
    for name in ("complete", "repeated", "killed"):
        shutil.copytree(tmp_path / "fresh", tmp_path / name / "work")  # pictures name the run

    def run(name: str, kill_at: int) -> int:
        return run_killed("pipeline", kill_at, ["run", str(tmp_path / name / "work"), "--workers", "1"])

    assert run("complete", 10**9) == 0
    assert run("repeated", 10**9) == 0
    expected = data_files(tmp_path / "complete" / "work")
    assert data_files(tmp_path / "repeated" / "work") == expected
    # Every run counts its output files from 1. The kills happen among the masks of the first chunk, among those of the
    # second, among the crops, in epochs of both folds, and in the stages after training.
    codes = [run("killed", n) for n in (20, 90, 30, 4, 4, 4, 4)]
    assert codes.count(-signal.SIGKILL) >= 5, codes
    assert run("killed", 10**9) == 0
    found = data_files(tmp_path / "killed" / "work")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    submission = "aggregate/submission.csv"
    assert found[submission] == expected[submission]
