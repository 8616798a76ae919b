"""Draw one field of view: the four channels, the cells, the nuclei and the classes of each cell."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.debris import scatter_debris
from hpa.atlas.geometry.cells import grow_field
from hpa.atlas.geometry.field import Field
from hpa.atlas.imaging import ATLAS, Imaging, Style
from hpa.atlas.labels import draw_carriers, sample_shares
from hpa.atlas.noise import Image, blur, octaves, smooth_noise
from hpa.atlas.optics import AVERAGED, record
from hpa.atlas.patterns.catalogue import BRIDGE, OTHER_FORMS, PATTERNS, SPINDLE
from hpa.atlas.stains import Stained, stain
from hpa.atlas.styles import CELL_LINES
from hpa.channels import CHANNELS, Channel
from hpa.errors import UserError
from hpa.vocabulary import HPA28

MIN_VISIBLE_NUCLEUS = 0.2
"""A cell is labelled if at least this share of its nucleus is in the frame, as the field's reference masks do."""

TRAINING_SEEDS: Final = 2**31
"""First number of the seeds of what is drawn to train classifiers. All other seeds begin with smaller numbers, so that
no image of the demo, a test or a bench can be one that a network was trained on."""


@dataclass(frozen=True)
class Scene:
    """One synthetic field of view with its ground truth.

    Parameters
    ----------
    channels
        uint8 (4, H, W), in the order of `hpa.channels.CHANNELS`.
    cells
        Label image of the cells, 0 background, 1..n, uint16 (H, W).
    nuclei
        Label image of the nuclei; a nucleus carries the label of its cell, uint16 (H, W).
    targets
        Classes of the cells 1, 2, ..., n; empty for a negative cell.
    """

    channels: NDArray[np.uint8]
    cells: NDArray[np.uint16]
    nuclei: NDArray[np.uint16]
    targets: list[tuple[int, ...]]


@dataclass(frozen=True)
class _View:
    """A field of view without protein, which the images of several proteins may share.

    `channels` has a black green one; `kept` is the population index of each labelled cell.
    """

    stained: Stained
    focus: Image
    averaged: bool
    channels: NDArray[np.uint8]
    cells: NDArray[np.uint16]
    nuclei: NDArray[np.uint16]
    kept: NDArray[np.int64]


def draw_scene(
    seed: tuple[int, ...],
    *,
    size_px: int = 512,
    cell_line: int | None = None,
    target: tuple[int, ...] = (),
    shares: tuple[float, ...] | None = None,
    protein: bool = True,
    penetrance: float = 1.0,
    style: Style = ATLAS,
) -> Scene:
    """Draw one field of view, a pure function of its arguments.

    Parameters
    ----------
    seed
        Seed; the same numbers give the same pixels. The first is below `TRAINING_SEEDS`.
    size_px
        Height and width. The field of view does not depend on the size, as if one image were resized.
    cell_line
        Index into `hpa.atlas.styles.CELL_LINES`; None draws one with the frequencies of the real atlas.
    target
        Classes of the image, 0..27.
    shares
        Share of cells that carry each class of `target`; None draws realistic shares.
    protein
        False leaves the green channel black, which is faster.
    penetrance
        Factor on the mean share of cells that carry a class, if shares are drawn.
    style
        Ranges of optics, camera and editing.

    Raises
    ------
    UserError
        If an argument is outside its range.
    """
    _check(seed, size_px, cell_line, target, shares)
    # one random stream per part, so that omitting the protein changes nothing else
    choices, geometry, stains, proteins, camera = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)
    )
    line = _draw_line(choices, style) if cell_line is None else cell_line
    imaging = {channel: style.draw(choices) for channel in CHANNELS}
    view = _view(geometry, stains, camera, line, size_px, target, imaging)
    shares = sample_shares(proteins, target, penetrance) if shares is None else shares
    carried = draw_carriers(proteins, view.stained.field.population, target, shares)
    return _scene(proteins, view, carried, imaging, protein=protein)


def draw_proteins(
    seed: tuple[int, ...],
    targets: Sequence[tuple[int, ...]],
    *,
    size_px: int = 512,
    style: Style = ATLAS,
    classes: Collection[int] = range(len(HPA28)),
) -> Iterator[Scene]:
    """Draw several proteins on one field of view, which is much faster than a field of view for each.

    The cells and their reference stains are drawn and photographed once. Proteins differ in their carriers, and in
    gain, black level and gamma of all channels.

    Parameters
    ----------
    seed
        Seed; the first number is at least `TRAINING_SEEDS`.
    targets
        Classes of each protein.
    size_px
        Height and width.
    style
        Ranges of optics, camera and editing.
    classes
        Classes that a cell may show although the image does not have them.

    Yields
    ------
    Scene
        One per protein, with the same cells.

    Raises
    ------
    UserError
        If the seed is below `TRAINING_SEEDS`.
    """
    if not seed or seed[0] < TRAINING_SEEDS:
        raise UserError(f"expected a seed of training, from {TRAINING_SEEDS}, found {seed}")
    choices, geometry, stains, camera, *proteins = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4 + len(targets))
    )
    # an image of fewer pixels has the noise of a large one that was reduced
    finer = size_px / 512
    line = _draw_line(choices, style)
    optics = {channel: _with_photons(style.draw(choices), finer) for channel in CHANNELS}
    asked = tuple(label for target in targets for label in target)
    view = _view(geometry, stains, camera, line, size_px, asked, optics, edit=False)
    for rng, target in zip(proteins, targets, strict=True):
        imaging = {channel: style.draw(rng) for channel in CHANNELS}
        imaging["green"] = _with_photons(imaging["green"], finer)
        shares = sample_shares(rng, target)
        carried = draw_carriers(rng, view.stained.field.population, target, shares, classes)
        scene = _scene(rng, view, carried, imaging, protein=True)
        for position, channel in enumerate(CHANNELS):
            if channel != "green":
                scene.channels[position] = imaging[channel].edit(scene.channels[position])
        yield scene


def _with_photons(imaging: Imaging, factor: float) -> Imaging:
    return replace(imaging, photon=imaging.photon * factor)


def _draw_line(rng: np.random.Generator, style: Style) -> int:
    return int(rng.choice(len(CELL_LINES), p=style.line_shares()))


def _view(
    geometry: np.random.Generator,
    stains: np.random.Generator,
    camera: np.random.Generator,
    line: int,
    size_px: int,
    labels: tuple[int, ...],
    imaging: Mapping[Channel, Imaging],
    *,
    edit: bool = True,
) -> _View:
    """Draw the cells, fit to show the classes `labels`, and photograph their reference stains."""
    field = grow_field(
        geometry, CELL_LINES[line], (size_px, size_px),
        dividing=0.14 if SPINDLE in labels else 0.025, telophase=0.10 if BRIDGE in labels else 0.012,
    )  # fmt: skip
    stained = stain(stains, field)
    focus = _focus(camera, field)
    debris = scatter_debris(camera, field)
    light: dict[Channel, Image] = {
        "red": stained.tubulin + 6 * debris.cytoplasm,
        "blue": stained.dna + debris.dna,
        "yellow": stained.reticulum + debris.cytoplasm,
    }
    averaged = bool(camera.random() < AVERAGED)
    channels = np.zeros((len(CHANNELS), size_px, size_px), np.uint8)
    for position, channel in enumerate(CHANNELS):
        if channel in light:
            plane = record(camera, field, light[channel], channel, focus, averaged=averaged, imaging=imaging[channel])
            channels[position] = imaging[channel].edit(plane) if edit else plane
    cells, nuclei, kept = label_cells(field)
    return _View(stained, focus, averaged, channels, cells, nuclei, kept)


def _scene(
    rng: np.random.Generator,
    view: _View,
    carried: NDArray[np.bool_],
    imaging: Mapping[Channel, Imaging],
    *,
    protein: bool,
) -> Scene:
    """Add the protein that each cell carries, bool (N, 28), to a field of view."""
    channels = view.channels.copy()
    if protein:
        green = _protein(rng, view.stained, carried, imaging["green"])
        plane = record(
            rng, view.stained.field, green, "green", view.focus,
            brightest=_bright_protein(green), averaged=view.averaged, imaging=imaging["green"],
        )  # fmt: skip
        channels[CHANNELS.index("green")] = imaging["green"].edit(plane)
    targets = [tuple(int(label) for label in np.flatnonzero(carried[index])) for index in view.kept]
    return Scene(channels, view.cells, view.nuclei, targets)


def _check(
    seed: tuple[int, ...],
    size_px: int,
    cell_line: int | None,
    target: tuple[int, ...],
    shares: tuple[float, ...] | None,
) -> None:
    if seed and seed[0] >= TRAINING_SEEDS:
        raise UserError(f"expected a seed below {TRAINING_SEEDS}, where those of training begin, found {seed[0]}")
    if size_px < 64:
        raise UserError(f"expected a size of at least 64 px, found {size_px}")
    if cell_line is not None and not 0 <= cell_line < len(CELL_LINES):
        raise UserError(f"expected a cell line 0..{len(CELL_LINES) - 1}, found {cell_line}")
    if not all(0 <= label < len(HPA28) for label in target):
        raise UserError(f"expected labels 0..{len(HPA28) - 1}, found {target}")
    if shares is not None and len(shares) != len(target):
        raise UserError(f"expected a share for each of {len(target)} labels, found {len(shares)}")
    if shares is not None and not all(0 <= share <= 1 for share in shares):
        raise UserError(f"expected shares between 0 and 1, found {shares}")


def _focus(rng: np.random.Generator, field: Field) -> Image:
    """Draw the defocus of each cell and region, 0 to 1."""
    cells = field.population
    away = np.where(rng.random(len(cells)) < 0.07, rng.uniform(0.3, 1, len(cells)), rng.beta(1, 12, len(cells)))
    tilt = np.clip(smooth_noise(rng, field.shape, 300 * field.scale) - 1.2, 0, 1) * 0.5
    return blur(
        np.asarray(np.clip(field.of_cells(away.astype(np.float32)) + tilt, 0, 1), dtype=np.float32), 3 * field.scale
    )


def _protein(rng: np.random.Generator, stained: Stained, carried: NDArray[np.bool_], imaging: Imaging) -> Image:
    """Draw the green light: every pattern in the cells that carry it, over a faint background in every cell."""
    field = stained.field
    expression = rng.lognormal(0, imaging.expression, len(field.population))
    # unspecific binding: stronger where the cell is thick, variable in the nucleus
    thick = np.clip(field.edge_px / (9 * field.scale), 0, 1) * (
        0.4 + 0.6 * np.maximum(field.nearness, field.karyoplasm)
    )
    haze = np.exp(0.25 * smooth_noise(rng, field.shape, 6 * field.scale)) * field.of_cells(
        expression.astype(np.float32)
    )
    share = imaging.unspecific * min(0.035 * rng.lognormal(0, 0.8), 0.13)
    light = share * haze * thick * (1 + rng.uniform(-0.5, 0.9) * field.karyoplasm)
    for label in np.flatnonzero(carried.any(axis=0)):
        amount = np.where(carried[:, label], expression, 0).astype(np.float32)
        spread = cv2.dilate(field.of_cells(amount), np.ones((3, 3), np.uint8))
        pattern = OTHER_FORMS.get(int(label), PATTERNS[label]) if imaging.other_forms else PATTERNS[label]
        light = light + pattern(rng, stained) * spread * np.float32(rng.uniform(0.5, 1.2))
    # proteins are labelled in clumps of antibodies, so that every pattern is grainy at a few pixels
    grain = octaves(rng, field.shape, (5 * field.scale, 2.5 * field.scale), (0.3, 1.0))
    return np.asarray(light * np.exp(rng.uniform(0, 0.8) * grain), dtype=np.float32)


def _bright_protein(light: Image) -> float:
    """Return the light to expose for, so that sparse structures stay visible and a negative field stays dark."""
    return max(float(np.percentile(light[::2, ::2], 99.9)), 0.4) / 1.8


def label_cells(field: Field) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]:
    """Number the cells that have at least `MIN_VISIBLE_NUCLEUS` of their nucleus in the frame.

    Parameters
    ----------
    field
        The cells.

    Returns
    -------
    tuple
        Label images of cells and nuclei, uint16 (H, W), with labels 1..n, and the population index of each of the n.
    """
    visible = np.bincount(field.nuclei.ravel(), minlength=len(field.population) + 1)
    visible[0] = 0
    whole = np.pi * np.concatenate([np.ones(1, np.float32), field.population.nucleus_px]) ** 2
    divides = np.concatenate([[False], field.population.stage > 0])
    least = np.maximum(MIN_VISIBLE_NUCLEUS * whole * np.where(divides, 0.4, 1), 40 * field.scale**2)
    kept = np.flatnonzero(visible >= least)
    number = np.zeros(len(visible), np.uint16)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[field.owner], number[field.nuclei], kept - 1
