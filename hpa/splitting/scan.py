"""Decode every image once to compute perceptual hashes and intensity statistics.

The scan is written to ``scan/`` of a work folder by init if the recipe asks for near-duplicates, else by ``leaks`` and
``explore`` when they first need it. ``scan.parquet`` has one row per image: image_id; usable (every hashed plane has a
pattern); depth (8 or 16 bit, 0 if unreadable); reason (null, or why the image could not be read); hash_C (64 bits, 0 if
flat) of red, green and blue; for every channel C of the run mean_C and std_C (gray levels) and histogram_C (share of
the pixels in 64 equal bins over the range of the depth); listed, a fingerprint of the files in the image table.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd

from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.pixels import Pixels, read_channels
from hpa.splitting.hashes import HASHED, hash_plane
from hpa.work.files import remove_partials, write_json, write_parquet
from hpa.work.mapping import FAILURE, Chunk, cut_chunks, map_chunks, read_part

BINS: Final = 64
"""Number of bins of the intensity histograms."""


def scan_images(folder: Path, images: pd.DataFrame, channels: Sequence[Channel], *, workers: int = 0) -> pd.DataFrame:
    """Scan every image that has not been scanned yet; each is decoded once.

    Parameters
    ----------
    folder
        Folder ``scan`` of a work folder; an existing scan that lacks some of these images is discarded.
    images
        The image table (`hpa.images`).
    channels
        Channels of the run.
    workers
        Number of processes; 0 uses one per processor.

    Returns
    -------
    DataFrame
        One row per row of `images`, in the same order.
    """
    table, record = folder / "scan.parquet", folder / "made_from.json"
    listed = _fingerprints(images, channels)
    earlier = read_part(table)
    if (
        earlier is not None
        and {"image_id", "listed"} <= set(earlier)
        and set(listed.items()) <= set(zip(earlier["image_id"], earlier["listed"], strict=True))
    ):
        return earlier.set_index("image_id").loc[images["image_id"]].reset_index()
    fingerprint = {"images": hashlib.sha256(listed.to_csv().encode()).hexdigest()}
    if not record.is_file() or record.read_text(errors="replace") != json.dumps(fingerprint, indent=2) + "\n":
        if folder.exists():
            shutil.rmtree(folder)
        write_json(record, fingerprint)
    remove_partials(folder)
    located = [f"{part}_{channel}" for channel in channels for part in ("path", "plane")]
    needed = images[["image_id", "bit_depth", *located]]
    chunks = cut_chunks(needed, 256)
    scanned = map_chunks(
        _scan_chunk,
        tuple(channels),
        chunks,
        folder / "parts",
        workers=workers or os.cpu_count() or 1,
        label="scan",
        preload=("hpa.splitting.scan",),
    )
    scanned = scanned.drop(columns=FAILURE).assign(listed=listed.to_numpy())
    write_parquet(table, scanned)
    shutil.rmtree(folder / "parts")
    return scanned


def hashes_of(scanned: pd.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """Return the hashes in a scan, shape (N, C), for those channels of `HASHED` that it has."""
    columns = [f"hash_{channel}" for channel in HASHED if f"hash_{channel}" in scanned]
    return scanned[columns].to_numpy(np.uint64)


def _fingerprints(images: pd.DataFrame, channels: Sequence[Channel]) -> pd.Series:
    """Return a fingerprint of the files of each image in the image table, by image_id."""
    columns = ["bit_depth", *(f"{part}_{channel}" for channel in channels for part in ("path", "plane", "bytes"))]
    fingerprints = pd.util.hash_pandas_object(images[columns], index=False).to_numpy()
    return pd.Series(fingerprints, index=list(images["image_id"]))


def _scan_chunk(channels: tuple[Channel, ...], chunk: Chunk) -> pd.DataFrame:
    rows = [_scan_one(image, channels) for image in chunk.images.to_dict("records")]
    return pd.DataFrame(rows).astype({FAILURE: object, **{f"hash_{c}": np.uint64 for c in HASHED if c in channels}})


def _scan_one(image: dict[Any, Any], channels: tuple[Channel, ...]) -> dict[str, Any]:
    """Scan one image. An unreadable image counts as done: its row keeps the reason and it is not retried."""
    row: dict[str, Any] = {"image_id": image["image_id"], "usable": False, "depth": 0, "reason": None, FAILURE: None}
    try:
        planes = read_channels(image, channels)
    except ImageError as error:
        row["reason"] = str(error)
        planes = np.zeros((len(channels), 1, 1), dtype=np.uint8)
    else:
        row["depth"] = 8 * planes.itemsize
    hashes = {c: hash_plane(plane) for c, plane in zip(channels, planes, strict=True) if c in HASHED}
    row |= {f"hash_{channel}": value or 0 for channel, value in hashes.items()}
    row["usable"] = row["reason"] is None and all(value is not None for value in hashes.values())
    for channel, plane in zip(channels, planes, strict=True):
        row |= {f"{name}_{channel}": value for name, value in _intensities(plane).items()}
    return row


def _intensities(plane: Pixels) -> dict[str, Any]:
    mean, std = cv2.meanStdDev(plane)
    counts = cv2.calcHist([plane], [0], None, [BINS], [0, 256 if plane.dtype == np.uint8 else 65536])
    return {
        "mean": float(mean[0, 0]),
        "std": float(std[0, 0]),
        "histogram": (counts.ravel() / plane.size).astype(np.float32).tolist(),
    }
