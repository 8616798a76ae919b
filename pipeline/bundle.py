"""A trained work folder as one folder that can be handed on: what `apply` needs, and nothing of the images.

bundle.json                        format, sha256 of every file and of the segmentation network, versions
recipe.toml                        the resolved recipe: channels, vocabulary, segmentation, crops, pooling
classify/<window>/fold-0/...       a checkpoint a fold, with its normalisation
aggregate/thresholds.json          poolings, calibrations, thresholds
segment/network.pt                 the network, where the recipe names a file of its own
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from hpa.config import Section, read_section
from hpa.errors import UserError
from hpa.files import sha256, write_json
from hpa.work import WorkFolder, open_work
from pipeline.recipe import load_recipe, write_recipe
from segment.config import SegmentSection

FORMAT: Final = "cellwise bundle 1"
_NETWORK: Final = Path("segment") / "network.pt"
_KNOWN: Final = ("compact", "cpsam_v2")
_RECORDED: Final = ("cellwise", "torch", "numpy", "cellpose")


def export(work: WorkFolder, bundle: Path) -> int:
    """Pack a trained work folder; return the number of files.

    Parameters
    ----------
    work
        All stages must be done.
    bundle
        The folder to make; it appears whole or not at all.

    Raises
    ------
    UserError
        If the bundle is there already, the work folder is not trained, or it is joined from several runs.
    """
    from segment.models import weights_of

    if bundle.exists():
        raise UserError(f"expected a new folder for the bundle, found something at {bundle}")
    files = [work.root / "aggregate" / "thresholds.json", *sorted(work.root.glob("classify/*/fold-*/checkpoint.pt"))]
    if not files[0].is_file() or len(files) == 1:
        raise UserError(f"expected a trained work folder (made by `python -m pipeline run {work.root}`), found none")
    if joined := json.loads(files[0].read_text())["settings"]["join"]:
        raise UserError(f"expected a run of one model to export, found one joined with {', '.join(joined)}")
    recipe = load_recipe(work.recipe)
    name = read_section(work.recipe, "segment", SegmentSection).network
    network = weights_of(name)
    unfinished = bundle.with_name(f"{bundle.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for path in files:
        _copy(path, unfinished / path.relative_to(work.root))
    if name not in _KNOWN:  # a file of the user's own
        _copy(network, unfinished / _NETWORK)
        recipe = _with_network(recipe, str(_NETWORK))
    write_recipe(unfinished / "recipe.toml", recipe)
    packed = sorted(path for path in unfinished.rglob("*") if path.is_file())
    content = {
        "format": FORMAT,
        "segmentation": {"network": Path(name).name, "sha256": sha256(network)},
        "files": {str(path.relative_to(unfinished)): sha256(path) for path in packed},
        "versions": {package: version(package) for package in _RECORDED},
    }
    write_json(unfinished / "bundle.json", content)
    unfinished.rename(bundle)
    return len(packed) + 1


def open_model(root: Path) -> tuple[WorkFolder, dict[str, Section]]:
    """Return a trained work folder or a bundle, and the recipe to apply it with.

    Raises
    ------
    UserError
        If it is neither, a file of the bundle is missing or changed, or the segmentation network is another.
    """
    if not (root / "bundle.json").exists():
        work = open_work(root)
        return work, load_recipe(work.recipe)
    content = _read(root)
    for name, expected in content["files"].items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
            raise UserError(f"expected {name} in the bundle {root}, found no such file")
        if sha256(path) != expected:
            raise UserError(f"expected {name} as it was packed into the bundle {root}, found it changed")
    recipe = load_recipe(root / "recipe.toml")
    if (root / _NETWORK).is_file():
        recipe = _with_network(recipe, str((root / _NETWORK).resolve()))
    _check_network(recipe, content)
    return WorkFolder(root), recipe


def _read(root: Path) -> dict[str, Any]:
    try:
        content = json.loads((root / "bundle.json").read_text())
        if content["format"] != FORMAT:
            raise UserError(f"expected a bundle of the format {FORMAT!r} at {root}, found {content['format']!r}")
        return {"files": dict(content["files"]), "segmentation": dict(content["segmentation"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected a bundle at {root}, found a bundle.json that is none: {error!r}") from None


def _check_network(recipe: dict[str, Section], content: dict[str, Any]) -> None:
    from segment.models import weights_of

    section = recipe["segment"]
    assert isinstance(section, SegmentSection)
    found, expected = sha256(weights_of(section.network)), content["segmentation"]["sha256"]
    if found != expected:
        raise UserError(
            f"expected the segmentation network {content['segmentation']['network']} with the sha256 {expected}, "
            f"found {found}"
        )


def _with_network(recipe: dict[str, Section], network: str) -> dict[str, Section]:
    return recipe | {"segment": recipe["segment"].model_copy(update={"network": network})}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
