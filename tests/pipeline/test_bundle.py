"""Bundles: their contents, damage, and joined runs. `tests/test_pages.py` applies the bundle of a single run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aggregate.run import run
from classify.probabilities import class_columns
from hpa.atlas import synthesize
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from pipeline.__main__ import main
from pipeline.apply import apply, open_model
from pipeline.bundle import export_bundle
from pipeline.model import Model
from segment.config import SegmentSection
from segment.network.weights import COMPACT_WEIGHTS
from tests.support.simulation.work import make_work


def _trained(root: Path, *settings: str) -> WorkFolder:
    """Return a work folder with everything that a bundle needs; the checkpoints hold arbitrary bytes."""
    work = make_work(root, settings, train=12, test=2, models=2)
    run(work, figures=None)
    _write_checkpoints(work)
    return work


def _write_checkpoints(work: WorkFolder) -> None:
    for fold in range(2):
        path = work.root / "classify" / "cells" / f"fold-{fold}" / "checkpoint.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes([fold]) * 100)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle."""
    folder = tmp_path_factory.mktemp("packed")
    _trained(folder / "work")
    assert export_bundle(Model.of_work(folder / "work"), folder / "bundle") == 5
    return folder / "bundle"


def test_a_bundle_opens_and_contains_no_images(packed: Path) -> None:
    model = open_model(packed)
    assert model.work.root == packed
    assert model.joined == ()
    names = {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()}
    checkpoints = {f"classify/cells/fold-{fold}/checkpoint.pt" for fold in range(2)}
    assert names == {"bundle.json", "recipe.toml", "aggregate/thresholds.json"} | checkpoints
    assert "i00000" not in "".join((packed / name).read_text() for name in names if not name.endswith(".pt"))


def test_a_custom_segmentation_network_is_packed(tmp_path: Path) -> None:
    shutil.copy(COMPACT_WEIGHTS, tmp_path / "mine.pt")
    _trained(tmp_path / "work", f"segment.network={tmp_path}/mine.pt")
    export_bundle(Model.of_work(tmp_path / "work"), tmp_path / "bundle")
    (tmp_path / "mine.pt").unlink()
    (tmp_path / "bundle").rename(tmp_path / "elsewhere")
    section = open_model(tmp_path / "elsewhere").recipe.segment
    assert Path(section.network).read_bytes() == COMPACT_WEIGHTS.read_bytes()
    packed = WorkFolder(tmp_path / "elsewhere").section("segment", SegmentSection)
    assert packed.network == "segment/network.pt"


def test_damaged_bundles_are_refused(packed: Path, tmp_path: Path) -> None:
    for name, change, sentence in (
        ("classify/cells/fold-1/checkpoint.pt", None, "expected classify/cells/fold-1/checkpoint.pt in the bundle"),
        ("aggregate/thresholds.json", b"{}", "expected aggregate/thresholds.json as it was packed"),
        ("bundle.json", b"[]", r"bundle\.json as it was written, found it damaged .*; export it again"),
        ("bundle.json", b"\xff", "found it damaged"),
        ("bundle.json", b"", "found it damaged"),
        ("bundle.json", b'{"format": "cellwise bundle 7"}', "found 'cellwise bundle 7'"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(packed, copy)
        (copy / name).unlink() if change is None else (copy / name).write_bytes(change)
        with pytest.raises(UserError, match=sentence):
            open_model(copy)
        shutil.rmtree(copy)


def test_paths_outside_the_bundle_are_refused(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    (tmp_path / "secret").write_text("x")
    content = json.loads((packed / "bundle.json").read_text())
    content["files"]["../secret"] = "0" * 64
    (tmp_path / "copy" / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"expected paths within the bundle .*, found '../secret'"):
        open_model(tmp_path / "copy")


def _damage(content: dict[str, Any], kind: str) -> None:
    checkpoint = "classify/cells/fold-1/checkpoint.pt"
    match kind:
        case "no files":
            content["files"] = {}
        case "files are a list":
            content["files"] = list(content["files"])
        case "NUL":
            content["files"]["a\0b"] = "0" * 64
        case "absolute":
            content["files"]["/etc/passwd"] = "0" * 64
        case "no digest":
            content["files"][checkpoint] = ""
        case "a fold is not listed":
            del content["files"][checkpoint]
        case "no part":
            del content["parts"]["."]
        case "a part elsewhere":
            content["parts"]["../x"] = content["parts"]["."]
        case "no folds":
            content["parts"]["."]["folds"] = {}
        case "huge fold":
            content["parts"]["."]["folds"]["cells"] = [10**30]
        case _:
            del content[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("no files", "files are a list", "NUL", "absolute", "no digest", "a fold is not listed", "no part"),
        *("a part elsewhere", "no folds", "huge fold", "format", "files", "parts", "versions"),
    ],
)
def test_damaged_keys_of_a_bundle_are_refused(packed: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    content = json.loads((packed / "bundle.json").read_text())
    _damage(content, kind)
    (tmp_path / "copy" / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"^expected .*bundle\.json.*; export it again$"):
        open_model(tmp_path / "copy")


def test_a_fold_that_is_gone_is_missed_by_export_and_by_the_bundle(packed: Path, tmp_path: Path) -> None:
    work = _trained(tmp_path / "work")
    (work.root / "classify" / "cells" / "fold-0" / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"expected trained models .*, found no .*fold-0"):
        export_bundle(Model.of_work(work.root), tmp_path / "bundle")
    shutil.copytree(packed, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "classify" / "cells" / "fold-1")
    content = json.loads((packed / "bundle.json").read_text())
    del content["files"]["classify/cells/fold-1/checkpoint.pt"]
    (tmp_path / "copy" / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"expected classify/cells/fold-1/checkpoint\.pt among the files"):
        open_model(tmp_path / "copy")


def test_a_different_segmentation_network_is_refused(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    content = json.loads((packed / "bundle.json").read_text())
    content["parts"]["."]["sha256"] = "0" * 64
    (tmp_path / "copy" / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected the segmentation network compact with the sha256 0000"):
        open_model(tmp_path / "copy")


def test_untrained_or_missing_runs_and_existing_folders_are_refused(packed: Path, tmp_path: Path) -> None:
    make_work(tmp_path / "untrained", train=12, test=2)
    untrained = Model.of_work(tmp_path / "untrained")
    with pytest.raises(UserError, match="expected a trained work folder"):
        export_bundle(untrained, tmp_path / "bundle")
    with pytest.raises(UserError, match="expected a new folder for the bundle"):
        export_bundle(untrained, packed)
    make_work(tmp_path / "other", train=12, test=2, models=2, noise_seed=1)
    _trained(tmp_path / "joined", f'aggregate.join=["{tmp_path}/other"]')
    joined = Model.of_work(tmp_path / "joined")
    with pytest.raises(UserError, match=r"expected trained models .*/other`"):
        export_bundle(joined, tmp_path / "bundle")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(UserError, match=r"expected a work folder to join at .*/other, found none"):
        Model.of_work(tmp_path / "joined")
    assert not (tmp_path / "bundle").exists()


def test_each_joined_run_is_packed_once(tmp_path: Path) -> None:
    for name, side in (("other", 96), ("third", 64)):
        _write_checkpoints(make_work(tmp_path / name, [f"crops.size_px={side}"], train=12, test=2, models=2))
    join = ", ".join(f'"{tmp_path}/{name}"' for name in ("other", "third:cells", "other:cells"))
    _trained(tmp_path / "work", f"aggregate.join=[{join}]", "aggregate.join_weights=[4, 3, 2, 1]")
    assert export_bundle(Model.of_work(tmp_path / "work"), tmp_path / "bundle") == 11
    for name in ("work", "other", "third"):
        shutil.rmtree(tmp_path / name)
    model = open_model(tmp_path / "bundle")
    section = model.recipe.aggregate
    assert section.join == ("joined/0", "joined/1:cells", "joined/0:cells")
    assert [part.work.root for part in model.joined] == [tmp_path / "bundle" / "joined" / n for n in "01"]
    sizes = [part.recipe.crops.model_dump()["size_px"] for part in model.joined]
    assert sizes == [96, 64]
    assert not any(part.recipe.aggregate.model_dump()["join"] for part in model.joined)
    (tmp_path / "bundle" / "joined" / "1" / "recipe.toml").write_text("")
    with pytest.raises(UserError, match=r"expected joined/1/recipe\.toml as it was packed"):
        open_model(tmp_path / "bundle")


@pytest.mark.parametrize("several", ['aggregate.join=["../other"]', 'crops.windows=["cells", "full_frame"]'])
def test_joining_by_rank_needs_enough_images(several: str, tmp_path: Path) -> None:
    make_work(tmp_path / "other", train=12, test=2, models=2, noise_seed=1)
    make_work(tmp_path / "work", [several, "aggregate.join_by=rank"], train=12, test=2)
    for channel in CHANNELS:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"a_{channel}.png").write_bytes(b"not read")
    with pytest.raises(UserError, match=r"expected at least 50 images .* joined by rank, found 1"):
        apply(Model.of_work(tmp_path / "work"), [str(tmp_path / "data")], tmp_path / "out")


@pytest.mark.slow
def test_joined_runs_and_their_bundle_predict_the_weighted_mean(tmp_path: Path) -> None:
    """Two joined runs score new images with the weighted mean of both; their bundle gives the same files."""
    synthesize(tmp_path / "atlas", 16, 6, seed=5, size_px=128)
    atlas, work = tmp_path / "atlas", tmp_path / "work"
    small = [word for key in ("classify.epochs=1", "data.folds=2") for word in ("--set", key)]
    for name, window, side in (("other", "full_frame", 32), ("work", "five_crop", 48)):
        keys = [f'crops.windows=["{window}"]', f"crops.train_window={window}", f"crops.size_px={side}"]
        if name == "work":
            keys += [f'aggregate.join=["{tmp_path}/other:full_frame"]', "aggregate.join_weights=[3, 1]"]
        settings = [word for key in keys for word in ("--set", key)]
        assert main(["init", str(tmp_path / name), "--data", str(atlas), *small, *settings]) == 0
        assert main(["run", str(tmp_path / name)]) == 0
    new = tmp_path / "new"
    assert main(["apply", str(work), "--data", str(atlas / "test"), "--out", str(new)]) == 0
    columns = class_columns(HPA28)
    pooled = []
    for path in (new / "classify" / "five_crop", new / "joined" / "0" / "classify" / "full_frame"):
        table = pd.read_parquet(path / "probabilities.parquet")
        pooled.append(table.groupby(["image_id", "fold"])[columns].max().groupby("image_id").mean())
    images = pd.read_parquet(new / "aggregate" / "images.parquet").set_index("image_id")
    np.testing.assert_allclose(images[columns], (0.75 * pooled[0] + 0.25 * pooled[1]).loc[images.index], rtol=1e-5)
    submission = (new / "aggregate" / "submission.csv").read_text()
    assert len(submission.splitlines()) == 7
    assert main(["export", str(work), str(tmp_path / "bundle")]) == 0
    shutil.rmtree(work)
    shutil.rmtree(tmp_path / "other")
    unpacked = tmp_path / "unpacked"
    assert main(["apply", str(tmp_path / "bundle"), "--data", str(atlas / "test"), "--out", str(unpacked)]) == 0
    for name in ("submission.csv", "images.parquet"):
        assert (unpacked / "aggregate" / name).read_bytes() == (new / "aggregate" / name).read_bytes()
