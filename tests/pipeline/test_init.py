"""Work folders made from data folders: sources, sampling, folds."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from crops.run import run as run_crops
from crops.store import open_store
from hpa.atlas import synthesize
from hpa.channels import CHANNELS
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import open_work
from pipeline.__main__ import main
from pipeline.init import init, init_apply
from pipeline.recipe import Recipe, read_recipe
from segment.run import run as segment_run
from tests.support.layouts import write_image, write_jovian, write_kaggle2018

WHOLE_IMAGES = ('data.channels=["red"]', 'crops.windows=["full_frame"]')


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small synthetic data set."""
    folder = tmp_path_factory.mktemp("data") / "atlas"
    synthesize(folder, 40, 10, seed=3, size_px=128, workers=1)
    return folder


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in the layout of HPA v18 with three images of each of twelve antibodies."""
    folder = tmp_path_factory.mktemp("data") / "v18"
    ids = [f"{n}_1610_C{n}_{field}" for n in range(1, 13) for field in range(3)]
    for image_id in ids:
        write_image(folder, image_id, ".jpg")
    lines = [f"{image_id},{int(image_id.split('_')[0]) % 28}" for image_id in ids]
    (folder / "HPAv18.csv").write_text("Id,Target\n" + "\n".join(lines) + "\n")
    return folder


def _init(
    root: Path, *data: str | Path, settings: tuple[str, ...] = (), limit: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    arguments = ["init", str(root), "--limit", str(limit), "--workers", "1"]
    for source in data:
        arguments += ["--data", str(source)]
    for setting in ("data.folds=3", *settings):
        arguments += ["--set", setting]
    assert main(arguments) == 0
    return read_images(root / "images.parquet"), read_folds(root / "folds.parquet")


def test_several_sources_share_folds_and_keep_antibodies_together(
    atlas: Path, external: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, folds = _init(tmp_path / "w", atlas, f"ext={external}")
    assert images["source"].value_counts().to_dict() == {"atlas": 50, "ext": 36}
    assert (images["split"] == "test").tolist() == [False] * 76 + [True] * 10
    assert len(folds) == 76
    joined = folds.merge(images, on="image_id")
    of_antibody = joined.dropna(subset="antibody").groupby("antibody")["fold"].nunique()
    assert (of_antibody == 1).all()
    assert folds["scored"].all()
    assert "76 train and 10 test images" in capsys.readouterr().out


def test_a_train_only_source_is_in_no_fold(atlas: Path, external: Path, tmp_path: Path) -> None:
    settings = ('data.train_only=["v18"]',)
    images, folds = _init(tmp_path / "w", atlas, external, settings=settings)
    source = folds.merge(images, on="image_id")["source"]
    assert (folds.loc[(source == "v18").to_numpy(), "fold"] == -1).all()
    assert not folds.loc[(source == "v18").to_numpy(), "scored"].any()
    assert set(folds.loc[(source == "atlas").to_numpy(), "fold"]) == {0, 1, 2}


@pytest.mark.parametrize("split", ["hold-out", "random"])
def test_hold_out_and_random_splits(atlas: Path, external: Path, tmp_path: Path, split: str) -> None:
    _, folds = _init(tmp_path / "w", external, settings=(f"data.split={split}", "data.held_out=0.25"))
    held = folds["fold"] == 0
    assert 0.1 < held.mean() < 0.45
    assert (folds.loc[~held, "fold"] == -1).all()
    antibody = folds["image_id"].str.split("_").str[0]
    divided = (folds["fold"].groupby(antibody).nunique() > 1).sum()
    assert divided == 0 if split == "hold-out" else divided > 0


def test_limit_takes_a_stratified_subset(atlas: Path, external: Path, tmp_path: Path) -> None:
    images, folds = _init(tmp_path / "w", external, limit=12)
    train = images[images["split"] == "train"]
    assert len(train) == 12
    every = HPA28.multi_hot((int(n) % 28,) for n in range(1, 13)).sum(axis=0)
    # One of the three images of each class is taken.
    assert HPA28.multi_hot(train["target"]).sum(axis=0).tolist() == every.tolist()
    assert len(folds) == 12
    images, _ = _init(tmp_path / "v", atlas, limit=4)
    assert (images["split"] == "test").sum() == 4


def test_limit_takes_few_of_many_images(tmp_path: Path) -> None:
    """Take fewer than one image in 2000, which is the maximum number of parts of a split."""
    write_image(tmp_path / "data", "x")
    rows = "".join(f"i{n},x_red.png,{n % 2}\n" for n in range(9000))
    (tmp_path / "data" / "images.csv").write_text("image_id,path_red,target\n" + rows)
    images, _ = _init(tmp_path / "w", tmp_path / "data", settings=WHOLE_IMAGES, limit=4)
    assert sorted(images["target"]) == [(0,), (0,), (1,), (1,)]


def test_images_without_a_known_label_are_in_no_fold(tmp_path: Path) -> None:
    write_image(tmp_path / "data", "x")
    rows = [f"i{n},x_red.png,{'' if n % 4 == 0 else n},train" for n in range(12)]
    (tmp_path / "data" / "images.csv").write_text("image_id,path_red,target,split\n" + "\n".join(rows) + "\n")
    images, folds = _init(tmp_path / "w", tmp_path / "data", settings=WHOLE_IMAGES)
    assert len(images) == 12
    assert set(folds["image_id"]) == {f"i{n}" for n in range(12) if n % 4}


def test_conflicts_between_sources_are_listed(atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    for folder in ("train", "test"):
        (twin / folder).symlink_to(atlas / folder)
    train = pd.read_csv(atlas / "train.csv", dtype=str)
    train.loc[0, "Target"] = "27 26"
    train.to_csv(twin / "train.csv", index=False)
    images, _ = _init(tmp_path / "w", atlas, twin)
    assert len(images) == 50
    conflicts = pd.read_csv(tmp_path / "w" / "conflicts.csv", dtype=str)
    assert list(conflicts["image_id"]) == [train["Id"][0]]
    assert "the sources contradict each other on 1 of them" in capsys.readouterr().out
    assert {26, 27} < set(images["target"].iloc[0])


def test_a_wrong_source_is_reported_in_one_sentence(
    atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "of different names": ["--data", str(atlas), "--data", str(atlas)],
        "among atlas, found 'v18'": ["--data", str(atlas), "--set", 'data.train_only=["v18"]'],
        "found no folder": ["--data", f"x={tmp_path}/none"],
    }
    for sentence, arguments in cases.items():
        assert main(["init", str(tmp_path / "w"), *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert sentence in error
        assert "\n" not in error
    assert not (tmp_path / "w" / "recipe.toml").exists()


def test_a_killed_init_resumes_hashing(atlas: Path, tmp_path: Path) -> None:
    settings = ("data.near_duplicates=true",)
    images, folds = _init(tmp_path / "complete", atlas, settings=settings)
    root = tmp_path / "killed"
    _init(root, atlas, settings=settings)
    for name in ("recipe.toml", "images.parquet", "folds.parquet", "scan/scan.parquet"):
        (root / name).unlink()  # the state of a run killed while hashing
    _, resumed = _init(root, atlas, settings=settings)
    pd.testing.assert_frame_equal(resumed, folds)
    expected = (tmp_path / "complete" / "scan" / "scan.parquet").read_bytes()
    assert (root / "scan" / "scan.parquet").read_bytes() == expected
    assert np.array_equal(images["image_id"], read_images(root / "images.parquet")["image_id"])


def test_the_depth_in_use_is_recognised_once_and_every_crop_keeps_its_gray_levels(
    atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A 12-bit camera's images in 16-bit files give the crops of the same images in 8 bits."""
    ids = sorted(path.name.removesuffix("_red.png") for path in (atlas / "test").glob("*_red.png"))[:3]
    for image_id in ids:
        for channel in CHANNELS:
            pixels = np.asarray(cv2.imread(str(atlas / "test" / f"{image_id}_{channel}.png"), -1), np.uint16)
            for name, plane in (("shallow", pixels.astype(np.uint8)), ("deep", pixels << 4 | pixels >> 4)):
                path = tmp_path / name / f"{image_id}_{channel}.png"
                path.parent.mkdir(exist_ok=True)
                cv2.imwrite(str(path), plane)
    stores = {}
    for name in ("shallow", "deep"):
        _init(tmp_path / f"w-{name}", tmp_path / name, settings=('crops.windows=["full_frame"]', "crops.size_px=128"))
        work = open_work(tmp_path / f"w-{name}")
        assert run_crops(work, workers=1) == 0
        stores[name] = open_store(work, "full_frame")
        assert work.data.bit_depth == (16 if name == "shallow" else 12)
    deep, shallow = (store.pixels(np.arange(3)).astype(int) for store in stores.values())
    assert len(np.unique(shallow)) > 100
    assert np.abs(deep - shallow).max() <= 1
    assert set(stores["deep"].table["white_green"]) == {4095}
    assert "the 16-bit files use 12 bits" in capsys.readouterr().out


def test_new_images_have_their_own_depth(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for channel in CHANNELS:
        cv2.imwrite(str(data / f"a_{channel}.png"), np.full((20, 20), 1000, np.uint16))
    trained = Recipe(data=DataSection(bit_depth=12))
    work = init_apply(tmp_path / "new", [data], trained)
    assert work.data.bit_depth == 10
    assert set(read_images(work.images)["bit_depth"]) == {10}
    init(tmp_path / "said", [data], trained)
    assert set(read_images(tmp_path / "said" / "images.parquet")["bit_depth"]) == {12}


def test_init_runs_code_only_from_the_folder_on_the_command_line(
    atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Conv2d(3, 4, 9)\n"
        "def loss(logits, targets, weights): return (logits - targets) ** 2\n"
        "def rows(logits, targets, weights): return logits.mean(1)\n"
    )
    given = ["init", str(tmp_path / "w"), "--data", str(atlas), "--set", "classify.backbone=own:build"]
    mine = ["--code", str(tmp_path / "mine")]
    for arguments, sentence in (
        (["--set", "classify.loss=own:loss"], "expected --code FOLDER, the folder of own.py, for 'own:loss'"),
        (["--set", "classify.loss=own:rows", *mine], "expected a scalar or a loss of the shape (8, 28) from own:rows"),
        (["--set", "classify.loss=own:lost", *mine], "expected a function lost"),
        (["--code", str(tmp_path / "gone")], "expected a folder of Python files as --code"),
    ):
        assert main([*given, *arguments]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()
    assert main([*given, "--set", "classify.loss=own:loss", *mine]) == 0


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (["classify.backbone=resnet19"], "as backbone, found 'resnet19'"),
        (["classify.backbone=timm:resnet19"], "expected a model of timm, found 'resnet19'"),
        (
            ["classify.pretrained=imagenet", "classify.backbone=resnet18"],
            "expected the ImageNet weights .*, found neither",
        ),
        (["classify.pretrained=true"], '"imagenet" is what true was'),
        (["classify.pretrained=gone.pt"], "expected a file of weights, found no gone.pt"),
        (["classify.weights_file=gone.pt"], "expected the key 'pretrained'"),
        (["classify.backbone=densenet121", "crops.size_px=8"], "expected crops large enough .*, found 8 px"),
        (['classify.channels=["green", "red+yellow"]', 'data.channels=["green", "red", "blue"]'], "found 'yellow'"),
        (['classify.channels=["green", "red|yellow"]', 'data.channels=["green", "red", "blue"]'], "found 'yellow'"),
        (['crops.windows=["brightest"]', 'data.channels=["red", "blue"]'], "expected green among data.channels"),
        (["data.vocabulary=jovian10", "aggregate.submission=kaggle2021"], "cover all those of Kaggle 2021"),
        (["aggregate.empty=Cytosole"], "aggregate.empty .* or a class of hpa28, found 'Cytosole'"),
        (["aggregate.class_fractions=[0.1, 0.2]"], "class_fractions for each of 28 classes, found 2"),
        (["classify.learning_rate=inf"], "learning_rate"),
        (['classify.augment=[{name="Rotate", limt=3}]'], r"of Rotate in step 1 .*found 'limt' \(did you mean 'limit'"),
        (['classify.augment=[{name="Resize", height=8, width=8}]'], "found 8 x 8 px after Resize"),
        (
            [
                *("classify.backbone=densenet121", "classify.test_views=mean"),
                *('classify.view_kinds=["five_crops"]', "classify.view_side=0.1"),
            ],
            "expected crops large enough .*, found 13 px",
        ),
        (
            ['crops.windows=["five_crop"]', "crops.train_window=random", "crops.window_px={five_crop=64}"],
            r"expected crops of 128 px for five_crop, .*, found 64 \(crops.window_px\)",
        ),
        (["classify.augment=wild"], "expected none, light, standard, strong or a list of steps"),
        (["classify.augment=[3]"], "expected a name in step 1, such as"),
        (["classify.class_weights=[1.0, 2.0]"], "class_weights for 28 classes, found 2 numbers"),
        (["aggregate.min_quality=0.5", "aggregate.quality=sharpness"], "as aggregate.quality, found 'sharpness'"),
        (
            ['aggregate.join=[".:full_frame"]'],
            r"that this run predicts \(cells\) in aggregate.join, found '.:full_frame'",
        ),
        (
            ['aggregate.join=[".:cells/neighbours"]'],
            r"predicts \(cells\) in aggregate.join, found '.:cells/neighbours'",
        ),
    ],
)
def test_what_would_stop_a_later_stage_stops_init(
    settings: list[str],
    found: str,
    atlas: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # no weights here,
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # and nowhere to download them from
    monkeypatch.setattr("urllib.request._opener", None)  # else the first one made keeps its proxies for all tests
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert main(["init", str(tmp_path / "w"), "--data", str(atlas), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if not line.startswith("Downloading: ")]  # torch's, before it fails
    assert re.search(found, line)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("mixture", ["yellow+red", "yellow|red"])
def test_init_accepts_mixtures_of_channels(mixture: str, atlas: Path, tmp_path: Path) -> None:
    setting = f'classify.channels=["{mixture}", "green", "blue"]'
    assert main(["init", str(tmp_path / "w"), "--data", str(atlas), "--set", setting]) == 0


def test_crops_notice_image_files_replaced_after_segmentation_but_not_copies(atlas: Path, tmp_path: Path) -> None:
    """The pixels would get the masks of another image."""
    data = tmp_path / "data"
    shutil.copytree(atlas, data)
    _init(tmp_path / "w", data, limit=4)
    work = open_work(tmp_path / "w")
    ids = list(read_images(work.images)["image_id"])
    assert segment_run(work, device="cpu", workers=1) == 0
    shutil.rmtree(data)
    shutil.copytree(atlas, data, copy_function=shutil.copyfile)  # with new times

    def path(image_id: str, channel: str) -> Path:
        return next(data.glob(f"*/{image_id}_{channel}.png"))

    shutil.copyfile(path(ids[1], "blue"), path(ids[0], "blue"))
    # The mask does not depend on the protein; a file that arrives later is welcome.
    shutil.copyfile(path(ids[3], "green"), path(ids[2], "green"))
    assert run_crops(work, workers=1) == 1
    failures = pd.read_csv(tmp_path / "w" / "crops" / "cells" / "failures.csv")
    assert list(failures["image_id"]) == [ids[0]]
    assert "expected the blue file that was segmented, found another" in failures["reason"][0]
    assert f"segment run {tmp_path / 'w'} --overwrite" in failures["reason"][0]


_SAMPLE_2021 = "ID,ImageWidth,ImageHeight,PredictionString\nz,8,6,0 1 eNo\n"


@pytest.mark.parametrize(
    ("settings", "vocabulary", "submission"),
    [
        ((), "hpa19", "kaggle2021"),
        (("data.vocabulary=hpa28",), "hpa28", "auto"),
        (("data.vocabulary=hpa19",), "hpa19", "kaggle2021"),
        (("aggregate.submission=kaggle2018",), "hpa19", "kaggle2018"),
        (('crops.windows=["full_frame"]',), "hpa19", "auto"),
    ],
)
def test_the_layout_of_2021_brings_its_classes_and_form_unless_the_recipe_says_otherwise(
    settings: tuple[str, ...], vocabulary: str, submission: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_kaggle2018(tmp_path / "data", "ID,Label\nb,9|0\na,18\n", _SAMPLE_2021)
    images, _ = _init(tmp_path / "w", data, settings=("data.folds=2", *settings))
    recipe = read_recipe(tmp_path / "w" / "recipe.toml")
    assert (recipe.data.vocabulary, recipe.aggregate.submission) == (vocabulary, submission)
    assert images["target"][0] == ((0, 9) if vocabulary == "hpa19" else (0,))
    said = "init: 19 classes (hpa19, of the layout kaggle2021;" in capsys.readouterr().out
    assert said == (not any("vocabulary" in setting for setting in settings))


def test_the_first_scored_source_brings_the_classes(tmp_path: Path) -> None:
    jovian = write_jovian(tmp_path / "jovian")
    old = write_kaggle2018(tmp_path / "old")
    channels = 'data.channels=["red", "green", "blue"]'
    for name, data, settings, expected in [
        ("a", (jovian, old), (), "jovian10"),
        ("b", (old, jovian), (), "hpa28"),
        ("c", (old, jovian), ('data.train_only=["old"]',), "jovian10"),
        ("d", (tmp_path / "bare",), (), "hpa28"),
    ]:
        write_image(tmp_path / "bare", "a")
        _init(tmp_path / name, *data, settings=(channels, "data.folds=2", *settings))
        assert open_work(tmp_path / name).data.vocabulary == expected


def test_a_data_folder_with_a_plus_in_its_name(tmp_path: Path) -> None:
    """Names of sources are joined by +."""
    write_kaggle2018(tmp_path / "a+b", sample="Id,Predicted\n")
    write_kaggle2018(tmp_path / "c")
    settings = ("data.folds=2", 'data.train_only=["a_b"]')
    images, _ = _init(tmp_path / "w", tmp_path / "a+b", tmp_path / "c", settings=settings)
    assert images.set_index("image_id")["source"].to_dict() == {"a": "a_b+c", "b": "a_b+c", "y": "c", "z": "c"}
    _init(tmp_path / "w2", tmp_path / "a+b", settings=("data.folds=2",))


def test_what_a_file_contains_is_quoted_shortly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "8" * 20_000_000
    write_kaggle2018(tmp_path / "data", f"Id,Target\na,{cell}\n")
    assert main(["init", str(tmp_path / "w"), "--data", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 1100
    assert re.search(r"expected labels 0\.\.27, found '888.*\.\.\. [\d,]+ characters \.\.\..*\(image a\)$", line)


DEEP = 5000


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--recipe", "."], "found the folder ."),
        (["--recipe", "r" * 300], "found no rrr"),
        (["--recipe", "deep.toml"], "nested too deeply"),
        (["--recipe", "dotted.toml"], "expected"),
        (["--set", "data.train_only=" + "[" * DEEP + "]" * DEEP], "nested too deeply"),
        (["--data", "d" * 300], "File name too long"),
        (["--set", "data.seed=" + "9" * DEEP], "found '999"),
        (["--data", "../x=data"], "expected a source name of letters"),
        (["--data", "w"], "expected a work folder apart from the data"),
        (["--set", "segment.network=none.pt"], "found no file none.pt"),
        (["--set", "segment.network=deep.toml"], "expected the weights of a compact or a Cellpose 4 network"),
        (["--set", 'data.channels=["green", "red"]'], "to segment on, found no blue"),
    ],
)
def test_odd_recipes_and_names_are_one_sentence(
    arguments: list[str],
    found: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "data", "a")
    (tmp_path / "deep.toml").write_text("[data]\ntrain_only = " + "[" * DEEP + "]" * DEEP)
    (tmp_path / "dotted.toml").write_text("[data]\nsource_layouts." + "a." * DEEP + "a = 1")
    assert main(["init", "w", "--data", "data", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert found in line


def test_a_work_folder_with_a_name_that_is_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "data", "a")
    assert main(["init", str(tmp_path / ("w" * 300)), "--data", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "File name too long" in line


def _new_images(folder: Path, level: int) -> Path:
    folder.mkdir()
    for channel in CHANNELS:
        cv2.imwrite(str(folder / f"a_{channel}.png"), np.full((20, 20), level, np.uint8))
    return folder


def test_a_folder_of_other_new_images_or_another_recipe_is_not_taken_for_a_resumed_one(tmp_path: Path) -> None:
    first, second = (_new_images(tmp_path / name, 9 + n) for n, name in enumerate(("one", "two")))
    trained = Recipe()
    work = init_apply(tmp_path / "new", [first], trained)
    assert init_apply(tmp_path / "new", [first], trained).root == work.root
    with pytest.raises(UserError, match="made of other images"):  # of the same names
        init_apply(tmp_path / "new", [second], trained)
    other = trained.model_copy(update={"segment": trained.segment.model_copy(update={"diameter_px": 60.0})})
    with pytest.raises(UserError, match="made with another"):
        init_apply(tmp_path / "new", [first], other)
    with pytest.raises(UserError, match="apart from the data"):
        init_apply(first, [first], trained)
