"""The stage end to end on simulated probabilities, with usable and unusable inputs."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tomli_w

from aggregate.__main__ import main
from aggregate.run import run
from aggregate.thresholds.exact import best_common_threshold
from aggregate.thresholds.file import read_thresholds
from classify.probabilities import class_columns, write_probabilities
from classify.trained_pooling import TrainedPooling, write_pooling
from hpa.channels import CHANNELS
from hpa.config import read_toml
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.metrics import macro_f1
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder, open_work
from tests.support.simulation.work import COLUMNS, make_work, probabilities_path, rewrite


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Return a work folder after a run."""
    work = make_work(tmp_path_factory.mktemp("finished") / "work", train=90, test=60)
    assert main(["run", str(work.root)]) == 0
    return work


def _metrics(work: WorkFolder) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((work.root / "aggregate" / "metrics.json").read_text())
    return metrics


def _images(work: WorkFolder) -> pd.DataFrame:
    return pd.read_parquet(work.root / "aggregate" / "images.parquet")


def _submission(work: WorkFolder) -> pd.DataFrame:
    return pd.read_csv(work.root / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)


def _trained(work: WorkFolder, pooling: TrainedPooling, attention: bool = False) -> pd.DataFrame:
    """Mark the models as trained to be pooled; return the table with one row per crop and model."""
    write_pooling(probabilities_path(work).with_name("pooling.json"), pooling)
    table = pd.read_parquet(probabilities_path(work))
    if attention:
        table = table.assign(attention=np.random.default_rng(5).normal(0, 2, len(table)).astype(np.float32))
        write_probabilities(probabilities_path(work), table, HPA28)
    return table


@pytest.mark.parametrize(("pooling", "power"), [("auto", 0.0), ("auto", 2.0), ("attention", 1.0), ("max", 1.0)])
def test_pooling_as_trained_against_a_loop(tmp_path: Path, pooling: str, power: float) -> None:
    """The bags of each model are pooled with what it learned, crops weighted by their completeness."""
    work = make_work(tmp_path / "work", ["aggregate.pooling=trained", "classify.objective=bag"])
    alpha = {fold: np.random.default_rng(fold).normal(0, 3, 28).tolist() for fold in range(3)}
    table = _trained(work, TrainedPooling(pooling, 2, 4.0, power, alpha), attention=pooling == "attention")
    run(work, figures=None)
    crops = pd.read_parquet(work.root / "crops" / "cells" / "crops.parquet")
    table = table.merge(crops, on=["image_id", "cell_label"])
    for row in _images(work).iloc[::11].to_dict("records"):
        models = []
        for fold, bag in table[table["image_id"] == row["image_id"]].groupby("fold"):
            p, w = bag[COLUMNS].to_numpy(float), np.maximum(bag[["completeness"]].to_numpy(float), 0.01) ** power
            if pooling == "max":
                models.append((w * p).max(axis=0))
                continue
            scores = np.array(alpha[int(str(fold))]) * p if pooling == "auto" else bag[["attention"]].to_numpy(float)
            models.append((w * np.exp(scores) * p).sum(axis=0) / (w * np.exp(scores) * np.ones_like(p)).sum(axis=0))
        np.testing.assert_allclose([row[c] for c in COLUMNS], np.mean(models, axis=0), rtol=1e-4)
    known = read_thresholds(work.root / "aggregate" / "thresholds.json", HPA28)
    assert known.section.kinds == ("trained",)


def test_pooling_as_trained_needs_what_was_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path / "work", ["aggregate.pooling=trained", "classify.objective=bag"])
    assert main(["run", str(work.root)]) == 2
    assert "expected models trained to be pooled (classify.objective bag or dual)" in capsys.readouterr().err
    for pooling, message in [
        ("median", "expected a known pooling"),
        ("auto", "expected the sharpness that the model of fold 0 learned"),
        ("attention", "expected probabilities with a column attention"),
    ]:
        _trained(work, TrainedPooling(pooling, 2, 4.0, 0.0, {}))
        assert main(["run", str(work.root), "--overwrite"]) == 2
        assert message in capsys.readouterr().err


def test_a_changed_learned_pooling_requires_a_rerun(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", ["aggregate.pooling=trained", "classify.objective=bag"])
    _trained(work, TrainedPooling("max", 2, 4.0, 0.0, {}))
    run(work, figures=None)
    _trained(work, TrainedPooling("noisy-or", 2, 4.0, 0.0, {}))
    with pytest.raises(UserError, match=r"pooling\.json; rerun"):
        run(work, figures=None)


def test_images_against_a_loop(finished: WorkFolder) -> None:
    crops = pd.read_parquet(probabilities_path(finished))
    scored = _images(finished)
    assert list(scored["image_id"]) == list(pd.read_parquet(finished.images)["image_id"])
    for row in scored.iloc[::7].to_dict("records"):
        own = crops[crops["image_id"] == row["image_id"]]
        maxima = [fold[COLUMNS].to_numpy().max(axis=0) for _, fold in own.groupby("fold")]
        np.testing.assert_allclose([row[c] for c in COLUMNS], np.mean(maxima, axis=0), rtol=1e-5)
        assert row["n_crops"] == own["cell_label"].nunique()
        assert row["origin"] == own["origin"].iloc[0]
        assert len(maxima) == (1 if row["origin"] == "oof" else 3)


def test_metrics_follow_from_the_rows(finished: WorkFolder) -> None:
    metrics = _metrics(finished)
    assert metrics["images"] == 90
    assert metrics["gap"] == pytest.approx(metrics["macro_f1_in_sample"] - metrics["macro_f1"])
    assert metrics["checkpoint_chosen_on_scored_rows"] is False
    assert set(metrics["sources"]) == {"part0", "part1"}
    assert metrics["bootstrap"]["groups"] == read_folds(finished.folds)["group"].nunique()
    low, high = metrics["intervals"]["macro_f1"]
    assert 0 <= low <= high <= 1
    known = read_thresholds(finished.root / "aggregate" / "thresholds.json", HPA28)
    scored = _images(finished)
    oof = scored[scored["origin"] == "oof"]
    targets = HPA28.multi_hot(pd.read_parquet(finished.images).set_index("image_id").loc[oof["image_id"], "target"])
    scores = oof[COLUMNS].to_numpy(np.float32)
    predictions = scores > known.values
    bare = ~predictions.any(axis=1)
    predictions[bare, scores[bare].argmax(axis=1)] = True
    assert metrics["macro_f1_in_sample"] == pytest.approx(macro_f1(targets, predictions))


def test_the_reported_score_is_that_of_thresholds_tuned_on_the_other_folds(tmp_path: Path) -> None:
    """The score of thresholds on the rows that they were tuned on would be too high; it is reported apart."""
    settings = ["aggregate.thresholds=global", "aggregate.limit_shares=false", "aggregate.bootstrap=0"]
    work = make_work(tmp_path / "work", settings, train=90)
    run(work, figures=None)
    folds = read_folds(work.folds).set_index("image_id")["fold"]
    scored = _images(work).set_index("image_id").loc[folds.index]
    scores = scored[COLUMNS].to_numpy(np.float32)
    targets = HPA28.multi_hot(pd.read_parquet(work.images).set_index("image_id").loc[folds.index, "target"])
    predictions = np.zeros_like(targets)
    for fold in range(3):
        own = (folds == fold).to_numpy()
        predictions[own] = scores[own] > best_common_threshold(targets[~own], scores[~own])
    bare = ~predictions.any(axis=1)
    predictions[bare, scores[bare].argmax(axis=1)] = True
    metrics = _metrics(work)
    assert metrics["macro_f1"] == pytest.approx(macro_f1(targets, predictions))
    assert metrics["macro_f1"] != pytest.approx(metrics["macro_f1_in_sample"])


def test_the_order_of_images_changes_nothing_but_the_order_of_rows(tmp_path: Path) -> None:
    """Ids are sorted neither in the image table nor in the submission, which follows it."""
    work = make_work(tmp_path / "work", ["aggregate.bootstrap=0"])
    run(work, figures=None)
    metrics, images, submission = _metrics(work), _images(work), _submission(work)
    shuffled = read_images(work.images).sample(frac=1, random_state=3)
    write_images(work.images, shuffled.reset_index(drop=True), HPA28, CHANNELS)
    run(work, figures=None, overwrite=True)
    assert list(_images(work)["image_id"]) == list(shuffled["image_id"]) != sorted(shuffled["image_id"])
    pd.testing.assert_frame_equal(_images(work).sort_values("image_id", ignore_index=True), images)
    test = shuffled.loc[shuffled["split"] == "test", "image_id"]
    again = _submission(work)
    assert list(again["Id"]) == list(test) != sorted(test)
    pd.testing.assert_frame_equal(again.sort_values("Id", ignore_index=True), submission)
    for name in ("macro_f1", "macro_f1_in_sample"):
        assert _metrics(work)[name] == pytest.approx(metrics[name])


def test_the_submission_follows_from_scores_and_thresholds(finished: WorkFolder) -> None:
    known = read_thresholds(finished.root / "aggregate" / "thresholds.json", HPA28)
    scored = _images(finished)
    test = scored[scored["origin"] == "test"]
    submission = _submission(finished)
    assert list(submission["Id"]) == list(test["image_id"])
    assert known.mean_values is not None
    assert known.mean_images == 60
    scores = test[COLUMNS].to_numpy(np.float32)
    predictions = scores > known.mean_values
    bare = ~predictions.any(axis=1)
    predictions[bare, scores[bare].argmax(axis=1)] = True
    np.testing.assert_array_equal(HPA28.multi_hot(HPA28.parse(text) for text in submission["Predicted"]), predictions)


def test_figures_are_drawn(finished: WorkFolder) -> None:
    names = {path.name for path in (finished.root / "aggregate" / "figures").iterdir()}
    expected = ("classes", "precision_recall", "thresholds", "confusion", "calibration", "shares")
    assert names == {f"{name}.png" for name in expected}
    for name in expected:
        picture = cv2.imread(str(finished.root / "aggregate" / "figures" / f"{name}.png"))
        assert picture is not None
        assert picture.shape[1] == 1440  # 183 mm, two columns of a journal, at 200 dots an inch


def test_a_second_run_gives_the_same_files(finished: WorkFolder) -> None:
    files = ("images.parquet", "thresholds.json", "metrics.json", "submission.csv", "figures/classes.png")
    before = [(finished.root / "aggregate" / name).read_bytes() for name in files]
    assert run(finished, overwrite=True) == 0
    assert [(finished.root / "aggregate" / name).read_bytes() for name in files] == before


def test_the_table_in_the_terminal(finished: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(finished.root)]) == 0
    printed = capsys.readouterr().out
    assert f"{_metrics(finished)['macro_f1']:.4f}" in printed
    assert f"mean AP over all rows {_metrics(finished)['mean_average_precision']:.4f}" in " ".join(printed.split())
    assert "…" not in printed
    assert all(name in printed for name in HPA28.classes)


@pytest.mark.parametrize(
    "settings",
    [
        ["aggregate.pooling=per-class", "aggregate.calibration=platt"],
        ["aggregate.calibration=isotonic", "aggregate.thresholds=prevalence", "aggregate.transfer=shares"],
        ["aggregate.thresholds=cyclic", "aggregate.empty=blank", "aggregate.submission=jovian"],
        ["aggregate.pooling=top-k", "aggregate.min_quality=0.5", "aggregate.bootstrap=0"],
        ["aggregate.thresholds=repeated", "aggregate.repeats=2", "aggregate.transfer=none"],
    ],
)
def test_other_recipes_run(settings: list[str], tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", settings, test=55)
    assert run(work, figures=None) == 0
    assert len(_submission(work)) == 55
    scored = _images(work)[COLUMNS].to_numpy()
    assert np.isfinite(scored).all()
    assert scored.min() >= 0
    assert scored.max() <= 1


@pytest.mark.parametrize("by", ["mean", "rank", "max"])
def test_joined_runs(by: str, tmp_path: Path) -> None:
    make_work(tmp_path / "other", noise_seed=1)
    settings = [f'aggregate.join=["{tmp_path}/other"]', f"aggregate.join_by={by}", "aggregate.join_weights=[3, 1]"]
    work = make_work(tmp_path / "work", settings)
    alone = make_work(tmp_path / "alone")
    for folder in (work, alone, WorkFolder(tmp_path / "other")):
        assert run(folder, figures=None) == 0
    one, other, joined = (
        _images(folder)[COLUMNS].to_numpy() for folder in (alone, WorkFolder(tmp_path / "other"), work)
    )
    oof = (_images(work)["origin"] == "oof").to_numpy()
    if by == "mean":
        np.testing.assert_allclose(joined, 0.75 * one + 0.25 * other, atol=1e-6)
    elif by == "max":
        np.testing.assert_allclose(joined[oof], np.maximum(one, other)[oof], atol=1e-6)
        assert (joined[~oof] >= np.maximum(one, other)[~oof] - 1e-6).all()  # a mean of maxima
    else:
        folds = pd.read_parquet(work.folds).set_index("image_id")["fold"]
        fold = _images(work)["image_id"].map(folds)[oof]
        ranked = [
            pd.DataFrame(scores[oof]).groupby(fold.to_numpy()).transform(lambda own: (own.rank() - 0.5) / len(own))
            for scores in (one, other)
        ]
        np.testing.assert_allclose(joined[oof], 0.75 * ranked[0] + 0.25 * ranked[1], atol=1e-6)


def test_windows_are_joined_by_rank_as_runs_are(tmp_path: Path) -> None:
    other = make_work(tmp_path / "other", noise_seed=1)
    runs = make_work(tmp_path / "runs", [f'aggregate.join=["{other.root}"]', "aggregate.join_by=rank"])
    windows = make_work(tmp_path / "windows", ['crops.windows=["cells", "full_frame"]', "aggregate.join_by=rank"])
    for part in ("classify", "crops"):
        shutil.copytree(other.root / part / "cells", windows.root / part / "full_frame")
    for folder in (runs, windows):
        assert run(folder, figures=None) == 0
    pd.testing.assert_frame_equal(_images(windows), _images(runs))


def test_the_image_table_has_the_predictions_that_are_scored(finished: WorkFolder) -> None:
    images = _images(finished).set_index("image_id")
    submission = _submission(finished).set_index("Id")
    assert images.loc[submission.index, "predicted"].tolist() == submission["Predicted"].tolist()
    folds = pd.read_parquet(finished.folds)
    scored = list(folds.loc[folds["scored"], "image_id"])
    targets = HPA28.multi_hot(read_images(finished.images).set_index("image_id").loc[scored, "target"])
    predicted = HPA28.multi_hot(HPA28.parse(text) for text in images.loc[scored, "predicted"])
    metrics = _metrics(finished)
    assert macro_f1(targets, predicted) == pytest.approx(metrics["macro_f1"], abs=1e-12)
    assert metrics["baselines"]["every_class"]["macro_f1"] == macro_f1(targets, np.ones_like(targets))


def test_joined_runs_are_found_beside_the_run_wherever_both_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_work(tmp_path / "here" / "other", noise_seed=1)
    work = make_work(tmp_path / "here" / "work", ['aggregate.join=["../other"]'])
    assert run(work, figures=None) == 0
    before = json.loads((work.root / "aggregate" / "run.json").read_text())["made_from"]
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path)  # the folder that a command is called from does not matter
    moved = open_work(Path("there/work"))
    assert run(moved, figures=None) == 0
    assert json.loads((moved.root / "aggregate" / "run.json").read_text())["made_from"] == before
    shutil.rmtree(tmp_path / "there" / "other")
    with pytest.raises(UserError, match=r"expected a work folder to join at .*there/other, found none; put it there"):
        run(moved, figures=None)


def test_fitted_weights_of_joined_runs(tmp_path: Path) -> None:
    other = make_work(tmp_path / "other", noise_seed=1)
    crops = pd.read_parquet(probabilities_path(other))
    crops[COLUMNS] = np.random.default_rng(0).random((len(crops), 28), dtype=np.float32)
    rewrite(other, crops)
    work = make_work(tmp_path / "work", [f'aggregate.join=["{other.root}:cells"]', "aggregate.fit_join_weights=true"])
    assert run(work, figures=None) == 0
    content = json.loads((work.root / "aggregate" / "thresholds.json").read_text())
    assert content["weights"][0] >= 0.8


@pytest.mark.parametrize("test", [1, 3, 60])
def test_apply_to_a_few_images(test: int, finished: WorkFolder, tmp_path: Path) -> None:
    """Some of the test images of the run itself get the same labels as in the run."""
    crops = pd.read_parquet(probabilities_path(finished))
    images = pd.read_parquet(finished.images)
    chosen = images[images["split"] == "test"].iloc[:test]
    new = WorkFolder(tmp_path / "new")
    shutil.copytree(finished.root, new.root, ignore=shutil.ignore_patterns("aggregate"))
    chosen.to_parquet(new.images)
    rewrite(new, crops[crops["image_id"].isin(chosen["image_id"])].reset_index(drop=True))
    assert run(new, model=finished) == 0
    pd.testing.assert_frame_equal(_submission(new), _submission(finished).iloc[:test])
    assert not (new.root / "aggregate" / "metrics.json").exists()


def test_no_test_images(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", test=0)
    assert run(work) == 0
    assert _submission(work).empty
    assert list(_submission(work).columns) == ["Id", "Predicted"]
    assert "share_test" not in _metrics(work)["classes"][0]


def test_images_without_crops_get_the_prior_and_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path / "work")
    crops = pd.read_parquet(probabilities_path(work))
    images = pd.read_parquet(work.images)
    lost = [images["image_id"].iloc[3], images["image_id"].iloc[-1]]
    rewrite(work, crops[~crops["image_id"].isin(lost)].reset_index(drop=True))
    assert run(work, figures=None) == 0
    scored = _images(work).set_index("image_id")
    assert list(scored.loc[lost, "origin"]) == ["prior", "prior"]
    assert "1 of 30 test images have no crops; they get the class frequencies of training" in capsys.readouterr().out
    prior = HPA28.multi_hot(images.loc[images["split"] == "train", "target"]).mean(axis=0)
    np.testing.assert_allclose(scored.loc[lost[1], COLUMNS].to_numpy(float), prior, rtol=1e-6)
    # For a train image it is the frequency on the other folds.
    np.testing.assert_allclose(scored.loc[lost[0], COLUMNS].to_numpy(float), prior, atol=0.2)
    assert list(_submission(work)["Id"]) == list(images.loc[images["split"] == "test", "image_id"])
    assert len(_metrics(work)["classes"]) == 28


def test_no_crops(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work")
    rewrite(work, pd.read_parquet(probabilities_path(work)).iloc[:0])
    assert run(work, figures=None) == 0
    assert set(_images(work)["origin"]) == {"prior"}
    assert len(_submission(work)) == 30


def test_one_train_image(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", train=1, test=2, models=2)
    assert run(work) == 0
    assert _metrics(work)["images"] == 1


def test_a_class_without_positives_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path / "work")
    assert main(["run", str(work.root)]) == 0
    metrics = _metrics(work)
    missing = [row for row in metrics["classes"] if not row["support"]]
    assert missing
    assert all(row["f1"] == 0 and row["auc"] is None for row in missing)
    assert "no labelled images of" in capsys.readouterr().out


def test_images_that_are_never_held_out(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work")
    folds = read_folds(work.folds)
    own = folds["group"] == folds["group"].iloc[0]
    folds.loc[own, "fold"] = np.int16(-1)
    folds.loc[own, "scored"] = False
    folds.to_parquet(work.folds)
    crops = pd.read_parquet(probabilities_path(work))
    rewrite(work, crops[~crops["image_id"].isin(folds.loc[own, "image_id"])].reset_index(drop=True))
    assert run(work, figures=None) == 0
    assert _metrics(work)["images"] == 60 - own.sum()


def _damage(work: WorkFolder, what: str) -> None:
    crops = pd.read_parquet(probabilities_path(work))
    if what in ("nan", "inf", "high", "negative"):
        value = {"nan": np.nan, "inf": np.inf, "high": 1.5, "negative": -0.25}[what]
        crops.loc[17, COLUMNS[2]] = np.float32(value)
    elif what == "unexpected image":
        crops["image_id"] = crops["image_id"].replace({"i00000": "h00000"})
    elif what == "class order":
        crops = crops[[*crops.columns[:4], *reversed(COLUMNS)]]
    elif what == "missing class":
        crops = crops.drop(columns=COLUMNS[5])
    elif what == "unsorted":
        crops = crops.iloc[::-1]
    elif what == "repeated row":
        crops = pd.concat([crops.iloc[:1], crops])
    elif what == "other fold":
        crops["fold"] = crops["fold"].where(crops["origin"] == "test", crops["fold"] + 1).astype("int16")
    elif what == "model missing":
        crops = crops[~((crops["image_id"] == crops["image_id"].iloc[-1]) & (crops["fold"] == 1))]
    rewrite(work, crops.reset_index(drop=True))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("nan", "expected probabilities within 0..1 .*found nan in p_Nucleoli "),
        ("inf", "within 0..1 .*found inf in p_Nucleoli"),
        ("high", "within 0..1 .*found 1.5 in p_Nucleoli"),
        ("negative", "within 0..1 .*found -0.25 in p_Nucleoli"),
        ("unexpected image", "expected crops of the images of .*found crops of h00000"),
        ("class order", "in their order .*another order"),
        ("missing class", "p_Nuclear bodies"),
        ("unsorted", "sorted by image_id, cell_label and fold"),
        ("repeated row", "none twice"),
        ("other fold", "of the folds in folds.parquet, found image"),
        ("model missing", "scores of 3 models for every test image, found fewer for i00089"),
    ],
)
def test_probabilities_that_break_their_contract(what: str, sentence: str, tmp_path: Path) -> None:
    work = make_work(tmp_path / "work")
    _damage(work, what)
    with pytest.raises(UserError, match=sentence):
        run(work, figures=None)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ('join=["/nowhere/at/all"]', "expected a work folder"),
        ("join_weights=[1, 2]", "one weight for this run and one for each of join"),
        ("class_fractions=[0.5]", "each of 28 classes, found 1"),
        ("empty=Nucleus", "found 'Nucleus'"),
        ("pooling=median", r"usable \[aggregate\] pooling .*found 'median'"),
        ("quality=focus", "found 'focus'"),
    ],
)
def test_unusable_recipes(setting: str, sentence: str, tmp_path: Path) -> None:
    settings = [f"aggregate.{setting}", "aggregate.min_quality=0.1", "aggregate.thresholds=prevalence"]
    with pytest.raises(UserError, match=sentence):
        run(make_work(tmp_path / "work", settings), figures=None)


def test_runs_that_do_not_match(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", [f'aggregate.join=["{tmp_path}/other"]'])
    other = make_work(tmp_path / "other", noise_seed=1)
    folds = read_folds(other.folds)
    folds["fold"] = (folds["fold"] + 1) % 3
    folds.astype({"fold": "int16"}).to_parquet(other.folds)
    with pytest.raises(UserError, match="the same folds, found different ones"):
        run(work)
    shutil.rmtree(tmp_path / "other")
    make_work(tmp_path / "other", train=61, test=29)
    with pytest.raises(UserError, match="the same images, found different splits"):
        run(work)
    shutil.rmtree(tmp_path / "other")
    make_work(tmp_path / "other", train=60, test=31)
    with pytest.raises(UserError, match="the same images, found image i00090 in only one of them"):
        run(work)
    recipe = read_toml(tmp_path / "other" / "recipe.toml")
    recipe["data"]["vocabulary"] = "hpa19"
    (tmp_path / "other" / "recipe.toml").write_text(tomli_w.dumps(recipe))
    with pytest.raises(UserError, match="joined runs of the vocabulary hpa28, found hpa19"):
        run(work)


def test_thresholds_of_another_vocabulary(finished: WorkFolder, tmp_path: Path) -> None:
    model = WorkFolder(tmp_path / "model")
    shutil.copytree(finished.root, model.root)
    path = model.root / "aggregate" / "thresholds.json"
    content = json.loads(path.read_text()) | {"vocabulary": "hpa19"}
    path.write_text(json.dumps(content))
    new = make_work(tmp_path / "new", train=1)
    with pytest.raises(UserError, match=r"expected thresholds of hpa28 in .*, found hpa19"):
        run(new, model=model)


@pytest.mark.parametrize("by", ["mean", "max"])
def test_joined_runs_applied_to_their_own_images(by: str, tmp_path: Path) -> None:
    settings = [f"aggregate.join_by={by}", "aggregate.join_weights=[3, 1]", "aggregate.calibration=platt"]
    make_work(tmp_path / "other", noise_seed=1)
    model = make_work(tmp_path / "work", [f'aggregate.join=["{tmp_path}/other"]', *settings])
    assert run(model, figures=None) == 0
    for name in ("work", "other"):  # as `apply` makes them: elsewhere, with test images only
        new = WorkFolder(tmp_path / "new" / name)
        shutil.copytree(tmp_path / name, new.root, ignore=shutil.ignore_patterns("aggregate"))
        images = read_images(new.images).query("split == 'test'").reset_index(drop=True)
        write_images(new.images, images, HPA28, new.data.channels)
        read_folds(new.folds).iloc[:0].to_parquet(new.folds)
        crops = pd.read_parquet(probabilities_path(new))
        rewrite(new, crops[crops["origin"] == "test"].reset_index(drop=True))
    new = WorkFolder(tmp_path / "new" / "work")
    recipe = read_toml(new.recipe)
    recipe["aggregate"]["join"] = [f"{tmp_path}/new/other:cells"]
    new.recipe.write_text(tomli_w.dumps(recipe))
    new = WorkFolder(new.root)  # a work folder reads its recipe once
    assert run(new, model=model) == 0
    pd.testing.assert_frame_equal(_submission(new), _submission(model))
    recipe["aggregate"]["join"] = []
    recipe["aggregate"]["join_weights"] = []
    new.recipe.write_text(tomli_w.dumps(recipe))
    new = WorkFolder(new.root)  # a work folder reads its recipe once
    with pytest.raises(UserError, match="expected 2 runs, as were joined, found 1"):
        run(new, model=model, overwrite=True)


def test_checkpoints_chosen_on_the_scored_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path / "work", ["classify.checkpoint=best"])
    assert main(["run", str(work.root), "--no-figures"]) == 0
    assert _metrics(work)["checkpoint_chosen_on_scored_rows"] is True
    assert "slightly optimistic" in capsys.readouterr().out
    joining = make_work(tmp_path / "joining", [f'aggregate.join=["{work.root}"]'])
    assert run(joining, figures=None) == 0
    assert _metrics(joining)["checkpoint_chosen_on_scored_rows"] is True


def test_changed_inputs_are_named(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work")
    assert run(work, figures=None) == 0
    recipe = read_toml(work.recipe)
    recipe["aggregate"]["shrinkage"] = 5.0
    work.recipe.write_text(tomli_w.dumps(recipe))
    work = WorkFolder(work.root)  # a work folder reads its recipe once
    with pytest.raises(UserError, match="found changed: recipe key shrinkage"):
        run(work)


@pytest.mark.parametrize("transfer", ["none", "shares", "spread"])
def test_fixed_thresholds_are_never_transferred(transfer: str, tmp_path: Path) -> None:
    settings = ["aggregate.thresholds=fixed", "aggregate.fixed_threshold=0.5", f"aggregate.transfer={transfer}"]
    work = make_work(tmp_path, [*settings, "aggregate.empty=blank"], train=60, test=80, models=3)
    assert run(work, figures=None) == 0
    images = pd.read_parquet(work.root / "aggregate" / "images.parquet").set_index("image_id")
    columns = class_columns(HPA28)
    for image_id, text in zip(*_submission(work)[["Id", "Predicted"]].to_numpy().T, strict=True):
        assert HPA28.parse(text) == tuple(np.flatnonzero(images.loc[image_id, columns].to_numpy(np.float32) > 0.5))
    assert _metrics(work)["transfer"] == "none"


def test_a_finished_work_folder_can_be_moved_and_named_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path / "here" / "work")
    assert run(work, figures=None) == 0
    record = (work.root / "aggregate" / "thresholds.json").read_bytes()
    shutil.copytree(work.root, tmp_path / "copied")
    (tmp_path / "linked").symlink_to(work.root)
    monkeypatch.chdir(tmp_path / "here")
    for root in (tmp_path / "copied", tmp_path / "linked", Path("work"), Path("../here/./work")):
        assert run(WorkFolder(root), figures=None) == 0
    work.root.rename(tmp_path / "renamed")
    assert run(WorkFolder(tmp_path / "renamed"), figures=None) == 0
    assert (tmp_path / "renamed" / "aggregate" / "thresholds.json").read_bytes() == record
    made_from = json.loads((tmp_path / "renamed" / "aggregate" / "run.json").read_text())["made_from"]
    assert str(tmp_path) not in str(made_from["inputs"])
