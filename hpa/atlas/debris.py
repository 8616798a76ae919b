"""Debris: specks and lumps of dirt, fragments of dead cells, and blebs at the edges of living ones."""

from dataclasses import dataclass

import numpy as np

from hpa.atlas.geometry.field import Field
from hpa.atlas.noise import Image, smooth_noise
from hpa.atlas.scatter import dots, lights


@dataclass(frozen=True)
class Debris:
    """Light outside of cells, relative to the brightest structures, float32 (H, W) each."""

    dna: Image
    cytoplasm: Image


def scatter_debris(rng: np.random.Generator, field: Field) -> Debris:
    """Draw specks anywhere, occasional heaps of fragments, and blebs just outside some cells."""
    s, (height, width) = field.scale, field.shape
    dna, cytoplasm = np.zeros(field.shape, np.float32), np.zeros(field.shape, np.float32)
    specks = rng.uniform(0, 1, (rng.poisson(rng.choice([1, 4, 14])), 2)) * (height, width)
    cytoplasm += dots(field, specks.astype(np.float32), 0.8 * lights(rng, len(specks), 0.7), 0.8)
    for _ in range(rng.poisson(0.5)):
        heap = rng.uniform(0, 1, 2) * (height, width) + rng.normal(0, 6 * s, (int(rng.integers(3, 14)), 2))
        light = lights(rng, len(heap), 0.6)
        rough = np.exp(0.5 * smooth_noise(rng, field.shape, 4 * s))
        cytoplasm += 0.8 * dots(field, heap.astype(np.float32), light, 2.2) * rough
        dna += float(rng.choice([0, 1.2])) * dots(field, heap.astype(np.float32), light, 1.6) * rough
    cells = field.population
    for index in np.flatnonzero(rng.random(len(cells)) < rng.choice([0, 0.06, 0.2])):
        rows, columns = np.nonzero((field.owner == index + 1) & (field.edge_px < 1.5))
        if len(rows) == 0:
            continue
        pick = rng.integers(len(rows), size=int(rng.integers(2, 7)))
        at = np.stack([rows[pick], columns[pick]], axis=1) + rng.normal(0, 2 * s, (len(pick), 2))
        cytoplasm += dots(field, at.astype(np.float32), 0.45 * lights(rng, len(at)), float(rng.uniform(1.2, 2.2)))
    return Debris(dna, cytoplasm)
