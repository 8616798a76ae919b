"""Training of a fold: it learns, resumes to the same result, and keeps the requested weights."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from classify.config import ClassifySection
from classify.data.crops import FoldCrops
from classify.data.normalisation import crop_levels
from classify.losses.classification import class_loss
from classify.network.model import Network
from classify.network.pretrained import Start
from classify.phases import Phase
from classify.training import loop
from classify.training.fit import TrainedModel, fit, remove_resume_files
from hpa.errors import UserError
from hpa.work.files import write_bytes
from tests.support.bright_crops import bright_fold

CPU = torch.device("cpu")
SECTION = ClassifySection(epochs=3, batch_size=8, embedding_dim=4, learning_rate=1e-2, validate_every=2)


class _KilledError(Exception):
    """Raised in place of a kill signal."""


def _equal(one: TrainedModel, other: TrainedModel) -> bool:
    return (one.epoch, one.statistics) == (other.epoch, other.statistics) and all(
        torch.equal(tensor, other.state_dict[name]) for name, tensor in one.state_dict.items()
    )


def _fit_killed(crops: FoldCrops, section: ClassifySection, folder: Path, after: int, when: str) -> None:
    """Train until right before or right after the resume file of epoch `after` is written."""
    with pytest.MonkeyPatch.context() as patch:
        written: list[Path] = []

        def dying(path: Path, content: bytes) -> None:
            written.append(path)
            if len(written) == after and when == "before":
                raise _KilledError
            write_bytes(path, content)
            if len(written) == after:
                raise _KilledError

        patch.setattr(loop, "write_bytes", dying)
        with pytest.raises(_KilledError):
            fit(crops, section, 0, 1, folder, CPU)


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_killed_training_resumes_to_the_same_result(tmp_path: Path, checkpoint: str) -> None:
    section = SECTION.model_copy(update={"checkpoint": checkpoint, "validate_every": 1})
    crops = bright_fold()
    uninterrupted = fit(crops, section, 0, 1, tmp_path / "uninterrupted", CPU)
    for after, when in [(1, "before"), (2, "after"), (3, "before"), (3, "after")]:
        folder = tmp_path / f"{after}-{when}"
        _fit_killed(crops, section, folder, after, when)
        resumed = fit(crops, section, 0, 1, folder, CPU)
        assert _equal(uninterrupted, resumed), f"killed {when} the end of epoch {after}"
        assert (folder / "history.csv").read_bytes() == (tmp_path / "uninterrupted" / "history.csv").read_bytes()


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "plateau", "constant"])
def test_every_schedule_resumes_from_every_epoch(tmp_path: Path, schedule: str) -> None:
    """With so high a rate the loss gets worse, so that the plateau drops within the training."""
    change = {"schedule": schedule, "optimizer": "sgd", "learning_rate": 5.0, "validate_every": 1, "epochs": 7}
    section, crops = SECTION.model_copy(update={"embedding_dim": 0} | change), bright_fold(16, 4, seed=2)
    uninterrupted = fit(crops, section, 0, 1, tmp_path / "uninterrupted", CPU)
    rates = pd.read_csv(tmp_path / "uninterrupted" / "history.csv")["learning_rate"]
    assert (rates.nunique() > 1) == (schedule != "constant")
    for epoch in range(1, section.epochs):
        folder = tmp_path / str(epoch)
        _fit_killed(crops, section, folder, epoch, "after")
        assert _equal(uninterrupted, fit(crops, section, 0, 1, folder, CPU)), f"killed after epoch {epoch}"
        assert (folder / "history.csv").read_bytes() == (tmp_path / "uninterrupted" / "history.csv").read_bytes()


PHASES = (
    Phase(epochs=1, trainable=("heads",)),
    Phase(epochs=1, trainable=("heads", "stem"), schedule="continue"),
    Phase(learning_rate=1e-3, schedule="cosine", input_px=12),
)
EVERYTHING = [
    {"schedule": "plateau", "optimizer": "sgd", "learning_rate": 0.5, "validate_every": 1, "epochs": 6}
    | {"monitor": "loss", "plateau_patience": 0},
    {"schedule": "cosine", "accumulate": 3, "clip_norm": 0.5, "optimizer": "adam"},
    {"phases": PHASES, "sampling": "classes", "augment": "strong", "features": "gem"},
    {"ema_decay": 0.8, "phases": PHASES, "checkpoint": "best", "validate_every": 1},
    {"swa_epochs": 2, "schedule": "constant"},
    {"mixup": 0.4, "cutmix": 1.0, "embedding_dim": 0, "normalise": "percentiles"},
    {"patience": 1, "phases": PHASES, "monitor": "macro_f1", "validate_every": 1},
    {"objective": "dual", "pooling": "auto", "bag_size": 2, "normalise": "percentiles", "triplet_mining": "semi-hard"},
    {"normalise": "sources", "random_crop": "crop", "random_crop_px": 8, "triplet_positives": "antibody"},
    {"arcface_weight": 0.5, "embedding_dim": 3, "triplet_weight": 0.0, "checkpoint": "best"},
]


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("change", EVERYTHING, ids=lambda change: next(iter(change)))
def test_every_kind_of_training_resumes_to_the_same_result(tmp_path: Path, change: dict[str, object]) -> None:
    section = SECTION.model_copy(update=change)
    crops = bright_fold()
    uninterrupted = fit(crops, section, 0, 1, tmp_path / "uninterrupted", CPU)
    for after, when in [(1, "after"), (2, "after"), (2, "before")]:
        folder = tmp_path / f"{after}-{when}"
        _fit_killed(crops, section, folder, after, when)
        assert _equal(uninterrupted, fit(crops, section, 0, 1, folder, CPU)), f"killed {when} the end of epoch {after}"
        assert (folder / "history.csv").read_bytes() == (tmp_path / "uninterrupted" / "history.csv").read_bytes()


@pytest.mark.usefixtures("tiny_backbone")
def test_arcface_changes_the_embedding_and_leaves_no_head_behind(tmp_path: Path) -> None:
    keys = {"embedding_dim": 3, "triplet_weight": 0.0}
    plain, with_arcface = (
        fit(bright_fold(), SECTION.model_copy(update=keys | more), 0, 1, tmp_path / name, CPU).state_dict
        for name, more in (("plain", {}), ("arcface", {"arcface_weight": 0.5}))
    )
    assert plain.keys() == with_arcface.keys(), "directions of training antibodies are of no use to others"
    assert not torch.equal(plain["embedding.weight"], with_arcface["embedding.weight"])


@pytest.mark.usefixtures("tiny_backbone")
def test_training_leaves_no_reference_cycle_to_the_crops(tmp_path: Path) -> None:
    crops = bright_fold()
    watched = weakref.ref(crops.source)
    gc.disable()
    try:
        fit(crops, SECTION, 0, 0, tmp_path, CPU)
        del crops
        assert watched() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where one core is all there is
@pytest.mark.usefixtures("tiny_backbone")
def test_number_of_workers_does_not_change_the_result(tmp_path: Path) -> None:
    alone = fit(bright_fold(), SECTION, 0, 0, tmp_path / "alone", CPU)
    assert _equal(alone, fit(bright_fold(), SECTION, 0, 0, tmp_path / "helped", CPU, workers=2))


@pytest.mark.usefixtures("tiny_backbone")
def test_frozen_layers_change_only_after_the_frozen_epochs(tmp_path: Path) -> None:
    def norm(freeze: int, epochs: int) -> torch.Tensor:
        phases = (Phase(epochs=freeze, trainable=("new",)), Phase(schedule="continue"))
        section = SECTION.model_copy(update={"phases": phases, "epochs": epochs, "schedule": "constant"})
        start = Start(Network(section, 4, 3, [0.0] * 4, [1.0] * 4).backbone.state_dict())
        fitted = fit(bright_fold(), section, 0, 0, tmp_path / f"{freeze}-{epochs}", CPU, start=start)
        return fitted.state_dict["backbone.bn1.bias"]

    assert torch.equal(norm(2, 2), torch.zeros(64))
    assert not torch.equal(norm(2, 3), torch.zeros(64))


def test_accumulated_batches_equal_one_batch(tmp_path: Path) -> None:
    """Without momentum or norm, two accumulated half batches move the weights as the full batch does."""
    section = ClassifySection(
        backbone="cnn3", epochs=1, optimizer="sgd", momentum=0, weight_decay=0, schedule="constant", augment="none"
    )
    crops = bright_fold(16, 2)
    halves = fit(crops, section.model_copy(update={"batch_size": 8, "accumulate": 2}), 0, 0, tmp_path / "2", CPU)
    one = fit(crops, section.model_copy(update={"batch_size": 16}), 0, 0, tmp_path / "1", CPU)
    assert torch.allclose(halves.state_dict["head.weight"], one.state_dict["head.weight"], atol=1e-6)


@pytest.mark.usefixtures("tiny_backbone")
def test_plateau_lowers_the_learning_rate(tmp_path: Path) -> None:
    section = SECTION.model_copy(
        update={"schedule": "plateau", "epochs": 12, "validate_every": 1, "optimizer": "sgd", "learning_rate": 2.0}
        | {"monitor": "loss"}
    )
    fit(bright_fold(), section, 0, 0, tmp_path, CPU)
    history = pd.read_csv(tmp_path / "history.csv")
    rate, waited = 2.0, 0
    for epoch, loss in enumerate(history["validation_loss"]):
        assert history["learning_rate"][epoch] == pytest.approx(rate)
        waited = 0 if loss < history["validation_loss"][:epoch].min() or epoch == 0 else waited + 1
        if waited == 3:
            rate, waited = rate / 10, 0
    assert history["learning_rate"].iloc[-1] < 2.0


@pytest.mark.usefixtures("tiny_backbone")
def test_finished_training_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uninterrupted = fit(bright_fold(), SECTION, 0, 0, tmp_path, CPU)
    monkeypatch.setattr(loop, "step_loss", None)
    assert _equal(uninterrupted, fit(bright_fold(), SECTION, 0, 0, tmp_path, CPU))


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize(("seed", "fold"), [(1, 0), (0, 1)])
def test_result_depends_on_seed_and_fold(tmp_path: Path, seed: int, fold: int) -> None:
    one = fit(bright_fold(), SECTION, 0, 0, tmp_path / "one", CPU)
    other = fit(bright_fold(), SECTION, seed, fold, tmp_path / "other", CPU)
    assert not _equal(one, other)


@pytest.mark.usefixtures("tiny_backbone")
def test_history_has_one_row_per_epoch_and_scores_of_validated_epochs(tmp_path: Path) -> None:
    fit(bright_fold(), SECTION, 0, 0, tmp_path, CPU)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["validation_loss"].notna().tolist() == [False, True, True]
    assert history["learning_rate"].iloc[-1] < history["learning_rate"].max()
    assert history["train_loss"].notna().all()


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("normalise", ["folds", "sources", "percentiles"])
def test_validation_normalises_as_prediction_does(tmp_path: Path, normalise: str) -> None:
    """The loss of the last epoch is that of the final weights on levels computed for the validation crops alone."""
    section = SECTION.model_copy(update={"epochs": 1, "normalise": normalise, "precision": "32"})
    crops = bright_fold()
    fitted = fit(crops, section, 0, 0, tmp_path, CPU)
    network = Network(section, 4, 3, fitted.statistics.mean, fitted.statistics.std).eval()
    network.load_state_dict(fitted.state_dict)
    levels = crop_levels(crops.source, crops.validation, crops.labels, fitted.statistics, section.normalise)
    with torch.inference_mode():
        own = None if levels is None else torch.from_numpy(levels[crops.validation])
        logits = network(torch.from_numpy(crops.source.pixels(crops.validation)), own).logits
    expected = class_loss(logits, torch.from_numpy(crops.labels.soft_targets(crops.validation)), section)
    found = pd.read_csv(tmp_path / "history.csv")["validation_loss"].iloc[-1]
    assert found == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.usefixtures("tiny_backbone")
def test_best_checkpoint_has_the_highest_mean_average_precision(tmp_path: Path) -> None:
    section = SECTION.model_copy(
        update={"checkpoint": "best", "validate_every": 1, "epochs": 6, "schedule": "constant"}
    )
    fitted = fit(bright_fold(), section, 0, 0, tmp_path, CPU)
    history = pd.read_csv(tmp_path / "history.csv")
    assert fitted.epoch == history["validation_mean_ap"].to_numpy().argmax() + 1
    assert (history["learning_rate"] == section.learning_rate).all()


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("monitor", ["mean_ap", "macro_f1", "loss", "bce"])
def test_the_best_epoch_is_best_by_the_monitored_score(tmp_path: Path, monitor: str) -> None:
    change = {"checkpoint": "best", "validate_every": 1, "epochs": 6, "schedule": "constant", "monitor": monitor}
    fitted = fit(bright_fold(), SECTION.model_copy(update=change), 0, 0, tmp_path, CPU)
    scores = pd.read_csv(tmp_path / "history.csv")[f"validation_{monitor}"].to_numpy()
    best = scores.argmin() if monitor in ("loss", "bce") else scores.argmax()
    assert fitted.epoch == best + 1


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("monitor", ["mean_ap", "loss"])
def test_a_training_ends_after_epochs_without_progress(tmp_path: Path, monitor: str) -> None:
    """The epochs before the end are those of a training with patience for all of them."""
    change = {"validate_every": 1, "epochs": 12, "schedule": "constant", "monitor": monitor, "learning_rate": 0.05}
    section = SECTION.model_copy(update=change | {"phases": ()})
    fit(bright_fold(), section, 0, 0, tmp_path / "patient", CPU)
    patient = pd.read_csv(tmp_path / "patient" / "history.csv")
    fitted = fit(bright_fold(), section.model_copy(update={"patience": 2}), 0, 0, tmp_path / "ended", CPU)
    ended = pd.read_csv(tmp_path / "ended" / "history.csv")
    scores, best, last = patient[f"validation_{monitor}"] * (-1 if monitor == "loss" else 1), -np.inf, 0
    for epoch, score in enumerate(scores, start=1):
        if score > best:
            best, last = score, epoch
        if epoch - last == 2:
            break
    assert epoch < 12, "otherwise the test shows nothing"
    assert fitted.epoch == len(ended) == epoch
    pd.testing.assert_frame_equal(ended, patient.head(epoch))


@pytest.mark.usefixtures("tiny_backbone")
def test_only_the_history_remains_after_cleanup(tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"checkpoint": "best", "epochs": 1})
    fit(bright_fold(), section, 0, 0, tmp_path, CPU)
    remove_resume_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


@pytest.mark.usefixtures("tiny_backbone")
def test_a_damaged_resume_file_is_thrown_away_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = fit(bright_fold(), SECTION, 0, 0, tmp_path / "undamaged", CPU).state_dict
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "resume.ckpt").write_bytes(b"PK\x03\x04 half of it")
    found = fit(bright_fold(), SECTION, 0, 0, damaged, CPU).state_dict
    assert (
        f"training from the start, since the files to resume from in {damaged} are damaged" in capsys.readouterr().out
    )
    for name, weights in expected.items():
        assert torch.equal(weights, found[name])


@pytest.mark.parametrize("sizes", [(0, 8), (32, 0)])
def test_too_few_crops_raise_an_error(tmp_path: Path, sizes: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="expected at least 2 crops to train fold 0"):
        fit(bright_fold(*sizes), SECTION, 0, 0, tmp_path, CPU)


@pytest.mark.usefixtures("tiny_backbone")
def test_training_in_bf16(tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"precision": "bf16", "epochs": 1})
    fitted = fit(bright_fold(), section, 0, 0, tmp_path, CPU)
    assert all(tensor.dtype != torch.bfloat16 for tensor in fitted.state_dict.values())


@pytest.mark.usefixtures("tiny_backbone")
def test_small_network_learns_separable_classes(tmp_path: Path) -> None:
    section = ClassifySection(epochs=8, batch_size=8, learning_rate=5e-2, augment="light")
    _learns(section, bright_fold(64, 16), tmp_path)


@pytest.mark.slow
def test_resnet18_learns_separable_classes(tmp_path: Path) -> None:
    _learns(ClassifySection(epochs=12, batch_size=16), bright_fold(192, 16), tmp_path)


def _learns(section: ClassifySection, crops: FoldCrops, tmp_path: Path) -> None:
    fitted = fit(crops, section, 0, 0, tmp_path, CPU)
    network = Network(section, 4, 3, fitted.statistics.mean, fitted.statistics.std).eval()
    network.load_state_dict(fitted.state_dict)
    with torch.inference_mode():
        logits = network(torch.from_numpy(crops.source.pixels(crops.validation))).logits.numpy()
    np.testing.assert_array_equal(logits > 0, crops.labels.targets[crops.validation])
    assert pd.read_csv(tmp_path / "history.csv")["validation_macro_f1"].iloc[-1] == 1


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_only_a_validation_can_show_a_lack_of_progress(tmp_path: Path, checkpoint: str) -> None:
    section = ClassifySection(
        backbone="cnn3", pretrained="none", batch_size=8, patience=3, epochs=12, phases=(), checkpoint=checkpoint
    )
    fit(bright_fold(), section, 0, 0, tmp_path, CPU)
    validated = pd.read_csv(tmp_path / "history.csv")["validation_mean_ap"].notna()
    assert validated.sum() >= 2
    assert validated.iloc[-1], "the last epoch is validated, whatever ended the training"
