import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hpa.channels import CHANNELS
from hpa.layouts.index import index_dataset
from hpa.pixels import read_channels
from hpa.splitting import scan
from hpa.splitting.scan import BINS, hashes_of, scan_images
from hpa.vocabulary import HPA28
from hpa.work.mapping import Chunk
from tests.support.layouts import noise


def _images(root: Path, count: int = 6) -> pd.DataFrame:
    root.mkdir(exist_ok=True)
    for n in range(count):
        for i, channel in enumerate(CHANNELS):
            cv2.imwrite(str(root / f"i{n}_{channel}.png"), noise(10 * n + i, (40, 40)))
    return index_dataset(root, "folder", HPA28, CHANNELS).images


def test_intensities_match_numpy(tmp_path: Path) -> None:
    images = _images(tmp_path / "data")
    deep = noise(3, (40, 40)).astype(np.uint16) * 257
    for channel in CHANNELS:
        cv2.imwrite(str(tmp_path / "data" / f"i5_{channel}.png"), deep)
    scanned = scan_images(tmp_path / "scan", images, CHANNELS, workers=1)
    assert list(scanned["image_id"]) == list(images["image_id"])
    assert scanned["depth"].tolist() == [8] * 5 + [16]
    for row, image in zip(scanned.to_dict("records"), images.to_dict("records"), strict=True):
        planes = read_channels(image, CHANNELS)
        for channel, plane in zip(CHANNELS, planes, strict=True):
            assert row[f"mean_{channel}"] == pytest.approx(plane.mean())
            assert row[f"std_{channel}"] == pytest.approx(plane.std())
            counts, _ = np.histogram(plane, BINS, (0, 256 if plane.dtype == np.uint8 else 65536))
            np.testing.assert_allclose(row[f"histogram_{channel}"], counts / plane.size, atol=1e-6)
    assert hashes_of(scanned).shape == (6, 3)


def test_unreadable_image_has_a_reason_and_is_not_usable(tmp_path: Path) -> None:
    images = _images(tmp_path / "data")
    (tmp_path / "data" / "i1_green.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "data" / "i2_red.png"), np.zeros((40, 40), np.uint8))
    scanned = scan_images(tmp_path / "scan", images, CHANNELS, workers=1).set_index("image_id")
    assert "not an image" in str(scanned.loc["i1", "reason"])
    assert scanned.loc["i1", "depth"] == 0
    assert scanned["usable"].tolist() == [True, False, False, True, True, True]


def test_killed_scan_resumes_and_finished_scan_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _images(tmp_path / "data", 300)  # more than a chunk
    whole = scan_images(tmp_path / "whole", images, CHANNELS, workers=1)
    done: list[int] = []
    work = scan._scan_chunk

    def counted(channels: tuple[str, ...], chunk: Chunk) -> pd.DataFrame:
        if chunk.index == 1 and not done.count(1):
            done.append(1)
            raise KeyboardInterrupt
        done.append(chunk.index)
        return work(channels, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(scan, "_scan_chunk", counted)
    with pytest.raises(KeyboardInterrupt):
        scan_images(tmp_path / "scan", images, CHANNELS, workers=1)
    again = scan_images(tmp_path / "scan", images, CHANNELS, workers=1)
    assert done == [0, 1, 1]
    pd.testing.assert_frame_equal(again, whole)
    assert (tmp_path / "scan" / "scan.parquet").read_bytes() == (tmp_path / "whole" / "scan.parquet").read_bytes()
    part = images.iloc[[250, 3]]
    pd.testing.assert_frame_equal(
        scan_images(tmp_path / "scan", part, CHANNELS), whole.iloc[[250, 3]].reset_index(drop=True)
    )
    assert done == [0, 1, 1]


def test_changed_images_are_scanned_again(tmp_path: Path) -> None:
    images = _images(tmp_path / "data")
    first = scan_images(tmp_path / "scan", images, CHANNELS, workers=1)
    cv2.imwrite(str(tmp_path / "data" / "i0_red.png"), noise(99, (41, 40)))
    for channel in ("green", "blue", "yellow"):
        cv2.imwrite(str(tmp_path / "data" / f"i0_{channel}.png"), noise(98, (41, 40)))
    changed = index_dataset(tmp_path / "data", "folder", HPA28, CHANNELS).images
    second = scan_images(tmp_path / "scan", changed, CHANNELS, workers=1)
    assert second["mean_red"].iloc[0] != first["mean_red"].iloc[0]
    assert set(json.loads((tmp_path / "scan" / "made_from.json").read_text())) == {"images"}
