"""Code of the user: taken only from the folder on the command line, checked, recorded, and refused if it changed."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from classify.__main__ import main
from classify.config import ClassifySection
from classify.losses.classification import check_loss, class_loss
from classify.network.backbones import has_depthwise_convolutions, new_backbone
from classify.network.checkpoint import Checkpoint
from classify.own_code import check_code, code_from, code_names, code_sums, load_function
from classify.prediction import predict
from classify.run import train
from hpa.errors import UserError
from tests.support.bright_crops import make_work
from tests.support.pages import ROOT, python_blocks

KEYS = {"epochs": 1, "batch_size": 4, "backbone": "my_module:build", "loss": "my_module:my_loss"}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return a folder with the file of the page's example."""
    (example,) = python_blocks(ROOT / "docs" / "own-code.md")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_module.py").write_text(example)
    return tmp_path / "mine"


def test_the_example_of_the_page_trains_and_predicts(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(tmp_path / "work", [0, 1, 0, 1], recipe={"classify": KEYS})
    for command in ("train", "predict"):
        assert main([command, str(work.root)]) == 2, "without --code"
        error = capsys.readouterr().err
        assert "expected --code FOLDER, the folder of my_module.py, for 'my_module:" in error
        assert error.count("\n") == 1
        assert main([command, str(work.root), "--code", str(mine)]) == 0
    digest = hashlib.sha256((mine / "my_module.py").read_bytes()).hexdigest()
    fold = work.root / "classify" / "cells" / "fold-0"
    assert Checkpoint.load(fold / "checkpoint.pt").code == {"my_module.py": digest}
    assert json.loads((fold / "run.json").read_text())["made_from"]["inputs"]["my_module.py"] == digest


def test_a_loss_of_the_user_is_averaged_over_what_is_known(mine: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 3, generator=draw), (torch.rand(6, 3, generator=draw) < 0.5).float()
    targets[2, 1] = float("nan")
    weights = torch.rand(6, generator=draw)
    total = count = 0.0
    for i, c in [(i, c) for i in range(6) for c in range(3) if (i, c) != (2, 1)]:
        total += float(weights[i] * (torch.sigmoid(logits[i, c]) - targets[i, c]) ** 2)
        count += float(weights[i])
    with code_from(mine):
        found = class_loss(logits, targets, ClassifySection(loss="my_module:my_loss"), weights)
    assert found.item() == pytest.approx(total / count, rel=1e-5)


def test_a_backbone_of_the_user_is_built_with_its_own_stem(mine: Path) -> None:
    with code_from(mine):
        backbone = new_backbone("my_module:build")
        assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 32, 4, 4)
        assert not has_depthwise_convolutions("my_module:build")
        (mine / "other.py").write_text(
            "from torch.nn import Conv2d, Sequential\n"
            "def build(): return Sequential(Conv2d(3, 6, 3), Conv2d(6, 6, 3, groups=6))\n"
        )
        assert has_depthwise_convolutions("other:build")


def test_training_does_not_go_on_with_a_changed_file(mine: Path, tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", [0, 1, 0, 1], recipe={"classify": KEYS})
    with code_from(mine):
        train(work)
    with (mine / "my_module.py").open("a") as file:
        file.write("\n# changed\n")
    with code_from(mine), pytest.raises(UserError, match=r"found changed: my_module\.py"):
        train(work)
    with code_from(mine), pytest.raises(UserError, match=r"expected .*my_module\.py as in training \(SHA-256"):
        predict(work)


def test_a_model_that_is_applied_brings_no_code(mine: Path, tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", [0, 1, 0, 1], recipe={"classify": KEYS})
    with code_from(mine):
        train(work)
    new = make_work(tmp_path / "new", [0, 1, 0, 1], recipe={"classify": KEYS})
    with pytest.raises(UserError, match="a recipe or a bundle brings no code"):
        predict(new, model=work)
    with code_from(mine):
        assert predict(new, model=work) == 0


def test_a_model_with_the_users_loss_alone_predicts_without_code(mine: Path, tmp_path: Path) -> None:
    keys = KEYS | {"backbone": "cnn3"}
    work = make_work(tmp_path / "work", [0, 1, 0, 1], recipe={"classify": keys})
    with code_from(mine):
        train(work)
    assert predict(work) == 0


def test_a_file_that_changes_while_it_is_in_use_is_recorded_as_it_was_run(mine: Path) -> None:
    section = ClassifySection(loss="my_module:my_loss")
    with code_from(mine):
        before = code_sums(section)
        (mine / "my_module.py").write_text("def my_loss(logits, targets, weights): return 0\n")
        assert code_sums(section) == before
        check_loss(section, 3)
    with code_from(mine):
        assert code_sums(section) != before
        with pytest.raises(UserError, match=r"as in training"):
            check_code("my_module:my_loss", before)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return logits.sum() * float('nan')", "expected a finite loss from bad:f, found nan"),
        ("return logits[:, 0]", r"expected a scalar or a loss of the shape \(8, 3\) from bad:f, found \(8,\)"),
        ("return 1.0", "expected a tensor from bad:f, found float"),
        ("return logits.detach().square()", "found one without a gradient"),
        ("return (logits.square() * 0).sqrt()", "expected a finite gradient of bad:f"),
        ("return logits.square().sum()", "expected bad:f to leave out entries of weight 0"),
        ("raise ValueError('no idea')", "expected a loss from bad:f, found ValueError: no idea"),
        ("return unheard_of", "expected a loss from bad:f, found NameError: name 'unheard_of'"),
    ],
)
def test_a_loss_that_does_not_work_is_explained_in_one_sentence(body: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(f"def f(logits, targets, weights):\n    {body}\n")
    with code_from(tmp_path), pytest.raises(UserError, match=sentence):
        check_loss(ClassifySection(loss="bad:f"), 3)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return 3", "expected a torch module from bad:f, found int"),
        ("return nn.Flatten()", "expected a backbone with a convolution"),
        ("return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())", "into a feature map, found another"),
        ("raise RuntimeError", "expected a backbone from bad:f, found RuntimeError"),
    ],
)
def test_a_backbone_that_does_not_work_is_explained_in_one_sentence(body: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(f"from torch import nn\ndef f():\n    {body}\n")
    with code_from(tmp_path), pytest.raises(UserError, match=sentence):
        new_backbone("bad:f")


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        ("import not_there", "bad:f", r"expected .*bad\.py to run without an error, found ModuleNotFoundError"),
        ("def f(:", "bad:f", "found SyntaxError"),
        ("raise SystemExit(0)", "bad:f", "found SystemExit"),
        ("f = 3", "bad:f", r"expected a function f in .*bad\.py, found none"),
        ("", "bad:f", "expected a function f"),
        ("", "gone:f", r"expected gone\.py in the folder given as --code for 'gone:f', found no"),
    ],
)
def test_a_file_that_does_not_work_is_explained_in_one_sentence(
    content: str, name: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(content)
    with code_from(tmp_path), pytest.raises(UserError, match=sentence):
        load_function(name)


def test_a_folder_that_does_not_exist_and_names_that_are_no_code(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="expected a folder of Python files as --code, found no"),
        code_from(tmp_path / "x"),
    ):
        pass
    assert code_names(ClassifySection(backbone="timm:resnet10t")) == ()
    assert code_names(ClassifySection(backbone="a:b", loss="c:d")) == ("c:d", "a:b")
    with pytest.raises(ValueError, match="or my_module:my_loss"):
        ClassifySection(loss="../secret:f")
    with code_from(tmp_path), pytest.raises(UserError, match=r"found '\.\./secret:f'"):
        new_backbone("../secret:f")


def test_an_installed_module_is_not_taken(tmp_path: Path) -> None:
    """`json:loads` names json.py in the folder, never the standard library's."""
    with code_from(tmp_path), pytest.raises(UserError, match=r"expected json\.py in the folder"):
        load_function("json:loads")
