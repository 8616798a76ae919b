"""Import label images of other programs into a work folder."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.work.files import sha256
from hpa.work.folder import WorkFolder
from segment.__main__ import main
from segment.external_masks import find_external_masks
from segment.import_masks import import_masks
from segment.masks import read_mask, read_masks, read_nuclei
from segment.run import run
from tests.support.shapes import make_work, write_image

SCENE = draw_scene((97, 2), size_px=256, protein=False)


ER, NUCLEUS = (SCENE.channels[CHANNELS.index(channel)] for channel in ("yellow", "blue"))


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    for image_id in ("a", "b", "c"):
        write_image(tmp_path / "images", image_id, ER, NUCLEUS)
    return make_work(tmp_path / "work", tmp_path / "images")


def test_imported_masks_replace_the_run(work: WorkFolder, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "a_mask.png"), SCENE.cells * 3)
    np.save(masks / "b.npy", SCENE.cells.astype(np.int64))
    tifffile.imwrite(masks / "b_nuclei.tif", SCENE.nuclei.astype(np.int32) * 5)
    assert main(["import", str(work.root), "--masks", str(masks)]) == 1, (
        "one image has no mask, and no failure is allowed"
    )
    failures = pd.read_csv(work.root / "segment" / "failures.csv")
    assert failures.to_numpy().tolist() == [["c", "the folder has no label image for this id"]]
    assert read_masks(work)["n_cells"].tolist() == [SCENE.cells.max()] * 2
    assert np.array_equal(read_mask(work, "a"), SCENE.cells)
    assert np.array_equal(read_nuclei(work, "b") > 0, (SCENE.nuclei > 0) & (SCENE.nuclei == SCENE.cells))
    nuclei = read_nuclei(work, "a")
    assert (nuclei[nuclei > 0] == SCENE.cells[nuclei > 0]).all()
    assert ((nuclei > 0) & (SCENE.nuclei > 0)).sum() > 0.7 * ((nuclei > 0) | (SCENE.nuclei > 0)).sum()

    before = sha256(work.root / "segment" / "masks" / "a.png")
    assert run(work, device="cpu") == 1, "a run keeps imported masks"
    assert sha256(work.root / "segment" / "masks" / "a.png") == before
    cv2.imwrite(str(masks / "c.png"), SCENE.cells)
    assert import_masks(work, masks, device="cpu") == 0, "the next import adds a mask that was missing"
    assert len(read_masks(work)) == 3
    assert run(work, device="cpu", workers=1, overwrite=True) == 0
    assert not (work.root / "segment" / "imported.json").exists()


def test_import_does_not_mix_with_other_masks(work: WorkFolder, tmp_path: Path) -> None:
    masks, other_masks = tmp_path / "masks", tmp_path / "other_masks"
    for folder in (masks, other_masks):
        folder.mkdir()
        cv2.imwrite(str(folder / "a_mask.png"), SCENE.cells)
    import_masks(work, masks, device="cpu", workers=1)
    with pytest.raises(UserError, match=r"found some of another origin; .*--overwrite"):
        import_masks(work, other_masks, device="cpu", workers=1)
    with pytest.raises(UserError, match="expected label images"):
        find_external_masks(tmp_path)
