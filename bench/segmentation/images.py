"""Make synthetic images, files and work folders for `bench.segment`, run Cellpose as documented, and print scores."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from cellpose.models import CellposeModel
from cellpose.vit import BaseModel
from numpy.typing import NDArray

from hpa.atlas import draw_scene
from hpa.atlas.scene import Scene
from hpa.config import DataSection
from hpa.images import write_images
from hpa.layouts.index import index_dataset
from hpa.work.folder import WorkFolder
from segment.inference.diameter import typical_diameter_px
from segment.score import THRESHOLDS, score_images, summarise
from segment.training.scenes import REFERENCE_PLANES
from tests.support.pages import ROOT

STREAM = 7_303  # used by no training, validation or atlas
SIDE_PX = 512
RESAMPLES = 2000
EARLIER_ATLAS = "2ef9039"  # the last commit before touching pairs and lobed nuclei were drawn

_DRAW = """
import sys
import numpy as np
from hpa.atlas import draw_scene
stream, count, side, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
scenes = [draw_scene((stream, number), size_px=side, protein=False) for number in range(count)]
np.savez(out, **{name: [getattr(scene, name) for scene in scenes] for name in ("channels", "cells", "nuclei")})
"""


def scenes(count: int, size_px: int = SIDE_PX) -> list[Scene]:
    """Draw synthetic images."""
    return [draw_scene((STREAM, number), size_px=size_px, protein=False) for number in range(count)]


def earlier_scenes(count: int, folder: Path, commit: str = EARLIER_ATLAS) -> list[Scene]:
    """Draw synthetic images with the atlas of an earlier commit, from a temporary worktree in an empty folder.

    Raises
    ------
    subprocess.CalledProcessError
        If the repository lacks the commit.
    """
    worktree, drawn = folder / "worktree", folder / "scenes.npz"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(worktree), commit], check=True)
    try:
        draw = [sys.executable, "-c", _DRAW, str(STREAM), str(count), str(SIDE_PX), str(drawn)]
        subprocess.run(draw, check=True, cwd=worktree)  # a package in the current folder precedes the installed one
    finally:
        subprocess.run([*git, "remove", "--force", str(worktree)], check=True)
    with np.load(drawn) as arrays:
        planes = zip(arrays["channels"], arrays["cells"], arrays["nuclei"], strict=True)
        return [Scene(channels, cells, nuclei, targets=[]) for channels, cells, nuclei in planes]


def planes_of(scene: Scene) -> NDArray[np.uint8]:
    """Return the ER and nucleus planes, shape (2, H, W)."""
    return scene.channels[list(REFERENCE_PLANES[:2])]


def write_folder(folder: Path, drawn: list[Scene], count: int) -> None:
    """Write `count` images as PNG files, repeating the drawn ones as hard links."""
    folder.mkdir()
    for number, scene in enumerate(drawn):
        for channel, plane in zip(("yellow", "blue"), planes_of(scene), strict=True):
            cv2.imwrite(str(folder / f"i{number:05d}_{channel}.png"), plane)
    for number in range(len(drawn), count):
        for channel in ("yellow", "blue"):
            (folder / f"i{number:05d}_{channel}.png").hardlink_to(folder / f"i{number % len(drawn):05d}_{channel}.png")


def make_work(root: Path, data: Path, diameter_px: float = 0) -> WorkFolder:
    """Make a work folder for a folder of images, with the diameter of a cell, or 0 to have it estimated."""
    section = DataSection(channels=("yellow", "blue"))
    images = index_dataset(data, "folder", section.classes, section.channels).images
    work = WorkFolder(root)
    write_images(work.images, images, section.classes, section.channels)
    work.recipe.write_text(f'[data]\nchannels = ["yellow", "blue"]\n[segment]\ndiameter_px = {diameter_px}\n')
    return work


def as_documented(net: BaseModel, images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint16]]:
    """Segment a list of images with ``CellposeModel.eval``, default settings and a given diameter."""
    model = CellposeModel.__new__(CellposeModel)  # its constructor only accepts its own networks
    model.net, model.device, model.gpu = net, net.device, net.device.type == "cuda"
    model.backbone = "sam_vitl"  # tiles of 256 px
    inputs = [np.concatenate([image, np.zeros_like(image[:1])]).transpose(1, 2, 0) for image in images]
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call] # explicit, else torch warns
        masks: list[NDArray[np.uint16]] = model.eval(inputs, diameter=typical_diameter_px(*images[0].shape[1:]))[0]
    return masks


def print_scores(title: str, found: Mapping[str, Sequence[NDArray[Any]]], drawn: Sequence[Scene]) -> None:
    """Print AP and F1 of each method, by its name, from the label images that it made of synthetic images.

    The lead of the first method over each other one has a 95% interval, by a paired bootstrap over images.
    """
    print(f"\n{title}, mean AP at IoU 0.5, 0.75, 0.9 and pooled F1 at 0.5; lead of the first in AP@0.5:")
    drawn_again = np.random.default_rng(0).integers(0, len(drawn), (RESAMPLES, len(drawn)))
    first: NDArray[np.float64] | None = None
    for method, masks in found.items():
        triples = ((str(n), ours, scene.cells) for n, (ours, scene) in enumerate(zip(masks, drawn, strict=True)))
        scores = score_images(triples)
        table = summarise(scores)
        aps = "  ".join(f"{value:.3f}" for value in table["mean_ap"])
        each = scores.loc[scores["iou"] == THRESHOLDS[0], "ap"].to_numpy()
        ahead = ""
        if first is None:
            first = each
        else:
            low, high = np.percentile((first - each)[drawn_again].mean(axis=1), (2.5, 97.5))
            ahead = f"   {(first - each).mean():+.3f} ({low:+.3f} to {high:+.3f})"
        print(f"  {method:32s} {aps}   {table['pooled_f1'].iloc[0]:.3f}{ahead}")
