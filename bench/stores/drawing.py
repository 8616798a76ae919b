"""Measure how fast crops are drawn to train on, and how masks of the segment stage err."""

import io
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bench.measure import spread
from cellwise import segment
from crops.run import run as run_crops
from crops.store import CropStore, store_folder
from crops.synthesize import synthesize_crops
from hpa.atlas import draw_scene, synthesize
from hpa.atlas.mask_errors import disturb_masks
from hpa.atlas.training import SIZES_PX
from hpa.config import DataSection
from hpa.images import write_images
from hpa.layouts.index import index_dataset
from hpa.work.folder import WorkFolder
from segment.run import run as run_segment

STREAM: Final = 7_305  # used by no training and no atlas

Labels = NDArray[np.int64]


def drawing(folder: Path, images: int, cells: int, rounds: int) -> None:
    """Print the speed of drawing crops relative to drawing, segmenting and cropping images."""
    cv2.setNumThreads(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stages(folder / "warm", 2, 99)
    ours, theirs, ratios = [], [], []
    for turn in range(rounds):
        start = time.process_time()
        synthesize_crops(folder / f"drawn{turn}", cells, seed=turn)
        ours.append(cells / (time.process_time() - start))
        spent = stages(folder / f"stages{turn}", images, turn)
        found = len(CropStore(store_folder(WorkFolder(folder / f"stages{turn}" / "work"), "cells")))
        theirs.append(found / sum(spent.values()))
        ratios.append(ours[-1] / theirs[-1])
    torch.set_num_threads(threads)
    print(f"\nsynthesize, {cells} crops of 64 px, and {images} images of 512 px, {rounds} rounds in turn, one thread,")
    print("processor time:")
    print(f"  cells per second drawn as crops           {spread(ours, 0)} (frames of {SIZES_PX} px)")
    print(f"  cells per second by the stages            {spread(theirs, 0)}")
    print(f"  ratio                                     {spread(ratios, 1)}")
    print("  last round, s: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in spent.items()))


def stages(folder: Path, images: int, seed: int) -> dict[str, float]:
    """Draw an atlas, segment it and cut its cells; return the processor time of each step."""
    spent = {}
    start = time.process_time()
    synthesize(folder / "atlas", images, 0, seed, workers=1)
    spent["hpa synthesize"] = time.process_time() - start
    section, work = DataSection(), WorkFolder(folder / "work")
    table = index_dataset(folder / "atlas", "kaggle2018", section.classes, section.channels).images
    write_images(work.images, table, section.classes, section.channels)
    work.recipe.write_text("[crops]\nsize_px = 64\n")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        start = time.process_time()
        assert run_segment(work, device="cpu", workers=1) == 0
        spent["segment"] = time.process_time() - start
        start = time.process_time()
        assert run_crops(work, workers=1) == 0
        spent["crops"] = time.process_time() - start
    return spent


def mask_errors(images: int) -> None:
    """Print how masks of the segment stage on drawn images differ from the truth, and how those that are disturbed do.

    The second column, measured like the first, shows how well `hpa.atlas.mask_errors.MEASURED` models it.
    """
    names = ("cells", "image_shift_px", "cell_shift_px", "rough_px", "merged", "divided", "incomplete", "missing")
    errors = (_Errors(), _Errors())
    for number in range(images):
        scene = draw_scene((STREAM, number), protein=False)
        errors[0].add(scene.cells, segment(scene.channels, device="cpu").cells)
        errors[1].add(scene.cells, disturb_masks(np.random.default_rng(number), scene.cells, scene.nuclei)[0])
    columns = [found.summary() for found in errors]
    print(f"\nmask errors of {images} images of 512 px: segment stage, disturbed")
    for name, *values in zip(names, *columns, strict=True):
        print(f"  {name:16}" + "".join(f"{value:9.3f}" for value in values))


class _Errors:
    """How masks differ from the truth, over the images that are added."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("cells", "touching", "merged", "divided", "incomplete", "missing"), 0)
        self.image_shifts: list[float] = []
        self.cell_shifts: list[float] = []
        self.roughness: list[float] = []

    def add(self, true_cells: NDArray[np.uint16], found_cells: NDArray[np.uint16]) -> None:
        """Compare the masks of one image, label images (H, W)."""
        truth, found = true_cells.astype(np.int64), found_cells.astype(np.int64)
        if not truth.any() or not found.any():
            return
        both = np.zeros((truth.max() + 1, found.max() + 1))
        np.add.at(both, (truth.ravel(), found.ravel()), 1)
        true_area, found_area, shared = both.sum(axis=1)[1:], both.sum(axis=0)[1:], both[1:, 1:]
        inside = (shared >= 0.5 * true_area[:, None]).sum(axis=0)
        divided = ((shared >= 0.15 * true_area[:, None]) & (shared >= 0.5 * found_area)).sum(axis=1) > 1
        self.counts["cells"] += len(true_area)
        self.counts["touching"] += _touching(truth)
        self.counts["merged"] += int(np.maximum(inside - 1, 0).sum())
        self.counts["divided"] += int(divided.sum())
        self.counts["missing"] += int((shared.max(axis=1) < 0.25 * true_area).sum())
        iou = shared / (true_area[:, None] + found_area - shared)
        shifts = []
        for cell in np.flatnonzero((iou.max(axis=1) >= 0.5) & ~divided):
            match = int(iou[cell].argmax())
            if inside[match] > 1:
                continue
            self.counts["incomplete"] += bool(shared[cell, match] < 0.8 * true_area[cell])
            outward = _outward(truth == cell + 1, found == match + 1)
            if len(outward):
                shifts.append(float(outward.mean()))
                self.roughness.append(float(outward.std()))
        if shifts:
            self.image_shifts.append(float(np.mean(shifts)))
            self.cell_shifts.append(float(np.std(shifts)))

    def summary(self) -> list[float]:
        """Return the cells and the measures of `MaskErrors`; the spread along an outline as the median over cells."""
        cells, touching = self.counts["cells"], max(self.counts["touching"], 1)
        spreads = [float(np.std(self.image_shifts)), float(np.mean(self.cell_shifts)), float(np.median(self.roughness))]
        rates = [self.counts[name] / cells for name in ("divided", "incomplete", "missing")]
        return [cells, *spreads, self.counts["merged"] / touching, *rates]


def _touching(labels: Labels) -> int:
    """Count the pairs of cells that touch."""
    pairs = set()
    for one, two in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        meet = (one != two) & (one > 0) & (two > 0)
        pairs |= set(zip(np.minimum(one, two)[meet].tolist(), np.maximum(one, two)[meet].tolist(), strict=True))
    return len(pairs)


def _outward(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how far each pixel of the found outline lies outside the true one, in px; the frame is no outline."""
    outlines = [_outline(mask.astype(np.uint8)) for mask in (true, found)]
    if not all(outline.any() for outline in outlines):
        return np.empty(0)
    away = cv2.distanceTransform(1 - outlines[0], cv2.DIST_L2, 5)
    at = outlines[1] > 0
    return np.asarray(away[at] * np.where(true[at], -1.0, 1.0), dtype=np.float64)


def _outline(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(mask - cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=1), dtype=np.uint8)
