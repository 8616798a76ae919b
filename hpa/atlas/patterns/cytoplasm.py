"""Protein patterns in the cytoplasm: membranes, vesicles, bodies. Each returns light (H, W), about 1 where bright."""

import numpy as np
from numpy.typing import NDArray

from hpa.atlas.filaments import grow
from hpa.atlas.geometry.field import Field
from hpa.atlas.noise import Image, blur, octaves, smooth_noise
from hpa.atlas.scatter import Points, dots, lights, scatter
from hpa.atlas.stains import Stained


def endoplasmic_reticulum(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw the ER like the yellow stain, dimmer above the nucleus."""
    own = (stained.field.cytoplasm + 0.7 * stained.field.karyoplasm) * np.exp(
        0.3 * smooth_noise(rng, stained.field.shape, 2.5 * stained.field.scale)
    )
    return np.asarray(np.minimum(stained.reticulum, 2.5) * own * 0.8, dtype=np.float32)


def golgi(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a ribbon of short thick pieces beside the nucleus, near the organising centre; sometimes dispersed."""
    field, s = stained.field, stained.field.scale
    near = _closeness(field, stained.centres, 9.0 if rng.random() < 0.75 else 18.0)
    at, cell = scatter(rng, field, near * field.cytoplasm * (field.off_nucleus_px < 12 * s), 26, 0.3)
    middle = field.population.nucleus[cell - 1]
    spoke = np.arctan2(at[:, 0] - middle[:, 0], at[:, 1] - middle[:, 1])
    heading = (spoke + np.pi / 2 + rng.normal(0, 0.6, len(at))).astype(np.float32)
    ribbon = grow(rng, field, at, heading, cell, steps=12, step_px=0.8 * s, bend=0.22, follow=0.15)
    light = ribbon.draw(lights(rng, len(cell)), field)
    return np.asarray(np.minimum(1.2 * blur(light, 0.9 * s), 2.5) + 0.03 * field.cytoplasm, dtype=np.float32)


def _closeness(field: Field, centres: Points, sigma_px: float) -> Image:
    """Return a Gaussian of `sigma_px` (at 512 px) that is 1 at each cell's own centre."""
    own = np.concatenate([np.zeros((1, 2), np.float32), centres])
    rows, columns = np.ogrid[: field.shape[0], : field.shape[1]]
    away = np.square(own[:, 0][field.owner] - rows.astype(np.float32))
    away += np.square(own[:, 1][field.owner] - columns.astype(np.float32))
    away *= np.float32(-1 / (2 * (sigma_px * field.scale) ** 2))
    return np.asarray(np.exp(away) * (field.owner > 0), dtype=np.float32)


def peroxisomes(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw many small even dots throughout the cytoplasm."""
    field = stained.field
    at, _ = scatter(rng, field, field.cytoplasm * (0.25 + field.nearness), 75)
    return dots(field, at, lights(rng, len(at), 0.3), 0.8) + 0.05 * field.cytoplasm


def endosomes(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw dots of different sizes, some near the edge and some around the organising centre."""
    field = stained.field
    where = field.cytoplasm * (0.25 + _closeness(field, stained.centres, 22))
    at, _ = scatter(rng, field, where, 38)
    large = rng.random(len(at)) < 0.3
    light = lights(rng, len(at), 0.5)
    image = dots(field, at[large], light[large], 1.5) + dots(field, at[~large], light[~large], 0.85)
    return image + 0.05 * field.cytoplasm


def lysosomes(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw larger bright dots, crowded around the nucleus."""
    field = stained.field
    at, _ = scatter(rng, field, field.cytoplasm * field.nearness**2.5, 32)
    light = lights(rng, len(at), 0.6)
    large = rng.random(len(at)) < 0.5
    image = dots(field, at[large], light[large], 1.7) + dots(field, at[~large], light[~large], 1.1)
    return image + 0.05 * field.cytoplasm


def lipid_droplets(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw clusters of round droplets that are bright at the surface."""
    field, s = stained.field, stained.field.scale
    patchy = np.exp(1.2 * smooth_noise(rng, field.shape, 18 * s))
    at, _ = scatter(rng, field, field.cytoplasm * (0.1 + field.nearness) * patchy.astype(np.float32), 24, 0.7)
    radius = rng.lognormal(np.log(1.9), 0.25, len(at)) * s
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    circle = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    ring = (at[:, None] + radius[:, None, None] * circle).reshape(-1, 2).astype(np.float32)
    light = np.repeat(lights(rng, len(at), 0.3), len(turn))
    return np.asarray(dots(field, ring, 0.22 * light, 0.65) + 0.05 * field.cytoplasm, dtype=np.float32)


def cytoplasmic_bodies(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a few distinct round bodies in the cytoplasm."""
    field = stained.field
    at, _ = scatter(rng, field, field.cytoplasm * (0.2 + field.nearness), 6, 0.5, 0.8)
    spots = np.minimum(dots(field, at, lights(rng, len(at), 0.4), rng.uniform(1.2, 1.8)), 2)
    return np.asarray(spots + 0.12 * field.cytoplasm, dtype=np.float32)


def aggresome(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw one dense lump next to the nucleus."""
    field, s = stained.field, stained.field.scale
    wobble = np.exp(0.5 * smooth_noise(rng, field.shape, 7 * s))
    lump = np.clip(3 * _closeness(field, stained.centres, float(rng.uniform(4.0, 6.5))) * wobble - 1.2, 0, 1)
    grain = np.exp(0.25 * smooth_noise(rng, field.shape, 2.5 * s))
    return np.asarray(lump * grain * (1 - 0.6 * field.karyoplasm) + 0.10 * field.cytoplasm, dtype=np.float32)


def mitochondria(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw short worm-like pieces, densest around the nucleus and sparser outwards."""
    field, s = stained.field, stained.field.scale
    at, cell = scatter(rng, field, field.cytoplasm * (0.04 + field.nearness ** rng.uniform(1, 2)), 95, 0.25)
    middle = field.population.nucleus[cell - 1]
    spoke = np.arctan2(at[:, 0] - middle[:, 0], at[:, 1] - middle[:, 1])
    heading = (spoke + rng.normal(0, 0.9, len(at))).astype(np.float32)
    length = int(rng.integers(6, 14))
    worms = grow(rng, field, at, heading, cell, steps=length, step_px=0.8 * s, bend=0.22)
    light = blur(worms.draw(lights(rng, len(cell)), field) * field.cytoplasm, 0.75 * s)
    return np.asarray(np.minimum(1.5 * light, 2.5) + 0.05 * field.cytoplasm, dtype=np.float32)


def cytosol(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw the cytoplasm, smooth or finely grained, fading towards the edge and weaker in the nucleus."""
    field, s = stained.field, stained.field.scale
    grain = octaves(rng, field.shape, (11 * s, 4.5 * s, 2.2 * s), (0.6, 0.6, 0.5))
    inside = rng.uniform(0.1, 0.6) * field.karyoplasm * (1 - 0.5 * stained.nucleoli)
    return np.asarray(0.8 * (stained.body + inside) * np.exp(0.25 * grain), dtype=np.float32)


def plasma_membrane(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a line along the edge with brighter stretches and folds, and the faint surface of the cell from above."""
    field, s = stained.field, stained.field.scale
    uneven = np.exp(0.55 * smooth_noise(rng, field.shape, 14 * s) + 0.35 * smooth_noise(rng, field.shape, 3 * s))
    line = np.exp(-(((field.edge_px - 1.0 * s) / (1.5 * s)) ** 2)) * (field.owner > 0)
    ruffles = np.exp(-((smooth_noise(rng, field.shape, 9 * s) / 0.10) ** 2)) * np.exp(-field.edge_px / (8 * s))
    surface = 0.16 * (field.owner > 0) * np.exp(0.4 * smooth_noise(rng, field.shape, 2.5 * s))
    return np.asarray((line + 0.4 * ruffles * (field.owner > 0)) * uneven + surface, dtype=np.float32)


def cell_junctions(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw broken lines where two cells touch."""
    field, s = stained.field, stained.field.scale
    touch = _touching(field.owner)
    line = blur(touch.astype(np.float32), 1.0 * s) * np.float32(2.0)
    broken = np.clip(0.75 + 0.8 * smooth_noise(rng, field.shape, 7 * s), 0.05, 2)
    return np.asarray(line * broken + 0.06 * (field.owner > 0), dtype=np.float32)


def _touching(owner: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which pixels are next to another cell."""
    touch = np.zeros(owner.shape, bool)
    down = (owner[:-1] != owner[1:]) & (owner[:-1] > 0) & (owner[1:] > 0)
    right = (owner[:, :-1] != owner[:, 1:]) & (owner[:, :-1] > 0) & (owner[:, 1:] > 0)
    touch[:-1] |= down
    touch[1:] |= down
    touch[:, :-1] |= right
    touch[:, 1:] |= right
    return touch
