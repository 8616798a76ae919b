"""What `bench.segment` works on: synthetic images in memory, files and work folders; and Cellpose as documented."""

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
from segment.training.scenes import REFERENCE

STREAM = 7_303  # neither the training's, nor its check's, nor an atlas's
SIDE_PX = 512


def scenes(count: int, size_px: int = SIDE_PX) -> list[Scene]:
    """Draw fields of view."""
    return [draw_scene((STREAM, number), size_px=size_px, protein=False) for number in range(count)]


def planes_of(scene: Scene) -> NDArray[np.uint8]:
    """Return ER and nucleus, shape (2, H, W)."""
    return scene.channels[list(REFERENCE[:2])]


def write_folder(folder: Path, drawn: list[Scene], count: int) -> None:
    """Write `count` images as PNG, the drawn ones over and over."""
    folder.mkdir()
    for number, scene in enumerate(drawn):
        for channel, plane in zip(("yellow", "blue"), planes_of(scene), strict=True):
            cv2.imwrite(str(folder / f"i{number:05d}_{channel}.png"), plane)
    for number in range(len(drawn), count):
        for channel in ("yellow", "blue"):
            (folder / f"i{number:05d}_{channel}.png").hardlink_to(folder / f"i{number % len(drawn):05d}_{channel}.png")


def make_work(root: Path, data: Path) -> WorkFolder:
    """Make a work folder of a folder of images."""
    section = DataSection(channels=("yellow", "blue"))
    images = index_dataset(data, "folder", section.classes, section.channels).images
    work = WorkFolder(root)
    write_images(work.images, images, section.classes, section.channels)
    work.recipe.write_text('[data]\nchannels = ["yellow", "blue"]\n')
    return work


def as_documented(net: BaseModel, images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint16]]:
    """Segment images with ``CellposeModel.eval`` on a list, default settings, the diameter given."""
    model = CellposeModel.__new__(CellposeModel)  # its constructor knows networks of its own only
    model.net, model.device, model.gpu = net, net.device, net.device.type == "cuda"
    model.backbone = "sam_vitl"  # tiles of 256 px
    inputs = [np.concatenate([image, np.zeros_like(image[:1])]).transpose(1, 2, 0) for image in images]
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call] # said, it is not warned of
        masks: list[NDArray[np.uint16]] = model.eval(inputs, diameter=typical_diameter_px(*images[0].shape[1:]))[0]
    return masks
