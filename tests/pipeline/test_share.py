"""Second models: what they share, that neither folder changes the other, and that they equal runs of their own."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from classify.probabilities import class_columns
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder, open_work
from pipeline.__main__ import main
from pipeline.demo import demo
from pipeline.recipe import read_recipe, write_recipe
from pipeline.share import _keeps_features
from pipeline.sweep import parse_variations
from tests.support.processes import data_files

RECIPE = """
[data]
folds = 2
[crops]
windows = ["five_crop"]
size_px = 32
[classify]
backbone = "cnn3"
epochs = 1
[aggregate]
bootstrap = 10
"""


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures of scores: they take most of the time of these small runs."""
    monkeypatch.setattr("aggregate.scoring.figures.draw_figures", lambda *_: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run, ``old``, whose windows need no masks."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "recipe.toml").write_text(RECIPE)
    assert demo(folder / "old", folder / "recipe.toml", 8, 3, 0, tiny=True) == 0
    return folder


def _state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return identity, time of the last change and content of each file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("lock"))
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def _second(world: Path, name: str, *settings: str) -> Path:
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["init", str(world / name), "--from", str(world / "old"), *words]) == 0
    return world / name


def _shared(root: Path) -> set[str]:
    content = json.loads((root / "shared.json").read_text())["shared"]
    return {name for name in content if "/" in name or name == "segment"}


def test_a_second_model_equals_a_run_of_its_own_and_leaves_the_first_alone(world: Path, tmp_path: Path) -> None:
    before = _state(world / "old")
    new = _second(world, "seed", "classify.seed=7")
    assert _shared(new) == {"crops/five_crop"}
    for name in ("images.parquet", "folds.parquet", "crops/five_crop/shard-00000.npy"):
        assert (new / name).samefile(world / "old" / name)
    assert main(["run", str(new)]) == 0
    assert main(["run", str(new), "--overwrite"]) == 0, "every file is written again, under a new inode"
    assert _state(world / "old") == before
    own = [
        "init",
        str(tmp_path / "own"),
        "--data",
        str(world / "old" / "atlas"),
        "--recipe",
        str(world / "recipe.toml"),
    ]
    assert main([*own, "--set", "classify.seed=7"]) == 0
    assert main(["run", str(tmp_path / "own")]) == 0
    ours = data_files(new)
    del ours["shared.json"]
    assert ours == data_files(tmp_path / "own")


def test_either_folder_can_be_deleted_or_moved(world: Path, tmp_path: Path) -> None:
    new = _second(world, "survivor", "aggregate.thresholds=global")
    before = _state(world / "old")
    shutil.move(new, tmp_path / "moved")
    assert main(["run", str(tmp_path / "moved")]) == 0
    shutil.copytree(world / "old", tmp_path / "first")
    assert main(["init", str(tmp_path / "second"), "--from", str(tmp_path / "first")]) == 0
    shutil.rmtree(tmp_path / "first")
    assert main(["run", str(tmp_path / "second")]) == 0
    assert _state(world / "old") == before
    assert (tmp_path / "second/aggregate/submission.csv").read_bytes() == before["aggregate/submission.csv"][2]


def test_only_the_last_stage_runs_if_only_its_section_differs(world: Path, tmp_path: Path) -> None:
    new = _second(world, "thresholds", "aggregate.thresholds=fixed")
    expected = {"crops/five_crop", "classify/five_crop/fold-0", "classify/five_crop/fold-1"}
    expected |= {"classify/five_crop/predict", "classify/five_crop/probabilities.parquet"}
    assert _shared(new) == expected
    assert main(["run", str(new)]) == 0
    # Who made the shared stages, when, with which packages and in which time stays on record.
    for name in ("crops/five_crop", "classify/five_crop/fold-0", "classify/five_crop/predict"):
        assert (new / name / "run.json").samefile(world / "old" / name / "run.json")
    assert json.loads((new / "aggregate/metrics.json").read_text())["thresholds"] == "fixed"


@pytest.mark.parametrize(
    ("setting", "shared"),
    [
        ("crops.side=0.4", set()),
        ('crops.windows=["full_frame", "five_crop"]', {"crops/five_crop", "classify/five_crop"}),
        ("crops.train_window=random", {"crops/five_crop"}),
        ("segment.crowded=5", {"crops/five_crop", "classify/five_crop"}),
        ("classify.epochs=2", {"crops/five_crop"}),
    ],
)
def test_stages_that_the_recipe_changes_are_not_shared(
    world: Path, tmp_path: Path, setting: str, shared: set[str]
) -> None:
    assert main(["init", str(tmp_path / "new"), "--from", str(world / "old"), "--set", setting]) == 0
    assert {"/".join(name.split("/")[:2]) for name in _shared(tmp_path / "new")} == shared


def test_damaged_and_unfinished_stages_are_not_shared(world: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(world / "old", old)
    with (old / "classify/five_crop/fold-1/checkpoint.pt").open("ab") as file:
        file.write(b"more")
    assert main(["init", str(tmp_path / "one"), "--from", str(old)]) == 0
    assert _shared(tmp_path / "one") == {"crops/five_crop", "classify/five_crop/fold-0"}
    record = old / "crops/five_crop/run.json"
    record.write_text(record.read_text().replace('"done"', '"begun"'))
    assert main(["init", str(tmp_path / "two"), "--from", str(old)]) == 0
    assert _shared(tmp_path / "two") == set()


def test_files_are_copied_where_links_are_impossible(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert main(["init", str(tmp_path / "new"), "--from", str(world / "old")]) == 0
    assert set(json.loads((tmp_path / "new" / "shared.json").read_text())["shared"].values()) == {"copied"}
    name = "crops/five_crop/shard-00000.npy"
    assert not (tmp_path / "new" / name).samefile(world / "old" / name)
    assert (tmp_path / "new" / name).read_bytes() == (world / "old" / name).read_bytes()
    assert main(["run", str(tmp_path / "new")]) == 0


def test_joined_runs_keep_their_place(world: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copytree(world / "old", tmp_path / "old")
    for name, settings in (("part", ["classify.seed=1"]), ("both", ['aggregate.join=["../part:five_crop"]'])):
        words = [word for setting in settings for word in ("--set", setting)]
        assert main(["init", str(tmp_path / name), "--from", str(tmp_path / "old"), *words]) == 0
        assert main(["run", str(tmp_path / name)]) == 0
        if name == "part":
            before = _state(tmp_path / "part"), _state(tmp_path / "old")
    assert (_state(tmp_path / "part"), _state(tmp_path / "old")) == before, "joining leaves the parts' scores alone"
    assert main(["init", str(tmp_path / "deep" / "again"), "--from", str(tmp_path / "both")]) == 0
    again = open_work(tmp_path / "deep" / "again")
    assert read_recipe(again.recipe).aggregate.join == ("../../part:five_crop",)
    assert main(["run", str(again.root)]) == 0
    joined = tmp_path / "both/aggregate/images.parquet"
    assert (again.root / "aggregate/images.parquet").read_bytes() == joined.read_bytes()


def test_labels_of_nearest_crops_are_joined_as_scores_of_their_own(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "old", tmp_path / "old")
    words = ["--set", "classify.nearest_crops=3", "--set", "classify.embedding_dim=8"]
    assert main(["init", str(tmp_path / "near"), "--from", str(tmp_path / "old"), *words]) == 0
    assert main(["run", str(tmp_path / "near")]) == 0
    join = ["--set", 'aggregate.join=[".:five_crop/neighbours"]', "--set", "aggregate.join_weights=[0, 1]"]
    assert main(["init", str(tmp_path / "both"), "--from", str(tmp_path / "near"), *join]) == 0
    assert main(["run", str(tmp_path / "both")]) == 0
    p = class_columns(HPA28)
    table = pd.read_parquet(tmp_path / "near/classify/five_crop/neighbours/probabilities.parquet")
    expected = table.groupby(["image_id", "fold"])[p].max().groupby("image_id").mean()
    images = pd.read_parquet(tmp_path / "both/aggregate/images.parquet").set_index("image_id")
    np.testing.assert_allclose(images[p], expected.loc[images.index], rtol=1e-5)
    # Applied to the test images, the run and its bundle, without the folders that it was made of, score them as it did.
    test_images, tested = str(world / "old" / "atlas" / "test"), images[images["origin"] == "test"]
    assert main(["apply", str(tmp_path / "both"), "--data", test_images, "--out", str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new" / "joined").exists(), "a run that joins itself runs once"
    assert main(["export", str(tmp_path / "both"), str(tmp_path / "packed")]) == 0
    (tmp_path / "packed").rename(tmp_path / "bundle")
    for name in ("old", "near", "both"):
        shutil.rmtree(tmp_path / name)
    assert main(["apply", str(tmp_path / "bundle"), "--data", test_images, "--out", str(tmp_path / "again")]) == 0
    for name in ("new", "again"):
        found = pd.read_parquet(tmp_path / name / "aggregate/images.parquet").set_index("image_id").loc[tested.index]
        np.testing.assert_allclose(found[p], tested[p], rtol=1e-5)
        assert list(map(tuple, found["predicted"])) == list(map(tuple, tested["predicted"]))
    # Its training crops are checked like all of its files.
    record = json.loads((tmp_path / "bundle/bundle.json").read_text())
    references = tmp_path / "bundle/classify/five_crop/predict/references-1.npz"
    assert sum("references" in name for name in record["files"]) == 2
    references.write_bytes(references.read_bytes()[:-1])
    again = ["apply", str(tmp_path / "bundle"), "--data", test_images, "--out", str(tmp_path / "damaged")]
    assert main(again) == 2
    assert "references-1.npz as it was packed" in " ".join(capsys.readouterr().err.split())
    references.unlink()
    del record["files"]["classify/five_crop/predict/references-1.npz"]
    (tmp_path / "bundle/bundle.json").write_text(json.dumps(record))
    assert main(again) == 2
    assert "references-1.npz among the files of" in " ".join(capsys.readouterr().err.split())


def test_a_joined_run_brings_the_labels_of_its_own_crops(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that is joined, in its own folder, has the neighbours; the one that joins it has none."""
    for name, setting in (
        ("part", "classify.nearest_crops=2"),
        ("sum", f'aggregate.join=["{tmp_path}/part:five_crop/neighbours"]'),
    ):
        assert main(["init", str(tmp_path / name), "--from", str(world / "old"), "--set", setting]) == 0
        assert main(["run", str(tmp_path / name)]) == 0
    assert main(["export", str(tmp_path / "sum"), str(tmp_path / "bundle")]) == 0
    test_images = str(world / "old" / "atlas" / "test")
    assert main(["apply", str(tmp_path / "bundle"), "--data", test_images, "--out", str(tmp_path / "new")]) == 0
    p = class_columns(HPA28)
    tables = [pd.read_parquet(tmp_path / name / "aggregate/images.parquet") for name in ("sum", "new")]
    run, applied = (table[table["origin"] == "test"].set_index("image_id")[p].sort_index() for table in tables)
    assert len(run) == 3
    np.testing.assert_allclose(applied, run, rtol=1e-5)
    (tmp_path / "part/classify/five_crop/predict/references-0.npz").unlink()
    assert main(["export", str(tmp_path / "sum"), str(tmp_path / "other")]) == 2
    assert f"python -m classify predict {tmp_path}/part --overwrite" in " ".join(capsys.readouterr().err.split())


def test_mistakes_are_explained(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = str(world / "old"), str(tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "segment").write_text("mine")
    for arguments, message in (
        ([new, "--from", old, "--set", "data.folds=3"], "expected settings outside [data] with --from"),
        ([new, "--from", old, "--data", old], "expected either --data or --from, found both"),
        ([new], "expected either --data or --from, found neither"),
        ([new, "--from", old, "--limit", "4"], "expected --limit with --data"),
        ([new, "--from", str(tmp_path / "nowhere")], "expected a work folder made by"),
        ([str(tmp_path / "full"), "--from", old], "expected a new folder for the second model"),
        ([old, "--from", old], "expected a new folder for the second model"),
        ([new, "--from", old, "--set", "classify.epochs=0"], "expected a usable [classify] epochs"),
    ):
        assert main(["init", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new" / "recipe.toml").exists()
    assert (tmp_path / "full" / "segment").read_text() == "mine"


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ([], ["classify.seed=3"], True),
        ([], ["classify.learning_rate=0.1"], True),
        ([], ['classify.trainable="all"'], False),
        ([], ['classify.backbone="resnet18"'], False),
        ([], ['classify.pretrained="none"'], False),
        (['classify.trainable="all"'], ['classify.trainable="all"'], False),
    ],
)
def test_features_are_kept_if_their_backbone_is_frozen_and_the_same(
    old: list[str], new: list[str], kept: bool, tmp_path: Path
) -> None:
    first = read_recipe("demo", old)
    assert (first.classify.trainable == "heads") == (not old)
    write_recipe(tmp_path / "recipe.toml", first)
    assert _keeps_features(WorkFolder(tmp_path), read_recipe("demo", [*old, *new])) == kept


@pytest.mark.slow
def test_masks_and_features_of_a_frozen_backbone_are_shared(tmp_path: Path) -> None:
    assert demo(tmp_path / "old", "demo", 16, 4, 0, tiny=True) == 0
    before = _state(tmp_path / "old")
    assert main(["init", str(tmp_path / "new"), "--from", str(tmp_path / "old"), "--set", "classify.seed=3"]) == 0
    assert _shared(tmp_path / "new") == {"segment", "crops/cells", "backbone_features/cells"}
    features = "backbone_features/cells/features.npy"
    assert main(["run", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / features).samefile(tmp_path / "old" / features)
    assert main(["run", str(tmp_path / "new"), "--overwrite"]) == 0
    assert _state(tmp_path / "old") == before
    assert main(["init", str(tmp_path / "other"), "--from", str(tmp_path / "new"), "--set", "segment.crowded=5"]) == 0
    assert _shared(tmp_path / "other") == set()


def test_a_sweep_resumes_and_compares_its_runs(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old"
    shutil.copytree(world / "old", old)
    words = ["--vary", "classify.seed=3,4", "--vary", "aggregate.thresholds=global", "--resamples", "5"]
    table = tmp_path / "table.csv"
    assert main(["sweep", str(old), *words, "--csv", str(table)]) == 0
    names = ["seed=3,thresholds=global", "seed=4,thresholds=global"]
    assert sorted(path.name for path in (tmp_path / "old-sweep").iterdir()) == names
    found = pd.read_csv(table)
    assert list(found["run"][:3]) == ["old", *names]
    recipe = read_recipe(tmp_path / "old-sweep" / names[1] / "recipe.toml")
    assert (recipe.classify.seed, recipe.aggregate.thresholds) == (4, "global")
    before = {name: _state(tmp_path / "old-sweep" / name / "classify") for name in names}
    shutil.rmtree(tmp_path / "old-sweep" / names[1] / "classify" / "five_crop" / "fold-1")
    assert main(["sweep", str(old), *words, "--csv", str(table)]) == 0
    after = {name: _state(tmp_path / "old-sweep" / name / "classify") for name in names}
    trained = "five_crop/fold-0/checkpoint.pt"
    assert all(after[name][trained] == before[name][trained] for name in names), "trained once"
    pd.testing.assert_frame_equal(pd.read_csv(table).iloc[:, :-2], found.iloc[:, :-2])
    capsys.readouterr()
    for vary, message in (
        ("classify.seed", "expected section.key=value,value,... to vary"),
        ("classify.seed=1,1", "expected different values of classify.seed"),
        ("data.seed=1,2", "expected settings outside [data]"),
        ("classify.epochs=1,0", "expected a usable [classify] epochs"),
        ("classify.loss=bce,nonsense:loss", "expected --code FOLDER"),
        ("classify.pretrained=w/a.pt,wa.pt", "found two of the same"),
    ):
        assert main(["sweep", str(old), "--vary", vary]) == 2
        assert message in capsys.readouterr().err
    again = tmp_path / "old-sweep" / names[0] / "recipe.toml"
    again.write_text(again.read_text().replace("batch_size = 64", "batch_size = 32"))
    assert main(["sweep", str(old), *words]) == 2
    assert "found another; remove it" in " ".join(capsys.readouterr().err.split())


def test_values_that_vary_are_parsed_as_toml() -> None:
    assert parse_variations(['classify.channels=["red","blue"],["green"]']) == [
        ['classify.channels=["red", "blue"]'],
        ['classify.channels=["green"]'],
    ]
    assert parse_variations(["a.b=adamw, sgd"]) == [['a.b="adamw"'], ['a.b="sgd"']]
    assert len(parse_variations(["a.b=1,2,3", "a.c=0.1,0.2"])) == 6
