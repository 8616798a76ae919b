"""Draw one field of view: the four channels, the cells, the nuclei and the classes of each cell."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.debris import scatter_debris
from hpa.atlas.geometry.cells import grow_field
from hpa.atlas.geometry.field import Field
from hpa.atlas.labels import draw_carriers, sample_shares
from hpa.atlas.noise import Image, blur, smooth_noise
from hpa.atlas.optics import AVERAGED, record
from hpa.atlas.patterns.catalogue import BRIDGE, PATTERNS, SPINDLE
from hpa.atlas.stains import Stained, stain
from hpa.atlas.styles import CELL_LINES, SHARES
from hpa.channels import CHANNELS, Channel
from hpa.errors import UserError
from hpa.vocabulary import HPA28

MIN_VISIBLE_NUCLEUS = 0.2
"""A cell is labelled if at least this share of its nucleus is in the frame, as the field's reference masks do."""


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


def draw_scene(
    seed: tuple[int, ...],
    *,
    size_px: int = 512,
    cell_line: int | None = None,
    target: tuple[int, ...] = (),
    shares: tuple[float, ...] | None = None,
    protein: bool = True,
    penetrance: float = 1.0,
) -> Scene:
    """Draw one field of view, a pure function of its arguments.

    Parameters
    ----------
    seed
        Seed; the same numbers give the same pixels.
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

    Raises
    ------
    UserError
        If an argument is outside its range.
    """
    _check(size_px, cell_line, target, shares)
    # one random stream per part, so that omitting the protein changes nothing else
    style, geometry, stains, proteins, camera = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)
    )
    line = CELL_LINES[
        int(style.choice(len(CELL_LINES), p=np.array(SHARES) / sum(SHARES))) if cell_line is None else cell_line
    ]
    field = grow_field(
        geometry, line, (size_px, size_px),
        dividing=0.14 if SPINDLE in target else 0.025, telophase=0.10 if BRIDGE in target else 0.012,
    )  # fmt: skip
    stained = stain(stains, field)
    shares = sample_shares(proteins, target, penetrance) if shares is None else shares
    carried = draw_carriers(proteins, field.population, target, shares)
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
            channels[position] = record(camera, field, light[channel], channel, focus, averaged=averaged)
    if protein:
        green = _protein(proteins, stained, carried)
        channels[CHANNELS.index("green")] = record(
            proteins, field, green, "green", focus, brightest=_bright_protein(green), averaged=averaged
        )
    cells, nuclei, kept = label_cells(field)
    targets = [tuple(int(label) for label in np.flatnonzero(carried[index])) for index in kept]
    return Scene(channels, cells, nuclei, targets)


def _check(size_px: int, cell_line: int | None, target: tuple[int, ...], shares: tuple[float, ...] | None) -> None:
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


def _protein(rng: np.random.Generator, stained: Stained, carried: NDArray[np.bool_]) -> Image:
    """Draw the green light: every pattern in the cells that carry it, over a faint background in every cell."""
    field = stained.field
    expression = rng.lognormal(0, 0.35, len(field.population))
    # unspecific binding: stronger where the cell is thick, variable in the nucleus
    thick = np.clip(field.edge_px / (9 * field.scale), 0, 1) * (
        0.4 + 0.6 * np.maximum(field.nearness, field.karyoplasm)
    )
    haze = np.exp(0.25 * smooth_noise(rng, field.shape, 6 * field.scale)) * field.of_cells(
        expression.astype(np.float32)
    )
    light = min(0.035 * rng.lognormal(0, 0.8), 0.13) * haze * thick * (1 + rng.uniform(-0.5, 0.9) * field.karyoplasm)
    for label in np.flatnonzero(carried.any(axis=0)):
        amount = np.where(carried[:, label], expression, 0).astype(np.float32)
        spread = cv2.dilate(field.of_cells(amount), np.ones((3, 3), np.uint8))
        light = light + PATTERNS[label](rng, stained) * spread * np.float32(rng.uniform(0.5, 1.2))
    return np.asarray(light, dtype=np.float32)


def _bright_protein(light: Image) -> float:
    """Return the light to expose for, so that sparse structures stay visible and a negative field stays dark."""
    return max(float(np.percentile(light[::2, ::2], 99.9)), 0.4) / 1.8


def label_cells(
    field: Field, min_visible: float = MIN_VISIBLE_NUCLEUS
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]:
    """Number the cells whose nucleus is in the frame.

    Parameters
    ----------
    field
        The cells.
    min_visible
        Least share of the nucleus in the frame.

    Returns
    -------
    tuple
        Label images of cells and nuclei, uint16 (H, W), with labels 1..n, and the population index of each of the n.
    """
    visible = np.bincount(field.nuclei.ravel(), minlength=len(field.population) + 1)
    visible[0] = 0
    whole = np.pi * np.concatenate([np.ones(1, np.float32), field.population.nucleus_px]) ** 2
    divides = np.concatenate([[False], field.population.stage > 0])
    kept = np.flatnonzero(visible >= np.maximum(min_visible * whole * np.where(divides, 0.4, 1), 40 * field.scale**2))
    number = np.zeros(len(visible), np.uint16)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[field.owner], number[field.nuclei], kept - 1
