"""Figures of the metrics: what they say, in every format."""

import re
from pathlib import Path

import pytest

from aggregate.__main__ import main
from hpa.work.folder import WorkFolder
from tests.support.simulation.work import make_work

NAMES = ("calibration", "classes", "confusion", "precision_recall", "shares", "thresholds")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Return a work folder whose name matplotlib would read as a formula, with figures as SVG."""
    made = make_work(tmp_path_factory.mktemp("figures") / "cost $x$", train=120, test=40)
    assert main(["run", str(made.root), "--figure-format", "svg"]) == 0
    return made


def _text(work: WorkFolder, name: str) -> str:
    svg = (work.root / "aggregate" / "figures" / f"{name}.svg").read_text()
    return " ".join(re.findall(r">([^<>]+)</t", svg)).replace("&amp;", "&").replace("&gt;", ">")


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_of_which_run_it_is(work: WorkFolder, name: str) -> None:
    text = _text(work, name)
    assert "cost $x$, 120 images" in text
    assert len(text.split("cost")[0]) + len(text.split("120 images")[1]) > 200


def test_panels_name_their_class_and_the_classes_without_images(work: WorkFolder) -> None:
    import json

    rows = json.loads((work.root / "aggregate" / "metrics.json").read_text())["classes"]
    for figure in ("precision_recall", "thresholds", "calibration"):
        text = _text(work, figure)
        for row in rows:
            if row["support"]:
                assert row["class"][:25] in text
                assert (f"{row['class'][:25].rstrip()}…" in text) == (len(row["class"]) > 27), "only long names are cut"
                assert f"n = {row['support']}, " in text
        absent = text[text.index("Without images:") :].replace("\n", " ")
        assert absent.count(",") + 1 >= sum(not row["support"] for row in rows)
    assert "the dot may lie off the line" in _text(work, "precision_recall")


def test_the_confusions_have_the_numbers_of_images(work: WorkFolder) -> None:
    import json

    text = _text(work, "confusion")
    rows = json.loads((work.root / "aggregate" / "metrics.json").read_text())["classes"]
    for row in rows:
        assert (f"{row['class']} ({row['support']})" in text) == bool(row["support"])
        hits = round(row["recall"] * row["support"])
        if hits:
            assert f" {hits} " in text
    assert "Rows sum to 1" in text


def test_vector_figures_are_the_same_again(work: WorkFolder) -> None:
    folder = work.root / "aggregate" / "figures"
    before = {name: (folder / f"{name}.svg").read_bytes() for name in NAMES}
    assert main(["run", str(work.root), "--figure-format", "svg"]) == 0
    assert {name: (folder / f"{name}.svg").read_bytes() for name in NAMES} == before
    assert main(["run", str(work.root), "--figure-format", "pdf"]) == 0
    for name in NAMES:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_an_unknown_format_is_refused(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(work.root), "--figure-format", "tiff"]) == 2
    assert "png" in capsys.readouterr().err


def test_figures_may_be_left_out(tmp_path: Path) -> None:
    made = make_work(tmp_path / "work", train=60, test=0)
    assert main(["run", str(made.root), "--no-figures"]) == 0
    assert not (made.root / "aggregate" / "figures").exists()
