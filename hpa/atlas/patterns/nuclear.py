"""Protein patterns in the nucleus. Each returns light (H, W), about 1 where bright."""

import numpy as np

from hpa.atlas.noise import Image, blur, octaves, smooth_noise
from hpa.atlas.scatter import dots, lights, scatter
from hpa.atlas.stains import Stained, discs


def nucleoplasm(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw the full nucleus, finely mottled and weaker in the nucleoli."""
    field, s = stained.field, stained.field.scale
    mottle = octaves(rng, field.shape, (8 * s, 4 * s, 2.2 * s), (0.6, 0.7, 0.5))
    spared = rng.uniform(0.2, 0.8)
    return np.asarray(
        0.7 * field.karyoplasm * np.exp(0.25 * mottle) * (1 - spared * stained.nucleoli), dtype=np.float32
    )


def nuclear_membrane(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a thin bright line around the nucleus, with a little light inside and folds across it."""
    field, s = stained.field, stained.field.scale
    outside = np.exp(-((field.off_nucleus_px / (1.2 * s)) ** 2)) * (field.owner > 0)
    inside = np.exp(-((field.rim_px / (1.7 * s)) ** 2))
    fold = np.exp(-((smooth_noise(rng, field.shape, 16 * s) / 0.06) ** 2)) * 0.35
    return np.asarray(
        np.where(field.nuclei > 0, inside + 0.16 + fold * (rng.random() < 0.4), 0.8 * outside), dtype=np.float32
    )


def nucleoli(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a few large bodies of irregular outline, with a faint nucleoplasm."""
    field, s = stained.field, stained.field.scale
    inner = np.exp(0.18 * smooth_noise(rng, field.shape, 2.5 * s))
    return np.asarray(stained.nucleoli * inner + rng.uniform(0.04, 0.25) * field.karyoplasm, dtype=np.float32)


def lobed_nucleoli(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw nucleoli as grainy clusters of small bodies of uneven brightness, over nucleoplasm and cytoplasm."""
    field, s = stained.field, stained.field.scale
    number = rng.poisson(rng.uniform(3, 7), len(stained.nucleolus_at)) + 1
    index = np.repeat(np.arange(len(number)), number)
    turn, far = rng.uniform(0, 2 * np.pi, len(index)), np.sqrt(rng.random(len(index))) * 1.1
    radius = stained.nucleolus_px[index]
    at = stained.nucleolus_at[index] + (far * radius)[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    size = radius * rng.uniform(0.25, 0.6, len(index))
    bodies = discs(field.shape, at.astype(np.float32), size.astype(np.float32), lights(rng, len(index), 0.35))
    grain = np.exp(0.3 * smooth_noise(rng, field.shape, 2 * s))
    light = blur(bodies * field.karyoplasm, rng.uniform(0.5, 1.0) * s) * grain
    around = rng.uniform(0.05, 0.4) * field.karyoplasm + rng.uniform(0, 0.25) * stained.body
    return np.asarray(light + around, dtype=np.float32)


def fibrillar_centre(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw several small spots inside each nucleolus."""
    field = stained.field
    at, _ = scatter(rng, field, stained.nucleoli, 11, growth=0.3)
    spots = dots(field, at, lights(rng, len(at)), rng.uniform(0.9, 1.4))
    return np.asarray(np.minimum(spots, 2) + (0.15 * stained.nucleoli + 0.10) * field.karyoplasm, dtype=np.float32)


def nuclear_speckles(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw twenty or more irregular patches of different sizes between the nucleoli."""
    field, s = stained.field, stained.field.scale
    patches = octaves(rng, field.shape, (6.0 * s, 3.0 * s), (0.9, 0.5))
    light = np.clip((patches - 0.55) * 1.6, 0, 1.6) * (1 - stained.nucleoli) * np.clip(field.rim_px / (3 * s), 0, 1)
    return np.asarray(light + rng.uniform(0.08, 0.3) * field.karyoplasm, dtype=np.float32)


def nuclear_bodies(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw two to twelve round spots outside the nucleoli."""
    field, s = stained.field, stained.field.scale
    room = field.karyoplasm * (1 - stained.nucleoli) * (field.rim_px > 2 * s)
    at, _ = scatter(rng, field, np.asarray(room, np.float32), float(rng.choice([3, 5, 9])), 0.5, 0.3)
    spots = dots(field, at, lights(rng, len(at)), rng.uniform(0.9, 1.6))
    return np.asarray(np.minimum(spots, 2) + rng.uniform(0.05, 0.25) * field.karyoplasm, dtype=np.float32)


def rods_and_rings(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw one to three short rods or small rings per cell, mostly in the cytoplasm."""
    field, s = stained.field, stained.field.scale
    at, _ = scatter(rng, field, field.cytoplasm * (0.1 + field.nearness) + 0.1 * field.karyoplasm, 1.8, 0.4, 0.3)
    along = np.linspace(-1, 1, 40)
    points = []
    for row, column in at:
        turn = rng.uniform(0, np.pi)
        if rng.random() < 0.6:
            length = rng.uniform(3.5, 9) * s
            line = length * along[:, None] * np.array([np.sin(turn), np.cos(turn)])
        else:
            line = (
                rng.uniform(2.2, 3.6)
                * s
                * np.stack([np.sin(np.pi * along), np.cos(np.pi * along) * rng.uniform(0.6, 1)], 1)
            )
        points.append(np.array([row, column]) + line)
    if not points:
        return np.zeros(field.shape, np.float32)
    flat = np.concatenate(points).astype(np.float32)
    return np.minimum(dots(field, flat, np.full(len(flat), 0.35, np.float32), 0.9), 2)
