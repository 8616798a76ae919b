"""Pack a trained work folder into a bundle: all that `apply` needs, and nothing of the images.

bundle.json                        format, sha256 of every file and of the segmentation networks, versions
recipe.toml                        the resolved recipe: channels, vocabulary, segmentation, crops, pooling
classify/<window>/fold-0/...       one checkpoint per fold, with its normalisation
aggregate/thresholds.json          poolings, weights of joined runs, calibrations, thresholds
segment/network.pt                 the segmentation network, if the recipe names a file
joined/0/...                       recipe, checkpoints and network of the first joined run, and so on
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from hpa.errors import UserError
from hpa.work.files import sha256, write_json
from hpa.work.folder import WorkFolder
from pipeline.model import Model, with_joined
from pipeline.recipe import Recipe, read_recipe, write_recipe

FORMAT: Final = "cellwise bundle 3"
_JOINED: Final = Path("joined")
_NETWORK: Final = Path("segment") / "network.pt"
_KNOWN: Final = ("compact", "cpsam_v2")
_RECORDED: Final = ("cellwise", "torch", "numpy", "cellpose")


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
    unfinished = bundle.with_name(f"{bundle.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _copy(thresholds, unfinished / thresholds.relative_to(root))
    joined = [_JOINED / str(place) for place in range(len(model.joined))]
    networks = {".": _pack(model.work, with_joined(model.recipe, joined), unfinished)}
    for place, part in zip(joined, model.joined, strict=True):
        networks[str(place)] = _pack(part.work, part.recipe, unfinished / place)
    packed = sorted(path for path in unfinished.rglob("*") if path.is_file())
    content = {
        "format": FORMAT,
        "segmentation": networks,
        "files": {str(path.relative_to(unfinished)): sha256(path) for path in packed},
        "versions": {package: version(package) for package in _RECORDED},
    }
    write_json(unfinished / "bundle.json", content)
    unfinished.rename(bundle)
    return len(packed) + 1


def _pack(work: WorkFolder, recipe: Recipe, folder: Path) -> dict[str, str]:
    """Copy the recipe, the checkpoints and a network file, and return the network's name and SHA-256."""
    from segment.network.weights import find_weights

    checkpoints = sorted(work.root.glob("classify/*/fold-*/checkpoint.pt"))
    if not checkpoints:
        raise UserError(f"expected trained models (made by `python -m classify train {work.root}`), found none")
    for path in checkpoints:
        _copy(path, folder / path.relative_to(work.root))
    name = recipe.segment.network
    network = find_weights(name)
    if name not in _KNOWN:
        _copy(network, folder / _NETWORK)
        recipe = _with_network(recipe, str(_NETWORK))
    write_recipe(folder / "recipe.toml", recipe)
    return {"network": Path(name).name, "sha256": sha256(network)}


def open_bundle(root: Path) -> Model:
    """Return the run of a bundle and those joined with it.

    Raises
    ------
    UserError
        If a file of the bundle is missing or changed, or a segmentation network is a different one.
    """
    content = _read(root)
    for name, expected in content["files"].items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
            raise UserError(f"expected {name} in the bundle {root}, found no such file")
        if sha256(path) != expected:
            raise UserError(f"expected {name} as it was packed into the bundle {root}, found it changed")
    model = _open_part(root, content["segmentation"]["."])
    places = [_JOINED / str(place) for place in range(len(content["segmentation"]) - 1)]
    return Model(
        model.work,
        model.recipe,
        tuple(_open_part(root / place, content["segmentation"][str(place)]) for place in places),
    )


def _open_part(root: Path, packed: dict[str, str]) -> Model:
    from segment.network.weights import find_weights

    recipe = read_recipe(root / "recipe.toml")
    if (root / _NETWORK).is_file():
        recipe = _with_network(recipe, str((root / _NETWORK).resolve()))
    found = sha256(find_weights(recipe.segment.network))
    if found != packed["sha256"]:
        raise UserError(
            f"expected the segmentation network {packed['network']} with the sha256 {packed['sha256']}, found {found}"
        )
    return Model(WorkFolder(root), recipe)


def _read(root: Path) -> dict[str, Any]:
    try:
        content = json.loads((root / "bundle.json").read_text())
        if content["format"] != FORMAT:
            raise UserError(
                f"expected a bundle of format {FORMAT!r} (cellwise 0.2) at {root}, "
                f"found {content['format']!r}; export it again"
            )
        return {"files": dict(content["files"]), "segmentation": dict(content["segmentation"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected a bundle at {root}, found a damaged bundle.json: {error!r}") from None


def _with_network(recipe: Recipe, network: str) -> Recipe:
    return recipe.model_copy(update={"segment": recipe.segment.model_copy(update={"network": network})})


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
