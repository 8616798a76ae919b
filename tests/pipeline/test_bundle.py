"""A bundle that is damaged, or made of what is not trained, is one sentence. (That it works: tests/test_pages.py.)"""

import json
import shutil
from pathlib import Path

import pytest

from aggregate.run import run
from bench.simulated_work import make_work
from hpa.config import read_section
from hpa.errors import UserError
from hpa.work import WorkFolder
from pipeline.bundle import export, open_model
from segment.config import SegmentSection
from segment.models import COMPACT_WEIGHTS


def _trained(root: Path, *settings: str) -> WorkFolder:
    """Return a work folder with everything a bundle takes; the checkpoints' content is of no matter here."""
    work = make_work(root, settings, train=12, test=2, models=2)
    run(work, figures=False)
    for fold in range(2):
        path = root / "classify" / "cells" / f"fold-{fold}" / "checkpoint.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes([fold]) * 100)
    return work


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle."""
    folder = tmp_path_factory.mktemp("packed")
    assert export(_trained(folder / "work"), folder / "bundle") == 5
    return folder / "bundle"


def test_a_bundle_opens_and_holds_no_image(packed: Path) -> None:
    work, recipe = open_model(packed)
    assert work.root == packed
    assert list(recipe) == ["data", "segment", "crops", "classify", "aggregate"]
    names = {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()}
    checkpoints = {f"classify/cells/fold-{fold}/checkpoint.pt" for fold in range(2)}
    assert names == {"bundle.json", "recipe.toml", "aggregate/thresholds.json"} | checkpoints
    assert "i00000" not in "".join((packed / name).read_text() for name in names if not name.endswith(".pt"))


def test_a_network_of_the_user_s_own_goes_along(tmp_path: Path) -> None:
    shutil.copy(COMPACT_WEIGHTS, tmp_path / "mine.pt")
    work = _trained(tmp_path / "work", f"segment.network={tmp_path}/mine.pt")
    export(work, tmp_path / "bundle")
    (tmp_path / "mine.pt").unlink()
    (tmp_path / "bundle").rename(tmp_path / "elsewhere")
    _, recipe = open_model(tmp_path / "elsewhere")
    section = recipe["segment"]
    assert isinstance(section, SegmentSection)
    assert Path(section.network).read_bytes() == COMPACT_WEIGHTS.read_bytes()
    packed = read_section(tmp_path / "elsewhere" / "recipe.toml", "segment", SegmentSection)
    assert packed.network == "segment/network.pt"


def test_damaged_bundles(packed: Path, tmp_path: Path) -> None:
    for name, change, sentence in (
        ("classify/cells/fold-1/checkpoint.pt", None, "expected classify/cells/fold-1/checkpoint.pt in the bundle"),
        ("aggregate/thresholds.json", b"{}", "expected aggregate/thresholds.json as it was packed"),
        ("bundle.json", b"[]", "found a bundle.json that is none"),
        ("bundle.json", b'{"format": "cellwise bundle 7"}', "found 'cellwise bundle 7'"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(packed, copy)
        (copy / name).unlink() if change is None else (copy / name).write_bytes(change)
        with pytest.raises(UserError, match=sentence):
            open_model(copy)
        shutil.rmtree(copy)


def test_files_outside_a_bundle_are_not_looked_at(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    (tmp_path / "secret").write_text("x")
    content = json.loads((packed / "bundle.json").read_text())
    content["files"]["../secret"] = "0" * 64
    (tmp_path / "copy" / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="found no such file"):
        open_model(tmp_path / "copy")


def test_another_segmentation_network(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    content = json.loads((packed / "bundle.json").read_text())
    content["segmentation"]["sha256"] = "0" * 64
    (tmp_path / "copy" / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected the segmentation network compact with the sha256 0000"):
        open_model(tmp_path / "copy")


def test_what_cannot_be_packed(packed: Path, tmp_path: Path) -> None:
    untrained = make_work(tmp_path / "untrained", train=12, test=2)
    with pytest.raises(UserError, match="expected a trained work folder"):
        export(untrained, tmp_path / "bundle")
    with pytest.raises(UserError, match="expected a new folder for the bundle"):
        export(untrained, packed)
    make_work(tmp_path / "other", train=12, test=2, models=2, noise_seed=1)
    joined = _trained(tmp_path / "joined", f'aggregate.join=["{tmp_path}/other"]')
    with pytest.raises(UserError, match="expected a run of one model to export, found one joined with"):
        export(joined, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
