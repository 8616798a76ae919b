"""Damage the files of a work folder and a bundle at random: the next command gives the right result or a sentence.

``CELLWISE_DAMAGE=10:500`` runs seeds 10 to 509 instead of the few of every day.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from aggregate.__main__ import main as aggregate
from bench.measure import data_files
from classify.__main__ import main as classify
from crops.__main__ import main as crops
from hpa.atlas import synthesize
from pipeline.__main__ import main as pipeline
from segment.__main__ import main as segment

SETTINGS = (
    "data.folds=2",
    "crops.size_px=32",
    "classify.backbone=cnn3",
    "classify.epochs=1",
    "classify.objective=bag",
    "aggregate.bootstrap=10",
    "aggregate.pooling=trained",
)
STAGES: dict[str, Callable[[Path], int]] = {
    "segment": lambda work: segment(["run", str(work), "--device", "cpu", "--workers", "1"]),
    "crops": lambda work: crops(["run", str(work), "--workers", "1"]),
    "train": lambda work: classify(["train", str(work), "--device", "cpu"]),
    "predict": lambda work: classify(["predict", str(work), "--device", "cpu"]),
    "aggregate": lambda work: aggregate(["run", str(work), "--no-figures"]),
}
FOLDERS = {"segment": "segment", "crops": "crops", "train": "classify", "predict": "classify", "aggregate": "aggregate"}

FIRST, COUNT = map(int, os.environ.get("CELLWISE_DAMAGE", "0:40").split(":"))


@dataclass(frozen=True)
class _World:
    """A work folder after each stage, as `stages`, a bundle, new images, and what the bundle makes of them."""

    root: Path

    def after(self, stage: str) -> Path:
        return self.root / "after" / stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> _World:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("world")
    synthesize(root / "atlas", 12, 3, seed=5, size_px=128)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    assert pipeline(["init", str(root / "work"), "--data", str(root / "atlas"), *settings]) == 0
    shutil.copytree(root / "work", root / "after" / "init")
    for name, run in STAGES.items():
        assert run(root / "work") == 0
        shutil.copytree(root / "work", root / "after" / name)
    assert pipeline(["export", str(root / "work"), str(root / "bundle")]) == 0
    shutil.copytree(root / "atlas" / "test", root / "new")
    assert _apply(root / "bundle", root / "new", root / "out") == 0
    shutil.rmtree(root / "work")
    return _World(root)


def _apply(model: Path, data: Path, out: Path) -> int:
    return pipeline(["apply", str(model), "--data", str(data), "--out", str(out), "--device", "cpu", "--workers", "1"])


def _wrong(value: Any, draw: np.random.Generator) -> Any:
    choices: list[Any] = [None, "x", [], {}, 7, 1.5, True, 10**40, -1, -1e300, "a\0b", [[1]]]
    return choices[draw.integers(len(choices))]


def _damage_json(path: Path, draw: np.random.Generator) -> str:
    content = json.loads(path.read_text())
    place, keys = content, []
    while True:
        options = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not options:
            break
        key = options[draw.integers(len(options))]
        keys.append(key)
        if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7:
            place = place[key]
            continue
        if draw.random() < 0.3:
            del place[key]
        else:
            place[key] = _wrong(place[key], draw)
        break
    path.write_text(json.dumps(content))
    return f"field {keys}"


def _damage_table(path: Path, draw: np.random.Generator) -> str:
    table = pd.read_parquet(path)
    name = str(table.columns[int(draw.integers(len(table.columns)))])
    kind = draw.integers(6)
    if kind == 0 or not len(table):
        table = table.drop(columns=name)
    elif kind == 1:
        table[name] = None
    elif kind == 2:
        table[name] = table[name].astype(str)
    elif kind == 3:
        table[name] = 10**18
    elif kind == 4:
        table[name] = -1.5
    else:
        table = table.iloc[1:]
    table.to_parquet(path, index=False)
    return f"column {name}, kind {kind}"


def _damage_checkpoint(path: Path, draw: np.random.Generator) -> str:
    content = torch.load(path, weights_only=True)
    key = list(content)[draw.integers(len(content))]
    if draw.random() < 0.3:
        del content[key]
    else:
        content[key] = _wrong(content[key], draw)
    torch.save(content, path)
    return f"field {key}"


FIELDS = {".json": _damage_json, ".parquet": _damage_table, ".pt": _damage_checkpoint}


def _damage(path: Path, draw: np.random.Generator, *, fields: bool) -> str:
    """Damage a file and say how."""
    content = path.read_bytes()
    if fields and path.suffix in FIELDS and draw.random() < 0.5:
        return FIELDS[path.suffix](path, draw)
    kind = ["flip", "flip", "truncate", "empty", "folder", "binary", "gone"][draw.integers(7)]
    place = int(draw.integers(max(1, len(content))))
    # The pixels of shards have no checksums; their headers, of 128 bytes, are checked.
    if path.suffix == ".npy" and kind == "flip":
        place = min(place, 127) if draw.random() < 0.5 else 60
    if kind == "flip" and content:
        path.write_bytes(
            content[:place] + bytes([content[place] ^ (1 << int(draw.integers(8)))]) + content[place + 1 :]
        )
    elif kind == "truncate":
        path.write_bytes(content[:place])
    elif kind == "binary":
        path.write_bytes(draw.bytes(200))
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return f"{kind} at {place} of {len(content)}"


def _check(run: Callable[[], int], capsys: pytest.CaptureFixture[str], what: str) -> int:
    """Run a command that may only give 0, 1, or 2 with one sentence."""
    capsys.readouterr()
    try:
        code = run()
    except BaseException as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    said = capsys.readouterr().err.strip()
    assert code in (0, 1, 2), f"{what}: {code}, {said}"
    assert "Traceback" not in said, f"{what}: {said}"
    if code == 2:
        assert "\n" not in said, f"{what}: {said}"
        assert "expected" in said, f"{what}: {said}"
        assert len(said) < 2500, f"{what}: {said}"
    return code


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_damaged_work_folder_gives_the_right_result_or_a_sentence(
    world: _World, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(seed)
    names = list(STAGES)
    place = int(draw.integers(len(names) - 1))
    made, following = names[place], names[place + 1]
    work = tmp_path / "work"
    # The next stage begins, or has been done already, or the stage itself is run again before it.
    shutil.copytree(world.after(following if draw.random() < 0.3 else made), work, symlinks=True)
    inputs = [work / "images.parquet", work / "folds.parquet", work / "recipe.toml", work / "lock"]
    files = sorted(path for path in (work / FOLDERS[made]).rglob("*") if path.is_file())
    is_input = draw.random() < 0.2
    path = (inputs if is_input else files)[draw.integers(len(inputs if is_input else files))]
    part = "parts" in path.parts or path.name.startswith("part-")
    what = f"seed {seed}: {made} then {following}, {path.relative_to(work)}: " + _damage(path, draw, fields=not part)
    again = [made, following] if draw.random() < 0.5 else [following]
    for stage in again:
        if _check(lambda stage=stage: STAGES[stage](work), capsys, what):  # type: ignore[misc]
            return
    if is_input and path.suffix != "" and path.name != "lock":
        return  # a change that a person may have made: what was made of it is theirs
    found, expected = (data_files(root / FOLDERS[following]) for root in (work, world.after(following)))
    differ = [name for name in expected if found.get(name) != expected[name] and "figures" not in name]
    if FOLDERS[made] == FOLDERS[following]:
        differ = [name for name in differ if work / FOLDERS[made] / name != path]
    assert not differ, f"{what}: silently other {differ}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT // 4))
def test_a_damaged_bundle_gives_the_right_result_or_a_sentence(
    world: _World, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(seed)
    bundle = tmp_path / "bundle"
    shutil.copytree(world.root / "bundle", bundle)
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    weights = np.where([path.name == "bundle.json" for path in files], len(files), 1)
    path = files[draw.choice(len(files), p=weights / weights.sum())]
    what = f"seed {seed}, {path.relative_to(bundle)}: " + _damage(path, draw, fields=True)
    if _check(lambda: _apply(bundle, world.root / "new", tmp_path / "out"), capsys, what):
        return
    names = ("aggregate/submission.csv", "aggregate/images.parquet")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (world.root / "out" / name).read_bytes(), what
