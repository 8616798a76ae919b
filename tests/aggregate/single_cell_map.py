"""Independent implementation of the metric of Kaggle 2021: mean average precision over classes at mask IoU 0.6."""

import base64
import zlib
from collections.abc import Mapping

import numpy as np

Truth = Mapping[str, list[tuple[np.ndarray, set[int]]]]
"""Mask (H, W) and classes of every cell, keyed by image."""


def decode(packed: str, height: int, width: int) -> np.ndarray:
    """Return the mask (H, W) of a packed string, read number by number as the format of COCO describes it."""
    numbers: list[int] = []
    value = shift = 0
    for character in zlib.decompress(base64.b64decode(packed)):
        group = character - 48
        value |= (group & 0x1F) << shift  # five bits a character, the lowest first
        shift += 5
        if not group & 0x20:  # the last group of a number; its highest bit is the sign
            value -= (1 << shift) if group & 0x10 else 0
            numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
            value = shift = 0
    pixels = [place % 2 for place, length in enumerate(numbers) for _ in range(length)]
    assert len(pixels) == height * width
    return np.array(pixels, bool).reshape(width, height).T


def parse(text: str) -> list[tuple[int, float, str]]:
    """Return class, confidence and packed mask of every entry of a prediction string."""
    words = text.split()
    assert len(words) % 3 == 0
    return [(int(c), float(p), packed) for c, p, packed in zip(words[::3], words[1::3], words[2::3], strict=True)]


def mean_average_precision(strings: Mapping[str, str], truth: Truth, n_classes: int = 19) -> float:
    """Score prediction strings by greedy matching in order of confidence and the area under the precision envelope."""
    scores = []
    for c in range(n_classes):
        entries, masks = [], {}
        for image_id, cells in truth.items():
            masks[image_id] = [mask for mask, classes in cells if c in classes]
            height, width = cells[0][0].shape
            found = [
                (p, image_id, decode(packed, height, width)) for k, p, packed in parse(strings[image_id]) if k == c
            ]
            entries += found
        positives = sum(len(own) for own in masks.values())
        if positives:
            scores.append(_average_precision(sorted(entries, key=lambda e: -e[0]), masks, positives))
    return float(np.mean(scores))


def _average_precision(
    entries: list[tuple[float, str, np.ndarray]], masks: Mapping[str, list[np.ndarray]], positives: int
) -> float:
    taken: set[tuple[str, int]] = set()
    hits = np.zeros(len(entries))
    for place, (_, image_id, found) in enumerate(entries):
        overlap = [(found & mask).sum() / (found | mask).sum() for mask in masks[image_id]]
        if not overlap:
            continue
        best = int(np.argmax(overlap))
        if overlap[best] > 0.6 and (image_id, best) not in taken:
            taken.add((image_id, best))
            hits[place] = 1
    recall = np.cumsum(hits) / positives
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(np.append(0, recall)) * envelope).sum())
