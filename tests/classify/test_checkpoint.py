"""Checkpoints: the same network is loaded, and nothing but checkpoints is accepted."""

import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classify.config import ClassifySection
from classify.network.checkpoint import FORMAT, Checkpoint, load_checkpoints
from classify.network.model import new_network
from hpa.errors import UserError

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def _checkpoint() -> Checkpoint:
    section = ClassifySection(embedding_dim=2)
    network = new_network(section, 3, [1.0, 2.0], [3.0, 4.0], [0.2, 0.3, 0.4])
    return Checkpoint(
        state_dict=network.state_dict(),
        config=section.model_dump(mode="json"),
        vocabulary="three",
        classes=["a", "b", "c"],
        channels=["green", "blue"],
        size_px=16,
        mean=[1.0, 2.0],
        std=[3.0, 4.0],
        fold=1,
        epoch=7,
        seed=3,
        versions={"torch": "0"},
    )


def test_saved_checkpoint_is_loaded_unchanged(tmp_path: Path) -> None:
    saved = _checkpoint()
    saved.save(tmp_path / "checkpoint.pt")
    loaded = Checkpoint.load(tmp_path / "checkpoint.pt")
    assert {k: v for k, v in vars(loaded).items() if k != "state_dict"} == {
        k: v for k, v in vars(saved).items() if k != "state_dict"
    }
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16), dtype=np.uint8))
    cpu = torch.device("cpu")
    assert torch.equal(saved.network(cpu)(pixels).logits, loaded.network(cpu)(pixels).logits)


def test_equal_checkpoints_are_equal_bytes_under_any_name(tmp_path: Path) -> None:
    _checkpoint().save(tmp_path / "one.pt")
    _checkpoint().save(tmp_path / "other_name.pt")
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other_name.pt").read_bytes()


class _Trap:
    """Pickled code that would create a file if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickled_code_is_rejected_and_not_executed(tmp_path: Path) -> None:
    torch.save({"format": _Trap(tmp_path / "sprung")}, tmp_path / "torch.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    for name in ("torch.pt", "plain.pt"):
        with pytest.raises(UserError, match="expected only tensors and plain values"):
            Checkpoint.load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_truncated_checkpoint_raises_an_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "checkpoint.pt"
    _checkpoint().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="expected"):
        Checkpoint.load(path)


def test_missing_older_and_other_files_raise_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Checkpoint.load(tmp_path / "checkpoint.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="found another file"):
        Checkpoint.load(tmp_path / "foreign.pt")
    torch.save({"format": "cellwise classifier 1", "fold": 0}, tmp_path / "older.pt")
    with pytest.raises(UserError, match=r"older version of Cellwise: train the model again"):
        Checkpoint.load(tmp_path / "older.pt")
    torch.save({"format": "cellwise classifier 3", "fold": 0}, tmp_path / "fields.pt")
    with pytest.raises(UserError, match="found it damaged"):
        Checkpoint.load(tmp_path / "fields.pt")


DAMAGE: list[tuple[str, Any]] = [
    *((field, None) for field in vars(Checkpoint)["__dataclass_fields__"]),
    *(("fold", value) for value in ("1", 1.0, True, -1)),
    *(("epoch", value) for value in ("7", -1)),
    *(("std", value) for value in ([0.0, 1.0], [], [1.0], [float("nan"), 1.0], [1.0, float("inf")], 3.0)),
    *(("mean", value) for value in ([1.0], ["1.0", "2.0"], [float("inf"), 0.0])),
    *(("classes", value) for value in ([], ["a", "a"], "abc", {"a": 1})),
    *(("channels", value) for value in ("green", [1, 2])),
    ("size_px", 0),
    ("state_dict", {"weight": [1.0]}),
    ("config", {"epochs": -3}),
    ("config", {"no such key": 1}),
    ("sources", {"a": [[1.0, 2.0]]}),
    ("sources", {"a": [[1.0, 2.0], [0.0, 1.0]]}),
    ("versions", {"torch": 2}),
]


@pytest.mark.parametrize(("field", "value"), DAMAGE)
def test_a_field_of_another_type_or_range_raises_an_error(field: str, value: Any, tmp_path: Path) -> None:
    torch.save({"format": FORMAT, **asdict(_checkpoint()), field: value}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"^expected .*checkpoint\.pt"):
        Checkpoint.load(tmp_path / "checkpoint.pt")


def test_every_flipped_byte_of_the_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    _checkpoint().save(path)
    content = path.read_bytes()
    weights = _checkpoint().state_dict["head.weight"]
    place = content.index(weights.numpy().tobytes())
    for offset in (0, 1, 2, 3, weights.nbytes - 1):
        path.write_bytes(
            content[: place + offset] + bytes([content[place + offset] ^ 1]) + content[place + offset + 1 :]
        )
        with pytest.raises(UserError, match=r"found a damaged file \(wrong checksum"):
            Checkpoint.load(path)


def test_the_model_of_another_fold_is_noticed(tmp_path: Path) -> None:
    _checkpoint().save(tmp_path / "checkpoint.pt")
    assert load_checkpoints({1: tmp_path / "checkpoint.pt"}).keys() == {1}
    with pytest.raises(UserError, match=r"expected the model of fold 7 in .*, found that of fold 1"):
        load_checkpoints({7: tmp_path / "checkpoint.pt"})


def test_folds_of_different_recipes_are_noticed(tmp_path: Path) -> None:
    first = _checkpoint()
    longer = replace(first, fold=0, config=first.config | {"epochs": 99})
    for checkpoint in (first, replace(longer, config=first.config), longer):
        checkpoint.save(tmp_path / f"{checkpoint.fold}-{checkpoint.config['epochs']}.pt")
    epochs = first.config["epochs"]
    alike = {0: tmp_path / f"0-{epochs}.pt", 1: tmp_path / f"1-{epochs}.pt"}
    assert load_checkpoints(alike).keys() == {0, 1}
    with pytest.raises(UserError, match=rf"trained by one recipe, found classify.epochs 99 in .* and {epochs} in"):
        load_checkpoints({0: tmp_path / "0-99.pt", 1: alike[1]})


def test_weights_that_do_not_fit_the_network_raise_an_error(tmp_path: Path) -> None:
    checkpoint = _checkpoint()
    broken = Checkpoint(**{**vars(checkpoint), "classes": ["a", "b"]})
    with pytest.raises(UserError, match="expected weights that fit"):
        broken.network(torch.device("cpu"))
