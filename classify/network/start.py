"""Find the weights that a recipe starts from: shipped, the library's, in a file, or of the models of another run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from classify.config import ClassifySection, shipped_weights
from classify.data.normalisation import Statistics
from classify.network import subcell
from classify.network.backbones import TIMM, library_weights, new_backbone, read_weights
from classify.network.checkpoint import Checkpoint
from classify.network.pretrained import FORMAT, Description, Pretrained, Start, read_tensors
from hpa.channels import parse_mixture
from hpa.errors import UserError


def start_path(section: ClassifySection) -> Path | None:
    """Return the file or folder that a recipe starts from, None if it starts from random weights or ImageNet's."""
    chosen = section.starts_from
    if chosen in ("none", "imagenet"):
        return None
    return shipped_weights(section.backbone) if chosen == "atlas" else Path(chosen).expanduser()


def read_start(
    section: ClassifySection, channels: Sequence[str], classes: Sequence[str], model: Path | None = None
) -> Start | None:
    """Read the weights that a recipe starts from.

    Parameters
    ----------
    section
        Recipe section.
    channels
        Channels of the crops, of which the section may select some.
    classes
        Names of the classes, in their order.
    model
        The model of a fold, if the recipe names a work folder.

    Returns
    -------
    Start or None
        None if the recipe starts from random weights.

    Raises
    ------
    UserError
        If the weights are missing, damaged, or not for this network, or the recipe cannot use them as it says.
    """
    start = _read(section, list(section.channels or channels), classes, model)
    for key, value in {"trainable": "heads", "heads": "pretrained"}.items():
        if start is None and getattr(section, key) == value:
            raise UserError(
                f'expected pretrained weights with classify.{key} = "{value}", found none for {section.backbone}'
            )
    if start is None:
        return None
    if section.trainable == "heads" and start.normalise not in (None, section.normalise):
        raise UserError(
            f'expected classify.normalise = "{start.normalise}", with which the frozen weights were trained, found'
            f' "{section.normalise}"'
        )
    if section.heads == "pretrained" and section.feature_stages:
        raise UserError(
            'expected no classify.feature_stages with classify.heads = "pretrained", which are on the last feature map,'
            f" found {list(section.feature_stages)}"
        )
    if section.heads == "pretrained" and ("head.weight" not in start.heads or start.features != section.features):
        raise UserError(
            'expected weights with heads of the same classes and classify.features with classify.heads = "pretrained",'
            " found others or none"
        )
    return start


def _read(
    section: ClassifySection, channels: Sequence[str], classes: Sequence[str], model: Path | None
) -> Start | None:
    chosen = section.starts_from
    if chosen == "none":
        return None
    if chosen == "imagenet":
        return Start(library_weights(section.backbone), normalise="imagenet")
    named = start_path(section)
    assert named is not None, "there is one for everything else"
    path = model or named
    if chosen == "atlas" and not path.is_file():
        raise UserError(f"expected a backbone whose weights are shipped, found {section.backbone}, of which none are")
    if named.is_dir():
        return _of_run(_as_pretrained(Checkpoint.load(path), path), path, section, channels, classes)
    if not path.name.endswith(".safetensors"):
        return _of_library(read_weights(path), section)
    metadata, tensors = read_tensors(path)
    if chosen == "atlas" or FORMAT in metadata:
        return _of_run(Pretrained.load(path), path, section, channels, classes)
    return _of_library(tensors, section)


def _of_library(state: dict[str, Tensor], section: ClassifySection) -> Start:
    """Name weights as the backbone does: SubCell's authors have other names, and timm's lack our prefix."""
    if section.backbone == subcell.NAME:
        return Start(subcell.translate(state), normalise="stack")
    if section.backbone.startswith(TIMM):
        own = new_backbone(section.backbone).state_dict()
        prefix = max(("", "model.", "model.model."), key=lambda start: sum(start + name in own for name in state))
        return Start({prefix + name: tensor for name, tensor in state.items()})
    return Start(state)


def _as_pretrained(checkpoint: Checkpoint, path: Path) -> Pretrained:
    section = checkpoint.section
    if section.attention != "none" or section.stem == "adapter" or section.input_px:
        raise UserError(
            f"expected a model without attention, adapter and input_px to start from, found one with them in {path}"
        )
    if any(len(parse_mixture(name).channels) > 1 for name in section.channels):
        raise UserError(f"expected a model of plain channels to start from, found mixtures in {path}")
    description = Description(
        backbone=section.backbone,
        features=section.features,
        channels=list(section.channels or checkpoint.channels),
        classes=checkpoint.classes,
        size_px=checkpoint.size_px,
        mean=checkpoint.mean,
        std=checkpoint.std,
        normalise=section.normalise,
    )
    # Heads on several stages are wider than those of a network that starts from them may be.
    left_out = "head." if section.feature_stages else "none."
    state = {name: tensor for name, tensor in checkpoint.state_dict.items() if not name.startswith(left_out)}
    return Pretrained(description, state)


def _of_run(
    weights: Pretrained, path: Path, section: ClassifySection, channels: Sequence[str], classes: Sequence[str]
) -> Start:
    """Select the channels and heads of a run."""
    what = weights.description
    if what.backbone != section.backbone:
        raise UserError(f"expected weights of {section.backbone} in {path}, found those of {what.backbone}")
    if section.stem == "adapter":
        raise UserError(f'expected classify.stem = "average" with the weights in {path}, found "adapter"')
    mixtures = [parse_mixture(name).channels for name in channels]
    for name in (name for mixture in mixtures for name in mixture):
        if name not in what.channels:
            raise UserError(f"expected weights for the channel {name} in {path}, found {', '.join(what.channels)}")
    stem = [[what.channels.index(name) for name in mixture] for mixture in mixtures]
    mean, std = ([float(np.mean([values[k] for k in own])) for own in stem] for values in (what.mean, what.std))
    prefix = "backbone."
    backbone = {name.removeprefix(prefix): t for name, t in weights.state_dict.items() if name.startswith(prefix)}
    kept = ("features.", "head.") if list(what.classes) == list(classes) else ("features.",)
    heads = {name: tensor for name, tensor in weights.state_dict.items() if name.startswith(kept)}
    return Start(backbone, stem, heads, what.features, what.normalise, Statistics(mean, std))
