"""What was run: stages with their counts and seconds, settings that differ from the defaults, versions, failures."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hpa.errors import UserError
from hpa.work.files import read_csv
from hpa.work.stage import RECORD, StageRecord, read_stage_record
from pipeline.recipe import Recipe, read_recipe
from pipeline.report.evidence import Evidence

_MAX_FAILURES: Final = 200
"""Listed on the page; all are in the files."""


@dataclass(frozen=True)
class StageLine:
    """One stage in the table of stages.

    Parameters
    ----------
    name
        Name of the stage, with the window or fold.
    state
        ``done``, ``begun``, ``missing`` or ``damaged``.
    went_in, came_out
        What it read and made, in words.
    failures
        Images that failed; None if the stage counts none.
    seconds
        Of its last run; None if it is not done.
    command
        The command that runs it.
    """

    name: str
    state: str
    went_in: str = ""
    came_out: str = ""
    failures: int | None = None
    seconds: float | None = None
    command: str = ""


@dataclass(frozen=True)
class Setting:
    """A recipe key with another value than the default."""

    key: str
    value: str
    default: str
    meaning: str


@dataclass(frozen=True)
class FailureReason:
    """Images that failed for one reason in one stage."""

    stage: str
    reason: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """The part of the page.

    Parameters
    ----------
    stages
        In the order in which they run.
    settings
        Recipe keys that differ from the defaults.
    versions
        Of the packages, by name.
    facts
        Name and value of further facts.
    failures
        Reasons, the most frequent first.
    n_failures
        Number of images that failed in any stage; some may not be listed.
    date
        Day on which the last stage ended; empty if none did.
    """

    stages: tuple[StageLine, ...]
    settings: tuple[Setting, ...]
    versions: dict[str, str]
    facts: tuple[tuple[str, str], ...]
    failures: tuple[FailureReason, ...]
    n_failures: int
    date: str

    @property
    def done(self) -> bool:
        """Whether every stage is done."""
        return all(stage.state == "done" for stage in self.stages)

    @property
    def unfinished(self) -> tuple[StageLine, ...]:
        """Stages that are not done."""
        return tuple(stage for stage in self.stages if stage.state != "done")

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds or 0 for stage in self.stages)


def make_overview(evidence: Evidence) -> Overview:
    """Collect what was run in a work folder.

    Raises
    ------
    UserError
        If the recipe is unusable.
    """
    work = evidence.work
    recipe = read_recipe(work.recipe)
    folders = list(_stage_folders(evidence, recipe))
    stages, versions, newest = [], {}, 0.0
    for name, folder, command in folders:
        record, state = _record(folder)
        if record and state == "done":
            versions = record.versions
            newest = max(newest, (folder / RECORD).stat().st_mtime)
        stages.append(_line(name, state, record, command, len(evidence.images)))
    failures = _failures(folders)
    images = evidence.images
    facts = [
        ("work folder", str(work.root.resolve())),
        ("data", ", ".join(sorted(set(images["source"])))),
        ("vocabulary", f"{work.data.classes.name}, {len(work.data.classes)} classes"),
        ("channels", ", ".join(work.data.channels)),
        ("seed", str(work.data.seed)),
        ("folds", str(work.data.folds)),
    ]
    computation = next((r.computation for _, f, _ in folders if (r := _record(f)[0]) and r.computation), None)
    if computation:
        facts.append(("networks computed on", f"{computation.device}, {computation.threads} threads"))
    return Overview(
        tuple(stages),
        tuple(_settings(recipe)),
        versions,
        tuple(facts),
        tuple(failures)[:_MAX_FAILURES],
        len({image_id for failure in failures for image_id in failure.ids}),
        datetime.datetime.fromtimestamp(newest, datetime.UTC).date().isoformat() if newest else "",
    )


def _stage_folders(evidence: Evidence, recipe: Recipe) -> Iterator[tuple[str, Path, str]]:
    root = evidence.work.root
    if recipe.crops.needs_masks:
        yield "segment", root / "segment", f"python -m segment run {root}"
    for window in recipe.crops.stores:
        yield f"crops, {window}", root / "crops" / window, f"python -m crops run {root}"
    trained = len(evidence.train) > 0
    for window in recipe.crops.windows:
        folder = root / "classify" / window
        if trained and window in recipe.crops.train_windows:
            folds = sorted(folder.glob("fold-*"), key=lambda path: (len(path.name), path.name))
            for fold in folds or [folder / "fold-0"]:
                yield f"train, {window}, {fold.name.replace('-', ' ')}", fold, evidence.command("classify train")
        yield f"predict, {window}", folder / "predict", evidence.command("classify predict")
    yield "aggregate", root / "aggregate", evidence.command("aggregate run")


def _record(folder: Path) -> tuple[StageRecord | None, str]:
    if not (folder / RECORD).exists():
        return None, "missing"
    try:
        record = read_stage_record(folder)
    except UserError:
        return None, "damaged"
    return record, record.state


def _line(name: str, state: str, record: StageRecord | None, command: str, n_images: int) -> StageLine:
    if record is None or state != "done":
        return StageLine(name, state, command=command)
    counts = record.counts
    stage = name.split(",")[0]
    number = {key: value for key, value in counts.items() if isinstance(value, int)}
    went_in, came_out = "", ""
    if stage == "segment":
        went_in = _count(number, "images", "images")
        came_out = _join(_count(number, "masks", "masks"), _count(number, "cells", "cells"))
    elif stage == "crops":
        went_in = f"{n_images:,} images" + (_count(number, "segmented", "cells", ", ") if "segmented" in number else "")
        came_out = _join(_count(number, "kept", "crops"), _count(number, "dropped", "dropped"))
        came_out = _join(came_out, _count(number, "fallback", "whole images") if number.get("fallback") else "")
    elif stage == "train":
        went_in = _count(number, "trained_crops", "crops")
        came_out = _join("one model", _count(number, "validated_crops", "crops to validate on"))
    elif stage == "predict":
        came_out = _join(_count(number, "rows", "predictions"), _count(number, "oof_rows", "out of fold"))
    elif stage == "aggregate":
        went_in = _count(number, "images", "images")
        came_out = _join(_count(number, "submission_rows", "rows of the submission"), _count(number, "cells", "cells"))
        came_out = _join(came_out, _count(number, "prior", "images without crops") if number.get("prior") else "")
    return StageLine(name, state, went_in, came_out, number.get("failures"), record.seconds, command)


def _count(counts: dict[str, int], key: str, unit: str, before: str = "") -> str:
    return f"{before}{counts[key]:,} {unit}" if key in counts else ""


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _settings(recipe: Recipe) -> Iterator[Setting]:
    for name, section in recipe:
        default = type(section)().model_dump(mode="json")
        for key, value in section.model_dump(mode="json").items():
            if value != default[key]:
                meaning = type(section).model_fields[key].description or ""
                yield Setting(
                    f"{name}.{key}", _shown(value), _shown(default[key]), " ".join(meaning.replace("`", "").split())
                )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) or "none"
    return str(value) if str(value) else "none"


def _failures(folders: list[tuple[str, Path, str]]) -> list[FailureReason]:
    found = []
    for name, folder, _ in folders:
        if (folder / "failures.csv").is_file():
            table = read_csv(folder / "failures.csv", ["image_id", "reason"])
            for reason, ids in table.groupby("reason", sort=False)["image_id"]:
                found.append(FailureReason(name, str(reason), tuple(ids)))
    return sorted(found, key=lambda failure: -len(failure.ids))
