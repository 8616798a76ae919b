"""`evaluate` and `submit`, which need no work folder, on tables of other origin."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aggregate.__main__ import main
from hpa.metrics import macro_f1
from hpa.vocabulary import HPA28
from tests.support.simulation.work import make_work


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def _sentence(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "expected" in message
    assert message.count("\n") == 1
    return message


@pytest.mark.real_data("published", "kaggle2018")
def test_the_published_submission_is_reproduced_in_every_row(tmp_path: Path, real_data: Path) -> None:
    published = real_data / "published"
    arguments = ["submit", str(published / "vpp_final_test_scores.npy")]
    arguments += ["--sample", str(real_data / "kaggle2018" / "sample_submission.csv"), "--column", "vpp_multhr"]
    arguments += ["--thresholds", str(published / "published_thresholds.csv"), "--out", str(tmp_path / "out.csv")]
    assert main(arguments) == 0
    ours, theirs = (
        pd.read_csv(path, dtype=str, keep_default_na=False)
        for path in (tmp_path / "out.csv", published / "vpp_final_submission.csv")
    )
    assert len(ours) == 11_702
    assert list(ours["Id"]) == list(theirs["Id"])
    same = [HPA28.parse(a) == HPA28.parse(b) for a, b in zip(ours["Predicted"], theirs["Predicted"], strict=True)]
    assert all(same)


@pytest.mark.real_data("published", "kaggle2018")
def test_the_published_predictions_reach_their_published_score(tmp_path: Path, real_data: Path) -> None:
    published, train = (
        str(real_data / "published" / "oof_resnet50_decisions.csv"),
        str(real_data / "kaggle2018" / "train.csv"),
    )
    for truth in (train, published):  # the file has both columns itself
        assert main(["evaluate", published, truth, "--bootstrap", "0", "--out", str(tmp_path / "metrics.json")]) == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert round(metrics["macro_f1"], 4) == 0.6622
        assert metrics["images"] == 31_072


def test_tables_in_every_form(tmp_path: Path) -> None:
    truth = _write(tmp_path / "truth.csv", "\ufeffID,Label\na,0|5\nb,Cytosol\nc,2\n")
    forms = [
        "Image,Label\nc,2\na,5 0\nb,25\nz,1\n",
        "Id,Predicted\na,Nucleoplasm;Nuclear bodies\nb,Cytosol\nc,Nucleoli\n",
        'id,labels\na,"0, 5"\nb,25\nc,2\n',
    ]
    for text in forms:
        predictions = _write(tmp_path / "p.csv", text)
        assert main(["evaluate", predictions, truth, "--out", str(tmp_path / "metrics.json"), "--bootstrap", "10"]) == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["exact_match"] == 1
        assert metrics["macro_f1"] == pytest.approx(4 / 28)
    lists = pd.DataFrame({"image_id": ["a", "b", "c"], "target": [[0, 5], [25], []]})
    lists.to_parquet(tmp_path / "p.parquet")
    assert main(["evaluate", str(tmp_path / "p.parquet"), truth, "--out", str(tmp_path / "metrics.json")]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["exact_match"] == pytest.approx(2 / 3)


def test_other_numbers_of_classes(tmp_path: Path) -> None:
    table = _write(tmp_path / "t.csv", "Image,Label\na,0 9\nb,3\n")
    assert main(["evaluate", table, table, "--vocabulary", "10", "--out", str(tmp_path / "metrics.json")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["samples_f1"] == 1
    assert metrics["macro_f1"] == pytest.approx(0.3)


def test_a_single_image_and_classes_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _write(tmp_path / "t.csv", "Id,Target\na,3\n")
    assert main(["evaluate", table, table, "--bootstrap", "5", "--out", str(tmp_path / "metrics.json")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["macro_f1"] == pytest.approx(1 / 28)
    assert metrics["intervals"]["micro_f1"] == [1, 1]
    assert [row["f1_interval"] for row in metrics["classes"]] == [[1, 1] if c == 3 else None for c in range(28)]
    assert "no labelled images of: Nucleoplasm" in capsys.readouterr().out


def test_only_images_in_both_tables_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = _write(tmp_path / "p.csv", "Id,Predicted\na,1\nb,2\nd,3\n")
    truth = _write(tmp_path / "t.csv", "Id,Target\nb,2\nc,4\na,1\ne,5\nf,6\n")
    common = _write(tmp_path / "common.csv", "Id,Target\nb,2\na,1\n")
    out, alone = tmp_path / "all.json", tmp_path / "alone.json"
    assert main(["evaluate", predictions, truth, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 predictions have no label and are not scored" in printed
    assert "3 labelled images have no prediction and are not scored" in printed
    assert main(["evaluate", predictions, common, "--out", str(alone)]) == 0
    scores, expected = json.loads(out.read_text()), json.loads(alone.read_text())
    assert (scores.pop("unpredicted"), expected.pop("unpredicted")) == (3, 0)
    assert scores == expected


@pytest.mark.parametrize(
    ("predictions", "truth", "sentence"),
    [
        ("Id,Predicted\na,1\n", "Id,Target\nb,2\n", "expected predictions of the images of"),
        ("Id,Predicted\na,1\na,2\n", "Id,Target\na,1\n", "found 'a' twice"),
        ("Id,Predicted\na,28\n", "Id,Target\na,1\n", "expected labels 0..27, found '28'"),
        ("Id,Predicted\na,Nucleus\n", "Id,Target\na,1\n", "found 'Nucleus'"),
        ("Id,Wrong\na,1\n", "Id,Target\na,1\n", "found Wrong"),
        ("Name,Predicted\na,1\n", "Id,Target\na,1\n", "found Name, Predicted"),
        ("Id,Predicted\n", "Id,Target\na,1\n", "at least one row"),
        ("", "Id,Target\na,1\n", "expected a CSV in"),
    ],
)
def test_unusable_tables(
    predictions: str, truth: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [_write(tmp_path / "p.csv", predictions), _write(tmp_path / "t.csv", truth)]
    assert sentence in _sentence(capsys, ["evaluate", *paths])


def test_the_bootstrap_draws_the_given_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six equal images of each of 30 antibodies give the intervals of 30 images, not of 180."""
    draw = np.random.default_rng(0)
    labels = np.repeat(draw.integers(0, 3, (30, 2)), 6, axis=0)
    rows = [f"{antibody},{antibody}_{k}" for antibody in range(30) for k in range(6)]
    lines = [f"{row.split(',')[1]},{truth},{predicted}" for row, (truth, predicted) in zip(rows, labels, strict=True)]
    table = _write(tmp_path / "t.csv", "Id,Target,Predicted\n" + "\n".join(lines) + "\n")
    antibodies = _write(tmp_path / "antibodies.csv", "Antibody,Id\n" + "\n".join(rows) + "\n")

    def width(*more: str) -> tuple[float, dict[str, Any]]:
        assert main(["evaluate", table, table, "--out", str(tmp_path / "metrics.json"), *more]) == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        low, high = metrics["intervals"]["micro_f1"]
        return high - low, metrics["bootstrap"]

    by_image, used = width()
    assert (used["groups"], used["over"]) == (180, "images")
    assert "1000 resamples of 180 images" in capsys.readouterr().out
    by_group, used = width("--groups", antibodies)
    assert (used["groups"], used["over"]) == (30, "groups of images (Antibody in antibodies.csv)")
    assert "1000 resamples of 30 groups of images (Antibody in antibodies.csv)" in capsys.readouterr().out
    assert by_group > 1.8 * by_image  # the square root of six
    _, used = width("--groups", table, "--groups-column", "Target")
    assert used["groups"] == 3
    few = _write(tmp_path / "few.csv", "Id,group\n0_0,x\n0_1,x\n0_2,\n0_3,\nelsewhere,x\n")
    assert width("--groups", few)[1]["groups"] == 179
    other = _write(tmp_path / "other.csv", "Id,group\nelsewhere,x\n")
    assert "found none of them" in _sentence(capsys, ["evaluate", table, table, "--groups", other])
    wrong = ["evaluate", table, table, "--groups", few, "--groups-column", "Nope"]
    assert "expected the column Nope in" in _sentence(capsys, wrong)


def test_a_missing_file_and_an_unknown_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _write(tmp_path / "t.csv", "Id,Target\na,1\n")
    assert "found no file" in _sentence(capsys, ["evaluate", str(tmp_path / "none.csv"), table])
    assert "found 'hpa99'" in _sentence(capsys, ["evaluate", table, table, "--vocabulary", "hpa99"])
    wrong = ["evaluate", table, table, "--truth-column", "Nope"]
    assert f"expected the column Nope in {table}, found Target" in _sentence(capsys, wrong)


class Submission:
    """A sample, scores and thresholds that match each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scores = np.random.default_rng(0).random((4, 28))
        self.out = folder / "out.csv"
        self.sample = _write(folder / "sample.csv", "Id,Predicted\nd,0\na,0\nc,0\nb,0\n")

    def arguments(self, thresholds: str = "0.9", *more: str, scores: str = "") -> list[str]:
        if not scores:
            np.save(self.folder / "scores.npy", self.scores)
        path = scores or str(self.folder / "scores.npy")
        return ["submit", path, "--sample", self.sample, "--thresholds", thresholds, "--out", str(self.out), *more]

    def predicted(self) -> np.ndarray:
        table = pd.read_csv(self.out, dtype=str, keep_default_na=False)
        assert list(table.iloc[:, 0]) == ["d", "a", "c", "b"]
        return HPA28.multi_hot(HPA28.parse(text) for text in table.iloc[:, 1])


@pytest.fixture
def made(tmp_path: Path) -> Submission:
    """Return a submission to make."""
    return Submission(tmp_path)


def test_a_number_as_threshold_and_labels_of_empty_rows(made: Submission) -> None:
    made.scores[2] = 0.1
    made.scores[2, 7] = 0.2
    assert main(made.arguments()) == 0
    expected = made.scores > 0.9
    expected[2, 7] = True
    np.testing.assert_array_equal(made.predicted(), expected)
    assert main(made.arguments("0.9", "--empty", "blank")) == 0
    assert not made.predicted()[2].any()
    assert main(made.arguments("0.9", "--format", "jovian")) == 0
    assert made.out.read_text().startswith("Image,Label\n")


def test_scores_from_a_table_in_any_order(made: Submission) -> None:
    ids = ["d", "a", "c", "b"]
    table = pd.DataFrame(made.scores, columns=[f"p_{name}" for name in HPA28.classes])
    table.insert(0, "image_id", ids)
    mixed = table.sample(frac=1, random_state=1)[["image_id", *reversed(table.columns[1:])]]
    mixed.to_parquet(made.folder / "scores.parquet")
    mixed.to_csv(made.folder / "scores.csv", index=False)
    for name in ("scores.parquet", "scores.csv"):
        assert main(made.arguments("0.7", scores=str(made.folder / name))) == 0
        np.testing.assert_array_equal(made.predicted(), made.scores > 0.7)


def test_the_precision_of_the_scores_is_kept(made: Submission) -> None:
    """A score half a float32 step above its threshold is predicted from float64 and not from float32."""
    made.scores[:] = 0.1
    made.scores[:, 3] = 0.3 + 1e-10
    assert main(made.arguments("0.3", "--empty", "blank")) == 0
    assert made.predicted()[:, 3].all()
    made.scores = np.full((4, 28), 0.3 - 1e-10)
    assert main(made.arguments("0.3", "--empty", "blank")) == 0
    assert not made.predicted().any()


def test_thresholds_from_a_table(made: Submission) -> None:
    values = np.linspace(0.2, 0.8, 28)
    lines = [f"{c},{value!r}" for c, value in reversed(list(enumerate(values.tolist())))]
    table = _write(made.folder / "t.csv", "class,mine\n" + "\n".join(lines) + "\n")
    assert main(made.arguments(table)) == 0
    np.testing.assert_array_equal(made.predicted(), made.scores > values)


def test_the_files_of_a_run_give_its_submission_again(
    made: Submission, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its image scores as a table, its thresholds.json and its own submission as the sample."""
    work = make_work(tmp_path / "work", test=55)
    assert main(["run", str(work.root), "--no-figures"]) == 0
    left = work.root / "aggregate"
    made.sample = str(left / "submission.csv")
    arguments = made.arguments(str(left / "thresholds.json"), scores=str(left / "images.parquet"))
    assert main(arguments) == 0
    assert made.out.read_bytes() == (left / "submission.csv").read_bytes()
    # Scores of other images, far higher: a class of which few were supported out of fold does not flood them.
    limits = {row["class"]: row["limit"] for row in json.loads((left / "thresholds.json").read_text())["classes"]}
    limited = [name for name, limit in limits.items() if limit < 0.5]
    assert limited
    rng = np.random.default_rng(0)
    scores = pd.read_parquet(left / "images.parquet")
    columns = [column for column in scores.columns if column.startswith("p_")]
    scores[columns] = rng.uniform(0.9, 1, (len(scores), len(columns)))
    scores.to_parquet(tmp_path / "high.parquet")
    assert main(made.arguments(str(left / "thresholds.json"), scores=str(tmp_path / "high.parquet"))) == 0
    rows = pd.read_csv(made.out, keep_default_na=False).iloc[:, 1]
    often = {name: rows.map(lambda text, c=c: str(c) in text.split()).mean() for c, name in enumerate(HPA28.classes)}
    assert all(often[name] <= max(limits[name], 1 / len(scores)) + 2 / 55 for name in limited)
    assert max(often.values()) == 1, "expected the classes without a limit everywhere"
    made.out.unlink()
    np.save(tmp_path / "of19.npy", np.zeros((55, 19)))
    other = made.arguments(str(left / "thresholds.json"), "--vocabulary", "hpa19", scores=str(tmp_path / "of19.npy"))
    assert "expected thresholds of hpa19 in" in _sentence(capsys, other)
    assert not made.out.exists()


def test_unusable_inputs_of_a_submission(made: Submission, capsys: pytest.CaptureFixture[str]) -> None:
    good = made.scores.copy()
    for value, shown in ((np.nan, "nan"), (np.inf, "inf"), (-0.1, "-0.1"), (1.5, "1.5")):
        made.scores = good.copy()
        made.scores[1, 2] = value
        assert f"within 0..1 in {made.folder}/scores.npy, found {shown} for a, Nucleoli" in _sentence(
            capsys, made.arguments()
        )
    made.scores = good[:3]
    assert "(4, 28) (rows of the sample, classes)" in _sentence(capsys, made.arguments())
    made.scores = good
    assert "found 'kaggle'" in _sentence(capsys, made.arguments("0.5", "--empty", "kaggle"))
    assert "found no file" in _sentence(capsys, made.arguments("none.csv"))
    table = _write(made.folder / "t.csv", "class,mine\n0,0.5\n")
    assert "each of 28 classes" in _sentence(capsys, made.arguments(table))
    for text, sentence in (("Id,Predicted\n", "at least one row"), ("Id,Predicted\na,0\na,0\n", "found 'a' twice")):
        made.sample = _write(made.folder / "sample.csv", text)
        assert sentence in _sentence(capsys, made.arguments())
    assert not made.out.exists()
    np.save(made.folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    made.sample = _write(made.folder / "sample.csv", "Id,Predicted\na,0\n")
    assert "array of numbers" in _sentence(capsys, made.arguments(scores=str(made.folder / "objects.npy")))
    with (made.folder / "archive.npy").open("wb") as file:
        np.savez(file, scores=np.zeros((1, 28)))
    assert "archive of several" in _sentence(capsys, made.arguments(scores=str(made.folder / "archive.npy")))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "2", "1.0000001"])
def test_thresholds_outside_0_to_1_are_refused(
    value: str, made: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"expected a threshold within 0..1, found --thresholds {value}" in _sentence(capsys, made.arguments(value))
    table = made.folder / "outside.csv"
    pd.DataFrame({"threshold": [value, *["0.5"] * 27]}).to_csv(table, index=False)
    assert "expected thresholds within 0..1 in column 'threshold'" in _sentence(capsys, made.arguments(str(table)))


def test_missing_ids_and_classes_of_scores(made: Submission, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame(made.scores[:3], columns=list(HPA28.classes))
    table.insert(0, "Id", ["d", "a", "c"])
    table.to_csv(made.folder / "scores.csv", index=False)
    assert "found none of 'b'" in _sentence(capsys, made.arguments(scores=str(made.folder / "scores.csv")))
    table.drop(columns="Cytosol").to_csv(made.folder / "scores.csv", index=False)
    assert "found none for 'Cytosol'" in _sentence(capsys, made.arguments(scores=str(made.folder / "scores.csv")))


def test_macro_f1_of_a_submission(made: Submission) -> None:
    assert main(made.arguments("0.5")) == 0
    assert main(["evaluate", str(made.out), str(made.out), "--out", str(made.folder / "metrics.json")]) == 0
    metrics = json.loads((made.folder / "metrics.json").read_text())
    assert metrics["macro_f1"] == macro_f1(made.predicted(), made.predicted())


def test_labels_of_every_type_of_a_parquet_column(tmp_path: Path) -> None:
    truth = _write(tmp_path / "truth.csv", "Id,Target\na,5\nb,\nc,2\n")
    for column in (
        ["5", None, "2"],
        pd.array([5, None, 2], dtype="Int64"),
        [5.0, float("nan"), 2.0],
        [["Nuclear bodies"], [], ["Nucleoli"]],
    ):
        pd.DataFrame({"Id": ["a", "b", "c"], "Predicted": column}).to_parquet(tmp_path / "p.parquet")
        out = tmp_path / "metrics.json"
        assert main(["evaluate", str(tmp_path / "p.parquet"), truth, "--out", str(out), "--bootstrap", "10"]) == 0
        assert json.loads(out.read_text())["exact_match"] == 1


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pd.to_datetime(["2024-01-01", "", "2024-01-02"]), "2024-01-01"),
        ([date(2024, 1, 1), None, date(2024, 1, 2)], "2024-01-01"),
        ([True, None, False], "True"),
    ],
)
def test_a_parquet_column_that_holds_no_classes(
    tmp_path: Path, column: Any, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = _write(tmp_path / "truth.csv", "Id,Target\na,5\nb,\nc,2\n")
    pd.DataFrame({"Id": ["a", "b", "c"], "Predicted": column}).to_parquet(tmp_path / "p.parquet")
    assert main(["evaluate", str(tmp_path / "p.parquet"), truth]) == 2
    assert f"expected a class of the vocabulary hpa28, found '{found}'" in " ".join(capsys.readouterr().err.split())


def test_images_without_a_decision_are_no_predictions(tmp_path: Path) -> None:
    truth = _write(tmp_path / "truth.csv", "Id,Target\na,5\nb,5\nc,2\n")
    predicted = _write(tmp_path / "images.csv", "image_id,origin,predicted\na,oof,5\nb,prior,\nc,prior,2\n")
    assert main(["evaluate", predicted, truth, "--out", str(tmp_path / "m.json"), "--bootstrap", "10"]) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    assert (found["images"], found["unpredicted"], found["exact_match"]) == (2, 1, 1)
