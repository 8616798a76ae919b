"""Make synthetic images, files and work folders for `bench.segment`, and run Cellpose as documented."""

from pathlib import Path

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
from segment.training.scenes import REFERENCE_PLANES

STREAM = 7_303  # used by no training, validation or atlas
SIDE_PX = 512


def scenes(count: int, size_px: int = SIDE_PX) -> list[Scene]:
    """Draw synthetic images."""
    return [draw_scene((STREAM, number), size_px=size_px, protein=False) for number in range(count)]


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


def make_work(root: Path, data: Path) -> WorkFolder:
    """Make a work folder for a folder of images."""
    section = DataSection(channels=("yellow", "blue"))
    images = index_dataset(data, "folder", section.classes, section.channels).images
    work = WorkFolder(root)
    write_images(work.images, images, section.classes, section.channels)
    work.recipe.write_text('[data]\nchannels = ["yellow", "blue"]\n')
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
