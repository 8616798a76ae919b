from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import pytest

from hpa.__main__ import main
from hpa.atlas import synthesize
from hpa.images import read_images
from hpa.reports.explore import class_counts, cooccurrence, correlation, image_sizes, source_names
from hpa.vocabulary import HPA28
from pipeline.init import init
from pipeline.recipe import read_recipe
from tests.support.layouts import write_image


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work folder of two sources, one image of which cannot be read."""
    root = tmp_path_factory.mktemp("explore")
    for seed, name in enumerate(("one", "$two[x]")):
        synthesize(root / name, 6, 2, seed=seed, size_px=128, workers=1)
    next((root / "one" / "test").glob("*_blue.png")).write_bytes(b"")
    data = [str(root / "one"), f"two={root / '$two[x]'}"]
    init(root / "work", data, read_recipe(None, ["data.folds=2"]), workers=1)
    assert main(["explore", str(root / "work"), "--images", "5", "--workers", "1"]) == 0
    return root / "work"


def test_every_picture_is_readable(work: Path) -> None:
    names = {"classes", "labels_per_image", "cooccurrence", "intensities", "sizes", "sheet"}
    assert {path.stem for path in (work / "explore").glob("*.png")} == names
    for path in (work / "explore").glob("*.png"):
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.std() > 1, path.name


def test_pictures_for_a_paper(work: Path) -> None:
    assert main(["explore", str(work), "--images", "5", "--workers", "1", "--figure-format", "svg"]) == 0
    drawn = {path.stem: ElementTree.parse(path).getroot().tag for path in (work / "explore").glob("*.svg")}
    assert drawn.keys() == {path.stem for path in (work / "explore").glob("*.png")}
    assert set(drawn.values()) == {"{http://www.w3.org/2000/svg}svg"}


def test_sheet_has_one_row_per_image_and_one_tile_per_channel(work: Path) -> None:
    sheet = np.asarray(cv2.imread(str(work / "explore" / "sheet.png")))
    assert sheet.shape == (5 * (224 + 18), 5 * 224, 3)
    blue, green, red = (sheet[18 : 18 + 150, 224:448, c].mean() for c in range(3))
    assert red > 5 * max(green, blue, 0.1)  # the second tile is the red channel


def test_chosen_images(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = list(read_images(work / "images.parquet")["image_id"])
    unreadable = next(path for path in (work.parent / "one" / "test").glob("*_blue.png") if not path.stat().st_size)
    assert (
        main(["explore", str(work), "--id", ids[3], "--id", unreadable.stem.removesuffix("_blue"), "--workers", "1"])
        == 0
    )
    assert cv2.imread(str(work / "explore" / "sheet.png")).shape[0] == 2 * (224 + 18)  # type: ignore[union-attr]
    assert main(["explore", str(work), "--id", "nobody"]) == 2
    assert "expected image ids of the data set, found 'nobody'" in capsys.readouterr().err
    assert main(["explore", str(work), "--order", "best"]) == 2


def test_data_set_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bare folder gets all pictures but those of classes, and no table of zeros."""
    write_image(tmp_path / "bare", "a")
    init(tmp_path / "work", [str(tmp_path / "bare")], read_recipe(None, []), workers=1)
    capsys.readouterr()
    assert main(["explore", str(tmp_path / "work"), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "no train image has a known label" in printed
    assert "Nucleoplasm" not in printed
    assert "bare: 0 train and 1 test images" in printed
    names = {path.name for path in (tmp_path / "work" / "explore").iterdir()}
    assert names == {"intensities.png", "sizes.png", "sheet.png"}


def test_counts_match_the_tables(work: Path) -> None:
    counted = pd.read_csv(work / "explore" / "classes.csv").set_index("class")
    texts = []
    for name in ("one", "$two[x]"):
        texts += list(pd.read_csv(work.parent / name / "train.csv", dtype=str)["Target"])
    targets = HPA28.multi_hot(HPA28.parse(text) for text in texts)
    assert counted["images"].tolist() == targets.sum(axis=0).tolist()
    assert (counted["images of one"] + counted["images of two"] == counted["images"]).all()
    assert counted["alone"].sum() == (targets.sum(axis=1) == 1).sum()
    assert (counted["unknown"] == 0).all()


def test_cooccurrence_matches_a_loop_and_correlation_matches_numpy() -> None:
    targets = np.random.default_rng(0).random((50, 4)) < 0.4
    together = cooccurrence(targets)
    for a in range(4):
        for b in range(4):
            assert together[a, b] == sum(1 for row in targets if row[a] and row[b])
    np.testing.assert_allclose(correlation(targets), np.corrcoef(targets.T), atol=1e-12)
    assert (correlation(np.ones((5, 2), bool)) == 0).all()


def _table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": ["a", "b", "c"],
            "source": ["x", "x+y", "y"],
            "target": [(0,), (0, 1), ()],
            "unknown_classes": [(), (), (2,)],
            "antibody": ["A", "A", None],
            "well": [None, None, None],
            "height_px": [5, 0, 5],
            "width_px": [6, 0, 6],
        }
    )


def test_sources_groups_unknown_classes_and_sizes() -> None:
    table = _table()
    assert source_names(table) == ["x", "y"]
    counts = class_counts(table, HPA28)
    first = counts.to_dict("records")[0]
    assert [first[key] for key in ("images", "alone", "groups", "with")] == [2, 1, 1, "Nuclear membrane"]
    assert (first["images of x"], first["images of y"]) == (2, 1)
    assert counts["unknown"].tolist()[:3] == [0, 0, 1]
    assert counts["share"].tolist()[:3] == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0]
    sizes = image_sizes(table)
    assert set(sizes["size"]) == {"5 x 6", "unknown"}
    assert sizes["images"].sum() == 3
