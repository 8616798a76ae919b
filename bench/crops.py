"""Measure the crops stage and its stores: ``uv run python -m bench.crops [--tiny] [PART ...]``.

Parts; without a name, all of them run. They use processors only, and synthetic images:

making    the complete stage in one process on 512 px PNG images and masks, relative to decoding the same files plus
          one OpenCV resize per cell; cells per second, also from images in memory, compared with scPortrait
workers   two worker processes relative to one
large     processor time of one additional cell on a 2048 px image, relative to a 512 px image
gather    random batches of 256 crops from the store, plain and compressed, relative to a memory-mapped array of them
loader    the same through torch's DataLoader with augmentation, with 0, 1 and 2 workers
training  the fraction of time that a training loop of ResNet18 waits for crops of 64 and of 128 px
memory    peak memory of a run over few and over many images
table     seconds to open a store of 700,000 rows
synthesize   cells per second drawn as crops to train on, relative to `hpa synthesize`, `segment` and `crops`
mask_errors  how the masks of the segment stage differ from the truth on drawn images (`hpa.atlas.mask_errors`)

``--tiny`` uses a few images, only to show that everything runs.

scPortrait 1.8.0 was measured separately on two quiet cores of a similar machine with 2 threads. Its HDF5 extraction of
3,061 cells at 128 px processed 189 cells per second for the complete call and 318 in its inner loop. Its dataset class
read 2,065 crops per second.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.measure import peak_mib, run_parts, split_words, spread, timed
from bench.stores.drawing import drawing, mask_errors
from bench.stores.loading import BATCH, loader, training
from bench.stores.synthetic import make_work, run, scenes, size, stores
from crops.config import CropsSection
from crops.cut import cut_windows
from crops.measure import find_cells, measure_cells, measure_intensities
from crops.shards import ShardWriter
from crops.store import CropStore, store_folder
from crops.windows import around_cells
from hpa.atlas.scene import Scene
from hpa.channels import CHANNELS
from hpa.work.folder import WorkFolder
from tests.support.pages import ROOT

PEER_CALL, PEER_LOOP, PEER_READ = 189, 318, 2_065


def bare_making(work: WorkFolder, windows: dict[str, NDArray[np.int32]]) -> None:
    """Decode the files of every image and resize one window per cell."""
    images = pd.read_parquet(work.images)
    for row in images.to_dict("records"):
        paths = [row[f"path_{channel}"] for channel in CHANNELS]
        paths += [work.root / "segment" / kind / f"{row['image_id']}.png" for kind in ("masks", "nuclei")]
        planes = [np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in paths]
        merged = cv2.merge(planes[:4])
        for first_row, first_col, end_row, end_col in windows[row["image_id"]]:
            interpolation = cv2.INTER_AREA if end_row - first_row > 128 else cv2.INTER_LINEAR
            inside = merged[max(0, first_row) : end_row, max(0, first_col) : end_col]
            cv2.resize(inside, (128, 128), interpolation=interpolation)


def from_memory(folder: Path, drawn: list[Scene]) -> int:
    """Measure, cut and write the cells of images in memory; return the number of cells."""
    section = CropsSection()
    with ShardWriter(folder, 0) as shard:
        for scene in drawn:
            labels = scene.cells.astype(np.uint16)
            cells = find_cells(labels)
            measure_cells(cells, labels)
            measure_intensities(scene.channels, cells, CHANNELS)
            cut = cut_windows(scene.channels, labels, cells.labels, around_cells(cells.boxes, section), 128)
            shard.add(cut.crops, cut.masks)
    return shard.n


def making(folder: Path, drawn: list[Scene], count: int, rounds: int) -> None:
    """Print the time of the stage relative to decoding and one resize per cell."""
    cv2.setNumThreads(1)
    work = make_work(folder, drawn, count)
    run(work, workers=1)
    table = CropStore(store_folder(work, "cells")).table
    box = ["min_row_px", "min_col_px", "max_row_px", "max_col_px"]
    windows = {str(image_id): rows[box].to_numpy(np.int32) for image_id, rows in table.groupby("image_id")}
    ratios, rates, memory_rates = [], [], []
    for _ in range(rounds):
        # Processor time excludes waiting for the disk and for other programs.
        ours = timed(lambda: run(work, workers=1, overwrite=True), time.process_time)
        bare = timed(lambda: bare_making(work, windows), time.process_time)
        ratios.append(ours / bare)
        rates.append(len(table) / ours)
        shutil.rmtree(folder / "memory", ignore_errors=True)
        (folder / "memory").mkdir()
        start = time.process_time()
        memory_rates.append(from_memory(folder / "memory", drawn) / (time.process_time() - start))
    print(
        f"\nmaking, {count} images of 512 px, {len(table)} cells, {rounds} rounds in turn, one thread, processor time:"
    )
    print(f"  stage / (decoding + one resize per cell) {spread(ratios)}")
    times = np.median(rates) / PEER_CALL
    print(f"  cells per second, decoding included      {spread(rates, 0)}, {times:.1f} times scPortrait")
    rate = np.median(memory_rates)
    print(f"  cells per second from memory, written    {spread(memory_rates, 0)}, ", end="")
    print(f"{rate / PEER_CALL:.0f} times scPortrait's complete call, {rate / PEER_LOOP:.0f} times its inner loop")


def workers(folder: Path, drawn: list[Scene], count: int, rounds: int) -> None:
    """Print the speed of two processes relative to one, start included, as a user runs them."""
    work = make_work(folder, drawn, count)

    def seconds(processes: int) -> float:
        command = [sys.executable, "-m", "crops", "run", str(work.root), "--workers", str(processes), "--overwrite"]
        return timed(lambda: subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL))

    ratios = [seconds(1) / seconds(2) for _ in range(rounds)]
    print(f"\nworkers: two processes, start included, are {spread(ratios)} times as fast as one")


def large(rounds: int) -> None:
    """Print the processor time of one additional cell in images of two sizes."""

    def seconds(side: int, cells: int) -> float:
        labels = np.zeros((side, side), np.uint16)
        for label in range(cells):
            row, col = divmod(label, 5)
            labels[row * 100 : row * 100 + 95, col * 100 : col * 100 + 95] = label + 1
        pixels = np.random.default_rng(0).integers(0, 256, (4, side, side), dtype=np.uint8)

        def once() -> None:
            found = find_cells(labels)
            measure_cells(found, labels)
            measure_intensities(pixels, found, CHANNELS)
            cut_windows(pixels, labels, found.labels, around_cells(found.boxes, CropsSection()), 128)

        return min(timed(once, time.process_time) for _ in range(rounds))

    costs = {side: (seconds(side, 25) - seconds(side, 1)) / 24 for side in (512, 2048)}
    print(
        f"\nlarge: one more cell takes {costs[512] * 1e6:.0f} us at 512 px, {costs[2048] * 1e6:.0f} us at 2048 px, ",
        end="",
    )
    print(f"ratio {costs[2048] / costs[512]:.2f}; a 2048 px image with one cell takes {seconds(2048, 1) * 1e3:.0f} ms")


def gather(folder: Path, drawn: list[Scene], count: int, rounds: int) -> None:
    """Print the speed of random batches from the store relative to a memory-mapped array."""
    plain = CropStore(stores(folder / "plain", drawn, count))
    packed = CropStore(stores(folder / "packed", drawn, count, compress=True))
    np.save(folder / "all.npy", plain.pixels(np.arange(len(plain))))
    mapped = np.load(folder / "all.npy", mmap_mode="r")
    draw = np.random.default_rng(0)
    batches = [draw.integers(0, len(plain), BATCH) for _ in range(40)]
    for store in (plain, packed):
        np.testing.assert_array_equal(store.pixels(batches[0]), mapped[batches[0]])
    ratios, rates, packed_rates = [], [], []
    for _ in range(rounds):
        bare = timed(lambda: [mapped[rows] for rows in batches], time.process_time)
        ours = timed(lambda: [plain.pixels(rows) for rows in batches], time.process_time)
        slow = timed(lambda: [packed.pixels(rows) for rows in batches], time.process_time)
        ratios.append(bare / ours)
        rates.append(len(batches) * BATCH / ours)
        packed_rates.append(len(batches) * BATCH / slow)
    print(f"\ngather, batches of {BATCH} of {len(plain)} crops of 128 px, files cached, processor time:")
    print(f"  speed relative to a memory-mapped gather {spread(ratios)}")
    times = np.median(rates) / PEER_READ
    print(f"  crops per second                         {spread(rates, 0)}, {times:.0f} times scPortrait")
    saved = size(packed.folder) / size(plain.folder)
    print(f"  compressed, {saved:.0%} of the bytes           {spread(packed_rates, 0)}")


def memory(folder: Path, drawn: list[Scene], few: int, many: int) -> None:
    """Print the peak memory of runs over few and over many images."""
    peaks = []
    for count in (few, many):
        work = make_work(folder / str(count), drawn, count)
        peaks.append(peak_mib("crops", ["run", str(work.root), "--workers", "1"]))
    print(f"\npeak memory: {few} images {peaks[0]:.0f} MiB, {many} images {peaks[1]:.0f} MiB, ", end="")
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


def table(folder: Path, drawn: list[Scene], rows: int) -> None:
    """Print the seconds to open a large store."""
    made = stores(folder, drawn, len(drawn))
    one = pd.read_parquet(made / "crops.parquet")
    many = pd.concat([one] * -(-rows // len(one)), ignore_index=True).iloc[:rows]
    many["image_id"] = [f"{number // 16:08d}-bb99-11e8-b2b9-ac1f6b6435d0" for number in range(rows)]
    many.to_parquet(made / "crops.parquet", index=False)
    seconds = [timed(lambda: CropStore(made)) for _ in range(5)]
    print(f"\ntable: a store of {rows:,} rows opens in {spread(seconds)} s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the named parts, or all."""
    parts, tiny = split_words(arguments)
    drawn = scenes(2 if tiny else 16, 256 if tiny else 512)
    known: dict[str, Callable[[Path], None]] = {
        "making": lambda folder: making(folder, drawn, *((4, 1) if tiny else (512, 5))),
        "workers": lambda folder: workers(folder, drawn, *((40, 1) if tiny else (1024, 3))),
        "large": lambda _: large(1 if tiny else 15),
        "gather": lambda folder: gather(folder, drawn, *((4, 1) if tiny else (192, 7))),
        "loader": lambda folder: loader(folder, drawn, 8 if tiny else 128),
        "training": lambda folder: training(folder, drawn, *((8, 1) if tiny else (64, 10))),
        "memory": lambda folder: memory(folder, drawn, *((4, 8) if tiny else (64, 512))),
        "synthesize": lambda folder: drawing(folder, *((2, 40, 1) if tiny else (40, 1_500, 3))),
        "mask_errors": lambda _: mask_errors(2 if tiny else 100),
        "table": lambda folder: table(folder, drawn, 1_000 if tiny else 700_000),
    }
    torch.manual_seed(0)
    run_parts(known, parts)


if __name__ == "__main__":
    main()
