"""Segmentation against its peers and limits: ``uv run python -m bench.segment [--tiny] [PART ...]``.

Parts, all of them where none is named; everything runs on processors, on synthetic images that no training ever draws:

accuracy  AP at IoU 0.5, 0.75 and 0.9 of a watershed without a network, of Cellpose as documented, of Cellpose's masks
          made at the size of the network, and of the default path.
speed     the stage against Cellpose as documented (one image after another, the same network and diameter), and
          against the bare sum of decoding the PNG files and the network's forward pass.
workers   two worker processes against one, of one thread each.
memory    peak memory of a run over 100 and over 400 images.
gpu       where there is one: the big network with random weights, batches filled across images against the documented
          loop; images a second, and the share of the time in which the network computes.
real      mean AP and pooled F1 of a plain watershed, of ours, and of the default path on real images with masks, over
          a range of diameters (CELLWISE_REAL_DATA, ../shared/real).
kills     twenty runs killed at a random output file and started again: their files against those of a run that was not.

With ``--tiny`` a few images, to see that everything runs.
"""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from cellpose.models import CellposeModel
from cellpose.vit import CPSAM, BaseModel
from numpy.typing import NDArray

from bench.measure import data_files, peak_mib, run_killed, run_parts, split_words, spread, timed
from bench.segment_real import DIAMETERS_PX, real
from hpa.atlas import draw_scene
from hpa.atlas.scene import Scene
from hpa.config import DataSection
from hpa.images import write_images
from hpa.layouts import index
from hpa.pixels import read_plane, write_labels
from hpa.work import WorkFolder
from segment.baseline import watershed_cells
from segment.config import SegmentSection
from segment.diameter import typical_diameter_px
from segment.masks import stage_folder
from segment.models import load_model
from segment.network import CompactNetwork
from segment.predict import see, segment_images
from segment.run import run
from segment.scenes import REFERENCE
from segment.score import score_images, summarise

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
    images = index(data, "folder", section.classes, section.channels).images
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


def accuracy(net: CompactNetwork, count: int) -> None:
    """Print AP of each way over synthetic images."""
    drawn = scenes(count)
    images = [planes_of(scene) for scene in drawn]
    seen = [see(image, typical_diameter_px(*image.shape[1:])) for image in images]
    cellpose = SegmentSection(postprocess="cellpose")
    found = {
        "watershed without a network": [watershed_cells(image) for image in seen],
        "Cellpose as documented": as_documented(net, images),
        "Cellpose's masks, network size": [masks.cells for masks in segment_images(net, seen, cellpose)],
        "default path": [masks.cells for masks in segment_images(net, seen, SegmentSection())],
    }
    print(f"\naccuracy, {count} synthetic images, mean AP at IoU 0.5, 0.75, 0.9 and pooled F1 at 0.5:")
    for name, masks in found.items():
        triples = ((str(n), ours, scene.cells) for n, (ours, scene) in enumerate(zip(masks, drawn, strict=True)))
        table = summarise(score_images(triples))
        aps = "  ".join(f"{value:.3f}" for value in table["mean_ap"])
        print(f"  {name:32s} {aps}   {table['pooled_f1'].iloc[0]:.3f}")


def speed(net: CompactNetwork, folder: Path, peers: int, count: int, rounds: int) -> None:
    """Print the stage against Cellpose as documented and against the bare work, in turns."""
    drawn = scenes(min(32, count))
    write_folder(folder / "images", drawn, count)
    images = [planes_of(scene) for scene in drawn]
    names = [f"i{number:05d}" for number in range(len(drawn))]
    paths = [[folder / "images" / f"{name}_{channel}.png" for channel in ("yellow", "blue")] for name in names]
    ratios, bare_ratios, ours_s, theirs_s = [], [], [], []
    for turn in range(rounds):
        torch.set_num_threads(2)
        theirs = timed(lambda: as_documented(net, images[:peers])) / peers
        work = make_work(folder / f"work{turn}", folder / "images")
        ours = timed(lambda work=work: run(work, device="cpu", workers=2)) / count  # type: ignore[misc]
        torch.set_num_threads(1)
        whole = timed(lambda: whole_path(net, paths, folder))
        bare = timed(lambda: bare_work(net, paths))
        ours_s.append(1 / ours)
        theirs_s.append(1 / theirs)
        ratios.append(theirs / ours)
        bare_ratios.append(whole / bare)
    print(f"\nspeed, {SIDE_PX} px, {rounds} rounds in turns, median (least to most):")
    print(f"  Cellpose as documented, 2 threads     {spread(theirs_s, 2)} images a second")
    print(f"  the stage, 2 workers, start included  {spread(ours_s, 1)} images a second")
    print(f"  ratio                                 {spread(ratios, 1)}")
    print(f"  whole path : decoding + forward pass  {spread(bare_ratios, 2)} (one process, one thread)")


def whole_path(net: CompactNetwork, paths: list[list[Path]], folder: Path) -> None:
    """From PNG files to label images on the disk, eight images at a time as the stage does."""
    for start in range(0, len(paths), 8):
        images = [np.stack([read_plane(path) for path in pair]) for pair in paths[start : start + 8]]
        seen = [see(image, typical_diameter_px(*image.shape[1:])) for image in images]
        for masks in segment_images(net, seen, SegmentSection()):
            write_labels(folder / "cells.png", masks.cells)
            write_labels(folder / "nuclei.png", masks.nuclei)


def bare_work(net: CompactNetwork, paths: list[list[Path]]) -> None:
    """Decode the PNG files and run the network over planes of the size that it sees."""
    for start in range(0, len(paths), 8):
        pairs = paths[start : start + 8]
        for pair in pairs:
            for path in pair:
                cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        with torch.inference_mode():
            net(torch.zeros(len(pairs), 3, 160, 160))


def workers(folder: Path, count: int, rounds: int) -> None:
    """Print the throughput of two workers against that of one, after their start."""
    write_folder(folder / "images", scenes(32), count)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for n in (1, 2):
            work = make_work(folder / f"work{n}-{turn}", folder / "images")
            run(work, device="cpu", workers=n)
            ends = sorted(part.stat().st_mtime for part in (work.root / "segment" / "parts").iterdir())
            rates[n].append((len(ends) - n) * 32 / (ends[-1] - ends[n - 1]))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(f"\nworkers: one {spread(rates[1], 1)}, two {spread(rates[2], 1)} images a second, ratio {spread(ratios, 2)}")


def memory(folder: Path, few: int, many: int) -> None:
    """Print the peak memory of runs of different length."""
    drawn, peaks = scenes(min(32, few)), []
    for count in (few, many):
        write_folder(folder / f"images{count}", drawn, count)
        work = make_work(folder / f"work{count}", folder / f"images{count}")
        peaks.append(peak_mib("segment", ["run", str(work.root), "--device", "cpu", "--workers", "1"]))
    print(f"\nmemory, peak: {few} images {peaks[0]:.0f} MiB, {many} images {peaks[1]:.0f} MiB, ", end="")
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


def gpu_with_big_network() -> None:
    """Run `gpu` with a Cellpose network of random weights, where there is a GPU."""
    if not torch.cuda.is_available():
        print("\ngpu: skipped, no CUDA device")
        return
    gpu(CPSAM(dtype=torch.bfloat16).to("cuda").eval(), 16, 64)


class Watched(torch.nn.Module):
    """A network that sums up the seconds for which it computes."""

    def __init__(self, net: BaseModel) -> None:
        super().__init__()
        self.net, self.seconds = net, 0.0
        self.backbone, self.device, self.dtype = net.backbone, net.device, net.dtype

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute, and wait for the end of it."""
        start = time.perf_counter()
        answer: tuple[torch.Tensor, torch.Tensor] = self.net(x)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return answer


def gpu(net: BaseModel, peers: int, count: int) -> None:
    """Print batches filled across images against the documented loop, for one network on its device."""
    images = [planes_of(scene) for scene in scenes(count)]
    diameter = typical_diameter_px(SIDE_PX, SIDE_PX)
    watched = Watched(net)
    section = SegmentSection(postprocess="cellpose")

    def ours() -> None:
        for start in range(0, count, 8):
            list(segment_images(watched, [see(image, diameter) for image in images[start : start + 8]], section))

    as_documented(net, images[:1])  # warms the device up
    theirs_s = timed(lambda: as_documented(net, images[:peers])) / peers
    seconds = timed(ours)
    print(f"\ngpu, {net.backbone} on {net.device}, images a second: documented {1 / theirs_s:.2f}, ", end="")
    print(f"ours {count / seconds:.2f}, ", end="")
    print(f"ratio {theirs_s * count / seconds:.1f}, the network computes {watched.seconds / seconds:.0%} of the time")


def kills(folder: Path, times: int) -> None:
    """Print how many killed and resumed runs ended with the files of a run that was not killed."""
    write_folder(folder / "images", scenes(8, 128), 40)
    (folder / "images" / "i00007_blue.png").unlink()
    whole = make_work(folder / "whole", folder / "images")
    run(whole, device="cpu", workers=1)
    same, added, killed = 0, 0, 0
    for seed in range(times):
        work = make_work(folder / f"killed{seed}", folder / "images")
        nth = int(np.random.default_rng(seed).integers(1, 86))
        code = run_killed("segment", nth, ["run", str(work.root), "--device", "cpu", "--workers", "1"])
        killed += code == -signal.SIGKILL
        run(work, device="cpu", workers=1)
        same += data_files(stage_folder(work)) == data_files(stage_folder(whole))
        counts = json.loads((work.root / "segment" / "run.json").read_text())["counts"]
        added += counts["images"] == counts["masks"] + counts["failures"]
    print(f"\nkills: of {times} runs {killed} were killed, {same} ended with the same files, counts of {added} add up")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are named, or all."""
    parts, tiny = split_words(arguments)
    net = load_model("compact", torch.device("cpu"))
    known: dict[str, Callable[[Path], None]] = {
        "accuracy": lambda _: accuracy(net, 2 if tiny else 40),
        "speed": lambda folder: speed(net, folder, *((1, 8, 1) if tiny else (4, 256, 3))),
        "workers": lambda folder: workers(folder, *((160, 1) if tiny else (512, 3))),
        "memory": lambda folder: memory(folder, *((8, 16) if tiny else (100, 400))),
        "gpu": lambda _: gpu(net, 1, 2) if tiny else gpu_with_big_network(),
        "real": lambda _: real(net, DIAMETERS_PX[::5] if tiny else DIAMETERS_PX),
        "kills": lambda folder: kills(folder, 1 if tiny else 20),
    }
    run_parts(known, parts)


if __name__ == "__main__":
    main()
