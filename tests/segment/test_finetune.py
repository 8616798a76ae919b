"""Train the compact network further, on label images and on the masks of a teacher."""

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
from tests.support.shapes import make_work, write_image

SCENES = [draw_scene((96, number), size_px=256, protein=False) for number in range(5)]


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    for number, scene in enumerate(SCENES):
        er, nucleus = (scene.channels[CHANNELS.index(channel)] for channel in ("yellow", "blue"))
        write_image(tmp_path / "images", f"i{number}", er, nucleus)
    return make_work(tmp_path / "work", tmp_path / "images")


@pytest.mark.slow
def test_fine_tuning_learns_an_unfamiliar_stain(tmp_path: Path) -> None:
    """Cells are dark on a bright background: few are found before training, most after."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, scene in enumerate(SCENES):
        er, nucleus = (scene.channels[CHANNELS.index(channel)] for channel in ("yellow", "blue"))
        write_image(tmp_path / "images", f"i{number}", 255 - er, nucleus)
        cv2.imwrite(str(masks / f"i{number}_mask.png"), scene.cells)
    work, out = make_work(tmp_path / "work", tmp_path / "images"), tmp_path / "tuned.pt"
    assert main(["fine-tune", str(work.root), "--masks", str(masks), "--out", str(out), "--epochs", "12"]) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert (record["images"], record["held_out"]) == (4, 1)
    assert record["losses"][-1] < record["losses"][0]
    assert record["after"][0]["mean_ap"] > record["before"][0]["mean_ap"] + 0.2
    assert load_network(str(out), torch.device("cpu")).backbone == "compact"


def test_distillation_trains_on_the_masks_of_the_teacher(
    work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped weights under another name stand in for the teacher."""
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


def test_nothing_is_trained_without_masks(work: WorkFolder, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "other_mask.png"), SCENES[0].cells)
    with pytest.raises(UserError, match="expected label images for images of"):
        fine_tune(work, tmp_path, tmp_path / "out.pt", epochs=1)
    assert not (tmp_path / "out.pt").exists()
    assert main(["distill", str(work.root), "--teacher", "no_such_network", "--out", str(tmp_path / "out.pt")]) == 2
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("side", [16, 40, 157, 208, 209, 500, 1300])
def test_sample_windows_cover_a_side_except_for_a_remainder(side: int) -> None:
    windows = _sample_windows(side)
    assert {(window.stop - window.start) % 16 for window in windows} == {0}
    assert len({window.stop - window.start for window in windows}) == 1
    assert all(0 <= window.start < window.stop <= side for window in windows)
    assert sum(window.stop - window.start for window in windows) >= side - 16 * len(windows)
