"""Pack a trained work folder into a bundle: all that `apply` needs, without the images.

bundle.json                        format, sha256 of every file and of the segmentation networks, folds, versions
recipe.toml                        the resolved recipe: channels, vocabulary, segmentation, crops, pooling
classify/<window>/fold-0/...       one checkpoint per fold, with its normalisation
classify/<window>/predict/...      if labels of nearest crops are joined: vectors and labels of the training crops
aggregate/thresholds.json          poolings, weights of joined runs, calibrations, thresholds
segment/network.pt                 the segmentation network, if the recipe names a file
joined/0/...                       recipe, checkpoints and network of the first joined run, and so on
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import Field
from pydantic.dataclasses import dataclass

from hpa.errors import UserError
from hpa.work.files import sha256, write_json
from hpa.work.folder import WorkFolder
from hpa.work.records import STRICT, read_record
from hpa.work.stage import check_as_written
from pipeline.model import Model, with_joined
from pipeline.recipe import Recipe, read_recipe, write_recipe

FORMAT: Final = "cellwise bundle 5"
_RECORD: Final = "bundle.json"
_JOINED: Final = Path("joined")
_NETWORK: Final = Path("segment") / "network.pt"
_KNOWN: Final = ("compact", "cpsam_v2")
_RECORDED: Final = ("cellwise", "torch", "numpy", "cellpose")

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=STRICT)
class _Part:
    """A run in a bundle: its segmentation network, with the network's SHA-256, and the folds of each window."""

    network: str
    sha256: _Sha256
    folds: Annotated[dict[str, Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class _Record:
    """The content of ``bundle.json``: its runs and files by their path, ``.`` being the bundle itself."""

    format: str
    parts: dict[str, _Part]
    files: dict[str, _Sha256]
    versions: dict[str, str]


def export_bundle(model: Model, bundle: Path) -> int:
    """Pack a trained run and the runs it joins, and return the number of files.

    Parameters
    ----------
    model
        The run; all its stages must be done.
    bundle
        The folder to make, atomically.

    Raises
    ------
    UserError
        If the bundle exists, or a work folder is not trained.
    """
    if bundle.exists():
        raise UserError(f"expected a new folder for the bundle, found something at {bundle}")
    root = model.work.root
    thresholds = root / "aggregate" / "thresholds.json"
    if not thresholds.is_file():
        raise UserError(f"expected a trained work folder (made by `python -m pipeline run {root}`), found none")
    unfinished = bundle.with_name(f".{bundle.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    check_as_written(thresholds)
    _copy(thresholds, unfinished / thresholds.relative_to(root))
    joined = [_JOINED / str(place) for place in range(len(model.joined))]
    moved = replace(model, recipe=with_joined(model.recipe, root, joined))
    parts = {".": _pack(moved, unfinished, model.references_of(model))}
    for place, part in zip(joined, model.joined, strict=True):
        parts[place.as_posix()] = _pack(part, unfinished / place, model.references_of(part))
    packed = sorted(path for path in unfinished.rglob("*") if path.is_file())
    files = {path.relative_to(unfinished).as_posix(): sha256(path) for path in packed}
    record = _Record(FORMAT, parts, files, {package: version(package) for package in _RECORDED})
    write_json(unfinished / _RECORD, asdict(record))
    unfinished.rename(bundle)
    return len(packed) + 1


def _pack(part: Model, folder: Path, references: Sequence[Path]) -> _Part:
    """Copy the recipe, the checkpoints, what labels are transferred from and a network file, and describe them."""
    from classify.models import checkpoint_path, run_folds
    from segment.network.weights import find_weights

    work, recipe = part.work, part.recipe
    folds = {window: run_folds(work) for window in recipe.crops.train_windows}
    for window in recipe.crops.train_windows:
        for fold in folds[window]:
            path = checkpoint_path(work, window, fold)
            if not path.is_file():
                raise UserError(
                    f"expected trained models (made by `python -m classify train {work.root}`), found no {path}"
                )
            check_as_written(path)
            _copy(path, folder / path.relative_to(work.root))
    for path in references:
        check_as_written(path)
        _copy(path, folder / path.relative_to(work.root))
    name = recipe.segment.network
    network = find_weights(name)
    if name not in _KNOWN:
        _copy(network, folder / _NETWORK)
        recipe = _with_network(recipe, str(_NETWORK))
    write_recipe(folder / "recipe.toml", recipe)
    return _Part(Path(name).name, sha256(network), {str(window): numbers for window, numbers in folds.items()})


def open_bundle(root: Path) -> Model:
    """Return the run of a bundle and those joined with it.

    Raises
    ------
    UserError
        If a file of the bundle is missing or changed, or a segmentation network is a different one.
    """
    record = _read(root)
    for name, expected in record.files.items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
            raise UserError(f"expected {name} in the bundle {root}, found no such file")
        if sha256(path) != expected:
            raise UserError(f"expected {name} as it was packed into the bundle {root}, found it changed")
    joined = tuple(_open_part(root / place, record.parts[place]) for place in record.parts if place != ".")
    model = replace(_open_part(root, record.parts["."]), joined=joined)
    for part in (model, *joined):
        for path in model.references_of(part):
            if path.relative_to(root).as_posix() not in record.files:
                raise UserError(
                    f"expected {path.relative_to(root)} among the files of {root / _RECORD}, found no such name; export"
                    " it again"
                )
    return model


def _open_part(root: Path, packed: _Part) -> Model:
    from segment.network.weights import find_weights

    recipe = read_recipe(root / "recipe.toml")
    if (root / _NETWORK).is_file():
        recipe = _with_network(recipe, str((root / _NETWORK).resolve()))
    found = sha256(find_weights(recipe.segment.network))
    if found != packed.sha256:
        raise UserError(
            f"expected the segmentation network {packed.network} with the sha256 {packed.sha256}, found {found}"
        )
    return Model(WorkFolder(root), recipe)


def _read(root: Path) -> _Record:
    """Read ``bundle.json`` and check that it is complete in itself and lists the files that must be there."""
    path = root / _RECORD
    again = "export it again"
    with suppress(OSError, ValueError, KeyError, TypeError):  # of damage `read_record` says more
        found = str(json.loads(path.read_bytes())["format"])
        if found.startswith("cellwise bundle") and found != FORMAT:
            raise UserError(
                f"expected a bundle of format {FORMAT!r} (cellwise 0.2) at {root}, found {found!r}; {again}"
            )
    record = read_record(path, _Record, again)
    if list(record.parts) != [".", *((_JOINED / str(n)).as_posix() for n in range(len(record.parts) - 1))]:
        raise UserError(f"expected a bundle and the runs joined with it in {path}, found other parts; {again}")
    for name in record.files:
        if "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"expected paths within the bundle in {path}, found {name[:200]!r}; {again}")
    if missing := sorted(_necessary(record.parts) - record.files.keys()):
        raise UserError(f"expected {missing[0]} among the files of {path}, found no such name; {again}")
    return record


def _necessary(parts: Mapping[str, _Part]) -> set[str]:
    names = {Path("aggregate") / "thresholds.json"}
    for place, part in parts.items():
        names.add(Path(place) / "recipe.toml")
        for window, folds in part.folds.items():
            names |= {Path(place) / "classify" / window / f"fold-{fold}" / "checkpoint.pt" for fold in folds}
    return {name.as_posix() for name in names}


def _with_network(recipe: Recipe, network: str) -> Recipe:
    return recipe.model_copy(update={"segment": recipe.segment.model_copy(update={"network": network})})


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
