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


def _mask_folder(folder: Path) -> Path:
    folder.mkdir()
    for image_id in ("a", "b", "c"):
        cv2.imwrite(str(folder / f"{image_id}_mask.png"), SCENE.cells)
    return folder


def test_the_stage_never_imports_from_itself(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    import_masks(work, _mask_folder(work.root.parent / "masks"), device="cpu", workers=1)
    own = work.root / "segment" / "masks"
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    assert main(["import", str(work.root), "--masks", str(own), "--overwrite"]) == 2
    assert "copy it first" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


def test_corrected_files_are_imported_again(work: WorkFolder, tmp_path: Path) -> None:
    masks = _mask_folder(tmp_path / "masks")
    import_masks(work, masks, device="cpu", workers=1)
    cv2.imwrite(str(masks / "b_mask.png"), np.where(SCENE.cells == 1, 0, SCENE.cells))
    assert import_masks(work, masks, device="cpu", workers=1) == 0
    n = int(SCENE.cells.max())
    assert read_masks(work).set_index("image_id")["n_cells"].to_dict() == {"a": n, "b": n - 1, "c": n}


def test_an_unfinished_import_says_how_to_finish_it(
    work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = _mask_folder(tmp_path / "masks")
    import_masks(work, masks, device="cpu", workers=1)
    record = work.root / "segment" / "run.json"
    record.write_text(record.read_text().replace('"done"', '"begun"'))
    (work.root / "segment" / "masks.parquet").unlink()
    assert main(["run", str(work.root), "--device", "cpu"]) == 2
    assert f"segment import {work.root} --masks {masks}" in capsys.readouterr().err
    assert import_masks(work, masks, device="cpu", workers=1) == 0
    assert run(work, device="cpu") == 0


def test_masks_of_other_images_and_odd_content_are_told(
    work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "z_mask.png"), SCENE.cells)
    assert main(["import", str(work.root), "--masks", str(masks)]) == 2
    assert "found only others, such as z_mask" in capsys.readouterr().err
    assert not (work.root / "segment").exists()
    intensities = np.random.default_rng(0).integers(0, 60_000, SCENE.cells.shape).astype(np.uint16)
    for name in ("a_mask", "a_nuclei"):  # not labels, but nothing tells them from labels
        cv2.imwrite(str(masks / f"{name}.png"), intensities)
    cv2.imwrite(str(masks / "b_mask.PNG"), SCENE.cells)
    cv2.imwrite(str(masks / "c_cp_masks.png"), SCENE.cells)
    cv2.imwrite(str(masks / "c.png"), ER)  # Cellpose saves masks beside the image
    assert import_masks(work, masks, device="cpu", workers=1) == 0
    assert read_masks(work)["n_cells"].tolist()[1:] == [SCENE.cells.max()] * 2
