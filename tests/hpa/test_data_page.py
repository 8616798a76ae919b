"""Every command of docs/data.md, run in small, in the order of the page."""

import shutil
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hpa.atlas import synthesize
from hpa.images import read_images
from tests.support.layouts import write_image, write_jovian
from tests.support.pages import ROOT, commands
from tests.support.server import JPEG, bad_server

PAGE = ROOT / "docs" / "data.md"

pytestmark = pytest.mark.slow


def _plates(folder: Path, atlas: Path) -> None:
    """Write the plates of the page's example: the table from the page and images of the atlas."""
    text = PAGE.read_text()
    table = text[text.index("image_id,path_blue") :].split("```")[0]
    found = sorted((atlas / "train").glob("*_blue.png"))
    fields = [
        [np.asarray(cv2.imread(str(path).replace("blue", c), cv2.IMREAD_GRAYSCALE)) for c in ("blue", "yellow")]
        for path in found[:3]
    ]
    (folder / "A01").mkdir(parents=True)
    (folder.parent / "plate").mkdir()
    for field, planes in enumerate(fields[:2], start=1):
        for channel, plane in enumerate(planes):
            cv2.imwrite(str(folder.parent / "plate" / f"B02_f{field}_d{channel}.tif"), plane)
    for name, planes in zip(("A01/f1.tif", "A01/f2.tif"), fields[:2], strict=True):
        cv2.imwritemulti(str(folder / name), planes)
    for name, plane in zip(("A02_f1_DNA.tif", "A02_f1_ER.tif"), fields[2], strict=True):
        cv2.imwrite(str(folder / name), plane)
    (folder / "images.csv").write_text(table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every command of the page has run."""
    folder = tmp_path_factory.mktemp("page")
    data = folder / "data"
    synthesize(data / "hpaic", 16, 4, seed=2, size_px=128, workers=1)
    write_jovian(data / "jovian")
    _plates(data / "plates", data / "hpaic")
    ids = [f"{n}_16_A{n}_{field}" for n in range(1, 7) for field in (1, 2)]
    for image_id in ids:
        write_image(data / "hpa_v18", image_id, ".jpg")
    table = "Id,Target\n" + "".join(f"{image_id},{n}\n" for n, image_id in enumerate(ids))
    (data / "hpa_v18" / "HPAv18.csv").write_text(table)
    shutil.copy(data / "hpa_v18" / "HPAv18.csv", data / "HPAv18RBGY_wodpl.csv")
    with bad_server() as server, pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        for command in commands(PAGE):
            small = [word.replace("/data/", f"{data}/") for word in command]
            if "init" in small:
                small += ["--set", "data.folds=2"]
            if "split-folder" in small:
                small[-1] = "8"
            if "download-v18" in small:
                small += ["--base-url", f"http://127.0.0.1:{server.server_port}"]
            else:
                small += [] if "split-folder" in small else ["--workers", "1"]
            code = import_module(f"{small[0]}.__main__").main(small[1:])
            assert code == 0, f"python -m {' '.join(small)}"
    return folder


def test_page_has_every_command_for_data(folder: Path) -> None:
    shown = [" ".join(command[:2]) for command in commands(PAGE)]
    assert shown == [
        *["pipeline init"] * 4,
        "segment run",
        "crops run",
        "hpa leaks",
        "hpa explore",
        "hpa download-v18",
        "hpa split-folder",
    ]


def test_outputs_of_the_commands(folder: Path) -> None:
    sources = read_images(folder / "work" / "all" / "images.parquet")["source"]
    assert set(sources) == {"hpaic", "v18"}
    assert (folder / "work" / "all" / "leaks" / "leaks.json").exists()
    assert (folder / "work" / "all" / "explore" / "sheet.png").exists()
    assert len(read_images(folder / "work" / "jovian" / "images.parquet")) == 3
    plate = read_images(folder / "work" / "plate" / "images.parquet")
    assert plate["image_id"].tolist() == ["B02_1", "B02_2"]
    assert plate["well"].tolist() == ["B02", "B02"]
    plates = read_images(folder / "work" / "plates" / "images.parquet")
    assert plates["well"].tolist() == ["plate1_A01", "plate1_A01", "plate1_A02"]
    assert (plates["bytes_yellow"] > 0).all()
    crops = pd.read_parquet(folder / "work" / "plates" / "crops" / "cells" / "crops.parquet")
    assert set(crops["image_id"]) == set(plates["image_id"])
    assert not crops["fallback"].any()
    assert len(list((folder / "data" / "v18").glob("*.jpg"))) == 48
    assert next((folder / "data" / "v18").glob("*.jpg")).read_bytes() == JPEG
    assert len(pd.read_csv(folder / "data" / "parts" / "train.csv")) == 16
    assert (folder / "data" / "parts" / "train" / "part-00007").is_dir()
