"""Measure speed and memory of the segment stage, relative to Cellpose as documented and to the bare work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from cellpose.vit import CPSAM, BaseModel

from bench.measure import peak_mib, spread, timed
from bench.segmentation.images import SIDE_PX, as_documented, make_work, planes_of, scenes, write_folder
from hpa.pixels import read_plane, write_label_image
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import run_network, segment_images
from segment.inference.preprocess import prepare_input
from segment.network.compact import NUCLEUS_PLANE, CompactNetwork
from segment.postprocess.decode import decode
from segment.run import run


def speed(net: CompactNetwork, folder: Path, peers: int, count: int, rounds: int) -> None:
    """Print the speed of the stage, of Cellpose as documented and of the bare work, measured in turn."""
    drawn = scenes(min(32, count))
    write_folder(folder / "images", drawn, count)
    images = [planes_of(scene) for scene in drawn]
    names = [f"i{number:05d}" for number in range(len(drawn))]
    paths = [[folder / "images" / f"{name}_{channel}.png" for channel in ("yellow", "blue")] for name in names]
    diameters = {"the same diameter": typical_diameter_px(SIDE_PX, SIDE_PX), "its own diameters": 0.0}
    rates: dict[str, list[float]] = {name: [] for name in diameters}
    theirs_s, bare_ratios = [], []
    parts: list[dict[str, float]] = []
    for turn in range(rounds):
        torch.set_num_threads(2)
        theirs_s.append(peers / timed(lambda: as_documented(net, images[:peers])))
        for name, diameter_px in diameters.items():
            work = make_work(folder / f"work{turn}-{diameter_px:.0f}", folder / "images", diameter_px)
            rates[name].append(count / timed(lambda work=work: run(work, device="cpu", workers=2)))  # type: ignore[misc]
        torch.set_num_threads(1)
        parts.append(complete_path(net, paths, folder))
        bare_ratios.append(sum(parts[-1].values()) / timed(lambda: bare_work(net, paths)))
    print(f"\nspeed, {SIDE_PX} px, {rounds} rounds in turn, median (minimum to maximum):")
    print(f"  Cellpose as documented, 2 threads     {spread(theirs_s, 2)} images per second")
    for name, ours_s in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(ours_s, theirs_s, strict=True)]
        print(f"  2 workers with start, {name}  {spread(ours_s, 1)} images per second, {spread(ratios, 1)} times")
    print(f"  path / (decoding + forward pass)      {spread(bare_ratios, 2)} (one process, one thread)")
    spent = (f"{part} {np.median([turn[part] for turn in parts]) / len(paths) * 1000:.1f}" for part in parts[0])
    print(f"  of which, ms per image                {', '.join(spent)}")


def complete_path(net: CompactNetwork, paths: list[list[Path]], folder: Path) -> dict[str, float]:
    """Segment PNG files to label images on disk, eight images at a time as the stage does.

    Returns
    -------
    dict
        Seconds spent in each part.
    """
    spent = dict.fromkeys(("decoding", "reducing", "network", "masks", "writing"), 0.0)
    section = SegmentSection()
    for start in range(0, len(paths), 8):
        with _clock(spent, "decoding"):
            images = [np.stack([read_plane(path) for path in pair]) for pair in paths[start : start + 8]]
        with _clock(spent, "reducing"):
            seen = [prepare_input(image, typical_diameter_px(*image.shape[1:])) for image in images]
        with _clock(spent, "network"):
            found = run_network(net, seen)
        for answer, image in zip(found, seen, strict=True):
            with _clock(spent, "masks"):
                masks = decode(answer, image.planes[NUCLEUS_PLANE], section, image.shape)
            with _clock(spent, "writing"):
                write_label_image(folder / "cells.png", masks.cells)
                write_label_image(folder / "nuclei.png", masks.nuclei)
    return spent


@contextmanager
def _clock(spent: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[part] += time.perf_counter() - start


def bare_work(net: CompactNetwork, paths: list[list[Path]]) -> None:
    """Decode the PNG files and run the network over empty planes of network size."""
    for start in range(0, len(paths), 8):
        pairs = paths[start : start + 8]
        for pair in pairs:
            for path in pair:
                cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        with torch.inference_mode():
            net(torch.zeros(len(pairs), 3, 160, 160, dtype=net.dtype))


def workers(folder: Path, count: int, rounds: int) -> None:
    """Print the throughput of one and of two workers, start excluded."""
    write_folder(folder / "images", scenes(32), count)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for n in (1, 2):
            work = make_work(folder / f"work{n}-{turn}", folder / "images")
            run(work, device="cpu", workers=n)
            ends = sorted(part.stat().st_mtime for part in (work.root / "segment" / "parts").iterdir())
            rates[n].append((len(ends) - n) * 32 / (ends[-1] - ends[n - 1]))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(
        f"\nworkers: one {spread(rates[1], 1)}, two {spread(rates[2], 1)} images per second, ratio {spread(ratios, 2)}"
    )


def memory(folder: Path, few: int, many: int) -> None:
    """Print the peak memory of runs over few and over many images."""
    drawn, peaks = scenes(min(32, few)), []
    for count in (few, many):
        write_folder(folder / f"images{count}", drawn, count)
        work = make_work(folder / f"work{count}", folder / f"images{count}")
        peaks.append(peak_mib("segment", ["run", str(work.root), "--device", "cpu", "--workers", "1"]))
    print(f"\npeak memory: {few} images {peaks[0]:.0f} MiB, {many} images {peaks[1]:.0f} MiB, ", end="")
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


def gpu_with_big_network() -> None:
    """Run `gpu` with a Cellpose network of random weights, if there is a GPU."""
    if not torch.cuda.is_available():
        print("\ngpu: skipped, no CUDA device")
        return
    gpu(CPSAM(dtype=torch.bfloat16).to("cuda").eval(), 16, 64)


class TimedNetwork(torch.nn.Module):
    """A network that records the seconds in which it computes."""

    def __init__(self, net: BaseModel) -> None:
        super().__init__()
        self.net, self.seconds = net, 0.0
        self.backbone, self.device, self.dtype = net.backbone, net.device, net.dtype

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute, and wait until the device has finished."""
        start = time.perf_counter()
        output: tuple[torch.Tensor, torch.Tensor] = self.net(x)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return output


def gpu(net: BaseModel, peers: int, count: int) -> None:
    """Print the speed of one network on its device with batches filled across images and with the documented loop."""
    images = [planes_of(scene) for scene in scenes(count)]
    diameter = typical_diameter_px(SIDE_PX, SIDE_PX)
    timed_net = TimedNetwork(net)
    section = SegmentSection(postprocess="cellpose")

    def ours() -> None:
        for start in range(0, count, 8):
            list(
                segment_images(
                    timed_net, [prepare_input(image, diameter) for image in images[start : start + 8]], section
                )
            )

    as_documented(net, images[:1])  # warms up the device
    theirs_s = timed(lambda: as_documented(net, images[:peers])) / peers
    seconds = timed(ours)
    print(f"\ngpu, {net.backbone} on {net.device}, images per second: documented {1 / theirs_s:.2f}, ", end="")
    print(f"ours {count / seconds:.2f}, ", end="")
    print(f"ratio {theirs_s * count / seconds:.1f}, the network computes {timed_net.seconds / seconds:.0%} of the time")
