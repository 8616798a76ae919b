import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from distributed import LocalCluster

from hpa.errors import UserError
from hpa.work.mapping import FAILURE, Chunk, cut_chunks, map_chunks, write_failures

IMAGES = pd.DataFrame({"image_id": [f"i{n}" for n in range(10)], "n": range(10)})


def _square(log: Path, chunk: Chunk) -> pd.DataFrame:
    """Square n; image 4 fails as long as a file `broken` is next to the log."""
    with log.open("a") as file:
        file.write(f"{chunk.index}\n")
    broken = (log.parent / "broken").exists()
    bad = [broken and n == 4 for n in chunk.images["n"]]
    return pd.DataFrame(
        {
            "image_id": chunk.image_ids,
            "square": [None if b else n * n for n, b in zip(chunk.images["n"], bad, strict=True)],
            FAILURE: pd.Series(["broken" if b else None for b in bad], dtype=object),
        }
    )


def _run(tmp_path: Path, workers: int = 1) -> pd.DataFrame:
    chunks = cut_chunks(IMAGES, 3)
    return map_chunks(_square, tmp_path / "log", chunks, tmp_path / "parts", workers=workers, label="square")


def test_chunks_cover_the_images_once_in_order() -> None:
    chunks = cut_chunks(IMAGES, 3)
    assert [chunk.image_ids for chunk in chunks] == [
        ["i0", "i1", "i2"],
        ["i3", "i4", "i5"],
        ["i6", "i7", "i8"],
        ["i9"],
    ]
    assert [chunk.name for chunk in chunks] == ["00000", "00001", "00002", "00003"]
    assert [len(chunk.images) for chunk in cut_chunks(IMAGES, 5)] == [5, 5], "no chunk without images"
    assert cut_chunks(IMAGES.iloc[:0], 5) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_are_joined_in_order_for_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    parts = _run(tmp_path, workers)
    assert list(parts["image_id"]) == list(IMAGES["image_id"])
    assert list(parts["square"].astype(int)) == [n * n for n in range(10)]


def test_only_missing_and_failed_chunks_are_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").touch()
    first = _run(tmp_path)
    assert write_failures(tmp_path / "failures.csv", first) == 1
    assert (tmp_path / "failures.csv").read_text() == "image_id,reason\ni4,broken\n"
    assert f"1 image failed; reasons in {tmp_path / 'failures.csv'}" in capsys.readouterr().out
    (tmp_path / "broken").unlink()
    (tmp_path / "parts" / "00003.parquet").unlink()
    second = _run(tmp_path)
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3", "1", "3"]
    assert list(second["square"].astype(int)) == [n * n for n in range(10)]
    assert write_failures(tmp_path / "failures.csv", second) == 0
    assert (tmp_path / "failures.csv").read_text() == "image_id,reason\n"
    assert "failed" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["empty", "truncated", "binary", "flipped", "folder", "other images", "no column"])
def test_a_damaged_part_is_thrown_away_and_made_again(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _run(tmp_path)
    part = tmp_path / "parts" / "00001.parquet"
    content = part.read_bytes()
    place = content.index(b"i4")
    changed = {
        "empty": b"",
        "truncated": content[:-9],
        "binary": bytes(range(256)) * 9,
        "flipped": content[:place] + b"x4" + content[place + 2 :],
    }
    table = pd.read_parquet(part)
    if damage == "folder":
        part.unlink()
        (part / "sub").mkdir(parents=True)
    elif damage == "other images":
        table.assign(image_id="a").to_parquet(part)
    elif damage == "no column":
        table.drop(columns=FAILURE).to_parquet(part)
    else:
        part.write_bytes(changed[damage])
    pd.testing.assert_frame_equal(_run(tmp_path), expected)
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3", "1"]
    assert part.read_bytes() == content
    assert f"making {part} again: expected" in capsys.readouterr().out


def test_dask_cluster_gives_the_same_parts(tmp_path: Path) -> None:
    chunks = cut_chunks(IMAGES, 3)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:  # type: ignore[no-untyped-call]
        address = cluster.scheduler_address
        parts = map_chunks(_square, tmp_path / "log", chunks, tmp_path / "parts", label="square", dask=address)
    assert list(parts["image_id"]) == list(IMAGES["image_id"])
    assert list(parts["square"].astype(int)) == [n * n for n in range(10)]
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1", "2", "3"]


def test_unreachable_scheduler_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpa.work.cluster._PATIENCE_S", 0.3)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(UserError, match=f"expected a Dask scheduler at {address}"):
            map_chunks(_square, tmp_path, cut_chunks(IMAGES), tmp_path / "parts", label="square", dask=address)


def _killed(_: str, chunk: Chunk) -> pd.DataFrame:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(chunk)


def test_a_killed_worker_is_said_in_one_sentence(tmp_path: Path) -> None:
    images = pd.DataFrame({"image_id": [str(n) for n in range(4)]})
    with pytest.raises(UserError, match="fewer --workers"):
        map_chunks(_killed, "", cut_chunks(images, 1), tmp_path, label="x", workers=2)
