"""Measure the preparation of large data sets: ``uv run python -m bench.data [--tiny] [PART ...]``.

Parts; without a name, all of them run, which takes half an hour:

index       seconds to index 100,000 files in the layout of the 2018 competition
decode      reading one file of each format, with its checks, relative to OpenCV alone, in alternating rounds
hash        scanning images (decoding, hashes, intensities, table parts on disk) relative to decoding alone, in
            alternating rounds, one process and one thread
pairs       all pairs of 100,000 hashes, 1,000 of them near-duplicates of others: seconds, and number found
duplicates  fraction of shifted, cropped, brightened and recompressed copies that the hashes find, and number of pairs
            of different images that they wrongly match
many        20,000 images of 64 px, eight drawn ones under many ids: seconds and peak memory of init without and with
            near-duplicates, and of segment and crops on 1,000 of them until the first chunk is on disk and the end
competition
            31,072 train and 11,702 test images of 512 px, eight drawn ones under many ids: seconds and peak memory of
            init with near-duplicates; then 4,000 of them through segment, killed half-way and resumed by two Dask
            workers, and crops: seconds, memory of the command, and disk
folds       the joined real label table (105,678 rows) in 5 folds, compared with KFold and MultilabelStratifiedKFold by
            image

``--tiny`` uses little data, only to show that everything runs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from bench.measure import measured, run_parts, split_words, timed
from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.layouts.hpa_v18 import parse_id
from hpa.layouts.index import index_dataset
from hpa.pixels import read_plane
from hpa.splitting.folds import assign_folds
from hpa.splitting.groups import join_groups, largest_group
from hpa.splitting.hashes import HASHED, hash_plane, similar_pairs
from hpa.splitting.quality import SplitQuality, measure_image_splits, measure_split
from hpa.splitting.scan import scan_images
from hpa.vocabulary import HPA28
from tests.support.real_images import real_data

STREAM = 4_404
SIDE_PX = 512
BITS = 12


def write_atlas(folder: Path, count: int, drawn: int, size_px: int = SIDE_PX) -> None:
    """Write `count` images in the 2018 layout, `drawn` of them different and the others hard links to these."""
    train = folder / "train"
    train.mkdir(parents=True)
    for n in range(count):
        if n < drawn:
            planes = draw_scene((STREAM, n), size_px=size_px, cell_line=n % 3, target=(n % 28,), shares=(0.8,)).channels
            for channel, plane in zip(CHANNELS, planes, strict=True):
                cv2.imwrite(str(train / f"i{n:06d}_{channel}.png"), plane)
        else:
            for channel in CHANNELS:
                (train / f"i{n:06d}_{channel}.png").hardlink_to(train / f"i{n % drawn:06d}_{channel}.png")
    (folder / "train.csv").write_text("Id,Target\n" + "".join(f"i{n:06d},{n % 28}\n" for n in range(count)))


def indexing(folder: Path, n_images: int) -> None:
    """Print the speed of indexing a folder."""
    write_atlas(folder, n_images, 4)
    seconds = timed(lambda: index_dataset(folder, "auto", HPA28, CHANNELS))
    print(f"\nindex: {4 * n_images:,} files in {seconds:.1f} s, {4 * n_images / seconds:,.0f} files per second")


def decoding(folder: Path, side_px: int, rounds: int) -> None:
    """Print how long `read_plane` takes for a file of each format, relative to OpenCV alone."""
    cv2.setNumThreads(1)
    folder.mkdir(parents=True)
    plane = draw_scene((STREAM, 0), size_px=side_px, cell_line=0, target=(0,), shares=(0.8,)).channels[1]
    deep = plane.astype(np.uint16) * 257
    for depth, pixels in (("8 bit", plane), ("16 bit", deep)):
        cv2.imwrite(str(folder / f"PNG, {depth}.png"), pixels)
        for compression in (None, "zlib", "lzw"):
            name = f"TIFF, {compression or 'uncompressed'}, {depth}.tif"
            tifffile.imwrite(folder / name, pixels, compression=compression, rowsperstrip=max(1, 8192 // side_px))
    cv2.imwrite(str(folder / "JPEG, gray.jpg"), plane)
    cv2.imwrite(str(folder / "JPEG, colour.jpg"), cv2.merge([plane * 0, plane, plane * 0]))
    print(f"\ndecode: one file of {side_px} px")
    for path in sorted(folder.iterdir()):
        read_plane(path, 0)
        pairs = [
            (timed(lambda path=path: read_plane(path, 0)), timed(lambda path=path: _opencv(path)))  # type: ignore[misc]
            for _ in range(rounds)
        ]
        ours, bare = np.median(pairs, axis=0)
        ratio = np.median([a / b for a, b in pairs])
        print(f"  {path.stem:28s} {1000 * ours:6.2f} ms, OpenCV {1000 * bare:6.2f} ms; {ratio:.2f} times as long")


def _opencv(path: Path) -> object:
    content = np.fromfile(path, np.uint8)
    if path.suffix == ".tif":
        return cv2.imdecodemulti(content, cv2.IMREAD_UNCHANGED)
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED)


def hashing(folder: Path, n_images: int, rounds: int) -> None:
    """Print the throughput of a scan and of decoding alone."""
    cv2.setNumThreads(1)
    write_atlas(folder / "data", n_images, min(n_images, 16))
    images = index_dataset(folder / "data", "auto", HPA28, CHANNELS).images
    paths = [str(path) for channel in CHANNELS for path in images[f"path_{channel}"]]
    scan_images(folder / "warm", images[:2], CHANNELS, workers=1)
    ratios, rates = [], []
    for turn in range(rounds):
        bare = timed(lambda: [cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in paths])
        ours = timed(lambda turn=turn: scan_images(folder / f"scan{turn}", images, CHANNELS, workers=1))  # type: ignore[misc]
        ratios.append(ours / bare)
        rates.append((n_images / ours, n_images / bare))
    ours, bare = np.median(rates, axis=0)
    print(f"\nhash: {ours:.0f} images of four {SIDE_PX} px planes per second, decoding alone {bare:.0f}; ", end="")
    print(f"{np.median(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f})")


def pairing(n_hashes: int) -> None:
    """Print the seconds to compare all pairs, and how many of the planted near-duplicates are found."""
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, (n_hashes, 3), dtype=np.uint64)
    planted = n_hashes // 100
    hashes[:planted] = hashes[-planted:]
    for _ in range(4):  # at most 4 of the 64 bits per channel differ
        hashes[:planted] ^= np.uint64(1) << draw.integers(0, 64, (planted, 3), dtype=np.uint64)
    found: list[NDArray[np.int32]] = []
    seconds = timed(lambda: found.append(similar_pairs(hashes, np.ones(n_hashes, bool), BITS)))
    print(f"\npairs: all pairs of {n_hashes:,} hashes in {seconds:.1f} s, ", end="")
    print(f"found {len(found[0])} of {planted} near-duplicates")


def shifted(share: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function that shifts a plane by a fraction of its side and fills the gap by reflection."""

    def move(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        by = round(share * len(plane))
        return np.pad(plane, ((by, 0), (by, 0)), mode="reflect")[: plane.shape[0], : plane.shape[1]]

    return move


def cropped(share: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function that cuts a fraction of the side off at the margins and enlarges the rest."""

    def cut(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        by = round(share * len(plane) / 2)
        return np.asarray(cv2.resize(plane[by : len(plane) - by, by : len(plane) - by], plane.shape[::-1]), np.uint8)

    return cut


def brightened(factor: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function that multiplies the intensities of a plane."""
    return lambda plane: np.clip(plane * factor, 0, 255).astype(np.uint8)


def recompressed(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compress a plane as a JPEG of low quality and decompress it."""
    content = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)


def duplicates(n_images: int) -> None:
    """Print the fraction of changed copies found, and the number of pairs of different images wrongly matched."""
    images = [
        draw_scene((STREAM, 1, n), size_px=SIDE_PX, cell_line=n % 3, target=(n % 28,), shares=(0.8,)).channels[:3]
        for n in range(n_images)
    ]

    def hashes(change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> NDArray[np.uint64]:
        return np.array([[hash_plane(change(plane)) or 0 for plane in image] for image in images], np.uint64)

    changes: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        **{f"shifted by {share:.0%} of the side": shifted(share) for share in (0.01, 0.02, 0.04, 0.08)},
        **{f"{1 - share:.0%} of the side, enlarged": cropped(share) for share in (0.02, 0.05, 0.1, 0.2)},
        **{f"brightness multiplied by {factor}": brightened(factor) for factor in (0.4, 0.7, 1.5, 2.5)},
        "JPEG of quality 60": recompressed,
    }
    originals = hashes(lambda plane: plane)
    print(f"\nduplicates: {n_images} images, {len(HASHED)} channels, at most {BITS} different bits each")
    for name, change in changes.items():
        both = np.concatenate([originals, hashes(change)])
        pairs = similar_pairs(both, np.ones(len(both), bool), BITS)
        right = pairs[:, 1] - pairs[:, 0] == n_images
        different = len(both) * (len(both) - 1) // 2 - n_images
        print(
            f"  {name:32s} {right.sum() / n_images:6.1%} found, {(~right).sum()} of {different} different pairs matched"
        )


def folding() -> None:
    """Print the quality of the folds of the joined real label table."""
    real = real_data()
    if not real.is_dir():
        print(f"\nfolds: skipped, found no real data in {real} (CELLWISE_REAL_DATA)")
        return
    old = pd.read_csv(real / "kaggle2018" / "train.csv")
    external = pd.read_csv(real / "hpa_v18" / "HPAv18RBGY_wodpl.csv")
    parts = [parse_id(image_id) for image_id in external["Id"]]
    none = [None] * len(old)
    keys = [[*none, *(part.antibody for part in parts)], [*none, *(part.well for part in parts)]]
    targets = HPA28.multi_hot(HPA28.parse(text) for text in [*old["Target"], *external["Target"]])
    done: list[tuple[NDArray[np.int32], NDArray[np.int16]]] = []

    def ours() -> None:
        groups = join_groups(len(targets), keys)
        done.append((groups, assign_folds(targets, groups, 5, seed=0)))

    seconds = timed(ours)
    groups, folds = done[0]
    n_groups, n_largest = groups.max() + 1, largest_group(groups)
    print(f"\nfolds: {len(targets):,} rows, {n_groups:,} groups, {n_largest} images in the largest one")
    counts = np.array([len(np.unique(groups[targets[:, c]])) for c in range(len(HPA28))])
    held = np.array([targets[folds == fold].sum(axis=0) for fold in range(5)])
    off = np.abs(held / held.mean(axis=0) - 1).max(axis=0)
    print(f"  ours in {seconds:.2f} s; class frequencies off by at most ", end="")
    print(f"{off[counts >= 60].max():.1%} (60 groups or more), {off[counts < 60].max(initial=0):.1%} (fewer)")
    for split in [measure_split("ours", folds, targets, groups), *measure_image_splits(targets, groups, 5, 0)]:
        print(f"  {describe(split)}")


def many(folder: Path, n_images: int) -> None:
    """Print what a data set of very many small images costs."""
    write_atlas(folder / "data", n_images, 8, size_px=64)
    print(f"\nmany: {n_images:,} images of 64 px, 8 of them different, one process and one thread")
    data = ["--data", str(folder / "data"), "--workers", "1"]
    _cost("init", n_images, "pipeline", ["init", str(folder / "all"), *data])
    flags = [*data, "--set", "data.near_duplicates=true"]
    _cost("init with near-duplicates", n_images, "pipeline", ["init", str(folder / "similar"), *flags], "scan/parts")
    part, work = max(n_images // 20, 20), str(folder / "work")  # init needs more images than folds
    write_atlas(folder / "part", part, 8, size_px=64)
    measured("pipeline", ["init", work, "--data", str(folder / "part")])
    _cost(f"segment {part:,} of them", part, "segment", ["run", work, "--workers", "1"], "segment/parts")
    _cost(f"crops {part:,} of them", part, "crops", ["run", work, "--workers", "1"], "crops/cells/parts")


def _cost(name: str, n_images: int, package: str, words: list[str], parts: str = "") -> None:
    first, total, peak = measured(package, words, Path(words[1]) / parts if parts else None)
    until = "" if first is None else f"first chunk after {first:.1f} s, "
    print(f"  {name:26s} {until}{total:.1f} s, {1e3 * total / n_images:.2f} ms per image, {peak:,.0f} MiB")


def competition(folder: Path, train: int, test: int, through: int) -> None:
    """Print what a data set of the size of the competition of 2018 costs."""
    from distributed import LocalCluster

    write_atlas(folder / "data", train + test, 8)
    rows = pd.read_csv(folder / "data" / "train.csv", dtype=str)
    rows[:train].to_csv(folder / "data" / "train.csv", index=False)
    sample = rows[train:].rename(columns={"Target": "Predicted"})
    sample.to_csv(folder / "data" / "sample_submission.csv", index=False)
    print(f"\ncompetition: {train:,} + {test:,} images of {SIDE_PX} px, 8 of them different, two processes")
    flags = ["--data", str(folder / "data"), "--workers", "2", "--set", "data.near_duplicates=true"]
    _, total, peak = measured("pipeline", ["init", str(folder / "all"), *flags])
    print(f"  init, folds and near-duplicates of all   {total:.1f} s, {peak:,.0f} MiB")
    write_atlas(folder / "part", through, 8)
    work = folder / "work"
    measured("pipeline", ["init", str(work), "--data", str(folder / "part")])
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:  # type: ignore[no-untyped-call]
        dask = ["--dask", cluster.scheduler_address]
        chunks = -(-through // 32)
        _, until, _ = measured("segment", ["run", str(work), *dask], work / "segment" / "parts", kill_after=chunks // 2)
        done = len(list((work / "segment" / "parts").glob("*.parquet")))
        _, rest, peak = measured("segment", ["run", str(work), *dask])
        cost = f"{peak:,.0f} MiB, {_mib(work / 'segment'):,.0f} MiB of disk"
        rate = f"{through / (until + rest):.1f} images per second"
        print(
            f"  segment {through:,}: killed after {until:.1f} s and {done} of {chunks} chunks, the rest {rest:.1f} s,"
        )
        print(f"    {rate}, {cost}")
        _, total, peak = measured("crops", ["run", str(work), *dask])
        cost = f"{peak:,.0f} MiB, {_mib(work / 'crops'):,.0f} MiB of disk"
        print(f"  crops {through:,}: {total:.1f} s, {through / total:.1f} images per second, {cost}")


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def describe(split: SplitQuality) -> str:
    """Describe the quality of a split in one line."""
    return (
        f"{split.name:26s} split groups {split.groups_split:6,d}, sizes differ by {split.size_spread:.3%}, "
        f"class frequencies by up to {split.worst_share:.1%}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the named parts, or all."""
    parts, tiny = split_words(arguments)
    known: dict[str, Callable[[Path], None]] = {
        "index": lambda folder: indexing(folder / "data", 100 if tiny else 25_000),
        "decode": lambda folder: decoding(folder / "files", 64 if tiny else SIDE_PX, 1 if tiny else 30),
        "hash": lambda folder: hashing(folder / "data", 4 if tiny else 128, 1 if tiny else 5),
        "pairs": lambda _: pairing(1_000 if tiny else 100_000),
        "duplicates": lambda _: duplicates(3 if tiny else 60),
        "many": lambda folder: many(folder, 24 if tiny else 20_000),
        "competition": lambda folder: competition(folder, *((16, 8, 96) if tiny else (31_072, 11_702, 4_000))),
        "folds": lambda _: folding(),
    }
    run_parts(known, parts)


if __name__ == "__main__":
    main()
