"""Plan a data set: antibody, well, cell line and label set of each image, and the near-duplicates."""

from collections import Counter
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from hpa.atlas.labels import label_sets
from hpa.atlas.scene import TRAINING_SEEDS
from hpa.atlas.styles import CELL_LINES, SHARES
from hpa.errors import UserError
from hpa.vocabulary import HPA28

Target = tuple[int, ...]

DUPLICATES = 0.03
"""Share of images that show the same field of view as another image."""

IMAGES_EACH = 6
"""Images per antibody, if the set is large enough for every class to occur."""

ANTIBODIES_WANTED = {"train": 44, "test": 34}
"""Target number of antibodies; the images per antibody are reduced to reach it."""

FLOOR = {"train": 2, "test": 1}
"""Minimum number of antibodies per class."""


@dataclass(frozen=True)
class PlannedImage:
    """One image to draw.

    Parameters
    ----------
    index
        Position in the plan; seed and index determine every pixel.
    image_id
        An id in the format of the competition.
    split
        ``train`` or ``test``.
    target
        The classes of the image.
    antibody, plate, well
        Names of the experiment, in the format of the real atlas.
    cell_line
        Index into `hpa.atlas.styles.CELL_LINES`.
    scene
        Index of the image whose field of view this one shows: its own or, for a near-duplicate, an earlier one.
    """

    index: int
    image_id: str
    split: str
    target: Target
    antibody: str
    plate: int
    well: str
    cell_line: int
    scene: int


def plan_images(images: int, test: int, seed: int, lines: NDArray[np.float64] | None = None) -> list[PlannedImage]:
    """Plan a training set of `images` images and a test set of `test` images with different antibodies.

    Parameters
    ----------
    images, test
        Number of training images (at least 1) and of test images (at least 0).
    seed
        Seed of all random draws, at least 0 and below `hpa.atlas.scene.TRAINING_SEEDS`.
    lines
        Share of images of each cell line, float64 (17,), three or more of them above 0; None takes those of the atlas.

    Raises
    ------
    UserError
        If there is no training image, or a number is outside its range.
    """
    if images < 1:
        raise UserError(f"expected at least 1 training image, found {images}")
    if test < 0:
        raise UserError(f"expected 0 or more test images, found {test}")
    if not 0 <= seed < TRAINING_SEEDS:
        raise UserError(f"expected a seed from 0 to {TRAINING_SEEDS - 1}, found {seed}")
    lines = np.array(SHARES) / sum(SHARES) if lines is None else lines
    planned: list[PlannedImage] = []
    first = 0
    for split, count in (("train", images), ("test", test)):
        if count == 0:
            continue
        each = int(np.clip(round(count / ANTIBODIES_WANTED[split]), 1, IMAGES_EACH))
        number = -(-count // each)
        sets = _draw_sets(np.random.default_rng([seed, 1, len(split)]), number, FLOOR[split])
        for own, target in enumerate(sets):
            size = count // number + (own < count % number)
            planned += _plan_antibody(seed, first + own, split, target, size, len(planned), lines)
        first += number
    return planned


def _plan_antibody(
    seed: int, number: int, split: str, target: Target, size: int, start: int, shares: NDArray[np.float64]
) -> list[PlannedImage]:
    """Plan the images of one antibody: one to three cell lines, each in its own well with a few fields of view."""
    rng = np.random.default_rng([seed, 2, number])
    lines = rng.choice(len(CELL_LINES), 3, replace=False, p=shares)
    wells = rng.choice(96, 4, replace=False)
    plate = int(rng.integers(1, 1900))
    planned: list[PlannedImage] = []
    for position in range(size):
        which = min(position // 2, 2)
        image = PlannedImage(
            start + position, image_id(seed, start + position), split, target, f"HPA{10_000 + 7 * number:06d}", plate,
            _well(int(wells[which])), int(lines[which]), start + position,
        )  # fmt: skip
        if position and rng.random() < DUPLICATES * size / (size - 1):
            # half of them under another antibody's name, so that only the pixels reveal them
            original = planned[int(rng.integers(len(planned)))]
            name = image.antibody if rng.random() < 0.5 else f"HPA{500_000 + image.index:06d}"
            well = _well(int(wells[3]))
            image = replace(image, antibody=name, well=well, cell_line=original.cell_line, scene=original.scene)
        planned.append(image)
    return planned


def _well(number: int) -> str:
    return f"{'ABCDEFGH'[number // 12]}{number % 12 + 1}"


def _draw_sets(rng: np.random.Generator, number: int, min_antibodies: int) -> list[Target]:
    """Draw label sets with their real frequencies, then replace some until each class has `min_antibodies` antibodies.

    If there are too few antibodies for that, label sets with most missing classes are preferred.
    """
    sets, images = label_sets()
    drawn = [sets[index] for index in rng.choice(len(sets), number, p=images / images.sum())]
    fixed: set[int] = set()
    for _ in range(min_antibodies * len(HPA28)):
        have = Counter(label for target in drawn for label in target)
        missing = {label for label in range(len(HPA28)) if have[label] < min_antibodies}
        if not missing:
            break
        spare = [
            place
            for place, target in enumerate(drawn)
            if place not in fixed and all(have[label] > min_antibodies for label in target)
        ] or [place for place in range(number) if place not in fixed]
        if not spare:
            break
        brings = np.array([len(missing & set(target)) for target in sets])
        crowded = len(missing) * 2 > len(spare)
        weight = np.sqrt(images) * np.where(brings > 0, 30.0 ** (brings - 1) if crowded else 1.0, 0)
        place = spare[int(rng.integers(len(spare)))]
        drawn[place] = sets[int(rng.choice(len(sets), p=weight / weight.sum()))]
        fixed.add(place)
    return drawn


def image_id(seed: int, index: int) -> str:
    """Return an id in the format of the competition, a function of seed and index."""
    return str(UUID(bytes=np.random.default_rng([seed, 3, index]).bytes(16), version=4))
