"""The log of single crops in training, and its pictures, against the network itself and naive loops."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from classify.__main__ import main
from classify.config import ClassifySection
from classify.inspect.samples import hardest_samples, mean_losses
from classify.network.model import Network, Outputs
from classify.run import train
from classify.training import loop
from classify.training.fit import fit
from classify.training.samples import SeenCrops, losses_of_classes, read_samples
from classify.training.step_loss import step_loss
from tests.support.bright_crops import bright_fold, make_work, predict_logits

pytestmark = pytest.mark.usefixtures("tiny_backbone")
CPU = torch.device("cpu")
SECTION = ClassifySection(
    epochs=3, batch_size=8, validate_every=2, learning_rate=0.01, log_samples=True, augment="none"
)


def _numbers(text: str) -> set[int]:
    return {int(number) for number in text.split()}


def test_the_log_says_of_every_crop_what_the_network_said(tmp_path: Path) -> None:
    crops = bright_fold()
    known = crops.labels.known.copy()
    known[35, 1] = False
    crops = replace(crops, labels=replace(crops.labels, known=known))
    fitted = fit(crops, SECTION, 0, 0, tmp_path, CPU)
    logs = read_samples(tmp_path)
    assert list(logs) == [2, 3], "the validated epochs"
    table = logs[3]
    parts = {name: table[table["split"] == name].set_index("cell_label") for name in ("train", "validation")}
    assert sorted(parts["train"].index) == list(range(1, 33))
    assert sorted(parts["validation"].index) == list(range(33, 41))
    network = Network(SECTION, 4, 3, fitted.statistics.mean, fitted.statistics.std).eval()
    network.load_state_dict(fitted.state_dict)
    (logits,) = predict_logits(network, crops.source, crops.validation, SECTION)
    for row, z in zip(crops.validation, logits, strict=True):
        logged = parts["validation"].loc[row + 1]
        assert logged["image_id"] == f"image{row // 2}"
        losses = []
        for k in range(3):
            p = 1 / (1 + math.exp(-float(z[k])))
            assert logged[f"p_{k}"] == pytest.approx(p, rel=1e-4)
            if known[row, k]:
                losses.append(-math.log(p if crops.labels.targets[row, k] else 1 - p))
                assert (k in _numbers(logged["prediction"])) == (p > 0.5)
                assert (k in _numbers(logged["truth"])) == crops.labels.targets[row, k]
            assert (k in _numbers(logged["unknown"])) == (not known[row, k])
        assert logged["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_scores_of_the_training_images_are_those_of_their_logged_crops(tmp_path: Path) -> None:
    crops = bright_fold()
    fit(crops, SECTION, 0, 0, tmp_path, CPU)
    history = pd.read_csv(tmp_path / "history.csv").set_index("epoch")
    assert history[["train_macro_f1", "train_mean_ap", "train_accuracy"]].notna().all(axis=None)
    table = read_samples(tmp_path)[3]
    table = table[table["split"] == "train"]
    pooled = table.groupby("image_id")[["p_0", "p_1", "p_2"]].max()
    targets = np.stack([[k in _numbers(text) for k in range(3)] for text in table.groupby("image_id")["truth"].first()])
    scores = pooled.to_numpy()
    last = history.loc[3]
    assert last["train_macro_f1"] == pytest.approx(f1_score(targets, scores > 0.5, average="macro", zero_division=0))
    assert last["train_mean_ap"] == pytest.approx(average_precision_score(targets, scores, average="macro"))
    assert last["train_accuracy"] == pytest.approx(((scores > 0.2) == targets).mean())


@pytest.mark.parametrize("change", [{}, {"objective": "bag", "pooling": "attention", "bag_size": 2}])
def test_an_interrupted_training_logs_the_same_samples(
    change: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, crops = SECTION.model_copy(update=change), bright_fold()
    fit(crops, section, 0, 0, tmp_path / "one", CPU)
    ordinary = step_loss
    calls = []

    def failing(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 10:
            raise RuntimeError("killed")
        return ordinary(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "step_loss", failing)
    with pytest.raises(RuntimeError, match="killed"):
        fit(crops, section, 0, 0, tmp_path / "two", CPU)
    monkeypatch.setattr(loop, "step_loss", ordinary)
    fit(crops, section, 0, 0, tmp_path / "two", CPU)
    for name in ("history.csv", "samples/epoch-00002.parquet", "samples/epoch-00003.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_crop_that_is_drawn_twice_counts_with_its_last_output() -> None:
    seen = SeenCrops()
    assert seen.take() is None
    for rows, values in (([4, 2], [1.0, 2.0]), ([2, 7, 4], [3.0, 4.0, 5.0])):
        logits = torch.tensor(values)[:, None]
        seen.add(torch.tensor(rows), Outputs(logits, None, logits, None))
    taken = seen.take()
    assert taken is not None
    assert taken.rows.tolist() == [2, 4, 7]
    assert taken.logits[:, 0].tolist() == [3, 5, 4]
    assert seen.take() is None


def _table(losses: list[float], split: str = "validation") -> pd.DataFrame:
    n = len(losses)
    return pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(n)],
            "cell_label": 1,
            "split": split,
            "truth": ["0" if i % 2 else "" for i in range(n)],
            "unknown": ["1" if i == 0 else "" for i in range(n)],
            "prediction": "0",
            "loss": losses,
            "p_0": np.linspace(0.2, 0.8, n, dtype=np.float32),
            "p_1": np.float32(0.25),
        }
    )


def test_losses_of_classes_leave_out_unknown_ones() -> None:
    table = _table([0.1, 0.2, 0.3])
    expected = np.array([np.mean([-math.log(0.8), -math.log(0.5), -math.log(0.2)]), -math.log(0.75)])
    np.testing.assert_allclose(losses_of_classes(table, 2), expected, rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(losses_of_classes(table[:1], 2)), [False, True])


def test_folds_are_averaged_and_the_hardest_of_all_come_first() -> None:
    logs = {0: {5: _table([9.0, 9.0]), 10: _table([0.1, 2.0])}, 1: {10: _table([1.0, math.nan])}}
    of_folds = [losses_of_classes(logs[fold][10], 2) for fold in (0, 1)]
    losses = mean_losses(logs, "validation", 2)
    assert losses.index.tolist() == [5, 10]
    np.testing.assert_allclose(losses.loc[10], np.mean(of_folds, axis=0))
    hardest = hardest_samples(logs, 2)
    assert hardest[["image_id", "fold", "epoch", "loss"]].to_numpy().tolist() == [
        ["i1", 0, 10, 2.0],
        ["i0", 1, 10, 1.0],
    ]


def test_curves_draws_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"classify": {"epochs": 2, "batch_size": 4, "log_samples": True, "validate_every": 1}}
    work = make_work(tmp_path / "work", [0, 1, 0, 1, 0, 1], recipe=recipe)
    train(work)
    assert main(["curves", str(work.root)]) == 0
    folder = work.root / "classify" / "cells"
    for name in ("figures/curves.png", "figures/losses.png", "hardest.csv", "figures/hardest.png"):
        assert f"see {folder / name}" in capsys.readouterr().out or (folder / name).is_file()
    for name in ("curves", "losses", "hardest"):
        picture = cv2.imread(str(folder / "figures" / f"{name}.png"))
        assert picture is not None
        assert picture.std() > 10
    assert main(["curves", str(work.root), "--figure-format", "pdf"]) == 0
    assert {path.stem for path in (folder / "figures").glob("*.pdf")} == {"curves", "losses", "hardest"}
    listed = pd.read_csv(folder / "hardest.csv", keep_default_na=False)
    assert listed["loss"].is_monotonic_decreasing
    assert set(listed["truth"]) <= {"Nucleoplasm", "Nuclear membrane", "Nucleoli"}
    assert set(listed["image_id"]) == {f"train{i}" for i in range(6)}
