"""Kill runs, fill the disk and lose a cluster worker: no result is lost and no file is half-written."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.work.folder import WorkFolder
from hpa.work.mapping import CHUNK_IMAGES
from segment.masks import stage_folder
from segment.run import run
from tests.support.pages import ROOT
from tests.support.processes import data_files, run_killed
from tests.support.shapes import make_work, write_image

IMAGES = CHUNK_IMAGES + 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chunks of small images; one image cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        scene = draw_scene((95, number), size_px=128, protein=False).channels
        write_image(folder, f"i{number:02d}", scene[CHANNELS.index("yellow")], scene[CHANNELS.index("blue")])
    (folder / "i07_blue.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """The work folder of an uninterrupted run."""
    work = make_work(tmp_path_factory.mktemp("uninterrupted") / "work", data)
    run(work, device="cpu", workers=1)
    return work


def files(work: WorkFolder) -> dict[str, bytes]:
    return data_files(stage_folder(work))


def check_counts(work: WorkFolder) -> None:
    counts = json.loads((work.root / "segment" / "run.json").read_text())["counts"]
    failures = pd.read_csv(work.root / "segment" / "failures.csv")
    assert counts["images"] == counts["masks"] + counts["failures"] == IMAGES
    assert failures["image_id"].tolist() == ["i07"]


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.nightly if seed else pytest.mark.slow) for seed in range(5)]
)
def test_a_killed_run_resumes_to_the_same_files(
    uninterrupted: WorkFolder, data: Path, tmp_path: Path, seed: int
) -> None:
    work = make_work(tmp_path / "work", data)  # figures name the run, so both have one name
    last = 2 * IMAGES + 6
    nth = int(np.random.default_rng(seed).integers(1, last))
    command = ["run", str(work.root), "--device", "cpu", "--workers", "1"]
    assert run_killed("segment", nth, command) == -signal.SIGKILL
    assert run(work, device="cpu", workers=1) == 1
    assert files(work) == files(uninterrupted)
    check_counts(work)


def small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))


@pytest.mark.slow
def test_a_full_disk_is_reported_and_the_next_run_resumes(
    uninterrupted: WorkFolder, data: Path, tmp_path: Path
) -> None:
    """A limit on file size stands in for a full disk: some label images fit, tables do not."""
    work = make_work(tmp_path / "work", data)
    command = [sys.executable, "-m", "segment", "run", str(work.root), "--device", "cpu", "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, preexec_fn=small_files_only)
    assert done.returncode == 2
    assert "with room on the disk" in done.stderr
    assert "Traceback" not in done.stderr
    half_written = [name for name, content in files(work).items() if content != files(uninterrupted).get(name, content)]
    assert half_written == []
    assert run(work, device="cpu", workers=1) == 1
    assert files(work) == files(uninterrupted)
    check_counts(work)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(path: Path, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_writes_the_same_files(
    uninterrupted: WorkFolder, data: Path, tmp_path: Path
) -> None:
    work = make_work(tmp_path / "work", data)
    scheduler = tmp_path / "scheduler.json"
    common = ("--scheduler-file", str(scheduler), "--no-dashboard")
    worker = ("distributed.cli.dask_worker", *common, "--nthreads", "1", "--no-nanny", "--local-directory")
    with ExitStack() as running:
        running.enter_context(started("distributed.cli.dask_scheduler", *common, "--port", "0"))
        wait_for(scheduler)
        workers = [running.enter_context(started(*worker, str(tmp_path / name))) for name in ("one", "two")]
        address = json.loads(scheduler.read_text())["address"]
        command = ("segment", "run", str(work.root), "--device", "cpu", "--dask", address)
        client = running.enter_context(started(*command))
        wait_for(work.root / "segment" / "masks" / "i01.png")
        workers[0].kill()
        assert client.wait(300) == 1, "one image cannot be read, and no failure is allowed"
    assert files(work) == files(uninterrupted)
    check_counts(work)
