"""What cannot be trained is told in one sentence before anything is lost, whichever part of the recipe it is in."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from classify.__main__ import main
from classify.config import ClassifySection
from classify.network.model import new_network
from classify.network.pretrained import Description, Pretrained
from classify.run import train
from hpa.channels import CHANNELS
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import make_work

KEYS: dict[str, Any] = {"epochs": 1, "batch_size": 4, "backbone": "cnn3", "phases": []}
CODE = """
def nan(logits, targets, weights): return logits.sum() * float("nan")
def rows(logits, targets, weights): return logits.mean(1)
def fails(logits, targets, weights): raise ValueError("no idea")
"""
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"loss": "mine:nan"}, "expected a finite loss from mine:nan, found nan"),
    ({"loss": "mine:rows"}, "expected a scalar or a loss of the shape (8, 28) from mine:rows, found (8,)"),
    ({"loss": "mine:fails"}, "expected a loss from mine:fails, found ValueError: no idea"),
    ({"loss": [{"name": "bce"}, {"name": "mine:lost"}]}, "expected a function lost in"),
    ({"loss": "gone:loss"}, "expected gone.py in the folder given as --code for 'gone:loss', found no"),
    ({"loss": "broken:loss"}, "broken.py to run without an error, found ModuleNotFoundError"),
    ({"backbone": "mine:nan"}, "expected a backbone from mine:nan, found TypeError"),
    ({"phases": [{"epochs": 1, "trainable": ["stage9"]}]}, 'which has 2 stages, found "stage9"'),
    ({"phases": [{"epoch": 1}]}, "phases, entry 1, found 'epoch' (did you mean 'epochs'?)"),
    ({"augment": [{"name": "Rotat"}]}, "found 'Rotat' (did you mean 'Rotate'?)"),
    (
        {"augment": [{"name": "D4"}, {"name": "Rotate", "limt": 3}]},
        "in step 2 of classify.augment, found 'limt'",
    ),
    ({"augment": [{"name": "Resize", "height": 8, "width": 8}]}, "(16 x 16 px), found 8 x 8 px after Resize"),
    ({"class_weights": [1.0, 2.0]}, "expected classify.class_weights for 28 classes, found 2 numbers"),
    ({"pretrained": "green"}, "expected weights for the channel red in"),
    ({"pretrained": "reversed", "heads": "pretrained"}, "expected weights with heads of the same classes"),
]


def _snapshot(work: WorkFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted((work.root / "classify").rglob("*")) if path.is_file()}


def _save_weights(path: Path, channels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    n = len(channels)
    network = new_network(ClassifySection(backbone="cnn3"), 0, [20.0] * n, [5.0] * n, [0.5] * len(classes))
    description = Description("cnn3", "average", list(channels), list(classes), 16, [20.0] * n, [5.0] * n)
    Pretrained(description, network.state_dict()).save(path)


def test_a_recipe_that_cannot_be_trained_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even with --overwrite, the models of an earlier run stay as they were."""
    work = make_work(tmp_path / "work", [0, 1, 0, 1], recipe={"classify": KEYS})
    assert train(work) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.py").write_text(CODE)
    (tmp_path / "mine" / "broken.py").write_text("import not_there\n")
    weights = {name: str(tmp_path / f"{name}.safetensors") for name in ("green", "reversed")}
    _save_weights(Path(weights["green"]), ("green",), HPA28.classes)
    _save_weights(Path(weights["reversed"]), CHANNELS, tuple(reversed(HPA28.classes)))
    before = _snapshot(work)
    capsys.readouterr()
    for change, sentence in REFUSED:
        change = change | ({"pretrained": weights[change["pretrained"]]} if "pretrained" in change else {})
        work.recipe.write_bytes(tomli_w.dumps({"data": {"folds": 2}, "classify": KEYS | change}).encode())
        flags = ["--device", "cpu", "--code", str(tmp_path / "mine"), "--overwrite"]
        assert main(["train", str(work.root), *flags]) == 2, change
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence in line, change
        assert _snapshot(work) == before, change


def test_a_loss_that_fails_on_the_way_names_the_crops_and_keeps_the_epochs_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It passes the check before the training, and is not finite from the third step on."""
    (tmp_path / "mine.py").write_text(
        "calls = []\n"
        "def late(logits, targets, weights):\n"
        "    calls.append(len(logits))\n"
        "    loss = (weights * (logits - targets.nan_to_num()).square()).sum()\n"
        "    return loss * (float('nan') if sum(n == 4 for n in calls) > 2 else 1)\n"
    )
    recipe = {"classify": KEYS | {"epochs": 4, "loss": "mine:late"}}
    work = make_work(tmp_path / "work", [0, 1, 0, 1], recipe=recipe, cells=4)
    assert main(["train", str(work.root), "--fold", "0", "--device", "cpu", "--code", str(tmp_path)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "expected" in line]
    assert "expected a finite loss in epoch" in line
    fold = work.root / "classify" / "cells" / "fold-0"
    assert len((fold / "not_finite.csv").read_text().splitlines()) > 1
    assert len((fold / "history.csv").read_text().splitlines()) > 1
    assert (fold / "resume.ckpt").is_file()
