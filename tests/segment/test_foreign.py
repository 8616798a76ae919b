"""Label images made elsewhere, and taking them in place of one's own."""

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.errors import ImageError, UserError
from hpa.work.files import sha256
from hpa.work.folder import WorkFolder
from segment.__main__ import main
from segment.external_masks import find_external_masks, read_external_mask
from segment.import_masks import import_masks
from segment.masks import read_mask, read_masks, read_nuclei
from segment.run import run
from tests.segment.shapes import discs, make_work, write_image

SCENE = draw_scene((97, 2), size_px=256, protein=False)
ER, NUCLEUS = (SCENE.channels[CHANNELS.index(channel)] for channel in ("yellow", "blue"))
LABELS = np.array([0, 7, 300, 2])[discs((40, 50), [(10, 10), (10, 30), (30, 20)], 6)]
NUMBERED = np.array([0, 2, 3, 1])[discs((40, 50), [(10, 10), (10, 30), (30, 20)], 6)]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64, np.float32])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_any_integer_type_and_labels_that_are_not_consecutive(tmp_path: Path, suffix: str, dtype: Any) -> None:
    path = tmp_path / f"a_mask{suffix}"
    if suffix == ".npy":
        np.save(path, LABELS.astype(dtype))
    else:
        tifffile.imwrite(path, LABELS.astype(dtype))
    assert np.array_equal(read_external_mask(path, (40, 50)), NUMBERED)


def test_png_and_cellposes_own_file(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a_cp_masks.png"), LABELS.astype(np.uint16))
    assert np.array_equal(read_external_mask(tmp_path / "a_cp_masks.png", (40, 50)), NUMBERED)
    content: Any = {"masks": LABELS.astype(np.uint16), "outlines": LABELS, "filename": "a.png", "flows": [LABELS * 1.5]}
    np.save(tmp_path / "a_seg.npy", content)
    assert np.array_equal(read_external_mask(tmp_path / "a_seg.npy", (40, 50)), NUMBERED)


class Harmful:
    """What a pickle from elsewhere may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a_seg.npy", np.array({"masks": Harmful(tmp_path / "harm")}, dtype=object))
    with pytest.raises(ImageError, match="more than plain arrays"):
        read_external_mask(tmp_path / "a_seg.npy", (40, 50))
    np.save(tmp_path / "b.npy", np.array([Harmful(tmp_path / "harm")], dtype=object))
    with pytest.raises(ImageError, match="cannot be read"):
        read_external_mask(tmp_path / "b.npy", (40, 50))
    assert not (tmp_path / "harm").exists()
    with pytest.raises(FileNotFoundError):  # the pickle is one that would do harm
        pickle.loads(pickle.dumps(Harmful(tmp_path / "no" / "folder")))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:30], "of the image's size"),
        (LABELS + 0.5, "integers from 0"),
        (LABELS - 1, "integers from 0"),
        (LABELS > 0, "integers from 0"),
    ],
)
def test_what_is_no_label_image_is_told(tmp_path: Path, labels: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", labels)
    with pytest.raises(ImageError, match=message):
        read_external_mask(tmp_path / "a.npy", (40, 50))


def test_more_objects_than_a_label_image_can_number(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(256 * 257).reshape(256, 257))
    with pytest.raises(ImageError, match="at most 65535 objects, found 65791"):
        read_external_mask(tmp_path / "a.npy", (256, 257))


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    for image_id in ("a", "b", "c"):
        write_image(tmp_path / "images", image_id, ER, NUCLEUS)
    return make_work(tmp_path / "work", tmp_path / "images")


def test_imported_masks_are_those_of_the_run(work: WorkFolder, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "a_mask.png"), SCENE.cells * 3)
    np.save(masks / "b.npy", SCENE.cells.astype(np.int64))
    tifffile.imwrite(masks / "b_nuclei.tif", SCENE.nuclei.astype(np.int32) * 5)
    assert main(["import", str(work.root), "--masks", str(masks)]) == 1, "c has no mask, and none may fail"
    failures = pd.read_csv(work.root / "segment" / "failures.csv")
    assert failures.to_numpy().tolist() == [["c", "the folder has no label image for this id"]]
    assert read_masks(work)["n_cells"].tolist() == [SCENE.cells.max()] * 2
    assert np.array_equal(read_mask(work, "a"), SCENE.cells)
    assert np.array_equal(read_nuclei(work, "b") > 0, (SCENE.nuclei > 0) & (SCENE.nuclei == SCENE.cells))
    nuclei = read_nuclei(work, "a")
    assert (nuclei[nuclei > 0] == SCENE.cells[nuclei > 0]).all()
    assert ((nuclei > 0) & (SCENE.nuclei > 0)).sum() > 0.7 * ((nuclei > 0) | (SCENE.nuclei > 0)).sum()

    before = sha256(work.root / "segment" / "masks" / "a.png")
    assert run(work, device="cpu") == 1, "the run leaves imported masks alone"
    assert sha256(work.root / "segment" / "masks" / "a.png") == before
    cv2.imwrite(str(masks / "c.png"), SCENE.cells)
    assert import_masks(work, masks, device="cpu") == 0, "a mask that came later is taken by the next import"
    assert len(read_masks(work)) == 3
    assert run(work, device="cpu", workers=1, overwrite=True) == 0
    assert not (work.root / "segment" / "imported.json").exists()


def test_import_does_not_mix_with_other_masks(work: WorkFolder, tmp_path: Path) -> None:
    masks, others = tmp_path / "masks", tmp_path / "others"
    for folder in (masks, others):
        folder.mkdir()
        cv2.imwrite(str(folder / "a_mask.png"), SCENE.cells)
    import_masks(work, masks, device="cpu", workers=1)
    with pytest.raises(UserError, match=r"found some of another origin; .*--overwrite"):
        import_masks(work, others, device="cpu", workers=1)
    with pytest.raises(UserError, match="expected label images"):
        find_external_masks(tmp_path)
