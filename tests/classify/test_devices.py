"""Data-parallel training on the CPU: it gives what one process gives, is resumable, and writes every file once."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from classify.__main__ import main
from classify.network.checkpoint import Checkpoint
from classify.training.devices import choose_devices
from hpa.errors import UserError
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import make_work

CPU = torch.device("cpu")
FOLDS = [0, 1, 0, 1, 0, 1, 1, 1]
SECTION: dict[str, Any] = {"backbone": "cnn3", "epochs": 3, "batch_size": 8, "validate_every": 1} | {
    "optimizer": "sgd",  # adaptive steps would turn the last digits of small gradients into whole steps
    "learning_rate": 0.05,
    "precision": "32",
}


def _work(root: Path, **change: Any) -> WorkFolder:
    return make_work(root, FOLDS, recipe={"classify": SECTION | {"phases": []} | change})


def _fold(work: WorkFolder) -> Path:
    return work.root / "classify" / "cells" / "fold-0"


def _train(work: WorkFolder, *flags: str) -> int:
    return main(["train", str(work.root), "--fold", "0", "--device", "cpu", "--threads", "1", *flags])


CHANGES: list[dict[str, Any]] = [
    {},
    {"phases": [{"epochs": 1, "trainable": ["heads"]}, {"epochs": 2}], "epochs": 3, "ema_decay": 0.5, "clip_norm": 0.1},
    {"objective": "dual", "pooling": "auto", "bag_size": 2, "embedding_dim": 3, "triplet_weight": 1.0, "accumulate": 2},
]


@pytest.mark.parametrize("change", CHANGES, ids=["plain", "phases", "bags"])
def test_two_processes_give_the_loss_of_one_with_twice_the_batch(tmp_path: Path, change: dict[str, Any]) -> None:
    """The batch of the recipe is that of all processes; cnn3 has no batch norm, whose statistics would differ."""
    one, two = _work(tmp_path / "one", **change), _work(tmp_path / "two", **change)
    assert _train(one) == 0
    assert _train(two, "--devices", "2") == 0
    histories = [pd.read_csv(_fold(work) / "history.csv") for work in (one, two)]
    for column in ("train_loss", "validation_loss", "learning_rate"):
        np.testing.assert_allclose(histories[1][column], histories[0][column], rtol=1e-4, err_msg=column)
    models = [Checkpoint.load(_fold(work) / "checkpoint.pt").state_dict for work in (one, two)]
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert sorted(path.name for path in _fold(two).iterdir()) == ["checkpoint.pt", "history.csv", "run.json"]


@pytest.mark.slow
def test_a_killed_training_on_two_devices_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """A program of its own, which is killed after the second epoch's history."""
    whole, killed = _work(tmp_path / "whole", epochs=6), _work(tmp_path / "killed", epochs=6)
    assert _train(whole, "--devices", "2") == 0
    script = f"""
from classify.__main__ import main
raise SystemExit(main(["train", {str(killed.root)!r}, "--fold", "0", "--device", "cpu", "--threads", "1",
                       "--devices", "2"]))
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        history = _fold(killed) / "history.csv"
        while process.poll() is None:
            if history.exists() and len(history.read_text().splitlines()) > 2:
                process.kill()
        process.wait()
    assert not (_fold(killed) / "checkpoint.pt").exists(), "it was killed before its end"
    assert _train(killed, "--devices", "2") == 0
    for name in ("checkpoint.pt", "history.csv"):
        assert (_fold(killed) / name).read_bytes() == (_fold(whole) / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "how"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_to_a_training_on_two_devices_ends_all_processes_with_one_sentence(
    tmp_path: Path, sent: signal.Signals, code: int, how: str
) -> None:
    """The signal goes to all processes, as a batch system or a terminal sends it; the same command resumes."""
    work = _work(tmp_path / "work", epochs=300)
    script = f"""
import signal
from classify.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background of a shell ignore Ctrl+C
raise SystemExit(main(["train", {str(work.root)!r}, "--fold", "0", "--device", "cpu", "--threads", "1",
                       "--devices", "2"]))
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        history = _fold(work) / "history.csv"
        while process.poll() is None and not (history.exists() and len(history.read_text().splitlines()) > 2):
            time.sleep(0.05)
        os.killpg(process.pid, sent)
        _, error = process.communicate()
    assert process.returncode == code
    ordinary = re.compile(r"train fold 0: \d+ of |\d+ other threads compute ")
    (line,) = [line for line in error.splitlines() if not ordinary.match(line)]
    assert re.fullmatch(rf"train fold 0: {how}; (a finished|no) epoch is saved.*, the same command resumes", line)
    deadline = time.monotonic() + 60
    while _group_exists(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _group_exists(process.pid)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_loss_that_is_not_finite_is_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = _work(tmp_path, learning_rate=1e30, schedule="constant")
    assert _train(work, "--devices", "2") == 2
    assert "expected a finite loss in epoch" in capsys.readouterr().err
    assert len(pd.read_csv(_fold(work) / "not_finite.csv")) == 8, "the crops of all processes"


def test_a_node_that_never_comes_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = _work(tmp_path)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port()), "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert _train(work, "--nodes", "2", "--wait-s", "2") == 2
    assert "expected 2 nodes with 1 devices each at 127.0.0.1" in capsys.readouterr().err
    monkeypatch.setenv("NODE_RANK", "1")
    assert _train(work, "--nodes", "2", "--wait-s", "2") == 2
    assert "expected 2 nodes" in capsys.readouterr().err
    assert _train(work) == 0, "nothing is lost"


@pytest.mark.slow
def test_two_nodes_train_as_one_process(tmp_path: Path) -> None:
    """Two commands on this machine, the second with the number of node 1."""
    one, two = _work(tmp_path / "one"), _work(tmp_path / "two")
    assert _train(one) == 0
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port())}
    command = [sys.executable, "-m", "classify", "train", str(two.root), "--fold", "0", "--device", "cpu"]
    command += ["--threads", "1", "--nodes", "2", "--wait-s", "120"]
    nodes = [subprocess.Popen(command, env=os.environ | meeting | {"NODE_RANK": str(node)}) for node in (1, 0)]
    assert [node.wait(timeout=240) for node in nodes] == [0, 0]
    losses = [pd.read_csv(_fold(work) / "history.csv")["train_loss"] for work in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def _port() -> int:
    chosen = choose_devices("2", 1, CPU, 1.0)
    assert chosen is not None
    return chosen.port


@pytest.mark.parametrize(
    ("devices", "nodes", "device", "environment", "message"),
    [
        ("0,0", 1, "cuda", {}, "expected every device once, found 0 twice in --devices 0,0"),
        ("two", 1, "cpu", {}, "expected a number of devices, or GPUs as in 0,1, found --devices two"),
        ("0", 1, "cpu", {}, "expected a number of devices"),
        ("-1", 1, "cpu", {}, "expected a number of devices"),
        ("0,1", 1, "cpu", {}, "expected a number of processes as --devices on the CPU, found 0,1"),
        ("2", 1, "mps", {}, "expected --device cpu or cuda with --devices and --nodes, found mps"),
        ("2", 1, "cuda:1", {}, "expected --device cpu or cuda with --devices and --nodes, found cuda:1"),
        ("1", 2, "cpu", {}, "expected MASTER_ADDR, MASTER_PORT, NODE_RANK in the environment with --nodes 2, found no"),
        (
            *("1", 2, "cpu", {"MASTER_ADDR": "a", "MASTER_PORT": "1", "NODE_RANK": "2"}),
            "expected a port and a NODE_RANK below 2, found 1 and 2",
        ),
    ],
)
def test_devices_that_cannot_be_are_refused(
    devices: str, nodes: int, device: str, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_devices(devices, nodes, torch.device(device), 1.0, environment)


def test_one_device_is_no_training_of_several() -> None:
    assert choose_devices("1", 1, CPU, 1.0) is None


def test_what_several_devices_cannot_train_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = _work(tmp_path)
    assert _train(work, "--devices", "5") == 2
    assert "expected at most half as many devices as crops in a batch (8), found 5" in capsys.readouterr().err
    assert _train(work, "--devices", "0,0") == 2
    assert "expected every device once, found 0 twice in --devices 0,0" in capsys.readouterr().err
    assert not (work.root / "classify").exists()
