"""Pretrained weights: hostile files, channels and heads by name, frozen features, and the models of another run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from classify.__main__ import main
from classify.config import ClassifySection, Features
from classify.data.crops import label_crops
from classify.data.normalisation import Statistics, measure_statistics
from classify.inference.evaluate import predict_batches
from classify.inference.predict import ScoredCrops, predict_fold
from classify.inspect.neighbours import neighbours
from classify.network.backbones import new_backbone
from classify.network.checkpoint import Checkpoint
from classify.network.model import Network, new_network
from classify.network.pretrained import FORMAT, Description, Pretrained
from classify.network.start import read_start
from classify.prediction import predict
from classify.preparation import model_to_check
from classify.probabilities import class_columns, read_probabilities
from classify.run import train
from classify.training.fit import start_statistics
from classify.training.history import History
from crops.config import CropsSection
from crops.store import open_store
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import bright_fold, make_work
from tests.support.processes import data_files

FOLDS = [0, 1, 0, 1, 0, 1, -1, 0, 1, 1]
CLASSIFY = {"backbone": "cnn3", "epochs": 2, "batch_size": 4, "learning_rate": 0.01}
MEAN, STD = [20.0, 30.0, 40.0, 50.0], [5.0, 6.0, 7.0, 8.0]


def _weights(seed: int = 0, classes: tuple[str, ...] = HPA28.classes, features: Features = "average") -> Pretrained:
    section = ClassifySection(backbone="cnn3", features=features)
    network = new_network(section, seed, MEAN, STD, np.full(len(classes), 0.3))
    return Pretrained(Description("cnn3", features, list(CHANNELS), list(classes), 64, MEAN, STD), network.state_dict())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cnn3.safetensors"
    _weights().save(path)
    return path


def _pixels(channels: int = 4, n: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randint(
        0, 255, (n, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def _work(root: Path, folds: list[int] = FOLDS, **classify: Any) -> WorkFolder:
    return make_work(root, folds, recipe={"classify": CLASSIFY | classify})


def _network(section: ClassifySection, channels: tuple[str, ...] = CHANNELS) -> Network:
    start = read_start(section, channels, HPA28.classes)
    assert start is not None
    statistics = start.statistics or Statistics(MEAN, STD)
    return new_network(section, 1, statistics.mean, statistics.std, np.full(28, 0.5), start).eval()


def test_a_file_gives_back_what_was_saved(file: Path, tmp_path: Path) -> None:
    weights, loaded = _weights(), Pretrained.load(file)
    assert loaded.description == weights.description
    for name, tensor in weights.state_dict.items():
        torch.testing.assert_close(loaded.state_dict[name], tensor, rtol=2**-8, atol=0)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _other_names(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def _damaged_description(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path, {FORMAT: '{"backbone": 3}'})


def _not_finite(path: Path) -> None:
    weights = _weights()
    weights.state_dict["head.bias"][3] = torch.nan
    weights.save(path)


def _code(path: Path) -> None:
    torch.save({"run": print}, path)


def _other_network(path: Path) -> None:
    weights = _weights()
    Pretrained(weights.description, {"backbone.conv1.weight": torch.zeros(8, 4, 3, 3)}).save(path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_cut, "expected safetensors in .*, found a damaged file"),
        (_code, "expected safetensors in .*, found a damaged file"),
        (lambda path: path.write_bytes(b""), "expected safetensors in .*, found a damaged file"),
        (_other_names, "expected weights of cnn3, found 6 of 6 missing"),
        (_damaged_description, "expected a description of the weights in .* found damage"),
        (_not_finite, "expected finite weights in .*, found others in head.bias"),
        (_other_network, "expected weights of cnn3, found 5 of 6 missing and 1 of another shape"),
        (Path.unlink, "expected a file of pretrained weights, found no file"),
    ],
)
def test_hostile_files_raise_one_sentence(file: Path, spoil: Callable[[Path], Any], sentence: str) -> None:
    spoil(file)
    with pytest.raises(UserError, match=sentence):
        _network(ClassifySection(backbone="cnn3", pretrained=str(file)))


def test_a_file_with_the_librarys_names_is_read_like_its_own_format(tmp_path: Path) -> None:
    backbone = new_backbone("cnn3")
    save_file(backbone.state_dict(), tmp_path / "model.safetensors")
    network = _network(ClassifySection(backbone="cnn3", pretrained=str(tmp_path / "model.safetensors")))
    found, saved = network.backbone.state_dict(), backbone.state_dict()
    torch.testing.assert_close(found["conv2.weight"], saved["conv2.weight"])
    torch.testing.assert_close(found["conv1.weight"][:, :3], saved["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backbone": "resnet18"}, "expected weights of resnet18 in .*, found those of cnn3"),
        ({"stem": "adapter"}, "expected classify.stem"),
        ({"trainable": "heads", "normalise": "folds"}, 'expected classify.normalise = "crop"'),
        ({"heads": "pretrained", "features": "both"}, "expected weights with heads of the same classes"),
        ({"pretrained": "none", "trainable": "heads"}, 'expected pretrained weights with classify.trainable = "heads"'),
        (
            {"pretrained": "none", "heads": "pretrained"},
            'expected pretrained weights with classify.heads = "pretrained"',
        ),
        ({"pretrained": "atlas"}, "expected a backbone whose weights are shipped, found cnn3"),
    ],
)
def test_weights_that_a_recipe_cannot_use_raise_one_sentence(file: Path, change: dict[str, Any], sentence: str) -> None:
    section = ClassifySection(**({"backbone": "cnn3", "pretrained": str(file)} | change))
    with pytest.raises(UserError, match=sentence):
        read_start(section, CHANNELS, HPA28.classes)


def test_missing_channels_are_those_that_are_black(file: Path) -> None:
    """Filters are found by the names of channels, whatever their order; a channel less is a channel without signal."""
    everything = _network(ClassifySection(backbone="cnn3", pretrained=str(file)))
    pixels = _pixels()
    blank = pixels.clone()
    blank[:, [0, 3]] = 0
    some = _network(ClassifySection(backbone="cnn3", pretrained=str(file), channels=("blue", "green")))
    with torch.inference_mode():
        torch.testing.assert_close(some(pixels[:, [2, 1]]).features, everything(blank).features)
        mixed = _network(ClassifySection(backbone="cnn3", pretrained=str(file), channels=("red+yellow", "green")))
    filters = everything.backbone.get_parameter("conv1.weight")
    torch.testing.assert_close(mixed.backbone.get_parameter("conv1.weight")[:, 0], filters[:, [0, 3]].mean(1))
    narrow = Description("cnn3", "average", ["green"], [], 64, [1.0], [1.0])
    Pretrained(narrow, _weights().state_dict).save(file)
    with pytest.raises(UserError, match=r"expected weights for the channel red in .*, found green"):
        read_start(ClassifySection(backbone="cnn3", pretrained=str(file)), CHANNELS, HPA28.classes)


def test_pretrained_heads_keep_the_order_of_the_classes(file: Path) -> None:
    section = ClassifySection(backbone="cnn3", pretrained=str(file), heads="pretrained")
    start = read_start(section, CHANNELS, HPA28.classes)
    assert start is not None
    assert torch.equal(_network(section).head.weight, Pretrained.load(file).state_dict["head.weight"])
    _weights(classes=tuple(reversed(HPA28.classes))).save(file)
    with pytest.raises(UserError, match="heads of the same classes"):
        read_start(section, CHANNELS, HPA28.classes)
    new = _network(section.model_copy(update={"heads": "new"}))
    assert not torch.equal(new.head.weight, Pretrained.load(file).state_dict["head.weight"])


def test_auto_takes_shipped_weights_of_the_backbone_and_else_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = ClassifySection(backbone="cnn3")
    assert section.starts_from == "none"
    monkeypatch.setattr("classify.config.WEIGHTS", tmp_path)
    _weights().save(tmp_path / "cnn3.safetensors")
    assert section.starts_from == "atlas"
    assert read_start(section, CHANNELS, HPA28.classes) is not None
    work = _work(tmp_path / "work")
    train(work, folds=[0])
    state = Checkpoint.load(work.root / "classify/cells/fold-0/checkpoint.pt")
    assert state.mean == MEAN, "the normalisation of the weights"
    assert ClassifySection().starts_from == "none"


def _heads(file: Path, **change: Any) -> dict[str, Any]:
    return {"pretrained": str(file), "trainable": "heads", **change}


def _probabilities(work: WorkFolder) -> pd.DataFrame:
    return read_probabilities(work.root / "classify" / "cells" / "probabilities.parquet", HPA28)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"outside_cell": "zero", "channels": ["green", "blue"], "loss": "bce"},
        {"embedding_dim": 3, "features": "gem", "objective": "dual", "pooling": "attention"},
        {"input_px": 24, "objective": "bag", "pooling": "auto", "sampling": "classes"},
    ],
    ids=["plain", "zero", "triplets", "bags"],
)
def test_heads_on_features_equal_the_whole_network(file: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    work = _work(tmp_path / "work", **_heads(file, **change))
    train(work)
    predict(work)
    found = _probabilities(work)
    store, columns = open_store(work, "cells"), class_columns(HPA28)
    labels = label_crops(store.table, read_images(work.images), read_folds(work.folds), HPA28)
    for fold in (0, 1):
        checkpoint = Checkpoint.load(work.root / f"classify/cells/fold-{fold}/checkpoint.pt")
        frozen = Pretrained.load(file).state_dict
        assert torch.equal(checkpoint.state_dict["backbone.conv2.weight"], frozen["backbone.conv2.weight"])
        assert not torch.equal(checkpoint.state_dict["head.weight"], frozen["head.weight"])
        whole = predict_fold(
            checkpoint, ScoredCrops(store, labels, HPA28), tmp_path / f"whole-{fold}", torch.device("cpu")
        )
        ours = found[found["fold"] == fold].reset_index(drop=True)
        whole = whole.sort_values(["image_id", "cell_label"], ignore_index=True)
        pd.testing.assert_frame_equal(ours[["image_id", "cell_label"]], whole[["image_id", "cell_label"]])
        np.testing.assert_allclose(ours[columns], whole[columns], atol=1e-5)


def test_features_are_kept_and_computed_again_only_if_they_must(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = _work(tmp_path / "work", **_heads(file))
    train(work)
    kept = work.root / "backbone_features" / "cells"
    written = (kept / "features.npy").stat().st_mtime_ns
    expected = (kept / "features.npy").read_bytes()
    predict(work)
    assert (kept / "features.npy").stat().st_mtime_ns == written
    assert sorted(path.name for path in kept.iterdir()) == ["features.json", "features.npy"]
    assert "computed again" not in capsys.readouterr().out

    (kept / "features.npy").write_bytes(expected[:-3] + b"abc")
    train(work, overwrite=True)
    assert "is damaged or missing" in capsys.readouterr().out
    assert (kept / "features.npy").read_bytes() == expected

    _weights(seed=5).save(file)
    with pytest.raises(UserError, match="found changed: the pretrained weights"):
        train(work)
    train(work, overwrite=True)
    assert "they are of other weights" in capsys.readouterr().out
    assert (kept / "features.npy").read_bytes() != expected


@pytest.mark.parametrize("normalise", ["percentiles", "stack", "imagenet"])
def test_folds_share_features_that_do_not_depend_on_training_crops(tmp_path: Path, normalise: str) -> None:
    path = tmp_path / "library.safetensors"  # as of a library: without the mean and deviation of any crops
    prefix = "backbone."
    state = {
        name.removeprefix(prefix): tensor.contiguous()
        for name, tensor in _weights().state_dict.items()
        if name.startswith(prefix)
    }
    save_file(state, path)
    work = _work(tmp_path / "work", **_heads(path, normalise=normalise))
    train(work)
    kept = work.root / "backbone_features" / "cells"
    written = (kept / "features.npy").stat().st_mtime_ns
    predict(work)
    assert (kept / "features.npy").stat().st_mtime_ns == written
    assert sorted(path.name for path in kept.iterdir()) == ["features.json", "features.npy"]


def test_features_of_other_stages_are_computed_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (_work(tmp_path / name, **_heads(file, feature_stages=s)) for name, s in (("a", [1]), ("b", [1, 2])))
    train(one)
    shutil.copytree(one.root / "backbone_features", other.root / "backbone_features")  # as a second model shares it
    train(other)
    assert "they are of other feature_stages" in capsys.readouterr().out
    widths = [np.load(work.root / "backbone_features/cells/features.npy").shape[1] for work in (one, other)]
    assert widths[0] < widths[1]


def test_killed_computation_of_features_goes_on(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _work(tmp_path / "whole", **_heads(file))
    train(whole)
    monkeypatch.setattr("classify.inference.features._CHUNK", 8)
    work = _work(tmp_path / "work", **_heads(file))
    calls = list[int]()

    def counting(*arguments: Any) -> Any:
        calls.append(len(arguments[2]))
        return predict_batches(*arguments)

    def dying(*arguments: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counting(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("classify.inference.features.predict_batches", dying)
        with pytest.raises(KeyboardInterrupt):
            train(work)
    kept = work.root / "backbone_features" / "cells"
    assert sorted(path.name for path in kept.glob("part-*")) == ["part-00000.npy", "part-00001.npy"]
    calls.clear()
    monkeypatch.setattr("classify.inference.features.predict_batches", counting)
    train(work)
    one, other = (np.load(root / "backbone_features/cells/features.npy") for root in (whole.root, work.root))
    assert sum(calls) == len(one) - 16, "the finished parts are not computed again"
    np.testing.assert_allclose(other, one, rtol=1e-5)


def test_killed_training_of_heads_goes_on_to_the_same_files(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = _heads(file, embedding_dim=3, epochs=3, heads="pretrained")
    whole = _work(tmp_path / "whole", **change)
    train(whole)
    work, close, closed = _work(tmp_path / "work", **change), History.close_epoch, list[Any]()

    def killed(*arguments: Any) -> Any:
        closed.append(arguments)
        if len(closed) == 2:
            raise KeyboardInterrupt
        return close(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(History, "close_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(work)
    train(work)
    assert data_files(work.root / "classify") == data_files(whole.root / "classify")


def test_held_heads_stay_near_their_start(file: Path, tmp_path: Path) -> None:
    def distance(hold: float) -> float:
        change = _heads(file, heads="pretrained", hold=hold, epochs=12, schedule="constant")
        work = _work(tmp_path / str(hold), **change)
        train(work, folds=[0])
        weight = Checkpoint.load(work.root / "classify/cells/fold-0/checkpoint.pt").state_dict["head.weight"]
        return float((weight - Pretrained.load(file).state_dict["head.weight"]).norm())

    free, held, tight = distance(0), distance(0.1), distance(10)
    assert free > 1.2 * held > 1.2 * tight


def test_all_trains_the_backbone_at_a_lower_rate(file: Path, tmp_path: Path) -> None:
    def moved(rate: float) -> tuple[float, float]:
        change: dict[str, Any] = {
            "pretrained": str(file),
            "optimizer": "sgd",
            "momentum": 0.0,
            "weight_decay": 0.0,
            "epochs": 1,
        }
        change |= {"schedule": "constant", "phases": [], "backbone_rate": rate, "augment": "none"}
        work = _work(tmp_path / str(rate), **change)
        train(work, folds=[0])
        state = Checkpoint.load(work.root / "classify/cells/fold-0/checkpoint.pt").state_dict
        start = Pretrained.load(file).state_dict
        name = "backbone.conv3.weight"
        return float((state[name] - start[name]).norm()), float(state["head.weight"].norm())

    (slow, head), (fast, other) = moved(1e-3), moved(1e-2)
    assert fast / slow == pytest.approx(10, rel=0.1)
    assert head == pytest.approx(other, rel=0.05)


def test_statistics_are_those_of_the_weights(file: Path, tmp_path: Path) -> None:
    work = _work(tmp_path / "work", pretrained=str(file))
    train(work, folds=[0])
    checkpoint = Checkpoint.load(work.root / "classify/cells/fold-0/checkpoint.pt")
    assert (checkpoint.mean, checkpoint.std) == (MEAN, STD)


def test_models_of_another_run_are_taken_fold_by_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _work(tmp_path / "first")
    train(first)
    work = _work(tmp_path / "work", **_heads(first.root))
    train(work)
    predict(work)
    for fold in (0, 1):
        ours, theirs = (
            Checkpoint.load(root / f"classify/cells/fold-{fold}/checkpoint.pt").state_dict
            for root in (work.root, first.root)
        )
        assert torch.equal(ours["backbone.conv3.weight"], theirs["backbone.conv3.weight"])
        assert not torch.equal(ours["head.weight"], theirs["head.weight"])
    assert sorted(path.name for path in (work.root / "backbone_features/cells").iterdir()) == ["fold-0", "fold-1"]
    record = json.loads((work.root / "classify/cells/fold-1/run.json").read_text())
    assert "the pretrained weights" in record["made_from"]["inputs"]

    leaking = _work(tmp_path / "leaking", [1, 0, *FOLDS[2:]], **_heads(first.root))
    assert main(["train", str(leaking.root)]) == 2
    assert "its models would have seen images that this run scores" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected a work folder"):
        train(_work(tmp_path / "nowhere", pretrained=str(tmp_path)))


def test_new_images_are_scored_with_features_of_their_own(file: Path, tmp_path: Path) -> None:
    work = _work(tmp_path / "work", **_heads(file))
    train(work)
    new = make_work(tmp_path / "new", [0, 1, 0], n_test=1, recipe={"classify": CLASSIFY | _heads(file)})
    file.unlink()  # the models have all that is needed
    assert predict(new, model=work, embeddings=True) == 0
    kept = np.load(new.root / "backbone_features/cells/features.npy")
    written = np.load(new.root / "classify/cells/predict/fold-0/features.npy")
    np.testing.assert_array_equal(np.sort(kept, axis=0), np.sort(written, axis=0))
    with pytest.raises(UserError, match="expected crops of images with labels, scored out of fold"):
        neighbours(new)
    predict(work, embeddings=True, overwrite=True)
    assert main(["neighbours", str(work.root)]) == 0


def test_a_model_to_check_is_one_of_a_work_folder(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    for start in ("none", "auto", "atlas", str(weights)):
        assert model_to_check(ClassifySection(pretrained=start), CropsSection()) is None
    with pytest.raises(UserError, match="expected"):
        model_to_check(ClassifySection(pretrained=str(tmp_path)), CropsSection())


def _saved(section: ClassifySection, path: Path, statistics: Statistics) -> Path:
    """Save an untrained model of a recipe as if a run had trained it."""
    network = new_network(section, 0, statistics.mean, statistics.std, np.full(len(HPA28), 0.5))
    checkpoint = Checkpoint(
        network.state_dict(), section.model_dump(mode="json"), HPA28.name, list(HPA28.classes), list(CHANNELS), 16,
        statistics.mean, statistics.std, 0, 1, 0, {}, statistics.sources,
    )  # fmt: skip
    checkpoint.save(path)
    return path


def test_a_model_of_several_stages_gives_its_backbone_and_no_heads(tmp_path: Path) -> None:
    flat = Statistics([1.0] * 4, [1.0] * 4)
    section = ClassifySection(pretrained="none", feature_stages=(3, 4))
    path = _saved(section, tmp_path / "checkpoint.pt", flat)
    other = ClassifySection(pretrained=str(tmp_path))
    start = read_start(other, CHANNELS, HPA28.classes, path)
    assert start is not None
    assert not [name for name in start.heads if name.startswith("head.")]
    new_network(other, 0, flat.mean, flat.std, np.full(len(HPA28), 0.5), start)
    wanted = other.model_copy(update={"heads": "pretrained"})
    with pytest.raises(UserError, match="heads"):
        new_network(
            wanted, 0, flat.mean, flat.std, np.full(len(HPA28), 0.5), read_start(wanted, CHANNELS, HPA28.classes, path)
        )


def test_statistics_of_sources_are_measured_anew_in_a_run_that_goes_on_from_another(tmp_path: Path) -> None:
    crops = bright_fold()
    sources = np.array(["a", "b"], dtype=object)[np.arange(len(crops.labels.images)) % 2]
    crops = replace(crops, labels=replace(crops.labels, sources=sources))
    section = ClassifySection(backbone="cnn3", pretrained="none", normalise="sources")
    statistics = measure_statistics(crops, "keep", "sources")
    path = _saved(section, tmp_path / "checkpoint.pt", statistics)
    start = read_start(section.model_copy(update={"pretrained": str(tmp_path)}), CHANNELS, HPA28.classes, path)
    assert start is not None
    assert start_statistics(crops, section, start).sources == statistics.sources
    assert set(statistics.sources) == {"a", "b"}


@pytest.mark.parametrize("channels", [1, 4])
def test_an_adapter_needs_weights_for_three_channels(tmp_path: Path, channels: int) -> None:
    state = dict(new_backbone("resnet18").state_dict())
    state["conv1.weight"] = torch.ones(64, channels, 7, 7)
    save_file(state, tmp_path / "w.safetensors")
    section = ClassifySection(backbone="resnet18", pretrained=str(tmp_path / "w.safetensors"), stem="adapter")
    start = read_start(section, CHANNELS, HPA28.classes, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="three channels"):
        new_network(section, 0, np.ones(4), np.ones(4), np.full(len(HPA28), 0.5), start)
