"""Faults and extremes of training: non-finite losses, full memory and disk, signals, unusual folds and bags."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from classify.__main__ import main
from classify.config import ClassifySection
from classify.inference.evaluate import predict_batches
from classify.network.model import Network, Outputs
from classify.training import loop
from classify.training.fit import TrainedModel, fit
from classify.training.loop import NOT_FINITE
from hpa.errors import UserError
from hpa.work.files import write_bytes
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import bright_crops, bright_fold, fold_of, make_work

CPU = torch.device("cpu")
SECTION = ClassifySection(backbone="cnn3", epochs=3, batch_size=8, validate_every=1)


def _equal(one: TrainedModel, other: TrainedModel) -> bool:
    return all(torch.equal(tensor, other.state_dict[name]) for name, tensor in one.state_dict.items())


def test_non_finite_loss_stops_and_lists_the_crops(tmp_path: Path) -> None:
    crops = bright_fold()
    section = SECTION.model_copy(update={"learning_rate": 1e30, "schedule": "constant"})
    with pytest.raises(UserError, match=rf"expected a finite loss in epoch 1, found .*{NOT_FINITE}"):
        fit(crops, section, 0, 0, tmp_path, CPU)
    assert [path.name for path in tmp_path.iterdir()] == [NOT_FINITE], "nothing else is written"
    listed = pd.read_csv(tmp_path / NOT_FINITE)
    assert len(listed) == 8
    keys = set(zip(crops.labels.image_ids[crops.training], crops.labels.cell_labels[crops.training], strict=True))
    assert set(listed.itertuples(index=False, name=None)) <= keys


class _SmallDevice:
    """A device with memory for `room` crops: a larger batch raises torch's out-of-memory error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.sizes: list[int] = []
        self._forward = Network.forward
        self._room = room
        device = self

        def forward(network: Network, pixels: Tensor, levels: Tensor | None = None) -> Outputs:
            return device.run(network, pixels, levels)

        monkeypatch.setattr(Network, "forward", forward)

    def run(self, network: Network, pixels: Tensor, levels: Tensor | None) -> Outputs:
        if len(pixels) > self._room:
            raise torch.OutOfMemoryError("no room")
        self.sizes.append(len(pixels))
        return self._forward(network, pixels, levels)


def test_step_too_large_for_memory_is_split_with_the_same_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = SECTION.model_copy(update={"validate_every": 3, "optimizer": "sgd"})
    uninterrupted = fit(bright_fold(32, 2), section, 0, 0, tmp_path / "uninterrupted", CPU)
    device = _SmallDevice(monkeypatch, room=3)
    parts = fit(bright_fold(32, 2), section, 0, 0, tmp_path / "parts", CPU)
    assert "splitting each step into 4 parts" in capsys.readouterr().out
    assert max(device.sizes) == 2
    for name, tensor in uninterrupted.state_dict.items():  # cnn3 has no batch norm, so only the order of sums differs
        torch.testing.assert_close(parts.state_dict[name], tensor, rtol=1e-3, atol=1e-4)


def test_device_too_small_for_two_crops_raises_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _SmallDevice(monkeypatch, room=1)
    with pytest.raises(UserError, match="expected room for a training step of 2 crops"):
        fit(bright_fold(), SECTION, 0, 0, tmp_path, CPU)


def test_prediction_too_large_for_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    section = SECTION.model_copy(update={"normalise": "percentiles", "embedding_dim": 2})
    network = Network(section, 4, 3, [60.0] * 4, [50.0] * 4)
    source = bright_crops(np.random.default_rng(0).random((11, 3)) < 0.5)
    levels = np.random.default_rng(1).uniform(10, 20, (11, 2, 4)).astype(np.float32)
    (uninterrupted,) = predict_batches(network, source, np.arange(11), section, CPU, levels)
    _SmallDevice(monkeypatch, room=3)
    (parts,) = predict_batches(network, source, np.arange(11), section, CPU, levels)
    for one, other in zip(uninterrupted, parts, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    _SmallDevice(monkeypatch, room=0)
    with pytest.raises(UserError, match="expected room for one crop"):
        list(predict_batches(network, source, np.arange(11), section, CPU, levels))


def _at_write(monkeypatch: pytest.MonkeyPatch, number: int, what: Any) -> None:
    """Call `what` after the resume file has been written `number` times."""
    written: list[Path] = []

    def writing(path: Path, content: bytes) -> None:
        write_bytes(path, content)
        written.append(path)
        if len(written) == number:
            what()

    monkeypatch.setattr(loop, "write_bytes", writing)


@pytest.mark.parametrize("change", [{}, {"objective": "dual", "pooling": "attention", "bag_size": 2}])
def test_sigterm_exits_and_training_resumes_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    section = SECTION.model_copy(update=change)
    uninterrupted = fit(bright_fold(), section, 0, 0, tmp_path / "uninterrupted", CPU)
    with monkeypatch.context() as patch:
        _at_write(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as ended:
            fit(bright_fold(), section, 0, 0, tmp_path / "resumed", CPU)
    assert ended.value.code == 143
    assert "a finished epoch is saved" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "resumed" / "history.csv")) == 2
    assert _equal(uninterrupted, fit(bright_fold(), section, 0, 0, tmp_path / "resumed", CPU))


@pytest.fixture
def no_limit() -> Iterator[None]:
    """Restore the limit on file sizes that a test lowers."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("no_limit")
def test_full_disk_raises_an_error_and_keeps_saved_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"classify": {"backbone": "cnn3", "epochs": 3, "batch_size": 4}}
    folds = [0, 1, 0, 1, 0, 1]
    uninterrupted = make_work(tmp_path / "uninterrupted", folds, recipe=recipe)
    work = make_work(tmp_path / "full", folds, recipe=recipe)
    assert main(["train", str(uninterrupted.root), "--fold", "0"]) == 0
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        _at_write(patch, 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard)))
        assert main(["train", str(work.root), "--fold", "0"]) == 2
    assert "with room on the disk" in capsys.readouterr().err
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    fold = work.root / "classify" / "cells" / "fold-0"
    assert {path.name for path in fold.iterdir()} == {"run.json", "history.csv", "resume.ckpt"}, "no half file"
    assert main(["train", str(work.root), "--fold", "0"]) == 0
    for name in ("checkpoint.pt", "history.csv"):
        assert (fold / name).read_bytes() == (uninterrupted.root / "classify/cells/fold-0" / name).read_bytes()


@pytest.mark.parametrize("pooling", ["max", "linear-softmax", "attention", "auto"])
@pytest.mark.parametrize("objective", ["bag", "dual"])
def test_bags_of_forty_and_of_one_train_together(tmp_path: Path, objective: str, pooling: str) -> None:
    images = np.repeat(np.arange(6), [40, 1, 40, 1, 40, 1])
    targets = np.eye(3, dtype=bool)[images % 3]
    crops = fold_of(bright_crops(targets), targets, images, 82)
    change = {"objective": objective, "pooling": pooling, "bag_size": 64, "batch_size": 128, "completeness_power": 1.0}
    labels = replace(crops.labels, completeness=np.linspace(0, 1, len(images), dtype=np.float32))
    crops = replace(crops, labels=labels)
    fitted = fit(crops, SECTION.model_copy(update=change), 0, 0, tmp_path, CPU)
    assert all(torch.isfinite(tensor).all() for tensor in fitted.state_dict.values())
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.notna().all(axis=None)


@pytest.mark.parametrize("change", [{}, {"sampling": "classes"}, {"objective": "bag"}])
def test_class_without_positives_is_not_predicted(tmp_path: Path, change: dict[str, Any]) -> None:
    crops = bright_fold(64, 16)
    targets = crops.labels.targets.copy()
    targets[crops.training, 1] = False
    crops = replace(crops, labels=replace(crops.labels, targets=targets))
    fitted = fit(crops, SECTION.model_copy(update=change), 0, 0, tmp_path, CPU)
    network = Network(SECTION, 4, 3, fitted.statistics.mean, fitted.statistics.std).eval()
    network.load_state_dict(fitted.state_dict)
    with torch.inference_mode():
        logits = network(torch.from_numpy(crops.source.pixels(crops.validation))).logits
    assert torch.isfinite(logits).all()
    assert (logits[:, 1] < -4).all()


@pytest.mark.parametrize("change", [{}, {"objective": "bag"}, {"embedding_dim": 3}, {"sampling": "classes"}])
def test_training_on_a_single_image(tmp_path: Path, change: dict[str, Any]) -> None:
    targets = np.ones((6, 2), dtype=bool)
    crops = fold_of(bright_crops(targets), targets, np.array([0, 0, 0, 0, 1, 1]), 4)
    fitted = fit(crops, SECTION.model_copy(update=change), 0, 0, tmp_path, CPU)
    assert all(torch.isfinite(tensor).all() for tensor in fitted.state_dict.values())


def test_checkpoint_of_other_channels_raises_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"classify": {"backbone": "cnn3", "epochs": 1, "batch_size": 4}}
    work = make_work(tmp_path / "work", [0, 1, 0, 1], recipe=recipe)
    assert main(["train", str(work.root)]) == 0
    recipe_text = work.recipe.read_text()
    work.recipe.write_text(recipe_text.replace("[data]\n", '[data]\nchannels = ["green", "red", "blue", "yellow"]\n'))
    work = WorkFolder(work.root)  # a work folder reads its recipe once
    assert main(["predict", str(work.root)]) == 2
    assert "expected the channels that" in capsys.readouterr().err


def test_random_crop_larger_than_the_crops_raises_an_error(tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"random_crop": "crop", "random_crop_px": 32})
    with pytest.raises(UserError, match="random_crop_px of at most 16"):
        fit(bright_fold(), section, 0, 0, tmp_path, CPU)


def _stop_after_one_epoch(work: WorkFolder, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    with monkeypatch.context() as patch:
        _at_write(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["train", str(work.root), "--fold", "0", *flags]) == 143


def test_a_resumed_stage_keeps_its_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used: list[int] = []
    forward = Network.forward

    def counted(network: Network, pixels: Tensor, levels: Tensor | None = None) -> Outputs:
        used.append(torch.get_num_threads())
        return forward(network, pixels, levels)

    monkeypatch.setattr(Network, "forward", counted)
    work = make_work(tmp_path, [0, 1, 0, 1], recipe={"classify": {"backbone": "cnn3", "epochs": 2, "batch_size": 4}})
    _stop_after_one_epoch(work, monkeypatch, "--threads", "3")
    record = work.root / "classify" / "cells" / "fold-0" / "run.json"
    assert json.loads(record.read_text())["computation"]["threads"] == 3
    assert main(["train", str(work.root), "--threads", "2"]) == 0
    assert "continues with 3 threads, with which it began, instead of 2" in capsys.readouterr().out
    trained = [threads for threads in used if threads != 1]  # the checks of the network use those of the tests
    first = trained.index(2)  # of fold 1, which had not begun
    assert set(trained[:first]) == {3}
    assert set(trained[first:]) == {2}
    assert json.loads(record.read_text())["computation"]["threads"] == 3
    assert main(["predict", str(work.root), "--threads", "2"]) == 0
    record = work.root / "classify" / "cells" / "predict" / "run.json"
    assert json.loads(record.read_text())["computation"]["threads"] == 2


def test_a_stage_begun_in_bfloat16_does_not_resume_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"classify": {"backbone": "cnn3", "epochs": 2, "batch_size": 4, "precision": "auto"}}
    work = make_work(tmp_path, [0, 1, 0, 1], recipe=recipe)
    processor = "hpa.work.device.has_bf16_instructions"
    with monkeypatch.context() as patch:
        patch.setattr(processor, lambda: True)
        _stop_after_one_epoch(work, monkeypatch)
    monkeypatch.setattr(processor, lambda: False)
    assert main(["train", str(work.root)]) == 2
    assert "expected a processor with bfloat16 instructions" in capsys.readouterr().err
    assert main(["train", str(work.root), "--overwrite"]) == 0
    record = work.root / "classify" / "cells" / "fold-0" / "run.json"
    assert json.loads(record.read_text())["computation"]["bfloat16"] is False
