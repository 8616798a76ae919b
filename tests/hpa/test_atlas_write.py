"""The written data set: the same bytes for any number of workers, tables that agree with the label images."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from hpa.atlas import draw_scene, synthesize
from hpa.atlas.write import reimage
from hpa.errors import UserError
from hpa.vocabulary import HPA28


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "set"
    seen: list[int] = []
    synthesize(out, 5, 3, 7, size_px=128, workers=2, on_image=lambda: seen.append(1))
    assert len(seen) == 8
    return out


def pixels(path: Path) -> NDArray[np.generic]:
    """Read a PNG as it is, whatever its depth."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_output_does_not_depend_on_workers(written: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", 5, 3, 7, size_px=128, workers=1)
    digests = []
    for folder in (written, tmp_path / "again"):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests.append({str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert digests[0] == digests[1]
    assert len(digests[0]) == 8 * (4 + 2) + 5


def test_layout_matches_the_competition(written: Path) -> None:
    train, sample = read(written / "train.csv"), read(written / "sample_submission.csv")
    assert list(train.columns) == ["Id", "Target"]
    assert list(sample.columns) == ["Id", "Predicted"]
    assert (len(train), len(sample)) == (5, 3)
    assert set(sample.Predicted) == {"0"}
    assert all(HPA28.parse(target) for target in train.Target)
    for split, ids in (("train", train.Id), ("test", sample.Id)):
        names = {f"{image_id}_{color}.png" for image_id in ids for color in ("red", "green", "blue", "yellow")}
        assert {path.name for path in (written / split).iterdir()} == names
        for name in names:
            plane = pixels(written / split / name)
            assert plane.shape == (128, 128)
            assert plane.dtype == np.uint8


def test_truth_tables_agree_with_the_label_images(written: Path) -> None:
    images, cells = read(written / "truth" / "images.csv"), read(written / "truth" / "cells.csv")
    expected = ["image_id", "split", "target", "antibody", "plate", "well", "cell_line", "duplicate_of"]
    assert list(images.columns) == expected
    assert list(cells.columns) == ["image_id", "cell_label", "target"]
    for image_id in images.image_id:
        masks = [pixels(written / "truth" / kind / f"{image_id}.png") for kind in ("cells", "nuclei")]
        rows = cells[cells.image_id == image_id]
        labels = rows.cell_label.astype(int).tolist()
        assert labels == list(range(1, len(rows) + 1))
        for mask in masks:
            assert mask.dtype == np.uint16
            assert [label for label in np.unique(mask).tolist() if label] == labels
    train = read(written / "train.csv").set_index("Id").Target
    truth = images[images.split == "train"].set_index("image_id").target
    assert train.to_dict() == truth.to_dict()


def test_reimaged_scene_shows_the_same_field(tmp_path: Path) -> None:
    scene = draw_scene((3,), size_px=256, cell_line=1, target=(0,))
    again = reimage(np.random.default_rng(0), scene)
    assert again.channels.shape == scene.channels.shape
    assert not np.array_equal(again.channels, scene.channels)
    labels = list(range(1, len(again.targets) + 1))
    assert np.unique(again.cells[again.cells > 0]).tolist() == labels
    assert np.unique(again.nuclei[again.nuclei > 0]).tolist() == labels
    assert len(labels) <= len(scene.targets)
    # a window of one is found in the other: the best match of its middle is nearly perfect
    blue, other = (np.asarray(s.channels[2], np.float32) for s in (scene, again))
    best = max(
        cv2.matchTemplate(blue, cv2.resize(other[64:192, 64:192], None, fx=share, fy=share), cv2.TM_CCOEFF_NORMED).max()
        for share in np.arange(0.80, 1.0, 0.02)
    )
    assert best > 0.85


def test_invalid_arguments_raise(written: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected an empty or a new folder, found"):
        synthesize(written, 2, 1, 0)
    with pytest.raises(UserError, match="expected at least 1 worker, found 0"):
        synthesize(tmp_path / "new", 2, 1, 0, workers=0)
    with pytest.raises(UserError, match="expected a size of at least 64 px, found 10"):
        synthesize(tmp_path / "new", 2, 1, 0, size_px=10)
    assert not (tmp_path / "new").exists()
