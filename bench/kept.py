"""Compare what is kept by hand with the library that also has it: ``uv run python -m bench.kept [--tiny]``.

Prints the processor time of both in one thread (the best of a few runs) and the largest difference between their
results. docs/architecture.md lists the reasons.
"""

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.metrics import f1_score, precision_recall_curve
from sklearn.neighbors import BallTree
from torchvision.ops import sigmoid_focal_loss

from aggregate.thresholds.exact import best_thresholds
from bench.measure import split_words
from classify.config import ClassifySection
from classify.losses.classification import class_loss
from hpa.metrics import f1_per_class
from hpa.splitting.hashes import similar_pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per comparison."""
    _, tiny = split_words(arguments)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    _thresholds(300 if tiny else 31_072, rng)
    _pairs(200 if tiny else 4_000, rng)
    _focal(2 if tiny else 200)


def _seconds(work: Callable[[], object], times: int = 3) -> float:
    """Return the shortest processor time of some calls."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def _show(what: str, ours: float, name: str, theirs: float, difference: float) -> None:
    print(
        f"{what}: {1000 * ours:.2f} ms, {name} {1000 * theirs:.2f} ms ({theirs / ours:.1f} times), "
        f"largest difference {difference:.0e}"
    )


def _thresholds(n: int, rng: np.random.Generator) -> None:
    counts = np.ceil(n * np.geomspace(0.4, 0.01, 28))
    targets = rng.random((n, 28)).argsort(axis=0) < counts  # every class has positives, however few the rows
    scores = (0.7 * rng.random((n, 28)) + 0.3 * targets * rng.random((n, 28))).astype(np.float32)

    def library() -> np.ndarray:
        found = []
        for positive, p in zip(targets.T, scores.T, strict=True):
            precision, recall, thresholds = precision_recall_curve(positive, p)
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            found.append(thresholds[f1[:-1].argmax()])
        return np.array(found)

    ours = f1_per_class(targets, scores > best_thresholds(targets, scores))
    theirs = f1_per_class(targets, scores >= library())
    what = f"best thresholds of {n} x 28"
    seconds = _seconds(lambda: best_thresholds(targets, scores))
    _show(what, seconds, "precision_recall_curve", _seconds(library), abs(ours - theirs).max())
    predicted = scores > 0.5
    library_f1 = f1_score(targets, predicted, average=None, zero_division=0)
    _show(
        f"F1 of {n} x 28",
        _seconds(lambda: f1_per_class(targets, predicted)),
        "f1_score",
        _seconds(lambda: f1_score(targets, predicted, average=None, zero_division=0)),
        abs(f1_per_class(targets, predicted) - library_f1).max(),
    )


def _pairs(n: int, rng: np.random.Generator) -> None:
    """Three channels of ours against one of the library's, which has no index over several."""
    hashes = rng.integers(0, 2**63, (n, 1), dtype=np.uint64)
    hashes[n // 2 : n // 2 + n // 10] = hashes[: n // 10]
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)

    def library() -> int:
        return (sum(map(len, BallTree(bits, metric="hamming").query_radius(bits, 12.5 / 64))) - n) // 2

    usable = np.ones(n, bool)
    difference = abs(len(similar_pairs(hashes, usable, 12)) - library())
    three = hashes.repeat(3, axis=1)
    seconds = _seconds(lambda: similar_pairs(three, usable, 12))
    _show(f"pairs of {n} hashes", seconds, "BallTree", _seconds(library, 1), difference)


def _focal(steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(256, 28, generator=generator)
    targets = (torch.rand(256, 28, generator=generator) < 0.05).float()

    def ours(z: torch.Tensor) -> torch.Tensor:
        return class_loss(z, targets, ClassifySection())

    def library(z: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = sigmoid_focal_loss(z, targets, alpha=-1, gamma=2.0, reduction="mean")
        return loss

    def train(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for _ in range(steps):
            loss(logits.clone().requires_grad_()).backward()  # type: ignore[no-untyped-call]

    first, second = _seconds(lambda: train(ours)) / steps, _seconds(lambda: train(library)) / steps
    difference = abs(float(ours(logits)) - float(library(logits)))
    _show("focal loss of 256 x 28, both ways", first, "sigmoid_focal_loss", second, difference)


if __name__ == "__main__":
    main(sys.argv[1:])
