from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aggregate.__main__ import main
from aggregate.scoring.platemap import read_plates
from classify.probabilities import class_columns
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.simulation.work import make_work

CYTOSOL = HPA28.index("Cytosol")


@pytest.fixture
def plate(tmp_path: Path) -> WorkFolder:
    """A finished run whose images are in wells of two plates, and one of which is in none."""
    work = make_work(tmp_path / "work", train=40, test=8)
    assert main(["run", str(work.root), "--no-figures"]) == 0
    images = read_images(work.images)
    names = [f"p{k % 2}_{'ABH'[k % 3]}{k % 5 + 8:02d}" for k in range(len(images))]
    images["well"] = pd.Series([None, *names[1:]], dtype=object)
    write_images(work.images, images, work.data.classes, work.data.channels)
    return work


def test_wells_hold_the_mean_over_their_images(plate: WorkFolder) -> None:
    scores = pd.read_parquet(plate.root / "aggregate" / "images.parquet").set_index("image_id")[
        class_columns(HPA28)[CYTOSOL]
    ]
    images = read_images(plate.images)
    plates = read_plates(plate, "Cytosol")
    assert [one.name for one in plates] == ["p0", "p1"]
    assert sum(one.images.sum() for one in plates) == len(images) - 1
    for one in plates:
        assert one.values.shape == (8, 12)
        for row in range(8):
            for column in range(12):
                well = f"{one.name}_{'ABCDEFGH'[row]}{column + 1:02d}"
                own = scores[images.loc[images["well"] == well, "image_id"]]
                assert one.images[row, column] == len(own)
                if len(own):
                    assert one.values[row, column] == pytest.approx(own.mean())
                else:
                    assert np.isnan(one.values[row, column])


def test_images_without_crops_say_nothing_about_their_well(plate: WorkFolder) -> None:
    path = plate.root / "aggregate" / "images.parquet"
    before = read_plates(plate, "Cytosol")
    table = pd.read_parquet(path)
    well = read_images(plate.images).set_index("image_id")["well"].dropna()
    lost = well.index[well == well.iloc[-1]]
    table.loc[table["image_id"].isin(lost[:1]), "origin"] = "prior"
    table.to_parquet(path)
    after = read_plates(plate, "Cytosol")
    changed = [
        (name, row, column)
        for name, old, new in zip(("p0", "p1"), before, after, strict=True)
        for row, column in zip(*np.nonzero(old.images != new.images), strict=True)
    ]
    assert [f"{name}_{'ABCDEFGH'[row]}{column + 1:02d}" for name, row, column in changed] == [well.iloc[-1]]
    assert sum(one.images.sum() for one in before) - sum(one.images.sum() for one in after) == 1


def test_the_command_draws_equal_bytes_and_names_mistakes(
    plate: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.svg", "b.svg"):
        assert main(["platemap", str(plate.root), str(tmp_path / name), "--class", "Cytosol"]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "Cytosol: mean probability by well, work" in (tmp_path / "a.svg").read_text()
    assert main(["platemap", str(plate.root), str(tmp_path / "a.gif"), "--class", "Cytosol"]) == 2
    assert main(["platemap", str(plate.root), str(tmp_path / "a.svg"), "--class", "Moon"]) == 2
    assert "Moon" in capsys.readouterr().err


def test_runs_without_wells_are_refused(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", train=40, test=8)
    assert main(["run", str(work.root), "--no-figures"]) == 0
    images = read_images(work.images)
    images["well"] = pd.Series([None] * len(images), dtype=object)
    write_images(work.images, images, work.data.classes, work.data.channels)
    with pytest.raises(UserError, match="expected images with wells such as B02, and with crops"):
        read_plates(work, "Cytosol")
