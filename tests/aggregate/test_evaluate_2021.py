import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aggregate.__main__ import main
from aggregate.external.evaluate_2021 import evaluate_submission_2021
from aggregate.submission.kaggle2021 import COLUMNS, pack_cells, pack_frame
from hpa.errors import UserError
from hpa.vocabulary import HPA19, HPA28
from tests.aggregate.single_cell_map import Truth, mean_average_precision

SIDE = 48


def _labels(draw: np.random.Generator, shift: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for label in range(1, 7):
        row, column = draw.integers(0, SIDE, 2)
        labels[(rows - row) ** 2 + (columns - column - shift) ** 2 < draw.integers(5, 12) ** 2] = label
    return labels


def _write(path: Path, strings: dict[str, str], side: int = SIDE) -> Path:
    rows = [(image_id, side, side, text) for image_id, text in strings.items()]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(path, index=False)
    return path


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path, Path, Truth, dict[str, str]]:
    """Write a submission whose masks are off by 0 to 3 px, with confidences that have ties, and the truth in both
    forms.
    """
    draw = np.random.default_rng(5)
    truth: dict[str, list[tuple[np.ndarray, set[int]]]] = {}
    strings, true_strings, rows = {}, {}, []
    (tmp_path / "masks").mkdir()
    for k in range(9):
        image_id = f"image{k}"
        labels = _labels(draw)
        Image.fromarray(labels).save(tmp_path / "masks" / f"{image_id}.png")
        truth[image_id], true_entries, entries = [], [], []
        for label, packed in pack_cells(labels):
            classes = {int(c) for c in draw.choice(18, draw.integers(1, 3), replace=False)}
            truth[image_id].append((labels == label, classes))
            true_entries += [f"{c} 1 {packed}" for c in sorted(classes)]
            rows.append((image_id, label, " ".join(map(str, sorted(classes)))))
        found = np.roll(labels, int(draw.integers(0, 4)), axis=1)
        for _, packed in pack_cells(found):
            entries += [f"{c} {draw.integers(0, 20) / 20} {packed}" for c in range(19)]
        strings[image_id], true_strings[image_id] = " ".join(entries), " ".join(true_entries)
    submission = _write(tmp_path / "submission.csv", strings)
    of_cells = tmp_path / "cells.csv"
    pd.DataFrame(rows, columns=["image_id", "cell_label", "target"]).to_csv(of_cells, index=False)
    return submission, _write(tmp_path / "truth.csv", true_strings), of_cells, truth, strings


def test_both_forms_of_truth_score_like_the_independent_implementation(
    world: tuple[Path, Path, Path, Truth, dict[str, str]],
) -> None:
    submission, truth_table, cells, truth, strings = world
    expected = mean_average_precision(strings, truth)
    assert 0.02 < expected < 0.9
    found = evaluate_submission_2021(submission, truth_table, resamples=200)
    assert found["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    low, high = found["interval"]
    assert low < expected < high
    labelled = evaluate_submission_2021(submission, cells, cells.parent / "masks", HPA19, resamples=0)
    assert labelled["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    assert labelled["classes"] == found["classes"]
    assert sum(row["cells"] for row in found["classes"]) == sum(
        len(own) for cells in truth.values() for _, own in cells
    )


def test_a_cell_is_found_once_and_only_at_an_iou_of_0_6(tmp_path: Path) -> None:
    """A true cell of 10 x 10 px: masks of 10 x 6 agree by 0.6, of 10 x 5 by 0.5. Precision 1/1, then 1/2 and so on."""

    def packed(width: int) -> str:
        labels = np.zeros((SIDE, SIDE), np.uint16)
        labels[:10, :width] = 1
        return dict(pack_cells(labels))[1]

    truth = _write(tmp_path / "truth.csv", {"a": f"3 1 {packed(10)}"})

    def score(text: str) -> float:
        found = evaluate_submission_2021(_write(tmp_path / "s.csv", {"a": text}), truth, resamples=0)
        return float(found["mean_average_precision"])

    assert score(f"3 0.9 {packed(6)}") == 1
    assert score(f"3 0.9 {packed(5)}") == 0
    assert score(f"4 0.9 {packed(10)}") == 0
    assert score("") == 0
    assert score(f"3 0.9 {packed(5)} 3 0.8 {packed(10)}") == 0.5
    assert score(f"3 0.9 {packed(10)} 3 0.8 {packed(10)}") == 1
    assert score(f"3 0.2 {packed(10)} 3 0.8 {packed(5)} 3 0.7 {packed(4)}") == pytest.approx(1 / 3)


def test_labels_of_2018_are_joined_and_a_cell_without_one_is_negative(tmp_path: Path) -> None:
    labels = np.zeros((SIDE, SIDE), np.uint16)
    labels[:9, :9], labels[20:30, 20:30], labels[40:, 40:] = 1, 2, 3
    Image.fromarray(labels).save(tmp_path / "a.png")
    lysosomes, ends = HPA28.index("Lysosomes"), HPA28.index("Microtubule ends")
    (tmp_path / "cells.csv").write_text(f"image_id,cell_label,target\na,1,{lysosomes}\na,2,\na,3,{ends}\n")
    own = dict(pack_cells(labels))
    strings = {"a": f"17 0.9 {own[1]} 18 0.9 {own[2]}"}
    found = evaluate_submission_2021(_write(tmp_path / "s.csv", strings), tmp_path / "cells.csv", tmp_path, resamples=0)
    assert found["mean_average_precision"] == 1
    assert [row["class"] for row in found["classes"] if row["cells"]] == [
        "Vesicles and punctate cytosolic patterns",
        "Negative",
    ]


def test_mistakes_are_named(world: tuple[Path, Path, Path, Truth, dict[str, str]], tmp_path: Path) -> None:
    submission, truth, cells, _, strings = world

    def wrong(text: str, sentence: str, side: int = SIDE) -> None:
        path = _write(tmp_path / "wrong.csv", strings | {"image0": text}, side)
        with pytest.raises(UserError, match=sentence):
            evaluate_submission_2021(path, truth, resamples=0)

    wrong("3 0.5 !!!!", "expected masks of 48 x 48 px, compressed as COCO does, found another .*image0")
    wrong(f"3 0.5 {pack_frame(47, 48)}", "expected masks of 48 x 48 px")
    wrong("3 0.5", "expected a class 0..18, a confidence within 0..1 and a mask")
    wrong(f"3 high {pack_frame(48, 48)}", "expected a class 0..18, a confidence within 0..1 and a mask")
    twice = pd.concat([pd.read_csv(cells, dtype=str)] * 2)
    twice.to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(UserError, match=r"expected every cell once in .*found cell 1 of image0 twice"):
        evaluate_submission_2021(submission, tmp_path / "twice.csv", cells.parent / "masks", HPA19, resamples=0)
    wrong("", "expected 48 x 48 px, the size of the true masks, found 40 x 40", side=40)
    path = _write(tmp_path / "few.csv", {"image0": ""})
    with pytest.raises(UserError, match=r"expected a row for each image of .*found none for image1 .8 missing."):
        evaluate_submission_2021(path, truth, resamples=0)
    (cells.parent / "masks" / "image3.png").unlink()
    with pytest.raises(UserError, match=r"expected a label image image3.png or .tif in .*, found none"):
        evaluate_submission_2021(submission, cells, cells.parent / "masks", HPA19, resamples=0)
    table = pd.read_csv(cells, dtype=str).drop_duplicates("image_id").assign(cell_label="77")
    table.to_csv(tmp_path / "cells77.csv", index=False)
    with pytest.raises(UserError, match="expected a cell_label of the label image, found none"):
        evaluate_submission_2021(submission, tmp_path / "cells77.csv", cells.parent / "masks", HPA19, resamples=0)


def test_the_command_prints_and_writes_the_scores(
    world: tuple[Path, Path, Path, Truth, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission, truth, _, _, _ = world
    out = tmp_path / "scores.json"
    assert main(["evaluate-2021", str(submission), str(truth), "--bootstrap", "20", "--out", str(out)]) == 0
    score = json.loads(out.read_text())["mean_average_precision"]
    assert f"{score:.4f}" in capsys.readouterr().out
    assert main(["evaluate-2021", str(tmp_path / "none.csv"), str(truth)]) == 2
