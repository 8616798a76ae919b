"""Protein patterns of the cytoskeleton and of dividing cells. Each returns light (H, W), about 1 where bright."""

import numpy as np

from hpa.atlas.filaments import grow
from hpa.atlas.geometry.field import TELOPHASE
from hpa.atlas.noise import Image, blur, smooth_noise, splat
from hpa.atlas.scatter import dots, lights, scatter
from hpa.atlas.stains import Stained, spindles


def intermediate_filaments(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a wavy net, densest and often coiled next to the nucleus, extending outwards in bundles."""
    field, s = stained.field, stained.field.scale
    at, cell = scatter(rng, field, field.cytoplasm * field.nearness**2, 130, 0.3)
    heading = rng.uniform(0, 2 * np.pi, len(at)).astype(np.float32)
    net = grow(rng, field, at, heading, cell, steps=55, step_px=0.9 * s, bend=0.16, follow=0.05)
    taper = np.linspace(1.2, 0.4, 55).astype(np.float32)
    light = net.draw(lights(rng, len(cell), 0.6), field, taper) * (1 - 0.75 * field.karyoplasm)
    return np.asarray(np.minimum(0.55 * blur(light, 0.6 * s), 2.5) + 0.04 * field.cytoplasm, dtype=np.float32)


def filament_cage(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw filaments packed around the nucleus, mostly on one side, in smooth bundles that run along the cell."""
    field, s, cells = stained.field, stained.field.scale, stained.field.population
    rows, columns = np.indices(field.shape, dtype=np.float32)
    middle = [field.of_cells(stained.centres[:, axis].astype(np.float32)) for axis in (0, 1)]
    far = np.hypot(rows - middle[0], columns - middle[1]) / np.maximum(field.of_cells(cells.nucleus_px), 1)
    packed = field.cytoplasm * np.exp(-field.off_nucleus_px / (rng.uniform(3, 14) * s)) * (0.05 + np.exp(-(far**2)))
    at, cell = scatter(rng, field, packed.astype(np.float32), rng.uniform(90, 220), 0.5)
    spoke = at - cells.nucleus[cell - 1]
    around = np.arctan2(spoke[:, 0], spoke[:, 1]) + np.pi / 2 * rng.choice([-1, 1], len(at))
    along = cells.angle[cell - 1] + np.pi * rng.integers(0, 2, len(at))
    heading = np.where(rng.random(len(at)) < rng.uniform(0.2, 0.7), around, along) + rng.normal(0, 0.25, len(at))
    flow = field.of_cells(cells.angle) + 0.5 * smooth_noise(rng, field.shape, 40 * s)
    net = grow(
        rng, field, at, heading.astype(np.float32), cell, steps=60, step_px=1.0 * s, bend=0.04,
        follow=float(rng.uniform(0, 0.5)), flow=flow.astype(np.float32), bundle=float(rng.uniform(0.02, 0.15)),
        lives=(60 * rng.beta(1.2, 2, len(at))).astype(np.int32),
    )  # fmt: skip
    fibres = net.draw(lights(rng, len(cell), 0.5), field) * (1 - 0.9 * field.karyoplasm)
    light = 0.35 * blur(fibres, 0.6 * s) + 0.15 * blur(fibres, 2.5 * s)
    return np.asarray(np.minimum(light, 3) + 0.04 * field.cytoplasm, dtype=np.float32)


def actin_filaments(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw straight parallel stress fibres across the cell and a line along its edge."""
    field, s = stained.field, stained.field.scale
    cells = field.population
    at, cell = scatter(rng, field, (field.owner > 0).astype(np.float32), 75, 0.3)
    angle = cells.angle[cell - 1] + rng.normal(0, 0.10, len(at)) + np.pi * rng.integers(0, 2, len(at))
    fibres = grow(rng, field, at, angle.astype(np.float32), cell, steps=60, step_px=1.0 * s, bend=0.006, margin_px=1.0)
    light = 0.6 * blur(fibres.draw(lights(rng, len(cell), 0.9), field), 0.6 * s)
    edge = np.exp(-(((field.edge_px - 1 * s) / (1.5 * s)) ** 2)) * (field.owner > 0)
    edge = rng.uniform(0.3, 0.8) * edge * np.exp(0.5 * smooth_noise(rng, field.shape, 14 * s))
    return np.asarray(np.minimum(light, 2) + edge + 0.12 * (field.owner > 0), dtype=np.float32)


def focal_adhesions(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw streaks of different lengths that point outwards, in groups near the edge, some smaller ones further in."""
    field, s = stained.field, stained.field.scale
    near_edge = np.exp(-(((field.edge_px - 5 * s) / (rng.uniform(3, 6) * s)) ** 2)) + rng.uniform(0.02, 0.12)
    groups = np.exp(rng.uniform(0.3, 1.0) * smooth_noise(rng, field.shape, 16 * s))
    at, cell = scatter(rng, field, (near_edge * groups * (field.owner > 0)).astype(np.float32), rng.uniform(25, 55))
    middle = field.population.nucleus[cell - 1]
    spoke = np.arctan2(at[:, 0] - middle[:, 0], at[:, 1] - middle[:, 1]) + rng.normal(0, 0.3, len(at))
    steps = int(rng.integers(8, 16))
    streaks = grow(
        rng, field, at, spoke.astype(np.float32), cell, steps=steps, step_px=0.7 * s, bend=0.03, margin_px=0.5,
        lives=rng.integers(2, steps + 1, len(at)).astype(np.int32),
    )  # fmt: skip
    light = 1.4 * blur(streaks.draw(lights(rng, len(cell), 0.6), field), 0.8 * s)
    haze = stained.body * rng.uniform(0.05, 0.2) + 0.05 * (field.owner > 0)
    return np.asarray(light + haze, dtype=np.float32)


def microtubules(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw the filaments of the red stain."""
    own = np.exp(0.2 * smooth_noise(rng, stained.field.shape, 3 * stained.field.scale))
    return np.asarray(np.minimum(stained.tubulin / 6, 2.5) * own, dtype=np.float32)


def microtubule_ends(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw comets at the ends of the filaments, brighter towards the edge."""
    field, s, filaments = stained.field, stained.field.scale, stained.filaments
    last = np.maximum(filaments.alive.sum(axis=0) - 1, 0)
    end = np.clip(filaments.ends().astype(int), 0, np.array(field.shape) - 1)
    shown = (rng.random(len(last)) < 0.6) & filaments.alive[0]
    light = lights(rng, len(last), 0.5) * shown * (1 - 0.8 * field.nearness[end[:, 0], end[:, 1]])
    comet = np.zeros(field.shape, np.float32)
    for back in range(6):
        step = np.maximum(last - back, 0)
        comet += splat(
            filaments.points[step, np.arange(len(last))], (light * (1 - back / 7)).astype(np.float32), field.shape
        )
    return np.asarray(2.2 * blur(comet, 0.7 * s) * s * s + 0.04 * stained.tubulin / 6, dtype=np.float32)


def cytokinetic_bridge(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a short bright bar between two sister cells, with a dark gap in the middle."""
    field, s, cells = stained.field, stained.field.scale, stained.field.population
    image = np.zeros(field.shape, np.float32)
    for index in np.flatnonzero((cells.stage == TELOPHASE) & (np.arange(len(cells)) < cells.sister)):
        other = cells.sister[index]
        apart = cells.centre[other] - cells.centre[index]
        middle = (cells.centre[other] + cells.centre[index]) / 2
        along = np.linspace(-1, 1, 60)
        along = along[np.abs(along) > 0.12]
        bend = rng.normal(0, 1.0) * s * (1 - along**2)
        unit = apart / (np.linalg.norm(apart) + 1e-6)
        bar = middle + 9 * s * along[:, None] * unit + bend[:, None] * np.array([unit[1], -unit[0]])
        image += splat(bar.astype(np.float32), np.full(len(bar), 0.35, np.float32), field.shape)
    return 5 * blur(image, 0.9 * s) * np.float32(s * s)


def mitotic_spindle(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw the spindle of dividing cells."""
    return spindles(rng, stained.field) + np.float32(0.05) * stained.field.cytoplasm


def organising_centre(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw a fuzzy spot next to the nucleus where filaments meet."""
    field = stained.field
    light = lights(rng, len(field.population))
    halo = dots(field, stained.centres, 0.35 * light, 4.0)
    return dots(field, stained.centres, light, 1.9) + halo * (field.owner > 0) + np.float32(0.05) * field.cytoplasm


def centrosome(rng: np.random.Generator, stained: Stained) -> Image:
    """Draw one or two tight dots next to the nucleus."""
    field, s = stained.field, stained.field.scale
    light = lights(rng, len(field.population))
    turn = rng.uniform(0, 2 * np.pi, len(light))
    apart = np.where(rng.random(len(light)) < 0.6, rng.uniform(2, 4, len(light)), 0) * s
    second = stained.centres + apart[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    pair = np.concatenate([stained.centres, second]).astype(np.float32)
    return dots(field, pair, np.tile(light, 2), 1.0) + np.float32(0.06) * (field.owner > 0).astype(np.float32)
