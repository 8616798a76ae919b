"""The stage end to end, with wrong probabilities only for unknown or unscored labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from numpy.typing import NDArray

from aggregate.run import run
from classify.probabilities import class_columns, write_probabilities
from hpa.images import write_images
from hpa.splitting.folds import write_folds
from hpa.vocabulary import HPA28, JOVIAN10, Vocabulary
from hpa.work.files import write_bytes
from hpa.work.folder import WorkFolder

N = 40
N_TEST = 3


def _work(
    root: Path,
    vocabulary: Vocabulary,
    folds: NDArray[np.int16],
    wrong: NDArray[np.bool_] | None = None,
    **changed: Any,
) -> WorkFolder:
    """Write a work folder up to its probabilities: image i has class i mod K, and the models are confident and right.

    For the images in `wrong` they predict the opposite.
    """
    work, k = WorkFolder(root), len(vocabulary)
    write_bytes(work.recipe, tomli_w.dumps({"data": {"vocabulary": vocabulary.name, "channels": ["red"]}}).encode())
    ids = [f"i{n:02d}" for n in range(N)] + [f"t{n}" for n in range(N_TEST)]
    hot = np.zeros((len(ids), k), bool)
    hot[np.arange(len(ids)), np.arange(len(ids)) % k] = True
    images = pd.DataFrame(
        {
            "image_id": ids,
            "source": "world",
            "split": ["train"] * N + ["test"] * N_TEST,
            "target": pd.Series([(n % k,) if n < N else () for n in range(len(ids))], dtype=object),
            "unknown_classes": pd.Series(
                [changed.get("unknown_classes", {}).get(n, ()) for n in range(len(ids))], dtype=object
            ),
            "antibody": pd.Series([None] * len(ids), dtype=object),
            "well": pd.Series([None] * len(ids), dtype=object),
            "height_px": np.int32(1),
            "width_px": np.int32(1),
            "path_red": "none",
            "plane_red": np.int16(-1),
            "bytes_red": np.int64(0),
        }
    )
    images["target"] = [
        tuple(c for c in target if c not in unknown)
        for target, unknown in zip(images["target"], images["unknown_classes"], strict=True)
    ]
    write_images(work.images, images, vocabulary, ("red",))
    table = pd.DataFrame({"image_id": ids[:N], "group": np.arange(N, dtype=np.int32), "fold": folds})
    if "scored" in changed:
        table = table.assign(scored=changed["scored"])
    write_folds(work.folds, table)
    p = np.where(hot, 0.9, 0.1).astype(np.float32)
    if wrong is not None:
        p[:N][wrong] = 1 - p[:N][wrong]
    rows = np.concatenate([np.flatnonzero(folds >= 0), np.arange(N, N + N_TEST)])
    key = pd.DataFrame(
        {
            "image_id": [ids[row] for row in rows],
            "cell_label": np.ones(len(rows), np.int32),
            "fold": np.array([folds[row] if row < N else 0 for row in rows], np.int16),
            "origin": ["oof" if row < N else "test" for row in rows],
        }
    )
    scores = pd.DataFrame(p[rows], columns=class_columns(vocabulary))
    path = root / "classify" / "cells" / "probabilities.parquet"
    write_probabilities(path, pd.concat([key, scores], axis=1), vocabulary)
    return work


def _metrics(work: WorkFolder) -> dict[str, Any]:
    assert run(work) == 0
    metrics: dict[str, Any] = json.loads((work.root / "aggregate" / "metrics.json").read_text())
    return metrics


FOLDS = (np.arange(N) // 10 % 2).astype(np.int16)


def test_correct_probabilities_have_a_score_of_one(tmp_path: Path) -> None:
    assert _metrics(_work(tmp_path, JOVIAN10, FOLDS))["macro_f1"] == 1


@pytest.mark.parametrize(("vocabulary", "header"), [(HPA28, ["Id", "Predicted"]), (JOVIAN10, ["Image", "Label"])])
def test_the_submission_has_the_header_of_the_competition(
    tmp_path: Path, vocabulary: Vocabulary, header: list[str]
) -> None:
    work = _work(tmp_path, vocabulary, FOLDS)
    _metrics(work)
    submission = pd.read_csv(work.root / "aggregate" / "submission.csv", dtype=str)
    assert list(submission.columns) == header
    assert submission[header[1]].tolist() == [str((N + n) % len(vocabulary)) for n in range(N_TEST)]


def test_unknown_classes_are_neither_tuned_on_nor_scored(tmp_path: Path) -> None:
    """Images with wrong probabilities of every class do not matter if all their classes are unknown."""
    wrong = np.arange(N) % 4 == 0
    every = tuple(range(10))
    metrics = _metrics(
        _work(
            tmp_path / "unknown_classes",
            JOVIAN10,
            FOLDS,
            wrong,
            unknown_classes=dict.fromkeys(np.flatnonzero(wrong), every),
        )
    )
    assert metrics["macro_f1"] == 1
    assert _metrics(_work(tmp_path / "known", JOVIAN10, FOLDS, wrong))["macro_f1"] < 0.9


def test_images_that_only_follow_their_group_are_not_scored(tmp_path: Path) -> None:
    wrong = np.arange(N) % 4 == 0
    metrics = _metrics(_work(tmp_path, JOVIAN10, FOLDS, wrong, scored=~wrong))
    assert metrics["macro_f1"] == 1
    assert metrics["images"] == (~wrong).sum()


def test_a_single_fold_is_tuned_on_parts_of_itself(tmp_path: Path) -> None:
    """With a single fold there is no other fold to tune on."""
    folds = np.where(np.arange(N) < 20, 0, -1).astype(np.int16)
    metrics = _metrics(_work(tmp_path, JOVIAN10, folds))
    assert metrics["images"] == 20
    assert metrics["macro_f1"] == 1


def test_a_class_that_is_unknown_for_all_images(tmp_path: Path) -> None:
    """Like rods and rings if all labels are those of 2021. Its probabilities are still written."""
    work = _work(tmp_path, JOVIAN10, FOLDS, unknown_classes=dict.fromkeys(range(N), (3,)))
    metrics = _metrics(work)
    row = metrics["classes"][3]
    assert (row["labelled"], row["support"], row["predicted"], row["auc"]) == (0, 0, 0, None)
    assert [row["labelled"] for row in metrics["classes"]].count(N) == 9
    # Images of this class have no other class. It is the highest score of these images, so nothing else is predicted.
    assert metrics["macro_f1_supported"] == pytest.approx(
        np.mean([row["f1"] for i, row in enumerate(metrics["classes"]) if i != 3])
    )
    scores = pd.read_parquet(work.root / "aggregate" / "images.parquet")[class_columns(JOVIAN10)[3]]
    assert (scores[:N].to_numpy() > 0.5).tolist() == [n % 10 == 3 for n in range(N)]
    assert (work.root / "aggregate" / "figures" / "calibration.png").exists()
