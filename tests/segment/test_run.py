"""Run the stage on a few good, odd and broken images."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.pixels import read_plane
from hpa.work.files import sha256
from hpa.work.folder import WorkFolder
from hpa.work.stage import read_stage_record
from segment.__main__ import main
from segment.inference.predict import run_network
from segment.inference.preprocess import NetworkInput, prepare_input
from segment.masks import read_mask, read_masks, read_nuclei
from segment.network.cellpose import BaseModel
from segment.run import run
from segment.score import mask_average_precision
from tests.support.processes import data_files
from tests.support.shapes import make_work, write_image

YELLOW, BLUE = CHANNELS.index("yellow"), CHANNELS.index("blue")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images: three good ones (one is wide, one has 16 bits), a black one, a flat one, and two broken ones."""
    folder = tmp_path_factory.mktemp("images")
    scene = draw_scene((99, 1), size_px=256, protein=False).channels
    write_image(folder, "good", scene[YELLOW], scene[BLUE])
    write_image(folder, "wide", np.tile(scene[YELLOW], (1, 2)), np.tile(scene[BLUE], (1, 2)))
    write_image(folder, "deep", scene[YELLOW], scene[BLUE])
    for channel, plane in (("yellow", scene[YELLOW]), ("blue", scene[BLUE])):
        cv2.imwrite(str(folder / f"deep_{channel}.png"), plane.astype(np.uint16) * 257)
    write_image(folder, "black", np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8))
    write_image(folder, "flat", np.full((256, 256), 90, np.uint8), np.full((256, 256), 30, np.uint8))
    write_image(folder, "missing", scene[YELLOW], scene[BLUE])
    (folder / "missing_blue.png").unlink()
    write_image(folder, "truncated", scene[YELLOW], scene[BLUE])
    content = (folder / "truncated_yellow.png").read_bytes()
    (folder / "truncated_yellow.png").write_bytes(content[: len(content) // 2])
    return folder


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    work = make_work(tmp_path_factory.mktemp("done") / "work", data)
    assert run(work, device="cpu", workers=1) == 1, "two images fail, and no failure is allowed"
    return work


def outputs(work: WorkFolder) -> dict[str, str]:
    """Return the SHA-256 of every data file of the stage, all but run.json."""
    folder = work.root / "segment"
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def test_no_image_is_lost(done: WorkFolder) -> None:
    images, masks = read_images(done.images), read_masks(done)
    failures = pd.read_csv(done.root / "segment" / "failures.csv")
    assert sorted([*masks["image_id"], *failures["image_id"]]) == sorted(images["image_id"])
    assert failures["reason"].str.contains("missing file missing_blue.png|truncated PNG").all()
    counts = json.loads((done.root / "segment" / "run.json").read_text())["counts"]
    assert counts["images"] == counts["masks"] + counts["failures"] == 7
    assert counts["cells"] == masks["n_cells"].sum()


def test_label_images_satisfy_the_contract(done: WorkFolder) -> None:
    images = read_images(done.images).set_index("image_id")
    for row in read_masks(done).to_dict("records"):
        cells, nuclei = read_mask(done, row["image_id"]), read_nuclei(done, row["image_id"])
        assert cells.shape == nuclei.shape == tuple(images.loc[row["image_id"], ["height_px", "width_px"]])
        assert np.unique(cells[cells > 0]).tolist() == list(range(1, row["n_cells"] + 1))
        assert (cells[nuclei > 0] == nuclei[nuclei > 0]).all(), (
            "a nucleus must lie within the cell whose label it carries"
        )
        assert set(np.unique(nuclei[nuclei > 0])) == set(range(1, row["n_cells"] + 1)), "each cell must have a nucleus"


def test_odd_images_are_flagged_and_bit_depth_has_no_effect(done: WorkFolder) -> None:
    masks = read_masks(done).set_index("image_id")
    assert masks["flags"][["black", "flat"]].tolist() == ["no signal, no cell"] * 2
    n_cells = masks["n_cells"].to_dict()
    assert 0 < n_cells["good"] < n_cells["wide"]
    same = (read_mask(done, "deep") > 0) == (read_mask(done, "good") > 0)
    assert same.mean() > 0.99
    for name in ("overlays.png", "cells.png"):
        picture = read_plane(done.root / "segment" / "figures" / name, 1)
        assert picture.std() > 5, f"{name} is empty"


def test_an_interrupted_run_resumes_to_the_same_files(done: WorkFolder, data: Path, tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", data)
    run(work, device="cpu", workers=1)
    folder = work.root / "segment"
    (folder / "parts" / "00000.parquet").unlink()
    (folder / "masks" / "good.png").unlink()
    (folder / "masks.parquet").unlink()
    assert run(work, device="cpu", workers=2) == 1
    assert outputs(work) == outputs(done)


def test_a_repaired_image_is_segmented_by_the_next_run(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "images"
    copy.mkdir()
    for path in data.glob("[gm]*.png"):
        (copy / path.name).write_bytes(path.read_bytes())
    work = make_work(tmp_path / "work", copy, "[data]\nmax_failures = 1\n")
    assert run(work, device="cpu", workers=1) == 0
    (copy / "missing_blue.png").write_bytes((data / "good_blue.png").read_bytes())
    assert run(work, device="cpu", workers=1) == 0
    assert np.array_equal(read_mask(work, "missing"), read_mask(work, "good"))
    (copy / "good_yellow.png").unlink()
    assert run(work, device="cpu", workers=1) == 0, "masks must stay valid when their image is removed"
    assert read_mask(work, "good").any()


def test_an_image_with_too_many_cells_for_a_label_image_fails(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segment.postprocess.decode.MAX_LABELS", 1)
    work = make_work(tmp_path, data)
    assert run(work, device="cpu", workers=1) == 1
    failures = pd.read_csv(work.root / "segment" / "failures.csv")
    assert failures["reason"].str.contains("at most 1 cells").sum() == 3
    assert len(failures) + len(read_masks(work)) == 7


def test_a_changed_recipe_requires_overwrite(data: Path, tmp_path: Path) -> None:
    work = make_work(tmp_path, data)
    run(work, device="cpu", workers=1)
    work.recipe.write_text("[segment]\npostprocess = 'cellpose'\n")
    work = WorkFolder(work.root)  # a work folder reads its recipe once
    with pytest.raises(UserError, match=r"recipe key postprocess.*--overwrite"):
        run(work, device="cpu", workers=1)
    assert run(work, device="cpu", workers=1, overwrite=True) == 1
    assert (read_masks(work)["n_cells"] > 0).any()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("[segment]\nnetwork = 'nowhere.pt'\n", "found no file nowhere.pt"),
        ("[segment]\npostprocess = 'magic'\n", r"usable \[segment\] postprocess"),
        ("[segment]\ncolour = 1\n", "only known keys"),
        ("[data]\nchannels = ['green', 'blue']\n", "found no yellow"),
        (
            "[segment]\nchannels = ['yellow']\n",
            r"usable \[segment\] channels .*blue with yellow, red, both or their mixture",
        ),
        ("[segment]\nchannels = ['blue', 'green']\n", "blue with yellow, red, both or their mixture"),
    ],
)
def test_an_unusable_recipe_is_refused_before_anything_runs(
    data: Path, tmp_path: Path, recipe: str, message: str
) -> None:
    work = make_work(tmp_path, data, recipe)
    with pytest.raises(UserError, match=message):
        run(work, device="cpu")
    assert not (tmp_path / "segment").exists()


def test_unsupported_weights_are_refused_before_masks_are_removed(
    done: WorkFolder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"downsample.weight": torch.zeros(1)}, tmp_path / "cyto3")
    work = make_work(tmp_path / "work", data, f"[segment]\nnetwork = '{tmp_path / 'cyto3'}'\n")
    shutil.copytree(done.root / "segment", work.root / "segment")
    before = outputs(work)
    assert main(["run", str(work.root), "--device", "cpu", "--overwrite"]) == 2
    message = capsys.readouterr().err
    assert "no weights of Cellpose 4" in message
    assert "segment import" in message
    assert message.count("\n") == 1
    assert outputs(work) == before


def test_an_unknown_device_is_refused(done: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(done.root), "--device", "abacus"]) == 2
    assert "expected a device that this machine has" in capsys.readouterr().err


def test_help_does_not_import_torch() -> None:
    code = "import sys; from segment.__main__ import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


ODD_SHAPES = [(1, 1), (1, 200), (200, 1), (2, 60), (8, 8), (8, 100), (12, 40), (15, 300), (1, 3000)]


@pytest.mark.parametrize("first", [True, False], ids=["odd images first", "odd images last"])
def test_images_that_are_too_small_fail_alone(first: bool, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for number, shape in enumerate(ODD_SHAPES):
        planes = noise.integers(0, 255, (2, *shape), dtype=np.uint8)
        write_image(tmp_path / "images", f"{'a' if first else 'z'}{number}", planes[0], planes[1])
    scene = draw_scene((97, 1), size_px=128, protein=False).channels
    write_image(tmp_path / "images", "ordinary", scene[YELLOW], scene[BLUE])
    work = make_work(tmp_path / "work", tmp_path / "images")
    assert run(work, device="cpu", workers=1) == 1
    assert read_masks(work)["image_id"].tolist() == ["ordinary"]
    failures = pd.read_csv(work.root / "segment" / "failures.csv")
    assert len(failures) == len(ODD_SHAPES)
    for shape, reason in zip(ODD_SHAPES, failures["reason"], strict=True):
        assert reason == f"expected an image of at least 16 x 16 px, found {shape[0]} x {shape[1]} px"


def test_an_image_too_large_at_the_networks_scale_is_an_image_error() -> None:
    planes = np.zeros((2, 16, 60_000), dtype=np.uint8)
    with pytest.raises(ImageError, match=r"expected an image of at most 33,554,432 px at the network's scale, found"):
        prepare_input(planes, 0.5)


def test_an_image_of_small_cells_is_segmented_at_their_diameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four reduced copies of an image, in a data set whose typical cells are three times as wide."""
    scene = draw_scene((99, 1), size_px=256, protein=False)
    tiled = [np.tile(cv2.resize(plane, (128, 128), interpolation=cv2.INTER_AREA), (2, 2)) for plane in scene.channels]
    write_image(tmp_path / "images", "small", tiled[YELLOW], tiled[BLUE])
    monkeypatch.setattr("segment.run._find_diameters", lambda *_: {"256x256": 75.0})
    found = {}
    for name, diameter_px in (("estimated", 0), ("right", 25), ("wrong", 75)):
        work = make_work(tmp_path / name, tmp_path / "images", f"[segment]\ndiameter_px = {diameter_px}\n")
        assert run(work, device="cpu", workers=1) == 0
        found[name] = read_mask(work, "small")
    estimated, wrong = (mask_average_precision(found[name], found["right"], 0.75) for name in ("estimated", "wrong"))
    assert estimated > 0.5
    assert estimated > wrong + 0.2

    def failing(net: BaseModel, images: Sequence[NetworkInput]) -> list[NDArray[np.float32]]:
        if any(image.diameter_px != 75 for image in images):
            raise MemoryError
        return run_network(net, images)

    monkeypatch.setattr("segment.run.run_network", failing)
    work = make_work(tmp_path / "too large", tmp_path / "images")
    assert run(work, device="cpu", workers=1) == 0
    assert np.array_equal(read_mask(work, "small"), found["wrong"]), "expected the first masks to stay"


def test_whatever_an_image_raises_is_its_own_failure(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a batch of several images is attributed to one of them; the others keep their masks."""
    work, expected = make_work(tmp_path / "work", data), make_work(tmp_path / "expected", data)
    run(expected, device="cpu", workers=1)

    def failing(net: BaseModel, images: Sequence[NetworkInput]) -> list[NDArray[np.float32]]:
        if any(image.shape == (256, 512) for image in images):
            raise ZeroDivisionError("of the wide image")
        return run_network(net, images)

    monkeypatch.setattr("segment.run.run_network", failing)
    assert run(work, device="cpu", workers=1) == 1
    failures = pd.read_csv(work.root / "segment" / "failures.csv").set_index("image_id")["reason"]
    assert failures["wide"] == "the image cannot be segmented (ZeroDivisionError: of the wide image)"
    others = read_masks(expected).query("image_id != 'wide'").reset_index(drop=True)
    pd.testing.assert_frame_equal(read_masks(work), others)


def test_a_run_keeps_the_arithmetic_it_began_with(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells in bfloat16 are those in float32, and a run begun with it does not go on without its instructions."""
    good, masks = tmp_path / "images", {}
    good.mkdir()
    for path in data.glob("good_*.png"):  # one image, because bfloat16 is slow on most processors
        shutil.copy(path, good)
    for precision in ("32", "bf16"):
        work = make_work(tmp_path / precision, good, f"[segment]\nprecision = '{precision}'\n")
        assert run(work, device="cpu", workers=1) == 0
        record = read_stage_record(work.root / "segment")
        assert record.computation is not None
        assert record.computation.bfloat16 is (precision == "bf16")
        masks[precision] = read_mask(work, "good")
    assert (masks["32"] != masks["bf16"]).any(), "both were computed in the same way"
    assert mask_average_precision(masks["bf16"], masks["32"], 0.75) >= 0.9

    processor = "hpa.work.device.has_bf16_instructions"
    work = make_work(tmp_path / "resumed", good)
    with monkeypatch.context() as patch:
        patch.setattr(processor, lambda: True)
        patch.setattr("segment.run._process", _killed)
        with pytest.raises(KeyboardInterrupt):
            run(work, device="cpu", workers=1)
    monkeypatch.setattr(processor, lambda: False)
    with pytest.raises(UserError, match="expected a processor with bfloat16 instructions, with which this run began"):
        run(work, device="cpu", workers=1)
    assert run(work, device="cpu", workers=1, overwrite=True) == 0
    np.testing.assert_array_equal(read_mask(work, "good"), masks["32"])


def _killed(*_: object) -> pd.DataFrame:
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", [b"", b"[]", b'{"32x32": -1}', b'{"9x9": 20.0}', b"\xff", b'{"48x64": null}'])
def test_damaged_diameters_are_made_again(
    content: bytes, done: WorkFolder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(tmp_path, data)
    shutil.copytree(done.root / "segment", work.root / "segment")
    path = work.root / "segment" / "diameters.json"
    expected = path.read_bytes()
    path.write_bytes(content)
    run(work, device="cpu", workers=1)
    assert path.read_bytes() == expected
    assert f"making {path} again" in capsys.readouterr().out


def test_missing_masks_are_made_again_and_damaged_ones_named(data: Path, tmp_path: Path) -> None:
    good = tmp_path / "images"
    good.mkdir()
    for path in data.glob("good_*.png"):  # a chunk with failures would be processed again in any case
        shutil.copy(path, good)
    work = make_work(tmp_path / "work", good)
    assert run(work, device="cpu", workers=1) == 0
    expected = data_files(work.root / "segment")
    image_id = read_masks(work)["image_id"].iloc[0]
    for kind in ("masks", "nuclei"):
        (work.root / "segment" / kind / f"{image_id}.png").unlink()
    run(work, device="cpu", workers=1)
    assert data_files(work.root / "segment") == expected
    for path in (work.root / "segment" / "masks").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"expected the masks in .* as they were written, found"):
        run(work, device="cpu", workers=1)


@pytest.mark.parametrize("wrong", [{"dask": "tcp://127.0.0.1:9"}, {"device": "meta3"}])
def test_overwrite_checks_before_it_deletes(
    wrong: dict[str, str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpa.work.cluster._PATIENCE_S", 0.3)
    work = make_work(tmp_path, data)
    run(work, device="cpu", workers=1)
    before = data_files(work.root / "segment")
    with pytest.raises(UserError, match=r"expected a (Dask scheduler|device)"):
        run(work, device=wrong.get("device", "cpu"), dask=wrong.get("dask", ""), workers=1, overwrite=True)
    assert data_files(work.root / "segment") == before
