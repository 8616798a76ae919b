"""The work folder: where things lie, who may write, what was made from what."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from json import loads
from pathlib import Path
from typing import Any, Final

from hpa.config import DataSection, S, Section, parse_section, read_toml
from hpa.errors import UserError
from hpa.work.files import remove_partials, sha256, write_json

_RECORDED: Final = ("cellwise", "numpy", "pandas", "torch", "cellpose", "scikit-image", "opencv-python-headless")


@dataclass(frozen=True)
class WorkFolder:
    """A folder that holds one run; its recipe is read once, so open it again after changing the recipe.

    Parameters
    ----------
    root
        The folder.
    """

    root: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.toml"

    @property
    def images(self) -> Path:
        """The image table (`hpa.images`)."""
        return self.root / "images.parquet"

    @property
    def folds(self) -> Path:
        """The table of groups and folds (`hpa.splitting.folds`)."""
        return self.root / "folds.parquet"

    @cached_property
    def data(self) -> DataSection:
        """The `[data]` section of the recipe, read once."""
        return self.section("data", DataSection)

    def section(self, name: str, model: type[S]) -> S:
        """Return a section of the recipe, which is read once for each `WorkFolder`.

        Parameters
        ----------
        name, model
            As for `hpa.config.parse_section`.

        Raises
        ------
        UserError
            If the recipe is missing or a key or value is unusable.
        """
        return parse_section(model, name, self._values.get(name, {}))

    @cached_property
    def _values(self) -> dict[str, Any]:
        return read_toml(self.recipe)


def open_work(root: Path) -> WorkFolder:
    """Return the work folder at `root`.

    Raises
    ------
    UserError
        If nothing was initialised there.
    """
    work = WorkFolder(root)
    if not work.recipe.is_file() or not work.images.is_file():
        raise UserError(f"expected a work folder made by `python -m pipeline init {root} --data ...`, found none")
    return work


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the work folder, so that a second run says so and stops.

    Raises
    ------
    UserError
        If another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"expected no other run on {root}, found one (process {file.read().strip() or 'unknown'})"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@dataclass(frozen=True)
class StageRun:
    """One stage at work in its folder, with the record of what it was made from.

    Parameters
    ----------
    folder
        The folder of the stage, for example ``work/my/segment``.
    made_from
        Recipe sections and sha256 of the input tables: what must not change between runs.
    finished
        Whether an earlier run ended with these inputs.
    started
        ``time.monotonic()`` at the start.
    """

    folder: Path
    made_from: Mapping[str, Any]
    finished: bool
    started: float

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Write ``run.json`` as done, with counts, package versions and seconds."""
        remove_partials(self.folder)  # of workers that were lost on the way
        _write_record(self.folder, self.made_from, "done", counts, round(time.monotonic() - self.started, 3))


def begin(
    folder: Path,
    command: str,
    data: DataSection,
    section: Section,
    inputs: Mapping[str, Path],
    *,
    overwrite: bool = False,
) -> StageRun:
    """Start a stage, or resume the one a killed run left.

    Parameters
    ----------
    folder
        The folder of the stage; all in it belongs to the stage.
    command
        The command that makes it, named in messages.
    data, section
        The recipe sections that decide what the stage makes.
    inputs
        The tables it reads, by the name told to the user.
    overwrite
        Remove what is there and begin anew.

    Raises
    ------
    UserError
        If an input is missing, or inputs or sections differ from those of the earlier run.
    """
    for name, path in inputs.items():
        if not path.exists():
            raise UserError(f"expected {name} at {path}, found no such file; run the stage that makes it first")
    made_from = {
        "data": data.model_dump(mode="json"),
        "section": section.model_dump(mode="json"),
        "inputs": {name: sha256(path) for name, path in inputs.items()},
    }
    record = folder / "run.json"
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    earlier: dict[str, Any] = loads(record.read_text()) if record.exists() else {}
    if earlier:
        changed = _changed(earlier["made_from"], made_from)
        if changed:
            raise UserError(
                f"expected what {folder} was made from, found changed: {', '.join(changed)}; "
                f"rerun with `{command} --overwrite`"
            )
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    finished = earlier.get("state") == "done"
    if not earlier:
        _write_record(folder, made_from, "begun", {}, 0.0)
    return StageRun(folder, made_from, finished, time.monotonic())


def _changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = {"data": "[data] {}", "section": "recipe key {}", "inputs": "{}"}
    return [
        names[part].format(key)
        for part in names
        for key in sorted(earlier[part].keys() | now[part].keys())
        if earlier[part].get(key) != now[part].get(key)
    ]


def _write_record(
    folder: Path, made_from: Mapping[str, Any], state: str, counts: Mapping[str, Any], seconds: float
) -> None:
    record = {
        "state": state,
        "made_from": made_from,
        "counts": counts,
        "versions": {package: version(package) for package in _RECORDED},
        "seconds": seconds,
    }
    write_json(folder / "run.json", record)
