"""The pages of how-tos: what they run is run in small, and what cannot run here is at least parsed."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import typer
from distributed import LocalCluster
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from classify.probabilities import class_columns
from hpa.pixels import read_label_image, read_plane
from hpa.vocabulary import HPA28
from pipeline.recipe import read_recipe
from tests.support.pages import (
    ROOT,
    SMALL_INIT,
    blocks,
    commands,
    copy_recipes,
    python_blocks,
    run_command,
    shrink,
    small_atlas,
)

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.glob("*.md") if path.name != "log.md")]
FLOORS = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline")
_PACKAGES = rf"(?:{'|'.join(FLOORS)}|cellwise)"


def _shown(page: Path) -> Iterator[list[str]]:
    """Yield every command of ours in the code blocks of a page, whether it can run here or not."""
    for block in blocks(page, "", "sh", "bash", "text"):
        for line in block.splitlines():
            line = re.sub(r"^(?:export )?(?:[A-Z_]+=\S+ )*", "", line.split(" #")[0])
            quoted = re.search(r"python -m ([^']*)'$", line)  # srun bash -c '... python -m ...'
            found = quoted or re.fullmatch(rf"(?:uv run )?(?:python -m )?({_PACKAGES} [a-z].*)", line)
            if found:
                yield shlex.split(found[1].removesuffix("&").replace("$SLURM_ARRAY_TASK_ID", "0"))


def _parse(command: list[str]) -> None:
    """Parse the arguments of a command, which is not run."""
    package, verb, *arguments = command
    if package == "cellwise":
        package, verb, *arguments = command[1:] if verb in FLOORS else ["pipeline", verb, *arguments]
    group: Any = typer.main.get_command(import_module(f"{package}.__main__").app)
    assert verb in group.commands, f"{package} has no command {verb}"
    group.commands[verb].make_context(verb, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_the_packages_have(page: Path) -> None:
    for command in _shown(page):
        _parse(command)


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "recipes").glob("*.toml"))], ids=lambda page: page.name)
def test_every_setting_that_a_page_or_a_header_names_is_usable(page: Path) -> None:
    setting = r"--set\s+(?:'[^']*'|[^\s`]+)"
    for together in re.finditer(rf"{setting}(?:\s+(?:[\\#]\s+)?{setting})*", page.read_text()):
        words = shlex.split(together[0].replace("\\\n", " "), comments=True)
        settings = [word for word in words if word not in ("--set", "section.key=value")]
        read_recipe(page if page.suffix == ".toml" else None, settings)


def test_the_parser_of_these_tests_refuses_what_is_not_there() -> None:
    shown = [command for page in PAGES for command in _shown(page)]
    assert len(shown) > 60
    assert ["classify", "train", "work/my", "--fold", "0", "--devices", "4", "--nodes", "2"] in shown
    for wrong in (["segment", "walk", "work/my"], ["segment", "run", "work/my", "--no-such-flag"], ["crops", "run"]):
        with pytest.raises(Exception, match=r"no command|No such option|Missing parameter"):
            _parse(wrong)


def test_every_how_to_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for subject in ("plates", "masks", "own-code", "second-models", "clusters", "concepts", "kaggle"):
        assert f"- {subject}.md" in navigation
        assert (DOCS / f"{subject}.md").is_file()


def test_the_job_scripts_are_shell_and_the_commands_of_dask_have_their_options() -> None:
    scripts = blocks(DOCS / "clusters.md", "bash")
    assert len(scripts) == 2
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = "\n".join(blocks(DOCS / "clusters.md", "text")).splitlines()
    shown = [re.search(r"dask (scheduler|worker) ([^#&]*)", line) for line in lines if line]
    assert len(shown) == 4
    for found in shown:
        assert found is not None
        {"scheduler": dask_scheduler, "worker": dask_worker}[found[1]].make_context(found[1], shlex.split(found[2]))
    for script in python_blocks(DOCS / "clusters.md"):  # needs a cluster with Slurm
        compile(script, "clusters.md", "exec")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run in ``work/my``, as the pages expect it."""
    folder = tmp_path_factory.mktemp("finished")
    data, _ = small_atlas(folder)
    work = str(folder / "work" / "my")
    recipe = str(ROOT / "recipes" / "cells.toml")
    assert run_command(["pipeline", "init", work, "--data", str(data), "--recipe", recipe, *SMALL_INIT]) == 0
    assert run_command(["pipeline", "run", work]) == 0
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new current folder with that run and the recipes, as a clone has them."""
    shutil.copytree(finished / "work", tmp_path / "work")
    copy_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(name: str, finished: Path) -> None:
    for command in commands(DOCS / name):
        small = shrink(command, finished / "atlas", finished / "new")
        assert run_command(small) == 0, " ".join(small)


@pytest.mark.slow
def test_a_plate_is_cut_and_a_model_applied_to_it(finished: Path, here: Path) -> None:
    (plate := here / "plate").mkdir()
    for well, path in zip(("B02", "B03", "C02"), sorted((finished / "new").glob("*_blue.png")), strict=False):
        for number, color in enumerate(("blue", "yellow", "green", "red")):
            plane = read_plane(path.with_name(path.name.replace("_blue", f"_{color}")))
            cv2.imwrite(str(plate / f"{well}_f1_d{number}.tif"), plane)
    for command in commands(DOCS / "plates.md"):
        assert run_command([str(plate) if word == "/data/plate" else word for word in command]) == 0, " ".join(command)
    for name in ("plate", "applied"):
        crops_of = pd.read_parquet(here / "work" / name / "crops" / "cells" / "crops.parquet")
        assert set(crops_of["image_id"]) == {"B02_1", "B03_1", "C02_1"}
    assert (here / "plate.png").is_file()


@pytest.mark.slow
def test_second_models_share_crops_and_are_compared(finished: Path, here: Path) -> None:
    _run("second-models.md", finished)
    crops = "crops/cells/shard-00000.npy"
    for name in ("second", "both", "my-sweep/weight_decay=0.01"):
        assert (here / "work" / name / crops).samefile(here / "work" / "my" / crops)
    relabelled = pd.read_parquet(here / "work" / "relabelled" / "cell_labels.parquet")
    train = pd.read_parquet(here / "work" / "my" / "folds.parquet")["image_id"]
    assert set(relabelled["image_id"]) <= set(train)  # after so short a training it may be that no cell loses a label
    assert 'labels = "cells"' in (here / "work" / "relabelled" / "recipe.toml").read_text()
    table = pd.read_csv(here / "comparison.csv")
    assert list(table["run"][:2]) == ["my", "second"]
    pooled = [
        pd.read_parquet(here / "work" / name / "classify/cells/probabilities.parquet")
        .groupby(["image_id", "fold"])[class_columns(HPA28)]
        .max()
        .groupby("image_id")
        .mean()
        for name in ("my", "second")
    ]
    joined = pd.read_parquet(here / "work" / "both" / "aggregate/images.parquet").set_index("image_id")
    means = ((pooled[0] + pooled[1]) / 2).loc[joined.index]
    np.testing.assert_allclose(joined[class_columns(HPA28)], means, rtol=1e-5)


@pytest.mark.slow
def test_own_masks_are_imported_scored_and_learned_from(finished: Path, here: Path) -> None:
    _run("masks.md", finished)
    for image_id in pd.read_parquet(here / "work" / "masks" / "images.parquet")["image_id"]:
        theirs = read_label_image(finished / "atlas" / "truth" / "cells" / f"{image_id}.png")
        ours = read_label_image(here / "work" / "masks" / "segment" / "masks" / f"{image_id}.png")
        assert np.array_equal(theirs > 0, ours > 0)
        assert len(np.unique(theirs)) == len(np.unique(ours))
    assert (here / "work" / "masks" / "aggregate" / "submission.csv").is_file()
    assert (here / "work" / "tuned" / "segment" / "masks.parquet").is_file()
    assert (here / "student.pt").is_file()


@pytest.mark.slow
def test_own_code_trains_a_second_model(finished: Path, here: Path) -> None:
    (example,) = python_blocks(DOCS / "own-code.md")
    (here / "mine").mkdir()
    (here / "mine" / "my_module.py").write_text(example)
    _run("own-code.md", finished)
    crops = "crops/cells/shard-00000.npy"
    assert (here / "work" / "mine" / crops).samefile(here / "work" / "my" / crops)
    assert 'backbone = "my_module:build"' in (here / "work" / "mine" / "recipe.toml").read_text()
    assert (here / "work" / "mine" / "aggregate" / "submission.csv").is_file()


@pytest.mark.slow
def test_the_page_on_clusters_gives_the_files_of_one_process(finished: Path, here: Path) -> None:
    """Every command of the page on a new folder: images on a Dask cluster, folds by a job array, one of them on two.

    Slurm gives a job of an array its number in the environment; a GPU is replaced by the CPU.
    """
    first, work = here / "work" / "my", here / "work" / "again"
    init = ["pipeline", "init", str(work), "--data", str(finished / "atlas"), "--recipe", "recipes/cells.toml"]
    assert run_command([*init, *SMALL_INIT]) == 0
    first.rename(here / "work" / "single")
    work.rename(first)
    shown = commands(DOCS / "clusters.md")
    assert [" ".join(command[:2]) for command in shown] == [
        *("pipeline run", "pipeline apply", "pipeline run", "classify train", "segment run", "crops run"),
    ]
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:  # type: ignore[no-untyped-call]
        for command in shown[-2:]:
            assert run_command([cluster.scheduler_address if "tcp" in word else word for word in command]) == 0
    job = next(block for block in blocks(DOCS / "clusters.md", "bash") if "--array" in block)
    line = next(line for line in job.splitlines() if line.startswith("python -m"))
    for fold in ("0", "1"):
        assert run_command(shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", fold))[2:]) == 0
    assert run_command([word.replace("cuda", "cpu") for word in shown[2]]) == 0
    for name in ("segment/masks.parquet", "crops/cells/crops.parquet", "classify/cells/probabilities.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(first / name), pd.read_parquet(here / "work" / "single" / name))
    submissions = [(root / "aggregate" / "submission.csv").read_bytes() for root in (first, here / "work" / "single")]
    assert submissions[0] == submissions[1]
    for command in shown[:2]:
        small = shrink(command, finished / "atlas", finished / "new")
        assert run_command(small) == 0, " ".join(small)
    assert len(pd.read_csv(here / "work" / "new" / "aggregate" / "submission.csv")) == 8
    assert run_command(shown[3] + ["--device", "cpu", "--fold", "0", "--overwrite"]) == 0
