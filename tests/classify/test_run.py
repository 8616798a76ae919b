"""Runs of the stage: files in, files out, and errors if they do not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from classify.__main__ import main
from classify.data.crops import label_crops
from classify.inference import predict as predicting_module
from classify.inference.evaluate import sigmoid
from classify.network.backbones import new_backbone
from classify.network.checkpoint import Checkpoint
from classify.prediction import predict
from classify.probabilities import class_columns, read_probabilities
from classify.run import train
from classify.trained_pooling import read_pooling
from classify.training.history import History
from crops.store import CropStore
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import make_work, predict_logits
from tests.support.processes import data_files

pytestmark = pytest.mark.usefixtures("tiny_backbone")
FOLDS = [0, 1, 0, 1, 0, 1, -1, 0, 1, 1]
RECIPE: dict[str, dict[str, Any]] = {"classify": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01}}


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return make_work(tmp_path / "work", FOLDS, recipe=RECIPE)


def _probabilities(work: WorkFolder) -> pd.DataFrame:
    return read_probabilities(work.root / "classify" / "cells" / "probabilities.parquet", HPA28)


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "classify").rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_crops_are_scored_by_models_that_never_saw_them(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(work) == 0
    assert predict(work) == 0
    assert capsys.readouterr().err == "", "no terminal, no chatter"
    assert sorted(path.name for path in (work.root / "classify/cells/fold-0").iterdir()) == [
        "checkpoint.pt",
        "history.csv",
        "run.json",
    ]
    table = _probabilities(work)
    store = CropStore(work.root / "crops" / "cells")
    labels = label_crops(store.table, read_images(work.images), read_folds(work.folds), HPA28)
    expected = {
        (crop.image_id, crop.cell_label, fold)
        for crop, own, test in zip(store.table.itertuples(), labels.folds, labels.is_test, strict=True)
        for fold in (0, 1)
        if test or own == fold
    }
    assert set(table[["image_id", "cell_label", "fold"]].itertuples(index=False, name=None)) == expected
    assert (table["origin"] == "test").equals(table["image_id"].str.startswith("test"))
    fold_1 = Checkpoint.load(work.root / "classify/cells/fold-1/checkpoint.pt")
    rows = np.flatnonzero(store.table["image_id"] == "train3")
    (logits,) = predict_logits(fold_1.network(torch.device("cpu")), store, rows, fold_1.section)
    found = table.loc[table["image_id"] == "train3", class_columns(HPA28)].to_numpy()
    np.testing.assert_allclose(found, sigmoid(logits), rtol=1e-5)


def test_a_seed_of_training_trains_what_a_seed_of_the_data_would_on_the_same_folds(tmp_path: Path) -> None:
    weights = []
    for name, of_data, of_training in (("data", 5, {}), ("own", 2, {"seed": 5}), ("other", 2, {"seed": 6})):
        recipe = {"data": {"folds": 2, "seed": of_data}, "classify": RECIPE["classify"] | of_training}
        other = make_work(tmp_path / name, FOLDS, recipe=recipe)
        train(other, folds=[1])
        model = Checkpoint.load(other.root / "classify/cells/fold-1/checkpoint.pt")
        assert model.seed == (of_training or {"seed": of_data})["seed"]
        weights.append(model.state_dict)
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[1]["head.weight"], weights[2]["head.weight"])


def test_interrupted_stage_gives_the_same_files(work: WorkFolder, tmp_path: Path) -> None:
    train(work)
    predict(work)
    expected = _files(work.root)
    other = make_work(tmp_path / "other", FOLDS, recipe=RECIPE)
    train(other, folds=[1])
    with pytest.raises(UserError, match=r"expected a checkpoint .*fold-0"):
        predict(other)
    train(other)
    predict(other)
    assert _files(other.root) == expected
    for name in ("probabilities.parquet", "predict/fold-1/part-00000.parquet", "fold-0/checkpoint.pt"):
        (other.root / "classify" / "cells" / name).unlink()
        train(other)
        predict(other)
        assert _files(other.root) == expected, name


@pytest.mark.parametrize("change", [{}, {"normalise": "percentiles", "test_views": "mean"}])
def test_interrupted_prediction_resumes_after_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setattr(predicting_module, "CHUNK", 5)
    work = make_work(tmp_path / "work", FOLDS, recipe={"classify": RECIPE["classify"] | change})
    train(work)
    predict(work, embeddings=True)
    expected = _files(work.root)
    folder = work.root / "classify" / "cells" / "predict"
    parts = sorted(folder.glob("fold-0/part-*.parquet"))
    assert len(parts) > 2
    for path in (*parts[1:], *folder.glob("fold-1/*"), folder.parent / "probabilities.parquet"):
        path.unlink()
    (folder / "fold-0" / "keys.parquet").unlink()
    old = parts[0].stat().st_mtime_ns
    predict(work)
    assert parts[0].stat().st_mtime_ns == old, "a finished part is not made again"
    predict(work, embeddings=True)
    assert _files(work.root) == expected


def test_every_window_has_its_own_models_and_probabilities(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", FOLDS, recipe=RECIPE | {"crops": {"windows": ["cells", "full_frame"]}})
    shutil.copytree(work.root / "crops" / "cells", work.root / "crops" / "full_frame")
    train(work)
    predict(work)
    for name in ("probabilities.parquet", "fold-0/history.csv"):
        one, other = ((work.root / "classify" / window / name).read_bytes() for window in ("cells", "full_frame"))
        assert one == other


def test_training_and_prediction_on_different_windows(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", FOLDS, recipe=RECIPE | {"crops": {"train_window": "random"}})
    shutil.copytree(work.root / "crops" / "cells", work.root / "crops" / "random")
    plain = make_work(tmp_path / "plain", FOLDS, recipe=RECIPE)
    for folder in (work, plain):
        train(folder)
        predict(folder)
    assert sorted(path.name for path in (work.root / "classify").glob("*/fold-0")) == ["fold-0"]
    pd.testing.assert_frame_equal(_probabilities(work), _probabilities(plain))
    made_from = json.loads((work.root / "classify/random/fold-0/run.json").read_text())["made_from"]
    assert "crops/random/crops.parquet" in made_from["inputs"]


def test_learned_pooling_parameters_are_written(tmp_path: Path) -> None:
    for pooling in ("auto", "attention"):
        change = {"objective": "bag", "pooling": pooling, "bag_size": 2}
        work = make_work(tmp_path / pooling, FOLDS, recipe={"classify": RECIPE["classify"] | change})
        train(work)
        predict(work)
        pooling_file = read_pooling(work.root / "classify" / "cells" / "pooling.json")
        assert pooling_file.pooling == pooling
        assert {fold: len(alpha) for fold, alpha in pooling_file.alpha.items()} == (
            {0: 28, 1: 28} if pooling == "auto" else {}
        )
        assert ("attention" in _probabilities(work).columns) == (pooling == "attention")
    with pytest.raises(UserError, match="expected models trained to be pooled"):
        read_pooling(tmp_path / "none.json")
    path = work.root / "classify" / "cells" / "pooling.json"
    for broken in ("[]", "{", '{"pooling": "auto"}', '{"pooling": "max", "top_k": 1, "sharpness": 1, "alpha": 3}'):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"pooling\.json as it was written, found it damaged"):
            read_pooling(path)
    work = make_work(work.root, FOLDS, recipe=RECIPE)
    train(work, overwrite=True)
    predict(work, overwrite=True)
    assert not path.exists(), "it was of models that are gone"


def test_changed_inputs_report_what_must_be_rerun(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(work.root), "--device", "cpu"]
    assert main(["train", *command]) == 0
    assert main(["predict", *command]) == 0
    work.recipe.write_text(work.recipe.read_text().replace("epochs = 2", "epochs = 1"))
    work = WorkFolder(work.root)  # a work folder reads its recipe once
    assert main(["train", *command]) == 2
    assert "recipe key epochs; rerun with `python -m classify train" in capsys.readouterr().err
    assert main(["train", *command, "--overwrite"]) == 0
    assert main(["predict", *command]) == 2
    assert "fold-0/checkpoint.pt" in capsys.readouterr().err
    assert main(["predict", *command, "--overwrite"]) == 0
    assert main(["predict", *command]) == 0


def test_models_of_another_folder_score_all_images_as_test(work: WorkFolder, tmp_path: Path) -> None:
    train(work)
    new = make_work(tmp_path / "new", [0, 1, 0], n_test=1, recipe=RECIPE)
    assert predict(new, model=work) == 0
    table = _probabilities(new)
    assert (table["origin"] == "test").all()
    assert table.groupby(["image_id", "cell_label"])["fold"].apply(list).tolist() == [[0, 1]] * (3 + 3 + 1 + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ["green", "red", "blue", "yellow"]}, "expected the channels that .* was trained with"),
        ({"size_px": 32}, "expected the crop size in px"),
        ({"classes": [f"class {n}" for n in range(28)]}, "expected the classes"),
        ({"vocabulary": "hpa19"}, "expected the vocabulary"),
    ],
)
def test_model_that_does_not_fit_the_crops_raises_an_error(
    work: WorkFolder, change: dict[str, object], message: str
) -> None:
    train(work)
    path = work.root / "classify" / "cells" / "fold-1" / "checkpoint.pt"
    Checkpoint(**{**vars(Checkpoint.load(path)), **change}).save(path)
    with pytest.raises(UserError, match=message):
        predict(work)


def test_images_without_a_scored_fold_are_only_trained_on(tmp_path: Path) -> None:
    work = make_work(tmp_path, [-1, -1, -1, 0, 0], n_test=1, recipe=RECIPE)
    train(work)
    predict(work)
    assert set(_probabilities(work)["image_id"]) == {"train3", "train4", "test0"}


def test_wrong_usage_prints_one_sentence(work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in [
        (["train", str(tmp_path / "nowhere")], "expected a work folder"),
        (["train", str(work.root), "--fold", "7"], "expected folds among 0, 1, found 7"),
        (["train", str(work.root), "--device", "abacus"], "expected a device that this machine has"),
        (["predict", str(work.root)], "expected a checkpoint"),
    ]:
        assert main(arguments) == 2
        assert sentence in capsys.readouterr().err
    (work.root / "crops" / "cells" / "crops.parquet").unlink()
    assert main(["train", str(work.root)]) == 2
    assert "expected crops (made by `python -m crops run" in capsys.readouterr().err


def test_unknown_recipe_key_raises_an_error(tmp_path: Path) -> None:
    work = make_work(tmp_path, FOLDS, recipe={"classify": {"epoch": 2}})
    with pytest.raises(UserError, match=r"expected only known keys in \[classify\]"):
        train(work)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("backbone = 'resnet19'", "expected a torchvision model"),
        ("pretrained = 'nowhere.pt'", "nowhere.pt"),
        ("channels = ['yellow', 'pink']", "channels"),
        ("learning_rate = inf", "finite number"),
        ("weight_decay = nan", "finite number"),
    ],
)
def test_overwrite_checks_before_it_deletes(
    setting: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path / "work", FOLDS, recipe=RECIPE)
    train(work)
    monkeypatch.setattr("classify.network.model.new_backbone", new_backbone)  # the real one, not that of these tests
    before = data_files(work.root / "classify")
    key = setting.split()[0]
    lines = [line for line in work.recipe.read_text().splitlines() if not line.startswith(f"{key} ")]
    lines.insert(lines.index("[classify]") + 1, setting)
    work.recipe.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=sentence):
        train(WorkFolder(work.root), overwrite=True)
    assert data_files(work.root / "classify") == before


def test_a_killed_overwriting_training_keeps_the_old_models_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = {"classify": RECIPE["classify"] | {"epochs": 1}}
    work = make_work(tmp_path / "work", FOLDS, recipe=shorter)
    train(work)
    predict(work)
    old = data_files(work.root / "classify")
    fresh = make_work(tmp_path / "fresh", FOLDS, recipe=RECIPE)
    train(fresh)
    expected = data_files(fresh.root / "classify")

    work.recipe.write_bytes(fresh.recipe.read_bytes())
    work = WorkFolder(work.root)
    close_epoch, written = History.close_epoch, list[Any]()

    def killed(*arguments: Any) -> None:
        written.append(arguments)
        if len(written) == 2:  # after the first epoch of fold 0
            raise KeyboardInterrupt
        close_epoch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(History, "close_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(work, overwrite=True)
    now = data_files(work.root / "classify")
    assert {name: now[name] for name in old} == old
    with pytest.raises(UserError, match=r"fold 0 .* unfinished run with --overwrite; finish it with"):
        predict(work)
    train(work)  # resumes fold 0 and trains fold 1, which had only begun
    now = data_files(work.root / "classify")
    assert {name: now[name] for name in expected} == expected
    assert not list(work.root.rglob(".*"))


def test_a_training_that_could_not_begin_does_not_fix_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.network.model.new_backbone", new_backbone)
    wrong = {"classify": RECIPE["classify"] | {"backbone": "resnet19"}}
    work = make_work(tmp_path, FOLDS, recipe=wrong)
    with pytest.raises(UserError, match="expected a torchvision model"):
        train(work)
    assert not (work.root / "classify" / "cells" / "fold-0").exists()
    work.recipe.write_text(work.recipe.read_text().replace("resnet19", "cnn3"))
    assert train(WorkFolder(work.root), folds=[0]) == 0


def test_a_checkpoint_of_every_epoch_is_kept(tmp_path: Path) -> None:
    recipe = {"classify": RECIPE["classify"] | {"keep_epochs": True, "epochs": 3}}
    work = make_work(tmp_path / "kept", FOLDS, recipe=recipe)
    assert train(work, folds=[0]) == 0
    folder = work.root / "classify" / "cells" / "fold-0"
    kept = [Checkpoint.load(path) for path in sorted((folder / "epochs").iterdir())]
    assert [checkpoint.epoch for checkpoint in kept] == [1, 2, 3]
    last = Checkpoint.load(folder / "checkpoint.pt").state_dict
    assert all(torch.equal(tensor, kept[2].state_dict[name]) for name, tensor in last.items())
    assert not torch.equal(kept[0].state_dict["head.weight"], kept[1].state_dict["head.weight"])


def test_float16_is_for_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path, FOLDS, recipe={"classify": RECIPE["classify"] | {"precision": "16"}})
    assert main(["train", str(work.root), "--device", "cpu"]) == 2
    assert 'expected a CUDA GPU with classify.precision = "16", found cpu' in capsys.readouterr().err
    assert not (work.root / "classify").exists(), "nothing has begun"
