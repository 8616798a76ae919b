"""Make a second model: a work folder that shares with a first one all that its recipe leaves as it was.

Files are shared as hard links, which cost no disk space: a file of a work folder is only ever replaced by a rename,
never written in place, so neither folder changes the other, and either can be moved or deleted alone. On another file
system, or one without hard links, they are copied.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from crops.config import Window
from hpa.config import Section
from hpa.errors import UserError
from hpa.work.files import atomic_write, write_json
from hpa.work.folder import WorkFolder, locked, open_work
from hpa.work.stage import is_finished, read_stage_record
from pipeline.recipe import Recipe, check_recipe, read_recipe, write_recipe

RECORD: Final = "shared.json"
"""What a second model shares with the first: its folder at that time, and each shared stage, linked or copied."""

_TABLES: Final = ("images.parquet", "folds.parquet", "conflicts.csv", "dropped.csv", "scan", "cell_labels.parquet")
_UNFINISHED: Final = ".unfinished"


@dataclass
class _Sharing:
    """The files that two folders share."""

    old: Path
    new: Path
    how: dict[str, str] = field(default_factory=dict)

    def share(self, name: str) -> None:
        """Share a file or a folder, and note whether it could be linked."""
        source = self.old / name
        if not source.exists():
            return
        files = [path for path in sorted(source.rglob("*")) if path.is_file()] if source.is_dir() else [source]
        linked = [_link(path, self.new / path.relative_to(self.old)) for path in files if path.name[0] != "."]
        self.how[name] = "linked" if all(linked) else "copied"


def second_recipe(old: WorkFolder, root: Path, recipe: str | Path | None, settings: Sequence[str]) -> Recipe:
    """Return the recipe of a second model.

    Parameters
    ----------
    old
        The first model, whose [data] it has, since images and folds are shared.
    root
        Folder of the second model, which the runs that it joins are named relative to.
    recipe
        A recipe file, or the name of a shipped one; None starts from the recipe of the first model.
    settings
        ``section.key=value`` each.

    Raises
    ------
    UserError
        If a setting concerns [data], or the recipe is unusable.
    """
    for setting in settings:
        if setting.startswith("data."):
            raise UserError(
                f"expected settings outside [data] with --from, since images and folds are those of {old.root}, found"
                f" {setting!r}; make such a run with --data"
            )
    first = read_recipe(old.recipe)
    new = read_recipe(recipe or old.recipe, settings)
    section = new.aggregate
    if recipe is None and not any(setting.startswith("aggregate.join=") for setting in settings):
        join = tuple(_seen_from(root, old.root, name) for name in section.join)
        section = section.model_copy(update={"join": join})
    if section.submission == "auto" and ("cells" in new.crops.windows or first.aggregate.submission != "kaggle2021"):
        section = section.model_copy(update={"submission": first.aggregate.submission})
    return new.model_copy(update={"data": first.data, "aggregate": section})


def init_from(root: Path, first: Path, recipe: str | Path | None = None, settings: Sequence[str] = ()) -> WorkFolder:
    """Make a work folder that shares images, folds and all finished stages that its recipe leaves as they were.

    Parameters
    ----------
    root
        The folder to make.
    first
        A work folder; what of it is finished and still valid is shared, except its last stage.
    recipe, settings
        As for `second_recipe`.

    Raises
    ------
    UserError
        If there is something at `root`, there is no work folder `first` or another process is writing to it, or the
        recipe is unusable.
    """
    old = open_work(first)
    if root.exists() and (not root.is_dir() or {p.name for p in root.iterdir()} - {"lock", "lock.holder", _UNFINISHED}):
        raise UserError(f"expected a new folder for the second model, found something at {root}")
    chosen = second_recipe(old, root, recipe, settings)
    check_recipe(chosen)
    unfinished = root / _UNFINISHED
    with ExitStack() as locks:
        locks.enter_context(locked(root))
        if os.access(first, os.W_OK):  # nobody writes to a folder on a medium that can only be read
            locks.enter_context(locked(first))
        shutil.rmtree(unfinished, ignore_errors=True)
        sharing = _Sharing(old.root, unfinished)
        for name in (*_TABLES, *_valid_stages(old, chosen)):
            sharing.share(name)
        write_json(unfinished / RECORD, {"from": str(old.root.resolve()), "shared": sharing.how})
        for path in sorted(unfinished.iterdir()):
            path.rename(root / path.name)
        unfinished.rmdir()
        write_recipe(root / "recipe.toml", chosen)  # last: without it there is no work folder
    stages = [f"{name} ({how})" for name, how in sharing.how.items() if name not in _TABLES]
    print(f"init: {root} shares images and folds with {first}; finished stages: {', '.join(stages) or 'none'}")
    return open_work(root)


def _seen_from(root: Path, other: Path, name: str) -> str:
    """Return a joined run's name relative to `root`, given its name relative to another folder."""
    path, colon, window = name.partition(":")
    if Path(path).is_absolute():
        return name
    return Path(os.path.relpath((other.resolve() / path).resolve(), root.resolve())).as_posix() + colon + window


def _link(source: Path, target: Path) -> bool:
    """Link a file, or copy it where that is impossible; return whether it is linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_write(target) as partial:
            shutil.copyfile(source, partial)
        return False
    return True


def _valid_stages(old: WorkFolder, recipe: Recipe) -> Iterator[str]:
    """Yield the folders and files of the finished stages of a work folder that are valid for a recipe."""
    segmented = _is_segmented(old, recipe)
    if segmented and recipe.crops.needs_masks:
        yield "segment"
    cut = set()
    for window in recipe.crops.stores:
        name = f"crops/{window}"
        if (segmented or window != "cells") and _is_done(old, name, recipe.crops.of(window)):
            cut.add(window)
            yield name
            if _keeps_features(old, recipe):
                yield f"backbone_features/{window}"
    trained = set()
    for window in cut & set(recipe.crops.train_windows):
        folds = [path.name for path in sorted((old.root / "classify" / window).glob("fold-*"))]
        done = [fold for fold in folds if _is_done(old, f"classify/{window}/{fold}", recipe.classify)]
        if folds and done == folds:
            trained.add(window)
        yield from (f"classify/{window}/{fold}" for fold in done)
    for window in recipe.crops.windows:
        name = f"classify/{window}/predict"
        from_window = recipe.crops.train_window_for(window)
        if window in cut and from_window in trained and _is_done(old, name, recipe.classify, from_window):
            yield name
            record = read_stage_record(old.root / name)
            yield from (os.path.normpath(Path(name) / output) for output in record.outputs if output.startswith(".."))


def _is_segmented(old: WorkFolder, recipe: Recipe) -> bool:
    if (old.root / "segment" / "imported.json").is_file():  # masks of another program, whatever [segment] says
        section = read_recipe(old.recipe).segment
        return _is_done(old, "segment", section)
    return _is_done(old, "segment", recipe.segment)


def _keeps_features(old: WorkFolder, recipe: Recipe) -> bool:
    """Return whether the features of a frozen backbone are those of the recipe, as far as its keys say."""
    ours, theirs = read_recipe(old.recipe).classify.model_dump(), recipe.classify.model_dump()
    if ours["trainable"] != "heads":
        return False
    from classify.inference.features import KEYS

    return all(ours[key] == theirs[key] for key in ("trainable", "pretrained", *KEYS))


def _is_done(old: WorkFolder, name: str, section: Section, trained_on: Window | None = None) -> bool:
    """Return whether a stage is finished, with a section, from inputs that are as they were."""
    folder = old.root / name
    try:
        names = read_stage_record(folder).made_from.inputs
        inputs = {label: _input(old, label, folder, section, trained_on) for label in names}
    except UserError:  # no record, or weights that are gone
        return False
    return is_finished(folder, old.data, section, inputs)


def _input(old: WorkFolder, label: str, folder: Path, section: Section, trained_on: Window | None) -> Path:
    """Return the file that a stage's record calls by a name."""
    from classify.config import ClassifySection
    from segment.config import SegmentSection

    if isinstance(section, SegmentSection) and label.startswith("the weights of "):
        from segment.network.weights import find_weights

        return find_weights(section.network)
    if isinstance(section, ClassifySection) and label == "the pretrained weights":
        from classify.preparation import start_file

        window, fold = folder.parent.name, int(folder.name.removeprefix("fold-"))
        return start_file(old, window, section, fold) or folder / "none"  # type: ignore[arg-type]
    if isinstance(section, ClassifySection):
        from classify.own_code import code_files

        if (code := code_files(section)) and label in code:
            return code[label]
    if label.startswith("fold-"):
        return old.root / "classify" / str(trained_on) / label
    return old.root / label
