import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aggregate.__main__ import main
from aggregate.cell_labels import decide_cells, read_cells
from aggregate.external.evaluate import evaluate_cells
from aggregate.run import run
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.metrics import macro_f1
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.simulation.work import COLUMNS, make_work, probabilities_path, rewrite


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Return a work folder after a run."""
    work = make_work(tmp_path_factory.mktemp("cells") / "work", test=55)
    run(work, figures=None)
    return work


def _truth(work: WorkFolder) -> pd.DataFrame:
    crops = pd.read_parquet(probabilities_path(work))
    cells = crops.groupby(["image_id", "cell_label"], as_index=False)[COLUMNS].mean()
    draw = np.random.default_rng(0)
    target = [" ".join(str(c) for c in np.flatnonzero(draw.random(28) < 0.1)) for _ in range(len(cells))]
    return cells.assign(target=target)


def test_a_cell_gets_the_classes_of_its_image_that_it_shows(work: WorkFolder) -> None:
    """Compare with a loop over images, classes and cells; classes of test images are those of the submission."""
    cells = read_cells(work)
    means = _truth(work).set_index(["image_id", "cell_label"])[COLUMNS]
    assert list(zip(cells["image_id"], cells["cell_label"], strict=True)) == list(means.index)
    scores = dict(zip(means.index, means.to_numpy(), strict=True))
    submitted = pd.read_csv(work.root / "aggregate" / "submission.csv", dtype=str).set_index("Id")["Predicted"]
    shown = 0
    for image_id, own in cells.groupby("image_id"):
        has = set().union(*(text.split() for text in own["predicted"]))
        if image_id in submitted.index:
            assert has == set(submitted[image_id].split())
        for c in range(28):
            values = {label: scores[image_id, label][c] for label in own["cell_label"]}
            best = max(values.values())
            for label, text in zip(own["cell_label"], own["predicted"], strict=True):
                assert (str(c) in text.split()) == (str(c) in has and values[label] >= best / 2)
                shown += str(c) in text.split()
    assert shown > len(cells) / 2


def test_cells_of_an_image_have_its_classes_between_them(work: WorkFolder) -> None:
    """For train images too: the macro F1 of the unions over cells is that of the images, out of fold."""
    labels = read_cells(work).groupby("image_id")["predicted"].agg(" ".join)
    images = read_images(work.images).query("split == 'train'")
    united = HPA28.multi_hot({int(c) for c in labels[image_id].split()} for image_id in images["image_id"])
    metrics = json.loads((work.root / "aggregate" / "metrics.json").read_text())
    assert macro_f1(HPA28.multi_hot(images["target"]), united) == pytest.approx(metrics["macro_f1"], abs=1e-12)


def test_a_full_frame_gets_no_row(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", test=5)
    crops = pd.read_parquet(probabilities_path(work))
    bare = crops["image_id"] == "i00062"
    frame = crops[bare & (crops["cell_label"] == 1)].assign(cell_label=np.int32(0))
    table = pd.concat([crops[~bare], frame]).sort_values(["image_id", "cell_label", "fold"], ignore_index=True)
    rewrite(work, table)
    run(work, figures=None)
    cells = read_cells(work)
    assert set(crops["image_id"]) - set(cells["image_id"]) == {"i00062"}
    assert json.loads((work.root / "aggregate" / "run.json").read_text())["counts"]["cells"] == len(cells)
    assert "i00062" in (work.root / "aggregate" / "submission.csv").read_text()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_decide_cells_against_a_loop(share: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 9, 20)
    first = np.append(0, np.cumsum(sizes)[:-1])
    scores, of_images = draw.random((sizes.sum(), 5), dtype=np.float32), draw.random((20, 5)) < 0.4
    shown = decide_cells(scores, first, of_images, share)
    for image, (start, size) in enumerate(zip(first, sizes, strict=True)):
        own = slice(start, start + size)
        for c in range(5):
            minimum = np.float32(share) * max(scores[own, c])
            expected = [bool(of_images[image, c]) and value >= minimum for value in scores[own, c]]
            assert shown[own, c].tolist() == expected
        assert np.array_equal(shown[own].any(axis=0), of_images[image])
        if share == 1:
            assert (shown[own].sum(axis=0) <= 1).all()
    assert decide_cells(scores[:0], first[:0], of_images[:0], share).shape == (0, 5)


def test_evaluate_cells_against_a_loop(work: WorkFolder, tmp_path: Path) -> None:
    truth = _truth(work)
    path = tmp_path / "cells.csv"
    truth[["image_id", "cell_label", "target"]].sample(frac=1, random_state=0).to_csv(path, index=False)
    metrics = evaluate_cells(work, path, resamples=20)
    cells = read_cells(work).set_index(["image_id", "cell_label"])["predicted"]
    rows = [
        cells[image_id, label].split() for image_id, label in zip(truth["image_id"], truth["cell_label"], strict=True)
    ]
    targets = HPA28.multi_hot(HPA28.parse(text) for text in truth["target"])
    predictions = HPA28.multi_hot([int(word) for word in words] for words in rows)
    assert metrics["macro_f1"] == pytest.approx(macro_f1(targets, predictions), abs=1e-12)
    assert metrics["images"] == metrics["labelled"] == len(truth)
    assert metrics["bootstrap"]["groups"] == 115
    assert main(["cells", str(work.root), str(path), "--bootstrap", "0"]) == 0


def test_unknown_classes_of_an_image_are_not_scored_in_its_cells(work: WorkFolder, tmp_path: Path) -> None:
    """Compare with a loop over classes and the cells of images for which they are known."""
    copy = WorkFolder(tmp_path / "work")
    shutil.copytree(work.root, copy.root)
    truth = _truth(copy)
    images = read_images(copy.images)
    unknown = [(0, 3) if n % 2 and split == "train" else () for n, split in enumerate(images["split"])]
    images["target"] = [tuple(sorted(set(t) - set(m))) for t, m in zip(images["target"], unknown, strict=True)]
    write_images(
        copy.images, images.assign(unknown_classes=pd.Series(unknown, dtype=object)), HPA28, copy.data.channels
    )
    truth[["image_id", "cell_label", "target"]].to_csv(tmp_path / "cells.csv", index=False)
    metrics, before = (evaluate_cells(one, tmp_path / "cells.csv", resamples=0) for one in (copy, work))
    cells = read_cells(copy).set_index(["image_id", "cell_label"])["predicted"]
    incomplete = set(images.loc[[len(m) > 0 for m in unknown], "image_id"])
    for c in (0, 3):
        hits = wrong = missed = 0
        for image_id, label, text in truth[["image_id", "cell_label", "target"]].itertuples(index=False):
            if image_id in incomplete:
                continue
            predicted, true = str(c) in cells[image_id, label].split(), str(c) in text.split()
            hits += predicted and true
            wrong += predicted and not true
            missed += true and not predicted
        assert metrics["classes"][c]["f1"] == pytest.approx(2 * hits / max(2 * hits + wrong + missed, 1))
    others = [c for c in range(28) if c not in (0, 3)]
    assert [metrics["classes"][c]["f1"] for c in others] == [before["classes"][c]["f1"] for c in others]
    assert metrics["classes"][0]["support"] < before["classes"][0]["support"]


def test_unusable_tables_of_cells(work: WorkFolder, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    for text, sentence in (
        ("image_id,target\na,1\n", "columns image_id, cell_label, target"),
        ("image_id,cell_label,target\ni00000,1,1\ni00000,1,2\n", "found cell 1 of image i00000 twice"),
        ("image_id,cell_label,target\ni00000,one,1\n", "numbers as cell_label"),
        (
            "image_id,cell_label,target\ni00000,99999999999999999999,1\n",
            "expected whole numbers as cell_label .* large",
        ),
        ("image_id,cell_label,target\ni00000,1.5,1\n", "expected whole numbers as cell_label"),
        ("image_id,cell_label,target\nnobody,1,1\n", "expected cells of"),
        ("image_id,cell_label,target\ni00000,1,99\n", r"found '99' in '99' \(.*i00000, cell 1\)"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            evaluate_cells(work, path)
