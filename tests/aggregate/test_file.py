import json
from pathlib import Path

import numpy as np
import pytest

from aggregate.config import AggregateSection
from aggregate.thresholds.calibration import Calibration
from aggregate.thresholds.decision import Decision
from aggregate.thresholds.file import Thresholds, read_thresholds
from aggregate.thresholds.limits import ShareLimits
from hpa.errors import UserError
from hpa.vocabulary import HPA28, Vocabulary

THREE = Vocabulary("three", ("a", "b", "c"))


def _thresholds(mean_values: np.ndarray | None) -> Thresholds:
    section = AggregateSection(pooling="per-class", calibration="isotonic", top_k=5, join=("a",), join_weights=(1, 2))
    decision = Decision(
        weights=np.array([1 / 3, 2 / 3]),
        pooling=np.arange(28) % len(section.kinds),
        calibrations=tuple(Calibration(1.1, c / 7, -0.3, ((0.1, 1 / 3), (0.2, 0.7))) for c in range(28)),
        values=np.linspace(0.1, 0.9, 28),
        shares=np.linspace(0.3, 0.01, 28) / 3,
        support=np.arange(28),
        prior=np.full(28, 1 / 28),
        limits=ShareLimits(np.linspace(1, 0.1, 28) / 3, np.arange(28) % 3 == 0),
    )
    return Thresholds(decision, section, HPA28, 123, mean_values, 45)


@pytest.mark.parametrize("mean_values", [None, np.linspace(0.05, 0.8, 28) / 3])
def test_the_file_keeps_all_values_exactly(tmp_path: Path, mean_values: np.ndarray | None) -> None:
    written = _thresholds(mean_values)
    written.write(tmp_path / "thresholds.json")
    again = read_thresholds(tmp_path / "thresholds.json", HPA28)
    for name in ("weights", "pooling", "values", "shares", "support", "prior"):
        np.testing.assert_array_equal(getattr(again.decision, name), getattr(written.decision, name))
    np.testing.assert_array_equal(again.decision.limits.shares, written.decision.limits.shares)
    np.testing.assert_array_equal(again.decision.limits.at_chance, written.decision.limits.at_chance)
    assert again.decision.calibrations == written.decision.calibrations
    assert (again.section, again.images, again.mean_images) == (written.section, 123, 45)
    np.testing.assert_array_equal(again.stored_mean_values, written.values if mean_values is None else mean_values)


def test_the_file_describes_how_to_apply_thresholds(tmp_path: Path) -> None:
    _thresholds(None).write(tmp_path / "thresholds.json")
    content = json.loads((tmp_path / "thresholds.json").read_text())
    assert content.keys() >= {"method", "vocabulary", "order", "settings", "versions", "images"}
    assert content["classes"][3].keys() >= {"class", "threshold", "threshold_mean", "support", "share", "pooling"}


def test_classes_are_matched_by_name_in_any_order(tmp_path: Path) -> None:
    _thresholds(None).write(tmp_path / "thresholds.json")
    content = json.loads((tmp_path / "thresholds.json").read_text())
    content["classes"].reverse()
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    again = read_thresholds(tmp_path / "thresholds.json", HPA28)
    np.testing.assert_array_equal(again.values, _thresholds(None).values)


def test_unusable_files(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    with pytest.raises(UserError, match="found none"):
        read_thresholds(path, HPA28)
    for text in ("", "[]", "{}", '{"format": "cellwise thresholds 4", "classes": [{}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"as it was written, found it damaged .*; rerun `python -m aggregate run`"):
            read_thresholds(path, HPA28)
    path.write_text('{"format": "cellwise thresholds 2"}')
    with pytest.raises(UserError, match=r"'cellwise thresholds 4' in .* \(rerun .*\), found 'cellwise thresholds 2'"):
        read_thresholds(path, HPA28)
    _thresholds(None).write(path)
    with pytest.raises(UserError, match="expected thresholds of three"):
        read_thresholds(path, THREE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", "0.5"),  # each of them was converted
        ("at_chance", "no"),
        ("support", 2.5),
        ("prior", None),
        ("threshold", float("nan")),
        ("note", 1),
        ("pooling", "median"),
        ("calibration", {"slope": 1.0, "intercept": True, "per_log_crop": 0.0, "knots": [[], []]}),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    _thresholds(None).write(path)
    content = json.loads(path.read_text())
    content["classes"][3][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"expected .*, found .*{'median' if key == 'pooling' else key}"):
        read_thresholds(path, HPA28)
