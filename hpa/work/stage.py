"""A stage of the pipeline: the record of what it was made from, and its run over all images.

Every stage starts with `begin`, which refuses to continue on changed inputs, and ends with `StageRun.finish`. A stage
that works image by image leaves all that lies between to `StageRun.run_over_images`.

With ``--overwrite``, a stage whose results take long to make again writes the new ones beside the old: ``fold-0``, for
one, stays as it is until all of ``.fold-0.new`` is there and takes its place. A killed run is resumed in the latter.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, Self

import pandas as pd
import pydantic

from hpa.config import DataSection, Section
from hpa.errors import UserError
from hpa.work.device import Computation
from hpa.work.files import remove_partials, sha256, write_json
from hpa.work.mapping import Chunk, Context, cut_chunks, discard, map_chunks, write_failures
from hpa.work.records import STRICT, read_record

RECORD: Final = "run.json"
"""The record of a stage, in its folder."""

_RECORDED: Final = ("cellwise", "numpy", "pandas", "torch", "cellpose", "scikit-image", "opencv-python-headless")


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class MadeFrom:
    """What must not change between runs of a stage.

    Parameters
    ----------
    data, section
        Sections of the recipe.
    inputs
        SHA-256 of each file that the stage reads, by the name used in messages.
    """

    data: dict[str, Any]
    section: dict[str, Any]
    inputs: dict[str, str]

    @classmethod
    def now(cls, data: DataSection, section: Section, inputs: Mapping[str, Path]) -> Self:
        """Return what a run that starts now is made from."""
        digests = {name: sha256(path) for name, path in inputs.items()}
        return cls(data.recorded(), section.model_dump(mode="json"), digests)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class StageRecord:
    """The content of ``run.json``.

    Parameters
    ----------
    state
        Whether the stage has only begun or is done.
    made_from
        What it was made from.
    counts
        Numbers of images, cells and so on; for people.
    versions
        Package versions; for people.
    seconds
        Duration of the last run that had anything to do; for people.
    outputs
        SHA-256 of the tables and checkpoints that later stages read, by their path relative to the folder.
    computation
        How the stage computes, decided at its first start, if it runs networks in this process.
    """

    state: Literal["begun", "done"]
    made_from: MadeFrom
    counts: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    outputs: dict[str, str] = field(default_factory=dict)
    computation: Computation | None = None

    def check_inputs(self, now: MadeFrom, folder: Path, command: str) -> None:
        """Check that a run resumes with what it began with.

        Raises
        ------
        UserError
            Naming what has changed.
        """
        if changed := _changed(self.made_from, now):
            raise UserError(
                f"expected the inputs that {folder} was made from, found changed: {', '.join(changed)}; "
                f"rerun with `{command} --overwrite`"
            )

    def check_output(self, folder: Path, path: Path) -> None:
        """Check that a file of the stage is as the stage wrote it, if the record has it.

        Raises
        ------
        UserError
            If it has changed since.
        """
        expected = self.outputs.get(_name(folder, path))
        if expected and sha256(path) != expected:
            raise UserError(
                f"expected {path} as its stage wrote it, found it changed since; run that stage again, which makes it"
                " again, or with --overwrite if that does not help"
            )


@dataclass(frozen=True)
class StageRun:
    """One run of a stage in its folder.

    Parameters
    ----------
    folder
        The folder to write to, for example ``work/my/segment``.
    final
        The folder that it becomes; the same, unless it replaces finished results.
    made_from
        Recipe sections and the SHA-256 of each input table: what must not change between runs.
    max_failures
        Images that may fail before the stage ends with exit code 1.
    finished
        Whether an earlier run completed with the same inputs.
    started
        ``time.monotonic()`` at the start.
    computation
        How the stage computes, decided at its first start; None if that makes no difference.
    """

    folder: Path
    final: Path
    made_from: MadeFrom
    max_failures: int
    finished: bool
    started: float
    computation: Computation | None = None

    def run_over_images(
        self,
        images: pd.DataFrame,
        process: Callable[[Context, Chunk], pd.DataFrame],
        context: Context,
        conclude: Callable[[pd.DataFrame], Mapping[str, Any]],
        *,
        label: str,
        outputs: Sequence[str],
        workers: int,
        dask: str = "",
        intact: Callable[[Context, pd.DataFrame], bool] = lambda _, part: True,
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
        outputs
            Names of the tables that `conclude` writes for later stages.
        workers, dask, intact
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
            intact=intact,
        )
        failures = write_failures(self.folder / "failures.csv", parts)
        counts = dict(conclude(parts)) | {"failures": failures}
        self.finish(counts, [self.folder / name for name in outputs])
        return int(failures > self.max_failures)

    def finish(self, counts: Mapping[str, Any], outputs: Sequence[Path]) -> None:
        """Mark the stage as done in ``run.json``, let it take the place of earlier results, and report it.

        Parameters
        ----------
        counts
            Numbers for people.
        outputs
            The files that later stages read.
        """
        remove_partials(self.folder)  # left by workers that were lost on the way
        seconds = round(time.monotonic() - self.started, 3)
        digests = {_name(self.folder, path): sha256(path) for path in outputs}
        record = StageRecord("done", self.made_from, dict(counts), _versions(), seconds, digests, self.computation)
        # A run that found all in place did not make it: who did, and how long it took, stays on record.
        if not (self.finished and digests == read_stage_record(self.folder).outputs):
            _write_record(self.folder, record)
        if self.folder != self.final:
            _replace(self.final)
        print(f"finished in {seconds:.1f} s: {_summary(counts)}see {self.final}")
        if (self.final / "figures").is_dir():
            print(f"pictures: {self.final / 'figures'}")


def begin(
    folder: Path,
    command: str,
    data: DataSection,
    section: Section,
    inputs: Mapping[str, Path],
    *,
    overwrite: bool = False,
    beside: bool = False,
    check: Callable[[], None] | None = None,
    computation: Computation | None = None,
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
    beside
        With `overwrite`: keep finished results until the new ones are finished too, instead of deleting them first.
    check
        Raises whatever would keep the run from succeeding; called before anything is deleted or begun.
    computation
        How a new run would compute; a run that continues another computes as that one did.

    Raises
    ------
    UserError
        If an input is missing or not as its stage wrote it, inputs or sections differ from those of the earlier run,
        this machine cannot compute as the earlier run did, or `check` finds fault.
    """
    for name, path in inputs.items():
        if not path.is_file():
            raise UserError(f"expected {name} at {path}, found no such file; run the stage that makes it first")
        check_as_written(path)
    made_from = MadeFrom.now(data, section, inputs)
    _complete_replacement(folder)
    final, new = folder, _beside(folder, "new")
    if overwrite:
        if check:
            check()
        shutil.rmtree(new, ignore_errors=True)
        if beside and _is_done(folder):
            folder = new
        elif folder.exists():
            shutil.rmtree(folder)
    elif new.exists():
        if _made_from_the_same(new, made_from):
            folder = new
        else:
            discard(new, "expected new results of the present recipe and inputs, found others")
    earlier = None if overwrite else _earlier(folder, command)
    if earlier:
        earlier.check_inputs(made_from, folder, command)
    finished = earlier is not None and earlier.state == "done"
    if earlier and earlier.computation and computation:
        computation = earlier.computation if finished else earlier.computation.resume(computation, command)
    if check and not (finished or overwrite):
        check()
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    if not earlier:
        _write_record(folder, StageRecord("begun", made_from, {}, _versions(), 0.0, computation=computation))
    return StageRun(folder, final, made_from, data.max_failures, finished, time.monotonic(), computation)


def check_as_written(path: Path) -> None:
    """Check that a file is as the stage that made it recorded, if there is a record of it.

    Raises
    ------
    UserError
        If the file has changed since.
    """
    # The record is in the folder of the stage, which is that of the file or, for probabilities, within it.
    for record in (path.with_name(RECORD), *sorted(path.parent.glob(f"*/{RECORD}"))):
        try:
            found = read_stage_record(record.parent)
        except UserError:  # no record, or a damaged one, which its own stage reports
            continue
        found.check_output(record.parent, path)


def read_stage_record(folder: Path, command: str = "the command of its stage") -> StageRecord:
    """Read ``run.json`` of a stage.

    Raises
    ------
    UserError
        If it is missing or damaged.
    """
    return read_record(folder / RECORD, StageRecord, f"rerun `{command} --overwrite`")


def is_finished(folder: Path, data: DataSection, section: Section, inputs: Mapping[str, Path]) -> bool:
    """Return whether a stage is done with the given sections and inputs, and its outputs are as it wrote them."""
    try:
        record = read_stage_record(folder)
        if record.state != "done" or record.made_from != MadeFrom.now(data, section, inputs):
            return False
        for name in record.outputs:
            record.check_output(folder, folder / name)
    except (UserError, OSError):  # no record, a damaged one, or a missing file
        return False
    return True


def is_being_replaced(folder: Path) -> bool:
    """Return whether a run with ``--overwrite`` was interrupted before it could replace the results of a stage."""
    return _beside(folder, "new").exists() or _beside(folder, "old").exists()


def _earlier(folder: Path, command: str) -> StageRecord | None:
    """Return the record of the run to continue; None if there is none or it has not come to anything."""
    if not (folder / RECORD).exists():
        return None
    record = read_stage_record(folder, command)
    if record.state == "begun" and [path.name for path in folder.iterdir()] == [RECORD]:
        return None
    return record


def _is_done(folder: Path) -> bool:
    try:
        return read_stage_record(folder).state == "done"
    except UserError:
        return False


def _made_from_the_same(folder: Path, made_from: MadeFrom) -> bool:
    try:
        return read_stage_record(folder).made_from == made_from
    except UserError:
        return False


def _beside(folder: Path, what: Literal["new", "old"]) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _replace(folder: Path) -> None:
    """Put the finished new results in the place of the old ones, which are deleted."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _complete_replacement(folder: Path) -> None:
    """Complete a replacement that was killed on the way, see `_replace`."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if old.exists() and folder.exists():
        shutil.rmtree(old)
    if _is_done(new):
        _replace(folder)
    elif old.exists():
        old.rename(folder)


def _summary(counts: Mapping[str, Any]) -> str:
    """Return what a stage counted, in words; what is no number is left to ``run.json``."""
    said = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in counts.items() if isinstance(value, int))
    return f"{said}; " if said else ""


def _name(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _changed(earlier: MadeFrom, now: MadeFrom) -> list[str]:
    names = {"data": "[data] {}", "section": "recipe key {}", "inputs": "{}"}
    before, after = asdict(earlier), asdict(now)
    return [
        names[part].format(key)
        for part in names
        for key in sorted(before[part].keys() | after[part].keys())
        if before[part].get(key) != after[part].get(key)
    ]


def _write_record(folder: Path, record: StageRecord) -> None:
    write_json(folder / RECORD, asdict(record))


def _versions() -> dict[str, str]:
    """Return the versions of the recorded packages that are installed: crops, for one, are cut without torch."""
    found = {}
    for package in _RECORDED:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
