"""Training the compact network further, on masks of one's own and on those of a teacher."""

import json
from pathlib import Path

import cv2
import pytest
import torch

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.work.folder import WorkFolder
from segment.__main__ import main
from segment.network.weights import COMPACT_WEIGHTS, load_network
from segment.training.finetune import _sample_windows, fine_tune
from tests.segment.shapes import make_work, write_image

SCENES = [draw_scene((96, number), size_px=256, protein=False) for number in range(5)]


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    for number, scene in enumerate(SCENES):
        er, nucleus = (scene.channels[CHANNELS.index(channel)] for channel in ("yellow", "blue"))
        write_image(tmp_path / "images", f"i{number}", er, nucleus)
    return make_work(tmp_path / "work", tmp_path / "images")


@pytest.mark.slow
def test_fine_tuning_learns_a_stain_that_the_network_does_not_know(tmp_path: Path) -> None:
    """Dark cells on a bright background: few are found before, most after."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, scene in enumerate(SCENES):
        er, nucleus = (scene.channels[CHANNELS.index(channel)] for channel in ("yellow", "blue"))
        write_image(tmp_path / "images", f"i{number}", 255 - er, nucleus)
        cv2.imwrite(str(masks / f"i{number}_mask.png"), scene.cells)
    work, out = make_work(tmp_path / "work", tmp_path / "images"), tmp_path / "tuned.pt"
    assert main(["fine-tune", str(work.root), "--masks", str(masks), "--out", str(out), "--epochs", "12"]) == 0
    figures = json.loads(out.with_suffix(".json").read_text())
    assert (figures["images"], figures["held_out"]) == (4, 1)
    assert figures["losses"][-1] < figures["losses"][0]
    assert figures["after"][0]["mean_ap"] > figures["before"][0]["mean_ap"] + 0.2
    assert load_network(str(out), torch.device("cpu")).backbone == "compact"


def test_distilling_uses_the_teachers_masks(
    work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for the teacher: the shipped weights under another name."""
    teacher, out = tmp_path / "teacher.pt", tmp_path / "student.pt"
    teacher.write_bytes(COMPACT_WEIGHTS.read_bytes())
    command = [
        "distill",
        str(work.root),
        "--teacher",
        str(teacher),
        "--out",
        str(out),
        "--images",
        "3",
        "--epochs",
        "1",
    ]
    assert main(command) == 0
    assert len(list((tmp_path / "student-masks").glob("*.png"))) == 3
    assert f'set network = "{out}"' in capsys.readouterr().out
    assert json.loads(out.with_suffix(".json").read_text())["images"] == 3
    assert load_network(str(out), torch.device("cpu")).backbone == "compact"


def test_without_a_mask_nothing_is_trained(work: WorkFolder, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "stranger_mask.png"), SCENES[0].cells)
    with pytest.raises(UserError, match="expected label images for images of"):
        fine_tune(work, tmp_path, tmp_path / "out.pt", epochs=1)
    assert not (tmp_path / "out.pt").exists()
    assert main(["distill", str(work.root), "--teacher", "nobody", "--out", str(tmp_path / "out.pt")]) == 2
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("side", [16, 40, 157, 208, 209, 500, 1300])
def test_sample_windows_cover_a_side_but_for_a_rest(side: int) -> None:
    pieces = _sample_windows(side)
    assert {(piece.stop - piece.start) % 16 for piece in pieces} == {0}
    assert len({piece.stop - piece.start for piece in pieces}) == 1
    assert all(0 <= piece.start < piece.stop <= side for piece in pieces)
    assert sum(piece.stop - piece.start for piece in pieces) >= side - 16 * len(pieces)
