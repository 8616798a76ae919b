"""Runs side by side: on the same images, with scikit-learn's scores, and mistakes that are explained."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from sklearn import metrics as sk

from aggregate.run import run as aggregate
from classify.network.checkpoint import Checkpoint
from classify.probabilities import class_columns
from hpa.config import read_toml
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.splitting.folds import read_folds, write_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from pipeline.__main__ import main
from pipeline.compare import compare
from pipeline.demo import demo
from tests.support.simulation.work import make_work


def _finished(root: Path, *settings: str, noise_seed: int = 0, unscored: int = 0, relabelled: int = 0) -> WorkFolder:
    """Make a work folder and run its last stage; some images have other labels or are never scored."""
    work = make_work(root, ["aggregate.bootstrap=0", *settings], train=80, test=5, noise_seed=noise_seed)
    folds = read_folds(work.folds)
    if unscored:
        folds.loc[: unscored - 1, "scored"] = False
        write_folds(work.folds, folds)
    if relabelled:
        images = read_images(work.images)
        images["target"] = [(3,) if place < relabelled else t for place, t in enumerate(images["target"])]
        write_images(work.images, images, HPA28, work.data.channels)
    assert aggregate(work, figures=None) == 0
    return work


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[WorkFolder]:
    """Return three finished runs, of which the last scores ten images fewer."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = _finished(folder / "first"), _finished(folder / "second", noise_seed=1)
    return [first, second, _finished(folder / "fewer", noise_seed=2, unscored=10)]


def test_scores_are_those_of_scikit_learn_on_the_common_images(
    runs: list[WorkFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--csv", str(tmp_path / "c.csv"), "--figure", str(tmp_path / "c.svg"), "--resamples", "50"]
    assert main(["compare", *(str(run.root) for run in runs), *words]) == 0
    assert "the 70 images that all runs scored (first 80, second 80, fewer 70)" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "c.csv")
    assert list(table["run"][:3]) == ["first", "second", "fewer"]
    assert set(table["rows"]) == {70}
    folds = read_folds(runs[2].folds)
    ids = folds.loc[folds["scored"], "image_id"]
    targets = HPA28.multi_hot(read_images(runs[0].images).set_index("image_id").loc[ids, "target"])
    found = targets.any(axis=0)
    for own, row in zip(runs, table.to_dict("records"), strict=False):
        images = pd.read_parquet(own.root / "aggregate" / "images.parquet").set_index("image_id").loc[ids]
        predicted = HPA28.multi_hot(HPA28.parse(text) for text in images["predicted"])
        scores = images[class_columns(HPA28)].to_numpy()
        assert row["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro", zero_division=0))
        assert row["micro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="micro"))
        expected = sk.average_precision_score(targets[:, found], scores[:, found], average="macro")
        assert row["mean_average_precision"] == pytest.approx(expected)
        for key in ("macro_f1", "mean_average_precision"):
            assert row[f"{key}_difference"] == pytest.approx(row[key] - table[key][0])
            assert row[f"{key}_low"] <= row[f"{key}_high"]
    share = targets.mean(axis=0)
    assert table["macro_f1"][3] == pytest.approx(np.mean(2 * share / (1 + share)))
    assert table["macro_f1"][5] == pytest.approx(share.mean())


def test_the_score_of_a_run_is_that_of_its_own_table(runs: list[WorkFolder]) -> None:
    (level,) = compare([run.root for run in runs[:2]], resamples=0).levels
    for run, scores in zip(runs, level.compared, strict=False):
        metrics = json.loads((run.root / "aggregate" / "metrics.json").read_text())
        for name in ("macro_f1", "micro_f1", "mean_average_precision"):
            assert scores[name].value == pytest.approx(metrics[name], abs=1e-9)


def test_every_form_of_the_table_has_every_run(
    runs: list[WorkFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(run.root) for run in runs[:2]]
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for suffix, start in starts.items():
        assert (
            main(["compare", *roots, "--resamples", "5", "--markdown", "--figure", str(tmp_path / f"c.{suffix}")]) == 0
        )
        assert (tmp_path / f"c.{suffix}").read_bytes().startswith(start)
    out = capsys.readouterr().out
    lines = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines} == {6}
    assert [line[0] for line in lines[2:7]] == [
        *("| first", "| second", "| predicting every class", "| the most frequent classes", "| chance, by prevalence")
    ]
    assert all(re.fullmatch(r"\d\.\d{3}", cell) for cell in lines[2][1:-2]), "the first is compared with itself"
    assert all(re.search(r"[+-]\d\.\d{3}", cell) for cell in lines[3][1:-2])
    assert main(["compare", *roots, "--resamples", "5"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("second", "mean AP", "chance", "Differences to first"))


def test_mistakes_are_explained(runs: list[WorkFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = str(runs[0].root)
    _finished(tmp_path / "relabelled", relabelled=4)
    _finished(tmp_path / "other", "data.vocabulary=hpa28")
    make_work(tmp_path / "unfinished")
    for arguments, message in (
        ([str(tmp_path / "unfinished")], "made by `python -m pipeline run"),
        ([str(tmp_path / "nothing")], "expected a work folder"),
        ([str(tmp_path / "relabelled")], "found others for 4 images, such as i0000"),
        ([first], "expected different work folders"),
        ([str(runs[1].root), f"{runs[1].root}/../{runs[1].root.name}"], f"found {runs[1].root} twice"),
        ([str(runs[1].root), "--truth", str(tmp_path / "nothing")], "expected a CSV with the columns image_id, target"),
        ([str(runs[1].root), "--figure", "c.gif"], "expected a figure that ends in"),
    ):
        assert main(["compare", first, *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    images = runs[1].root / "aggregate" / "images.parquet"
    content = images.read_bytes()
    images.write_bytes(content + b" ")
    with pytest.raises(UserError, match=r"images.parquet"):
        compare([runs[0].root, runs[1].root], resamples=0)
    images.write_bytes(content)


@pytest.mark.slow
def test_cells_and_test_images_have_the_scores_of_the_demo(tmp_path: Path) -> None:
    assert demo(tmp_path / "old", "demo", 16, 8, 0, tiny=True) == 0
    figures = json.loads((tmp_path / "old" / "demo.json").read_text())
    compared = compare([tmp_path / "old"], truth=tmp_path / "old" / "atlas" / "truth", resamples=10)
    by_title = {level.title: level for level in compared.levels}
    assert by_title["test images"].compared[0]["macro_f1"].value == pytest.approx(figures["test_macro_f1"])
    cells = by_title["cells of test images"]
    assert cells.compared[0]["macro_f1"].value == pytest.approx(figures["cell_macro_f1"])
    assert len(cells.labels) == round(figures["cell_matched_share"] * figures["test_cells"])
    model = Checkpoint.load(tmp_path / "old/classify/cells/fold-0/checkpoint.pt").network(device="cpu")  # type: ignore[arg-type]
    assert compared.parameters == [sum(weights.numel() for weights in model.parameters())]
    records = (tmp_path / "old" / "classify" / "cells").glob("*/run.json")
    assert compared.seconds[0] == pytest.approx(sum(json.loads(path.read_text())["seconds"] for path in records))


def test_runs_that_join_each_other_are_compared_by_names_with_brackets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (_finished(tmp_path / f"run [{n}]", noise_seed=len(n)) for n in ("a", "bc"))
    for run, joined in ((one, other), (other, one)):
        recipe = read_toml(run.recipe)
        recipe["aggregate"]["join"] = [f"../{joined.root.name}"]
        run.recipe.write_text(tomli_w.dumps(recipe))
        shutil.rmtree(run.root / "aggregate")
    for run in (one, other):
        assert aggregate(WorkFolder(run.root), figures=None) == 0
    assert main(["compare", str(one.root), str(other.root), "--resamples", "20"]) == 0
    rows = [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert {"run [a]", "run [bc]"} <= set(rows)
