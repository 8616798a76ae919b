"""Draw fields of view to train classifiers on: several proteins each, rare classes oftener, style varied."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from hpa.atlas.imaging import VARIED, Style
from hpa.atlas.labels import label_sets
from hpa.atlas.patterns.catalogue import BRIDGE, SPINDLE
from hpa.atlas.scene import TRAINING_SEEDS, Scene, draw_proteins
from hpa.errors import UserError
from hpa.vocabulary import HPA28

PROTEINS: Final = 5
"""Proteins on one field of view: more add little speed, and the same cells are seen more often."""

SIZES_PX: Final = (256, 320, 384, 512)
"""Sizes of a frame, which is always the same field of view; the images of the atlas have 512 px."""

BALANCED: Final = 0.65
"""Share of label sets drawn so that all classes are equally frequent; the others have their real frequency."""

DIVIDING_WEIGHT: Final = 3
"""Few cells can show a spindle or a bridge, so that images of these are drawn oftener by this factor."""

MAX_SEED: Final = 2**32 - 1

Target = tuple[int, ...]


@dataclass(frozen=True)
class TrainingScene:
    """One image to train on.

    Parameters
    ----------
    geometry
        Number of its field of view, which `PROTEINS` images share.
    protein
        Number of the protein on that field of view.
    target
        Classes of the image; those of each cell are in `scene`.
    scene
        Pixels, masks and the classes of each cell.
    """

    geometry: int
    protein: int
    target: Target
    scene: Scene


def draw_training_scenes(
    seed: int, part: int = 0, *, classes: Collection[int] = range(len(HPA28)), style: Style = VARIED
) -> Iterator[TrainingScene]:
    """Draw images without end, each a pure function of the seed, the part and its position.

    Parameters
    ----------
    seed
        Seed, 0 to `MAX_SEED`.
    part
        Number of an independent sequence, 0 to `MAX_SEED`.
    classes
        Classes to draw; label sets with others are left out.
    style
        Ranges of optics, camera and editing.

    Yields
    ------
    TrainingScene
        One image.

    Raises
    ------
    UserError
        If the seed or the part is out of its range, or there is no class.
    """
    for name, number in (("seed", seed), ("part", part)):
        if not 0 <= number <= MAX_SEED:
            raise UserError(f"expected a {name} between 0 and {MAX_SEED}, found {number}")
    unknown = [label for label in classes if not 0 <= label < len(HPA28)]
    if unknown or not classes:
        raise UserError(f"expected classes between 0 and {len(HPA28) - 1}, found {unknown or 'none'}")
    geometry = 0
    while True:
        rng = np.random.default_rng([TRAINING_SEEDS, seed, part, geometry, 1])
        targets = draw_targets(rng, PROTEINS, classes)
        size_px = int(rng.choice(SIZES_PX))
        key = (TRAINING_SEEDS, seed, part, geometry, 2)
        scenes = draw_proteins(key, targets, size_px=size_px, style=style, classes=classes)
        for protein, (target, scene) in enumerate(zip(targets, scenes, strict=True)):
            yield TrainingScene(geometry, protein, target, scene)
        geometry += 1


def draw_targets(rng: np.random.Generator, number: int, classes: Collection[int]) -> list[Target]:
    """Draw label sets: some with their real frequency, most so that every class is in as many.

    Parameters
    ----------
    rng
        Random number generator.
    number
        How many.
    classes
        Only label sets of these classes.
    """
    sets, images = label_sets()
    classes = sorted(set(classes))
    allowed = np.array([set(target) <= set(classes) for target in sets])
    real = images * allowed
    drawn: list[Target] = []
    for _ in range(number):
        weight = real
        if rng.random() < BALANCED or not real.any():
            chance = np.array([DIVIDING_WEIGHT if label in (BRIDGE, SPINDLE) else 1.0 for label in classes])
            label = int(rng.choice(classes, p=chance / chance.sum()))
            weight = real * np.array([label in target for target in sets])
            if not weight.any():
                drawn.append((label,))
                continue
        drawn.append(sets[int(rng.choice(len(sets), p=weight / weight.sum()))])
    return drawn
