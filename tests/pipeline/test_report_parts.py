"""The parts of the report one by one, on tables made by hand."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pandas as pd
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hpa.config import DataSection
from hpa.vocabulary import HPA28
from pipeline import report
from pipeline.report.charts import Axes
from pipeline.report.data import _intensities, _warnings, make_data
from pipeline.report.evidence import Evidence
from pipeline.report.overview import Overview, StageLine, _record
from pipeline.report.scores import Scores, Shares, make_shares
from pipeline.report.space import _clouds

Points = np.ndarray[Any, np.dtype[np.float64]]


def _evidence(**parts: object) -> Evidence:
    return cast(Evidence, SimpleNamespace(**parts))


def _points(path: str) -> Points:
    """Return the places of an SVG path of lines or dots."""
    return np.array([[float(v) for v in pair] for pair in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)])


def test_a_curve_goes_through_its_points_and_keeps_its_ends() -> None:
    axes = Axes((0, 10), (0, 1))
    for n in (7, 200, 5000):
        x = np.linspace(0, 10, n)
        y = (x / 10) ** 2
        drawn = _points(axes.curve(x, y, "k").path)
        for end, place in ((0, drawn[0]), (-1, drawn[-1])):
            assert place.tolist() == pytest.approx(axes.place(x[end], y[end]), abs=0.05)
        assert len(drawn) <= min(n, 120)
        across, down = axes.place(x, y)
        on_line = np.interp(drawn[:, 0], across, down)
        assert np.abs(on_line - drawn[:, 1]).max() < (0.5 if n > 7 else 0.1)


def test_the_best_and_worst_classes_by_hand() -> None:
    rows = tuple(
        {"name": name, "f1": f1, "support": support}
        for name, f1, support in (
            ("a", 0.5, 9),
            ("b", 0.0, 4),
            ("c", 0.0, 7),
            ("d", 0.9, 3),
            ("e", 0.0, 0),
            ("f", 1, 1),
        )
    )
    scores = Scores((), (), rows, (), (), (), cast(Any, None), (), 0, 0, 0, (), ())
    assert [row["name"] for row in scores.best(2)] == ["f", "d"]
    assert [row["name"] for row in scores.best()] == ["f", "d", "a"]
    assert [row["name"] for row in scores.worst(2)] == ["c", "b"]
    assert [row["name"] for row in scores.worst()] == ["c", "b", "a"]


def _shares(predicted: dict[int, int], labelled: dict[int, int] | None) -> Shares:
    """Return the shares of ten test images, and of ten train images or none."""
    test = np.zeros((10, len(HPA28)), bool)
    for c, count in predicted.items():
        test[:count, c] = True
    ids = [f"t{n}" for n in range(10)]
    target = [tuple(c for c, count in (labelled or {}).items() if n < count) for n in range(10 if labelled else 0)]
    train = pd.DataFrame({"target": pd.Series(target, dtype=object)})
    train["unknown_classes"] = pd.Series([()] * len(train), dtype=object)
    found = make_shares(
        _evidence(
            images=pd.DataFrame({"image_id": ids, "split": "test"}),
            predicted=lambda asked: test[: len(asked)],
            train=train,
            vocabulary=HPA28,
            work=SimpleNamespace(root=Path("nowhere")),
        )
    )
    assert isinstance(found, Shares)
    return found


def test_shares_come_in_the_order_of_the_labels_and_of_the_predictions_without_them() -> None:
    name = HPA28.classes
    found = _shares({3: 2, 5: 9, 7: 4}, {5: 1, 7: 8, 3: 3})
    assert [row[:3] for row in found.rows[:3]] == [(name[7], 0.8, 0.4), (name[3], 0.3, 0.2), (name[5], 0.1, 0.9)]
    assert (found.top, found.n_test) == (0.9, 10)
    alone = _shares({3: 2, 5: 9, 7: 4}, None)
    assert [row[:3] for row in alone.rows[:3]] == [(name[5], None, 0.9), (name[7], None, 0.4), (name[3], None, 0.2)]
    assert alone.top == 0.9


def test_the_map_is_the_same_wherever_its_places_lie() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(400, 2))
    named = ["a"] * 250 + ["b"] * 100 + ["unknown"] * 50
    clouds = {cloud.name: cloud for cloud in _clouds(places, named)}
    assert {name: cloud.count for name, cloud in clouds.items()} == {"a": 250, "b": 100, "other": 50}
    moved = {cloud.name: cloud for cloud in _clouds(3 * places + [100, -40], named)}
    for name, cloud in clouds.items():
        assert np.abs(_points(moved[name].path) - _points(cloud.path)).max() <= 0.11
    dots = np.concatenate([_points(cloud.path) for cloud in clouds.values()])
    assert (np.ptp(dots, axis=0) > 200).all(), "they fill the picture"


def _table(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"channel": "green", "source": "a", "mean": 0.2, "bright": 0.5, "saturated": 0.0} | columns)


def test_warnings_of_intensities_at_their_limits() -> None:
    assert _warnings(_table(saturated=[0.01, 0.0]), 2) == [], "not more than 1%"
    assert "saturated in 1 of 2 images: more than 1%" in _warnings(_table(saturated=[0.011, 0.0]), 2)[0]
    assert _warnings(_table(bright=[0.08, 0.5]), 2) == [], "not below 8%"
    assert "dark in 2 of 2 images" in _warnings(_table(bright=[0.079, 0.0]), 2)[0]
    assert _warnings(_table(source=["a", "b"], mean=[0.1, 0.2]), 2) == [], "not more than twice"
    assert "2.1 times as bright in b as in a" in _warnings(_table(source=["a", "b"], mean=[0.1, 0.21]), 2)[0]


def test_the_histogram_of_a_channel_adds_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images, means = [], []
    for number in range(3):
        row: dict[str, object] = {"image_id": str(number), "source": "a"}
        plane = rng.integers(0, 60 * (number + 1), (40, 50), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), plane)
        means.append(plane.mean() / 255)
        row |= {"path_green": str(tmp_path / f"{number}.png"), "plane_green": -1}
        images.append(row)
    work = SimpleNamespace(data=DataSection(channels=("green",)))
    found = _intensities(_evidence(images=pd.DataFrame(images), work=work))
    (panel,) = found.panels
    assert found.images == 3
    assert panel.text == f"green: mean intensity {np.mean(means):.1%} of the range"
    down = _points(panel.curves[0].path)[:, 1]
    low, high = Axes((0, 1), (-6, 0)).place(0, np.array([-6, 0]))[1]
    shares = 10 ** ((down - low) / (high - low) * 6 - 6)
    assert shares.sum() == pytest.approx(1, rel=0.03)


def test_images_are_counted_by_source_and_split(tmp_path: Path) -> None:
    """An image that two sources have counts in both."""
    sources = ["a", "a", "a+b", "b", "b"]
    images = pd.DataFrame(
        {
            "image_id": list("vwxyz"),
            "source": sources,
            "split": ["train", "train", "train", "test", "test"],
            "height_px": 10,
            "width_px": 20,
            "path_green": str(tmp_path / "none.png"),
            "plane_green": -1,
        }
    )
    work = SimpleNamespace(data=DataSection(channels=("green",)))
    train = images.iloc[:0].assign(target=[], unknown_classes=[])
    found = make_data(_evidence(images=images, train=train, vocabulary=HPA28, work=work))
    assert sorted(found.splits) == [("a", 3, 0), ("b", 1, 2)]
    assert found.intensities.images == 0
    assert found.counts == ()


def test_stages_that_are_not_done_are_listed() -> None:
    lines = tuple(
        StageLine(name, state) for name, state in (("segment", "done"), ("crops", "missing"), ("aggregate", "damaged"))
    )
    overview = Overview(lines, (), {}, (), (), 0, "")
    assert [line.name for line in overview.unfinished] == ["crops", "aggregate"]
    assert not overview.done


def test_a_stage_without_a_readable_record_is_missing_or_damaged(tmp_path: Path) -> None:
    assert _record(tmp_path) == (None, "missing")
    (tmp_path / "run.json").write_text("{}")
    assert _record(tmp_path) == (None, "damaged")


def test_a_matrix_without_rows_is_a_sentence() -> None:
    folder = Path(report.__file__).parent / "templates"
    parts: Any = Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=True)
    matrix = parts.get_template("parts.html.jinja").module.matrix
    assert matrix(SimpleNamespace(rows=[], columns=[], cells=[])) == "\n<p>No scored image has a class.</p>\n"
    assert "<svg" in matrix(SimpleNamespace(rows=["a"], columns=["b"], cells=[(0, 0, 0.5, "a as b")]))
