"""Unusable images are reported and keep their row in the submission; wrong usage is one sentence and exit code 2."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hpa.atlas import synthesize
from hpa.work.folder import locked
from pipeline.__main__ import main
from tests.support.pages import ROOT

SMALL = ["--set", "classify.epochs=1", "--set", "crops.size_px=32", "--set", "data.folds=2"]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small synthetic data set."""
    folder = tmp_path_factory.mktemp("data") / "atlas"
    synthesize(folder, 16, 8, seed=3, size_px=256)
    return folder


@pytest.fixture(scope="module")
def damaged(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a work folder after a run with damaged images, and the image_id of each kind of damage."""
    root = tmp_path_factory.mktemp("damaged")
    data = root / "data"
    shutil.copytree(atlas, data)
    test = list(pd.read_csv(data / "sample_submission.csv")["Id"])
    train = list(pd.read_csv(data / "train.csv")["Id"])
    names = dict(zip(("missing", "truncated", "rgb", "size", "black", "no cell"), test, strict=False))
    names["train missing"] = train[0]

    def path(name: str, channel: str) -> Path:
        split = "train" if name.startswith("train") else "test"
        return data / split / f"{names[name]}_{channel}.png"

    path("missing", "yellow").unlink()
    path("train missing", "blue").unlink()
    path("truncated", "blue").write_bytes(path("truncated", "blue").read_bytes()[:-200])
    gray: np.ndarray | None = cv2.imread(str(path("rgb", "yellow")), cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    cv2.imwrite(str(path("rgb", "yellow")), np.stack([gray] * 3, axis=2))
    cv2.imwrite(str(path("size", "blue")), gray[:200])
    for channel in ("red", "green", "blue", "yellow"):
        cv2.imwrite(str(path("black", channel)), np.zeros((256, 256), np.uint8))
    empty = np.random.default_rng(0).integers(0, 4, (256, 256), dtype=np.uint8)
    for channel in ("blue", "yellow"):
        cv2.imwrite(str(path("no cell", channel)), empty)
    (data / "test" / "unexpected_red.png").write_bytes(b"")
    with (data / "sample_submission.csv").open("a") as file:
        file.write("listed-without-files,0\n")
    names["listed"] = "listed-without-files"
    assert main(["init", str(root / "work"), "--data", str(data), *SMALL]) == 0
    assert main(["run", str(root / "work")]) == 1  # more failures than max_failures = 0
    return root / "work", names


def test_every_image_keeps_its_row(damaged: tuple[Path, dict[str, str]]) -> None:
    work, _ = damaged
    sample = pd.read_csv(work.parent / "data" / "sample_submission.csv")
    submission = pd.read_csv(work / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)
    assert list(submission["Id"]) == list(sample["Id"])
    assert (submission["Predicted"] != "").all()
    images = pd.read_parquet(work / "aggregate" / "images.parquet")
    assert list(images["image_id"]) == list(pd.read_parquet(work / "images.parquet")["image_id"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "yellow channel: missing file"),
        ("truncated", "blue channel: truncated PNG"),
        ("rgb", "yellow channel: .*expected one gray plane, found 3"),
        ("size", "channels of different size"),
        ("listed", "missing file"),
        ("train missing", "blue channel: missing file"),
    ],
)
def test_unusable_images_are_listed_with_a_reason(damaged: tuple[Path, dict[str, str]], name: str, reason: str) -> None:
    work, names = damaged
    for stage in ("segment", "crops/cells"):
        failures = pd.read_csv(work / stage / "failures.csv").set_index("image_id")["reason"]
        assert failures.str.contains(reason)[names[name]], failures[names[name]]
    images = pd.read_parquet(work / "aggregate" / "images.parquet").set_index("image_id")
    assert images.loc[names[name], "origin"] == "prior"
    assert names[name] not in set(pd.read_parquet(work / "segment" / "masks.parquet")["image_id"])


@pytest.mark.parametrize("name", ["black", "no cell"])
def test_an_image_without_cells_is_scored_on_its_full_frame(damaged: tuple[Path, dict[str, str]], name: str) -> None:
    work, names = damaged
    masks = pd.read_parquet(work / "segment" / "masks.parquet").set_index("image_id")
    assert masks.loc[names[name], "n_cells"] == 0
    assert "no cell" in str(masks.loc[names[name], "flags"])
    crops = pd.read_parquet(work / "crops" / "cells" / "crops.parquet").set_index("image_id")
    assert crops.loc[names[name], "fallback"]
    images = pd.read_parquet(work / "aggregate" / "images.parquet").set_index("image_id")
    assert images.loc[names[name], "origin"] == "test"
    assert images.loc[names[name], "n_crops"] == 1


def test_every_image_has_either_a_mask_or_a_failure(damaged: tuple[Path, dict[str, str]]) -> None:
    work, _ = damaged
    masks = set(pd.read_parquet(work / "segment" / "masks.parquet")["image_id"])
    failed = set(pd.read_csv(work / "segment" / "failures.csv")["image_id"])
    assert len(failed) == 6
    assert not masks & failed
    assert masks | failed == set(pd.read_parquet(work / "images.parquet")["image_id"])


def _error_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "Traceback" not in error
    return error


def test_wrong_usage_is_reported_in_one_sentence(
    atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(atlas)]
    (tmp_path / "bad.toml").write_text("[classify]\nepoch = 3\n")
    (tmp_path / "file").touch()
    cases = {
        "found 'epoch'": ["init", str(tmp_path / "a"), *data, "--recipe", str(tmp_path / "bad.toml")],
        "found no folder": ["init", str(tmp_path / "a"), "--data", str(tmp_path / "nowhere")],
        "expected a recipe file or a shipped recipe": [
            "init",
            str(tmp_path / "a"),
            *data,
            "--recipe",
            str(tmp_path / "none.toml"),
        ],
        "found none": ["run", str(tmp_path / "a")],
        "can be written": ["init", str(tmp_path / "file" / "work"), *data],
        "at least as many groups": ["init", str(tmp_path / "a"), *data, "--set", "data.folds=90"],
    }
    for sentence, arguments in cases.items():
        assert sentence in _error_sentence(capsys, arguments)
        assert not (tmp_path / "a" / "recipe.toml").exists()


def test_a_second_run_on_the_same_work_folder_is_refused(
    damaged: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    work, _ = damaged
    with locked(work):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "run", str(work)], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert "expected no other run" in done.stderr
    assert "Traceback" not in done.stderr
    assert "work folder, found one initialised" in _error_sentence(
        capsys, ["init", str(work), "--data", str(work.parent / "data")]
    )


def test_new_images_must_have_the_channels_of_the_trained_run(
    damaged: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, _ = damaged
    cv2.imwrite(str(tmp_path / "a_blue.png"), np.zeros((32, 32), np.uint8))
    error = _error_sentence(capsys, ["apply", str(work), "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "expected the channels of the trained run (red, green, blue, yellow), found no image with red" in error


def test_a_full_disk_is_reported_in_one_sentence_and_leaves_no_partial_file(atlas: Path, tmp_path: Path) -> None:
    """Limit files to 6 KB to imitate a full disk; without the limit the same command succeeds."""
    script = (
        "import resource, sys; from pipeline.__main__ import main\n"
        "limit = int(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "sys.exit(main(sys.argv[2:]))"
    )

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        arguments = [str(limit), "init", str(tmp_path / "work"), "--data", str(atlas)]
        command = [sys.executable, "-c", script, *arguments, "--set", "data.folds=2"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    limited = run(6000)
    assert limited.returncode == 2, limited.stderr
    assert "room on the disk" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"lock", "folds.parquet"}
    assert run(2**30).returncode == 0
