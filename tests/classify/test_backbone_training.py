"""Pretraining on drawn cells: it learns, resumes to the same weights, and writes files that say what they are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from classify.__main__ import main
from classify.network.pretrained import Pretrained
from classify.training import backbone as training
from classify.training.backbone import (
    BackboneTraining,
    learning_rate,
    train_backbone,
)
from classify.training.backbone_crops import drop_channels, training_crops
from classify.training.backbone_scores import predict, score
from classify.training.rounds import Cells, Rounds, draw_part, drawing
from hpa.errors import UserError
from hpa.vocabulary import HPA28
from tests.support.drawn_cells import draw_squares

SETTINGS = BackboneTraining(cells=96, crops_seen=160, backbone="cnn3", size_px=32)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_ROUND", 32)
    monkeypatch.setattr(training, "_BATCH", 16)


def _cells(n: int = 40, size_px: int = 32) -> Cells:
    fields = draw_squares(1, n, size_px, part=0)
    pixels, own, targets = (np.concatenate(every)[:n] for every in zip(*fields, strict=True))
    return Cells(pixels, np.packbits(own.reshape(n, -1), axis=1), targets)


def _train(out: Path, settings: BackboneTraining = SETTINGS, workers: int = 1) -> dict[str, Any]:
    return train_backbone(out, settings, draw_squares, threads=1, workers=workers, held_out=32)


class _KilledError(Exception):
    """Raised in place of a kill signal."""


def test_a_killed_pretraining_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(tmp_path / "whole")
    expected = (tmp_path / "whole" / "cnn3.safetensors").read_bytes()
    assert not (tmp_path / "whole" / "cells").exists()
    assert not (tmp_path / "whole" / "resume.ckpt").exists()
    step, steps = training._Training._step, list[float]()

    def killed(*arguments: Any) -> float:
        steps.append(step(*arguments))
        if len(steps) == 5:  # in the second of three rounds
            raise _KilledError
        return steps[-1]

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_step", killed)
        with pytest.raises(_KilledError):
            _train(tmp_path / "killed")
    capsys.readouterr()
    record = _train(tmp_path / "killed", workers=2)
    assert "round 1 " not in capsys.readouterr().out, "it is not trained on again"
    assert (tmp_path / "killed" / "cnn3.safetensors").read_bytes() == expected
    assert record["crops_trained_on"] == 160
    again = _train(tmp_path / "killed")
    assert again == record, "a finished training is not repeated"
    with pytest.raises(UserError, match=r"begun with, found another seed \(1 instead of 0\)"):
        _train(tmp_path / "killed", BackboneTraining(96, 160, "cnn3", 32, seed=1))


def test_files_say_what_the_weights_are(tmp_path: Path) -> None:
    record = _train(tmp_path)
    path = tmp_path / "cnn3.safetensors"
    loaded = Pretrained.load(path)
    assert loaded.description.channels == ["red", "green", "blue", "yellow"]
    assert loaded.description.classes == list(HPA28.classes), "in the order of the vocabulary"
    stored = load_file(path)
    assert stored["backbone.conv2.weight"].dtype == stored["head.weight"].dtype == torch.bfloat16
    assert stored["head.bias"].dtype == torch.float32
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads(json.dumps(record))
    card = path.with_suffix(".md").read_text()
    assert "96 drawn cells" in card
    assert "Not to be used for" in card
    assert f"{record['held_out']['green, 32 px']['mean_ap']:.3f}" in card


def test_pretraining_learns_which_class_is_which(tmp_path: Path) -> None:
    """The position of a square is lost by turning and averaging: the classes differ by how many there are."""
    settings = BackboneTraining(cells=64, crops_seen=960, backbone="cnn3", size_px=32)
    _train(tmp_path, settings)
    weights = Pretrained.load(tmp_path / "cnn3.safetensors")
    network = training._new_network(
        settings, weights.description.mean, weights.description.std, np.full(len(HPA28), 0.5)
    )
    cells = _cells(64)
    untrained = score(predict(network, cells), cells.targets)["mean_auc"]
    network.load_state_dict(weights.state_dict, strict=False)
    trained = score(predict(network, cells), cells.targets)["mean_auc"]
    assert trained > max(untrained, 0.5) + 0.05
    absent = [k for k in range(28) if k % 3]
    assert predict(network, cells)[:, absent].max() < 0.2


def test_a_training_goes_on_from_given_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate of 0 only the running statistics of norms may change, and `cnn3` has none."""
    first = _train(tmp_path / "first")
    start = tmp_path / "first" / "cnn3.safetensors"
    settings = replace(SETTINGS, seed=1, start=str(start))
    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", lambda _: 0.0)
        record = _train(tmp_path / "still", settings)
    assert (tmp_path / "still" / "cnn3.safetensors").read_bytes() == start.read_bytes()
    assert record["history"][0]["crops_seen"] == 0
    assert record["begun_with"]["crops_trained_on"] == first["crops_trained_on"]
    again = _train(tmp_path / "again", replace(settings, start=str(tmp_path / "still" / "cnn3.safetensors")))
    assert again["begun_with"]["begun_with"] == record["begun_with"], "the whole way is on record"
    assert (tmp_path / "again" / "cnn3.safetensors").read_bytes() != start.read_bytes(), "it learns"
    card = (tmp_path / "again" / "cnn3.md").read_text()
    assert card.count("96 drawn cells") == 3
    assert card.count("160 varied crops") == 3
    start.with_suffix(".json").write_text('{"command": "edited by hand"}')
    other = _train(tmp_path / "other", settings)
    assert list(other["begun_with"]) == ["sha256"], "of what is left of a record nothing is taken"
    assert "weights of unknown origin" in (tmp_path / "other" / "cnn3.md").read_text()


def test_a_killed_training_from_given_weights_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(tmp_path / "first")
    settings = replace(SETTINGS, seed=1, start=str(tmp_path / "first" / "cnn3.safetensors"))
    expected = _train(tmp_path / "whole", settings)
    close = training._Training._close_round

    def killed(run: Any, number: int, loss: float) -> None:
        close(run, number, loss)
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_close_round", killed)
        with pytest.raises(_KilledError):
            _train(tmp_path / "killed", settings)
    record = _train(tmp_path / "killed", settings)
    files = [tmp_path / name / "cnn3.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    scores = [[row["mean_ap"] for row in one["history"]] for one in (expected, record)]
    assert scores[0] == scores[1]


def test_weights_of_another_network_are_no_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a file of pretrained weights, found no file"):
        _train(tmp_path / "none", replace(SETTINGS, start=str(tmp_path / "none.safetensors")))
    with pytest.raises(UserError, match="found no file"):
        _train(tmp_path / "unshipped", replace(SETTINGS, start="atlas"))
    _train(tmp_path / "first")
    settings = replace(SETTINGS, backbone="resnet18_half", start=str(tmp_path / "first" / "cnn3.safetensors"))
    with pytest.raises(UserError, match=r"expected weights of resnet18_half in .*, found cnn3"):
        _train(tmp_path / "other", settings)
    _train(tmp_path / "other")  # a mistaken start leaves nothing behind


def test_limited_time_ends_a_pretraining(tmp_path: Path) -> None:
    settings = BackboneTraining(cells=96, crops_seen=10**9, backbone="cnn3", size_px=32, minutes=1e-6)
    record = _train(tmp_path, settings)
    assert 0 < record["crops_trained_on"] <= 16, "one step, since the time was over when it began"
    assert record["cells_trained_on"] == 32, "of 96, in three rounds"
    assert "32 drawn cells" in (tmp_path / "cnn3.md").read_text()


def test_with_a_limit_of_time_every_round_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many crops are asked for: a round is left once the next one is drawn. Here a step takes a second."""
    settings = BackboneTraining(cells=96, crops_seen=10**9, backbone="cnn3", size_px=32, minutes=0.2)
    seen, close = list[int](), training._Training._close_round

    def closed(run: Any, number: int, loss: float) -> None:
        seen.append(run._seen)
        close(run, number, loss)

    monkeypatch.setattr(training._Training, "_elapsed", lambda run: float(run._steps))
    monkeypatch.setattr(Rounds, "is_ready", lambda *_: True)
    monkeypatch.setattr(training._Training, "_close_round", closed)
    _train(tmp_path, settings)
    assert seen == [32, 64, 12 * 16]


def test_rounds_do_not_depend_on_the_processes_and_damaged_parts_are_drawn_again(tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        with drawing(draw_squares, tmp_path / str(workers), 3, 16, workers) as rounds:
            rounds.begin(1, 600)
            rounds.begin(2, 20)
            found.append((rounds.wait(1), rounds.wait(2)))
            assert rounds.is_ready(1)
            rounds.discard(1)
        assert [path.name for path in (tmp_path / str(workers)).iterdir()] == ["round-00002"]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.targets, other.targets)
    assert len(found[0][0]) == 600
    assert not np.array_equal(found[0][0].pixels[:20], found[0][1].pixels)
    path = next((tmp_path / "1").rglob("*.npz"))
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    draw_part(draw_squares, path, 3, 2 * 4096, 20, 16)
    assert path.read_bytes() == whole


def test_cells_keep_their_masks() -> None:
    cells = _cells(9)
    expected = np.zeros((32, 32), dtype=bool)
    expected[2:-2, 2:-2] = True
    assert (cells.masks(np.arange(9)) == expected).all()


def test_learning_rate_is_one_cycle_of_torch() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = OneCycleLR(optimizer, learning_rate(0.1), total_steps=1001, pct_start=0.1001, final_div_factor=400)
    for step in range(1001):
        assert learning_rate(step / 1000) == pytest.approx(schedule.get_last_lr()[0], rel=0.02, abs=1e-6), step
        if step < 1000:
            optimizer.step()
            schedule.step()


def test_every_subset_with_the_protein_is_trained_on() -> None:
    dropped = drop_channels(np.random.default_rng(0).random((4000, 5)))
    assert not dropped[:, 1].any()
    subsets, counts = np.unique(dropped, axis=0, return_counts=True)
    assert len(subsets) == 8
    assert counts[0] == pytest.approx(4000 * (0.5 + 0.5 / 8), rel=0.1)
    np.testing.assert_allclose(counts[1:], 4000 / 16, rtol=0.3)


def test_training_crops_are_a_function_of_seed_and_step() -> None:
    cells, rows = _cells(), np.arange(16)
    one, again = (training_crops(cells, rows, 0, 5) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, training_crops(cells, rows, 1, 5))
    sides = {training_crops(cells, rows, 0, step).shape[2] for step in range(60)}
    assert sides == {32, 48, 64}
    assert (cells.pixels == _cells().pixels).all(), "the cells stay as they are"


@pytest.mark.parametrize("backbone", ["foo", "subcell"])
def test_an_unusable_backbone_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backbone: str
) -> None:
    out = tmp_path / "new"
    assert main(["train-backbone", str(out), "--cells", "128", "--backbone", backbone]) == 2
    assert "classify: expected " in capsys.readouterr().err
    assert not (out / "settings.json").exists()
