"""Run each recipe from its own header: on eight images, with one step of training in each phase and fold.

The variants of a recipe (``init --from``) are checked by `init` and one training of one fold.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

import classify.run
import crops.run
import segment.run
from crops.config import CropsSection
from hpa.atlas import synthesize
from hpa.channels import CHANNELS
from hpa.layouts.conversion import converter
from hpa.pixels import read_plane
from hpa.vocabulary import HPA19, HPA28, JOVIAN10, Vocabulary
from hpa.work.folder import WorkFolder
from pipeline.recipe import read_recipe
from tests.support.pages import ROOT, commands, recipe_commands, run_command

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))
SIDE = 64


@dataclass(frozen=True)
class Folders:
    """The data folders that the headers name, drawn once."""

    paths: dict[str, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Folders:
    """Draw a small atlas, and write it in the layouts of the Jovian course and of 2021 as well.

    The processes among which the recipes are spread share the folders, which the first one draws.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "recipe-data"
    with FileLock(f"{root}.lock"):
        if not root.is_dir():
            drawn = tmp_path_factory.mktemp("data")
            _draw(drawn)
            drawn.rename(root)
    paths = {f"/data/{name}": root / name for name in ("hpaic", "jovian", "hpa2021")}
    return Folders(paths | {"v18=/data/v18": Path(f"v18={root / 'v18'}")})


def _draw(root: Path) -> None:
    synthesize(root / "hpaic", 24, 8, 0, size_px=256)
    rows = pd.read_csv(root / "hpaic" / "truth" / "images.csv", dtype=str, keep_default_na=False)
    _write_jovian(root / "jovian", root / "hpaic", rows)
    _write_2021(root / "hpa2021", root / "hpaic", rows)
    _write_v18(root / "v18", root / "hpaic", rows)


def _labels(rows: pd.DataFrame, vocabulary: Vocabulary, separator: str) -> Iterator[tuple[str, str, str]]:
    convert = converter(HPA28, vocabulary)
    for image_id, split, text in zip(rows["image_id"], rows["split"], rows["target"], strict=True):
        target = convert(HPA28.parse(text)).target if text else ()
        if target:
            yield image_id, split, separator.join(map(str, target))


def _write_jovian(folder: Path, atlas: Path, rows: pd.DataFrame) -> None:
    listed: dict[str, list[tuple[int, str]]] = {"train": [], "test": []}
    for number, (image_id, split, text) in enumerate(_labels(rows, JOVIAN10, " ")):
        planes = [read_plane(atlas / split / f"{image_id}_{color}.png") for color in CHANNELS[:3]]
        path = folder / split / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.stack(planes[::-1], axis=-1))
        listed[split].append((number, text))
    pd.DataFrame(listed["train"], columns=["Image", "Label"]).to_csv(folder / "train.csv", index=False)
    pd.DataFrame(listed["test"], columns=["Image", "Label"]).to_csv(folder / "submission.csv", index=False)


def _write_2021(folder: Path, atlas: Path, rows: pd.DataFrame) -> None:
    for split in ("train", "test"):
        shutil.copytree(atlas / split, folder / split)
    labels = [(i, text) for i, split, text in _labels(rows, HPA19, "|") if split == "train"]
    pd.DataFrame(labels, columns=["ID", "Label"]).to_csv(folder / "train.csv", index=False)
    test = rows.loc[rows["split"] == "test", "image_id"]
    sample = pd.DataFrame({"ID": test, "ImageWidth": 256, "ImageHeight": 256, "PredictionString": ""})
    sample.to_csv(folder / "sample_submission.csv", index=False)


def _write_v18(folder: Path, atlas: Path, rows: pd.DataFrame) -> None:
    folder.mkdir()
    listed = []
    for number, (image_id, target) in enumerate(rows[["image_id", "target"]][:6].itertuples(index=False)):
        name = f"{9_000 + number}_1_A1_1"
        for color in CHANNELS:
            plane = read_plane(atlas / "train" / f"{image_id}_{color}.png")
            cv2.imwrite(str(folder / f"{name}_{color}.jpg"), np.roll(plane, 40, axis=1))
        listed.append((name, target))
    pd.DataFrame(listed, columns=["Id", "Target"]).to_csv(folder / "HPAv18.csv", index=False)


def _small(name: str) -> list[str]:
    """Return settings that make a recipe small and need no download, phase by phase."""
    recipe = read_recipe(str(ROOT / "recipes" / f"{name}.toml"), [])
    section = recipe.classify
    settings = {"data.folds": "2", "crops.size_px": str(SIDE), "classify.batch_size": "512"}
    phases = [phase.model_dump(mode="json") for phase in section.phases]
    for phase in phases:
        phase["epochs"] = 1
        phase["input_px"] = SIDE // 2 if phase["input_px"] > 0 else -1
    inline = ", ".join(
        "{" + ", ".join(f"{key} = {value!r}" for key, value in phase.items()).replace("'", '"') + "}"
        for phase in phases
    )
    settings |= {"classify.phases": f"[{inline}]", "classify.epochs": str(max(1, len(phases)))}
    if section.pretrained == "imagenet":
        settings["classify.pretrained"] = "none"
    if recipe.crops.window_px:
        settings["crops.window_px"] = _window_px(recipe.crops.window_px)
    if section.random_crop != "none":
        settings["classify.random_crop_px"] = str(SIDE // 2)
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def _window_px(sizes: Iterable[str]) -> str:
    """Return small sizes of windows as TOML: random crops of half a side are cut from the frame."""
    return "{" + ", ".join(f"{name} = {SIDE if name == 'full_frame' else SIDE // 2}" for name in sizes) + "}"


def _is_new(command: list[str]) -> bool:
    return command[:2] == ["pipeline", "init"] and "--data" in command


def _is_variant(command: list[str]) -> bool:
    return command[:2] == ["pipeline", "init"] and "--from" in command


def _at_hand(command: list[str], name: str, data: Folders) -> list[str]:
    command = [str(data.paths.get(word, word)) for word in command]
    if _is_new(command):
        if "--limit" in command:
            place = command.index("--limit")
            command[place : place + 2] = []
        command += [*_small(name), "--limit", "8"]
    if _is_variant(command) and "--recipe" in command:
        command += _small(name)[2:]  # images and folds are shared
    elif _is_variant(command):
        settings = {"crops.size_px": "48", "classify.random_crop_px": str(SIDE // 2)}
        settings["crops.window_px"] = _window_px(["full_frame", "five_crop"])
        keys = [word.split("=")[0] for word in command]
        command = [
            f"{key}={settings[key]}" if key in settings else word for key, word in zip(keys, command, strict=True)
        ]
        kept = [word for word in command if "phases" in word]
        if kept:
            command += ["--set", "classify.epochs=1"]
    if command[:2] == ["pipeline", "demo"]:
        command += ["--tiny"]
    if command[:2] in (["pipeline", "compare"], ["pipeline", "sweep"]):
        command += ["--resamples", "10"]
    return command


def _run_shown(shown: list[list[str]], data: Folders, name: str = "") -> None:
    """Run the commands of a page or header; variants in a header have no command that runs them."""
    for command in shown:
        if command[:2] == ["aggregate", "evaluate-2021"]:
            shutil.copyfile(command[2], "truth.csv")  # its own cells, all found
        recipe = next((Path(word).stem for word in command if word.endswith(".toml")), name)
        small = _at_hand(command, recipe, data)
        assert run_command(small) == 0, f"python -m {' '.join(small)}"
        if _is_variant(command) and ["pipeline", "run", command[2]] not in shown:
            work = WorkFolder(Path(command[2]))
            if work.section("crops", CropsSection).needs_masks:
                segment.run.run(work)
            crops.run.run(work)
            assert classify.run.train(work, folds=[0]) == 0


def _check_outputs(root: Path) -> None:
    images = pd.read_parquet(root / "images.parquet")
    submission = pd.read_csv(root / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)
    assert len(submission) == (images["split"] == "test").sum() > 0
    assert 0 <= json.loads((root / "aggregate" / "metrics.json").read_text())["macro_f1"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_from_its_header(
    name: str, data: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shown = recipe_commands(name)
    assert shown, "a header shows its command"
    _run_shown(shown, data, name)
    for command in shown:
        if _is_new(command) or command[:2] == ["pipeline", "run"]:
            _check_outputs(tmp_path / command[2])


@pytest.mark.slow
def test_the_kaggle_page_runs(data: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shown = commands(ROOT / "docs" / "kaggle.md")
    _run_shown(shown, data)
    for command in shown:
        if command[:2] == ["pipeline", "run"]:
            _check_outputs(tmp_path / command[2])


def test_headers_name_the_recipe_they_are_in() -> None:
    for name in RECIPES:
        for command in recipe_commands(name):
            if _is_new(command):
                assert f"recipes/{name}.toml" in command
