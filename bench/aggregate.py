"""Measure speed and memory of the aggregate stage: ``uv run python -m bench.aggregate [--tiny]``.

Two measurements are printed as ratios within this run: pooling 700,000 crops x 28 classes relative to a bare
``np.maximum.reduceat``, and exact thresholds of 31,072 x 28 scores relative to scikit-learn's F1 on a grid of 99
thresholds. Two more are printed as seconds and peak memory: the complete stage on 48,000 images (700,000 crops, scored
by one model out of fold and by five on test) with cross-fitting, 1,000 resamples and all files but no figures; and
reading and pooling 1 and 10 million crops. Needs 3 GB of disk space.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_recall_curve

from aggregate.config import KINDS, AggregateSection
from aggregate.pooling.formulas import pool_bags
from aggregate.thresholds.exact import best_thresholds
from classify.probabilities import class_columns
from hpa.metrics import f1_per_class
from hpa.vocabulary import HPA28
from tests.support.simulation.probabilities import K
from tests.support.simulation.work import make_work

_CELLS: Final = 16
_PART: Final = 100_000

_PEAK: Final = """
# getrusage would report the peak of the parent process from before the new program began.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 1024)
"""
_STAGE: Final = (
    """
import sys, time
from pathlib import Path
from aggregate.run import run
from hpa.work.folder import open_work
started = time.monotonic(), time.process_time()
run(open_work(Path(sys.argv[1])), figures=None)
print(time.monotonic() - started[0], time.process_time() - started[1])
"""
    + _PEAK
)
_READ: Final = (
    """
import sys, time
from pathlib import Path
from aggregate.pooling.sources import read_bags
from aggregate.config import AggregateSection
from hpa.vocabulary import HPA28
started = time.monotonic(), time.process_time()
read_bags(Path(sys.argv[1]), HPA28, AggregateSection())
print(time.monotonic() - started[0], time.process_time() - started[1])
"""
    + _PEAK
)


def best_seconds(work: Callable[[], object], times: int = 7) -> float:
    """Return the minimum processor time of several calls, which other programs on the machine hardly affect."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def bench_pooling(n: int) -> None:
    """Print the time of each pooling as a multiple of the bare maximum."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((n, K), dtype=np.float32)
    first_rows = np.unique(np.append(0, rng.integers(1, n, n // _CELLS)))
    section = AggregateSection()
    bare = best_seconds(lambda: np.maximum.reduceat(probabilities, first_rows, axis=0))
    print(f"pooling {n:,} x {K}: np.maximum.reduceat {bare:.3f} s; multiples of it:")
    for kind in KINDS:
        seconds = best_seconds(lambda kind=kind: pool_bags(probabilities, first_rows, kind, section))  # type: ignore[misc]
        print(f"  {kind:16s} {seconds / bare:6.2f}")


def bench_thresholds(n: int) -> None:
    """Print the time of exact thresholds, and how many times longer scikit-learn takes, exactly and on a grid."""
    rng = np.random.default_rng(0)
    targets = rng.random((n, K)) < np.geomspace(0.4, 0.0005, K)
    targets[0] = True  # scikit-learn warns of classes without any
    scores = np.clip(0.3 * targets + 0.5 * rng.random((n, K)), 0, 1).astype(np.float32)
    ours = best_seconds(lambda: best_thresholds(targets, scores))
    curve = best_seconds(lambda: _on_curve(targets, scores), times=3)
    grid = best_seconds(lambda: _on_grid(targets, scores), times=1)
    values, others = best_thresholds(targets, scores), np.array(_on_curve(targets, scores))
    pairs = np.array([f1_per_class(targets, scores > values), f1_per_class(targets, scores >= others)])
    print(
        f"thresholds of {n:,} x {K}: {ours:.4f} s; exact with precision_recall_curve {curve:.3f} s,"
        f" {curve / ours:.1f} times as long (F1 differs by at most {np.abs(pairs[0] - pairs[1]).max():.1g});"
        f" f1_score on a grid of 99 {grid:.2f} s, {grid / ours:.0f} times as long"
    )


def _on_curve(targets: NDArray[np.bool_], scores: NDArray[np.float32]) -> list[float]:
    best = []
    for c in range(targets.shape[1]):
        precision, recall, thresholds = precision_recall_curve(targets[:, c], scores[:, c])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best.append(float(thresholds[np.argmax(f1[:-1])]))
    return best


def _on_grid(targets: NDArray[np.bool_], scores: NDArray[np.float32]) -> list[float]:
    grid = np.linspace(0.01, 0.99, 99)
    return [
        float(grid[np.argmax([f1_score(targets[:, c], scores[:, c] > t, zero_division=0) for t in grid])])
        for c in range(targets.shape[1])
    ]


def bench_stage(folder: Path, train: int, test: int) -> None:
    """Print seconds and memory of the complete stage in a separate process."""
    work = make_work(folder / "work", train=train, test=test, models=5)
    rows = parquet.read_metadata(work.root / "classify" / "cells" / "probabilities.parquet").num_rows
    crops = parquet.read_metadata(work.root / "crops" / "cells" / "crops.parquet").num_rows
    print(
        f"the complete stage, {train + test:,} images, {crops:,} crops, {rows:,} rows: {_measured(_STAGE, work.root)}"
    )


def bench_reading(folder: Path, n: int) -> None:
    """Print seconds and memory of reading and pooling n crops in a separate process."""
    path = folder / "probabilities.parquet"
    _write_rows(path, n)
    print(f"reading and pooling {n:,} crops: {_measured(_READ, path)}")


def _write_rows(path: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    writer = None
    for start in range(0, n, _PART):
        place = np.arange(start, min(start + _PART, n))
        columns = {
            "image_id": arrow.array([f"image{image:09d}" for image in place // _CELLS]),
            "cell_label": arrow.array((place % _CELLS + 1).astype(np.int32)),
            "fold": arrow.array(np.zeros(len(place), dtype=np.int16)),
            "origin": arrow.array(["oof"] * len(place)),
        }
        columns |= {name: arrow.array(rng.random(len(place), dtype=np.float32)) for name in class_columns(HPA28)}
        table = arrow.table(columns).replace_schema_metadata({b"cellwise_vocabulary": b"hpa28"})
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _measured(script: str, path: Path) -> str:
    """Run a script in a separate process and return its time and memory as text."""
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
    seconds, processor, megabytes = map(float, done.stdout.split()[-3:])
    return f"{seconds:.1f} s ({processor:.1f} s of the processor), {megabytes:.0f} MB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the measurements."""
    tiny = "--tiny" in (sys.argv[1:] if arguments is None else arguments)
    bench_pooling(7_000 if tiny else 700_000)
    bench_thresholds(500 if tiny else 31_072)
    with tempfile.TemporaryDirectory() as folder:
        bench_stage(Path(folder), *((60, 30) if tiny else (31_072, 17_000)))
        for n in (1_000, 10_000) if tiny else (1_000_000, 10_000_000):
            bench_reading(Path(folder), n)


if __name__ == "__main__":
    main()
