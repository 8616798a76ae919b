"""Logs beside the history: the same numbers, complete after a resumption, and only where they are asked for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from classify.__main__ import main
from classify.config import ClassifySection
from classify.training import loop
from classify.training.fit import fit
from classify.training.history import GpuWatch
from hpa.work.files import write_bytes
from tests.support.bright_crops import bright_fold, make_work

SECTION = ClassifySection(backbone="cnn3", epochs=4, batch_size=8, validate_every=2)


def _check(folder: Path) -> None:
    history = pd.read_csv(folder / "history.csv")
    logged = pd.read_csv(folder / "logs" / "csv" / "metrics.csv").sort_values("step", ignore_index=True)
    assert logged["step"].tolist() == history["epoch"].tolist() == [1, 2, 3, 4]
    for column in history.columns.drop("epoch"):
        np.testing.assert_allclose(logged[column], history[column], err_msg=column)


def test_logs_have_the_numbers_of_the_history_after_a_resumption_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(bright_fold(), SECTION, 0, 0, tmp_path / "whole", torch.device("cpu"), logs=("csv",))
    _check(tmp_path / "whole")
    written: list[Path] = []

    def dying(path: Path, content: bytes) -> None:
        write_bytes(path, content)
        written.append(path)
        if len(written) == 2:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_bytes", dying)
        with pytest.raises(InterruptedError):
            fit(bright_fold(), SECTION, 0, 0, tmp_path / "killed", torch.device("cpu"), logs=("csv",))
    fit(bright_fold(), SECTION, 0, 0, tmp_path / "killed", torch.device("cpu"), logs=("csv",))
    _check(tmp_path / "killed")


def test_tensorboard_has_the_numbers_of_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = {"classify": SECTION.model_dump(mode="json", include={"backbone", "epochs", "validate_every"})}
    work = make_work(tmp_path, [0, 1, 0, 1], recipe=recipe)
    assert main(["train", str(work.root), "--fold", "0", "--log", "tensorboard"]) == 0
    folder = work.root / "classify" / "cells" / "fold-0"
    history = pd.read_csv(folder / "history.csv")
    events = EventAccumulator(str(folder / "logs" / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("validation_loss")]
    expected = history.dropna(subset=["validation_loss"])
    assert [step for step, _ in losses] == expected["epoch"].tolist() == [2, 4]
    np.testing.assert_allclose([loss for _, loss in losses], expected["validation_loss"], rtol=1e-6)


def test_unusable_logs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path, [0, 1, 0, 1], recipe={"classify": {"backbone": "cnn3", "epochs": 1}})
    assert main(["train", str(work.root), "--log", "wandb"]) == 2
    assert "expected --log csv or tensorboard, found wandb" in capsys.readouterr().err
    assert not (work.root / "classify").exists()


def test_without_a_gpu_nothing_is_said_of_one() -> None:
    watch = GpuWatch(torch.device("cpu"))
    watch.sample()
    assert watch.take() == {}
