"""Extract the commands from the documentation pages and the recipe headers, and run them on small data."""

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa.atlas import synthesize

ROOT = Path(__file__).parent.parent.parent
SMALL_INIT = ("--set", "classify.epochs=1", "--set", "crops.size_px=32", "--set", "data.folds=2")


_OURS = r"(?:hpa|segment|crops|classify|aggregate|pipeline|cellwise) .+|bench\.\w+.*"


def commands(page: Path) -> list[list[str]]:
    """Return each command in the code blocks of a page, in order, as a package and its arguments.

    The package of ``python -m segment run work/my`` is ``segment``, that of ``cellwise run work/my`` is ``cellwise``.
    """
    lines = [line.split("#")[0].strip() for block in blocks(page, "", "sh") for line in block.splitlines()]
    matches = [re.fullmatch(rf"(?:[A-Z_]+=\S+ )*(?:uv run )?(?:python -m )?({_OURS})", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]


def python_blocks(page: Path) -> list[str]:
    """Return the Python code blocks of a page, in order."""
    return blocks(page, "python")


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page in any of some languages, in order, with continued lines joined."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for language, block in fenced if language in languages]


def recipe_commands(name: str) -> list[list[str]]:
    """Return the arguments after ``python -m`` of each command in the header of a shipped recipe."""
    lines = (ROOT / "recipes" / f"{name}.toml").read_text().splitlines()
    matches = [re.match(r"#\s+uv run python -m (.*)", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]


def shrink(command: list[str], data: Path, new: Path) -> list[str]:
    """Return a command that runs quickly and on the data at hand."""
    paths = {"/data/hpaic": str(data), "/data/new": str(new), "../shared/real/images512": str(new)}
    paths |= {"/data/masks": str(data / "truth" / "cells"), "cuda": "cpu"}
    command = [paths.get(word, word) for word in command]
    if command[:2] in (["pipeline", "init"], ["cellwise", "init"]) and "--from" not in command:
        command += SMALL_INIT
    if command[:2] in (["pipeline", "demo"], ["cellwise", "demo"]):
        command += ["--tiny"]
    if command[:2] == ["classify", "train-backbone"]:
        command[3:] = ["--cells", "128", "--crops-seen", "256", "--size-px", "32"]
    if command[:2] == ["hpa", "synthesize"]:
        command += ["--images", "4", "--size-px", "128"]
    if command[:2] == ["crops", "synthesize"]:
        command += ["--cells", "20"]
    if command[:2] == ["aggregate", "submit"]:
        sample = data / "sample_submission.csv"
        np.save("scores.npy", np.random.default_rng(0).random((len(pd.read_csv(sample)), 28)))
        command[2:] = ["scores.npy", "--sample", str(sample), "--thresholds", "0.5", "--out", "submission.csv"]
    if command[:2] == ["aggregate", "evaluate"]:
        command[2:] = ["submission.csv", "submission.csv"]
    if command[:2] == ["pipeline", "picture"]:
        command = command[:4]  # the image of the page is not among those of a small demo
    if command[:2] in (["pipeline", "compare"], ["pipeline", "sweep"], ["pipeline", "relabel"]):
        command += ["--resamples", "10"]
    if command[:2] == ["segment", "score"] and not Path(command[2]).exists():
        # Real masks may be missing, so the masks of the atlas are scored against themselves.
        command[2:] = [str(data / "truth" / "cells")] * 2
    if command[:2] == ["segment", "fine-tune"]:
        command += ["--epochs", "1"]
    if command[:2] == ["segment", "distill"]:  # the large network would be downloaded
        command = [{"cpsam_v2": "compact", "64": "4"}.get(word, word) for word in command] + ["--epochs", "1"]
    return command


def small_atlas(folder: Path) -> tuple[Path, Path]:
    """Draw a small atlas, and return its folder and one with test images only."""
    synthesize(folder / "atlas", 24, 8, 0, size_px=256)
    shutil.copytree(folder / "atlas" / "test", folder / "new")
    return folder / "atlas", folder / "new"


def run_command(command: list[str]) -> int:
    """Run a command in this process and return its exit code."""
    module = import_module(f"{command[0]}.__main__")
    code = module.main(command[1:])
    assert isinstance(code, int)
    return code


def run_page(page: Path, folder: Path) -> None:
    """Run the commands of a page in a folder that has the shipped recipes, as a clone has them.

    Its data are those of a demo in ``work/demo``, which the page may begin with.
    """
    copy_recipes(folder)
    new, atlas = folder / "new", folder / "work" / "demo" / "atlas"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(page):
            if command[1] == "apply" and not new.exists():
                shutil.copytree(atlas / "test", new)
            small = shrink(command, atlas, new)
            assert run_command(small) == 0, " ".join(small)


def copy_recipes(folder: Path) -> None:
    """Copy the shipped recipes into a folder, as a clone has them."""
    shutil.copytree(ROOT / "recipes", folder / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
