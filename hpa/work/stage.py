"""A stage of the pipeline: the record of what it was made from, and its run over all images.

Every stage starts with `begin`, which refuses to continue on changed inputs, and ends with `StageRun.finish`. A stage
that works image by image leaves all that lies between to `StageRun.run_over_images`.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from json import loads
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hpa.config import DataSection, Section
from hpa.errors import UserError
from hpa.work.files import remove_partials, sha256, write_json
from hpa.work.mapping import Chunk, Context, cut_chunks, map_chunks, write_failures

_RECORDED: Final = ("cellwise", "numpy", "pandas", "torch", "cellpose", "scikit-image", "opencv-python-headless")


@dataclass(frozen=True)
class StageRun:
    """One run of a stage in its folder.

    Parameters
    ----------
    folder
        The folder of the stage, for example ``work/my/segment``.
    made_from
        Recipe sections and the SHA-256 of each input table: what must not change between runs.
    max_failures
        Images that may fail before the stage ends with exit code 1.
    finished
        Whether an earlier run completed with the same inputs.
    started
        ``time.monotonic()`` at the start.
    """

    folder: Path
    made_from: Mapping[str, Any]
    max_failures: int
    finished: bool
    started: float

    def run_over_images(
        self,
        images: pd.DataFrame,
        process: Callable[[Context, Chunk], pd.DataFrame],
        context: Context,
        conclude: Callable[[pd.DataFrame], Mapping[str, Any]],
        *,
        label: str,
        workers: int,
        dask: str = "",
    ) -> int:
        """Process all images in chunks, write the failures and the stage's tables, and finish.

        Parameters
        ----------
        images
            The image table, with any columns the stage joined to it.
        process, context
            A top-level function from the context and a chunk to the chunk's table part (`hpa.work.mapping.map_chunks`).
        conclude
            Writes the stage's tables from all parts joined and returns the counts for ``run.json``.
        label
            What the progress bar says.
        workers, dask
            As for `hpa.work.mapping.map_chunks`.

        Returns
        -------
        int
            The exit code: 0, or 1 if more images failed than the recipe allows.
        """
        parts = map_chunks(
            process,
            context,
            cut_chunks(images),
            self.folder / "parts",
            label=label,
            workers=workers,
            preload=[process.__module__],
            dask=dask,
        )
        failures = write_failures(self.folder / "failures.csv", parts)
        self.finish(dict(conclude(parts)) | {"failures": failures})
        return int(failures > self.max_failures)

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Mark the stage as done in ``run.json``, with counts, package versions and seconds, and report it."""
        remove_partials(self.folder)  # left by workers that were lost on the way
        seconds = round(time.monotonic() - self.started, 3)
        _write_record(self.folder, self.made_from, "done", counts, seconds)
        print(f"finished in {seconds:.1f} s: {self.folder}")


def begin(
    folder: Path,
    command: str,
    data: DataSection,
    section: Section,
    inputs: Mapping[str, Path],
    *,
    overwrite: bool = False,
    check: Callable[[], None] | None = None,
) -> StageRun:
    """Start a stage, or resume the run that was killed.

    Parameters
    ----------
    folder
        The folder of the stage, which owns all files in it.
    command
        The command that runs the stage, named in messages.
    data, section
        The recipe sections that determine the results of the stage.
    inputs
        The files it reads, by the names used in messages.
    overwrite
        Discard existing results and start over.
    check
        With `overwrite`: raises whatever would keep the new run from succeeding, before existing results are deleted.

    Raises
    ------
    UserError
        If an input is missing, or inputs or sections differ from those of the earlier run, or `check` finds fault.
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
        if check:
            check()
        shutil.rmtree(folder)
    earlier: dict[str, Any] = loads(record.read_text()) if record.exists() else {}
    if earlier:
        changed = _changed(earlier["made_from"], made_from)
        if changed:
            raise UserError(
                f"expected the inputs that {folder} was made from, found changed: {', '.join(changed)}; "
                f"rerun with `{command} --overwrite`"
            )
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    finished = earlier.get("state") == "done"
    if not earlier:
        _write_record(folder, made_from, "begun", {}, 0.0)
    return StageRun(folder, made_from, data.max_failures, finished, time.monotonic())


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
        "versions": _versions(),
        "seconds": seconds,
    }
    write_json(folder / "run.json", record)


def _versions() -> dict[str, str]:
    """Return the versions of the recorded packages that are installed: crops, for one, are cut without torch."""
    found = {}
    for package in _RECORDED:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
