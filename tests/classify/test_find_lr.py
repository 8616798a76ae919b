"""The search for a learning rate: rates, losses and what it suggests, on curves and trainings with a known answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from classify.__main__ import main
from classify.config import ClassifySection
from classify.data.batches import training_batches
from classify.data.normalisation import measure_statistics
from classify.losses.classification import class_loss
from classify.training.find_lr import RateSearch, search_rates, smooth
from classify.training.fold_training import FoldTraining
from tests.support.bright_crops import bright_fold, make_work

CPU = torch.device("cpu")
SECTION = ClassifySection(
    backbone="cnn3", batch_size=8, augment="none", optimizer="sgd", momentum=0.0, phases=(), precision="32"
)


def _search(tmp_path: Path, steps: int, lowest: float, highest: float, **change: Any) -> RateSearch:
    section, crops = SECTION.model_copy(update=change), bright_fold()
    statistics = measure_statistics(crops, "keep", "crop")
    training = FoldTraining(crops, section, 0, 0, tmp_path, CPU, 0)
    return search_rates(training, statistics, 0, steps, lowest, highest)


def test_the_losses_are_those_of_plain_gradient_descent(tmp_path: Path) -> None:
    """A naive loop over the same batches, with rates in geometric progression."""
    search = _search(tmp_path, 10, 1e-4, 0.1, weight_decay=0.0)
    crops = bright_fold()
    statistics = measure_statistics(crops, "keep", "crop")
    network = FoldTraining(crops, SECTION, 0, 0, tmp_path, CPU, 0).new_network(statistics).train()
    batches = [rows for epoch in range(3) for rows in training_batches(crops, SECTION, 0, 0, epoch)]
    for step, rows in enumerate(batches[:10]):
        rate = 1e-4 * 1000 ** (step / 9)
        assert search.rates[step] == pytest.approx(rate)
        targets = torch.from_numpy(crops.labels.soft_targets(rows))
        loss = class_loss(network(torch.from_numpy(crops.source.pixels(rows))).logits, targets, SECTION)
        assert search.losses[step] == pytest.approx(loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.sub_(rate * gradient)
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_a_search_ends_where_the_loss_diverges(tmp_path: Path) -> None:
    search = _search(tmp_path, 100, 1e-3, 1e9)
    assert len(search.rates) < 100
    assert np.isfinite(search.losses).all()
    assert search.lowest < search.rates[-1]


def test_suggestions_on_a_curve_with_known_slopes() -> None:
    """The loss falls along a logistic function of the logarithm, steepest at 1e-3, and rises from 1e-1 on."""
    rates = np.geomspace(1e-6, 1, 601)
    losses = 1 - 1 / (1 + np.exp(-5 * (np.log10(rates) + 3))) + np.clip(np.log10(rates) + 1, 0, None)
    search = RateSearch(rates, losses, losses)
    assert search.steepest == pytest.approx(1e-3, rel=0.05)
    assert search.lowest == pytest.approx(1e-1, rel=0.05)


def test_smoothing_keeps_a_constant_and_follows_a_step_by_its_weight() -> None:
    np.testing.assert_allclose(smooth(np.full(5, 3.0)), 3.0)
    weights = 0.9 ** np.arange(19, -1, -1.0)
    losses = np.random.default_rng(0).random(20)
    assert smooth(losses)[-1] == pytest.approx(np.average(losses, weights=weights))


def test_the_command_writes_a_table_and_a_picture_and_leaves_the_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"classify": {"backbone": "cnn3", "epochs": 1, "batch_size": 4}}
    work = make_work(tmp_path, [0, 1, 0, 1], recipe=recipe)
    assert main(["train", str(work.root)]) == 0
    model = work.root / "classify/cells/fold-0/checkpoint.pt"
    before = model.read_bytes()
    assert main(["find-lr", str(work.root), "--steps", "12", "--fold", "1"]) == 0
    assert "the loss falls fastest at a learning rate of" in capsys.readouterr().out
    folder = work.root / "classify" / "cells" / "find-lr"
    table = pd.read_csv(folder / "fold-1.csv")
    assert list(table) == ["learning_rate", "loss", "smoothed_loss"]
    assert (folder / "fold-1.png").read_bytes().startswith(b"\x89PNG")
    assert model.read_bytes() == before
    assert main(["train", str(work.root)]) == 0, "a finished training stays finished"
    for flags, message in (
        (["--lowest", "0"], "expected rates that rise from above 0, found 0 to 1"),
        (["--phase", "3"], "expected a phase from 1 to 1, found 3"),
        (["--fold", "7"], "expected folds among 0, 1, found 7"),
    ):
        assert main(["find-lr", str(work.root), *flags]) == 2
        assert message in capsys.readouterr().err


def test_the_network_is_the_one_that_would_be_trained(tmp_path: Path) -> None:
    """classify.seed, not data.seed, draws its weights."""
    first = {}
    for name, seeds in {"own": (0, 5), "data": (5, -1), "other": (0, -1)}.items():
        recipe = {"data": {"folds": 2, "seed": seeds[0]}, "classify": {"backbone": "cnn3", "seed": seeds[1]}}
        work = make_work(tmp_path / name, [0, 1, 0, 1], recipe=recipe)
        assert main(["find-lr", str(work.root), "--steps", "10", "--figure-format", "svg"]) == 0
        assert "<svg" in (work.root / "classify/cells/find-lr/fold-0.svg").read_text()
        first[name] = pd.read_csv(work.root / "classify/cells/find-lr/fold-0.csv")["loss"][0]
    assert first["own"] == first["data"] != first["other"]


def test_the_loss_that_is_searched_is_the_loss_that_is_trained(tmp_path: Path) -> None:
    """With weights 3, 0, 0 only the first class counts, three times: the mean over classes is its own loss."""
    weighted = _search(tmp_path, 3, 1e-9, 1e-8, class_weights=(3.0, 0.0, 0.0))
    crops = bright_fold()
    network = FoldTraining(crops, SECTION, 0, 0, tmp_path, CPU, 0).new_network(
        measure_statistics(crops, "keep", "crop")
    )
    rows = next(iter(training_batches(crops, SECTION, 0, 0, 0)))
    targets = torch.from_numpy(crops.labels.soft_targets(rows))
    with torch.inference_mode():
        logits = network.train()(torch.from_numpy(crops.source.pixels(rows))).logits
    first = class_loss(logits[:, :1], targets[:, :1], SECTION)
    assert weighted.losses[0] == pytest.approx(first.item(), rel=1e-4)
