"""The three reference stains: DNA (blue), microtubules (red) and endoplasmic reticulum (yellow)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.filaments import Filaments, microtubules, organising_centres
from hpa.atlas.geometry.field import ANAPHASE, METAPHASE, PROMETAPHASE, Field
from hpa.atlas.noise import Image, blur, octaves, smooth_noise, splat


@dataclass(frozen=True)
class Stained:
    """A field of view with its organelles, before optics: light per pixel, about 1 where a structure is bright.

    Parameters
    ----------
    field
        The cells.
    nucleoli
        1 inside a nucleolus, float32 (H, W).
    nucleolus_at, nucleolus_px
        Centre of each nucleolus, float32 (M, 2), and its radius, float32 (M,).
    centres
        Organising centre of each cell, float32 (N, 2).
    filaments
        The microtubules.
    body
        Thickness of the cytoplasm, which all that fills it shares: about 1 beside the nucleus, less in flat parts,
        0 outside of cells, float32 (H, W).
    dna, tubulin, reticulum
        Light of the three stains, float32 (H, W).
    """

    field: Field
    nucleoli: Image
    nucleolus_at: NDArray[np.float32]
    nucleolus_px: NDArray[np.float32]
    centres: NDArray[np.float32]
    filaments: Filaments
    body: Image
    dna: Image
    tubulin: Image
    reticulum: Image


def stain(rng: np.random.Generator, field: Field) -> Stained:
    """Draw the organelles that the three reference stains show."""
    nucleoli, at, radius = _nucleoli(rng, field)
    centres = organising_centres(rng, field)
    filaments = microtubules(rng, field, centres)
    body = thickness(rng, field)
    return Stained(
        field, nucleoli, at, radius, centres, filaments, body,
        _dna(rng, field, nucleoli),
        _tubulin(rng, field, filaments, body),
        _reticulum(rng, field, body, nucleoli),
    )  # fmt: skip


def thickness(rng: np.random.Generator, field: Field) -> Image:
    """Draw how thick the cytoplasm is: a steep or wide ramp at the outline, then even or rising to the nucleus."""
    s, cells = field.scale, field.population
    ramp = rng.choice([0.6, 1.8, 4.8], p=[0.35, 0.4, 0.25]) * s * rng.lognormal(0, 0.45, len(cells))
    flat = np.clip(rng.uniform(0.4, 1.0) + rng.normal(0, 0.15, len(cells)), 0.08, 1)
    even = field.of_cells(flat.astype(np.float32))
    light = 1 - np.exp(-field.edge_px / np.maximum(field.of_cells(ramp.astype(np.float32)), 0.5))
    light *= even + (1 - even) * field.nearness ** float(rng.uniform(0.8, 2))
    light *= np.exp(rng.uniform(0.1, 0.4) * octaves(rng, field.shape, (26 * s, 13 * s), (0.8, 0.6)))
    return np.asarray(light * field.cytoplasm, dtype=np.float32)


def discs(
    shape: tuple[int, int], at: NDArray[np.float32], radius_px: NDArray[np.float32], light: NDArray[np.float32]
) -> Image:
    """Draw filled discs at sub-pixel positions, later discs over earlier ones.

    Parameters
    ----------
    shape
        Height and width in px.
    at
        Rows and columns in px, shape (K, 2).
    radius_px, light
        Radius in px and brightness, shape (K,) each.
    """
    image = np.zeros(shape, np.float32)
    for (row, column), radius, value in zip(at, radius_px, light, strict=True):
        place = (round(float(column) * 16), round(float(row) * 16))
        cv2.circle(image, place, max(round(float(radius) * 16), 4), float(value), -1, cv2.LINE_8, 4)
    return image


def _nucleoli(rng: np.random.Generator, field: Field) -> tuple[Image, NDArray[np.float32], NDArray[np.float32]]:
    cells = field.population
    number = np.where(cells.stage == 0, rng.poisson(field.line.nucleoli * rng.lognormal(0, 0.3), len(cells)), 0)
    index = np.repeat(np.arange(len(cells)), number)
    turn, far = rng.uniform(0, 2 * np.pi, len(index)), np.sqrt(rng.random(len(index))) * 0.62
    at = cells.nucleus[index] + (far * cells.nucleus_px[index])[:, None] * np.stack([np.sin(turn), np.cos(turn)], 1)
    radius = cells.nucleus_px[index] * rng.lognormal(np.log(rng.uniform(0.13, 0.22)), 0.35, len(index))
    image = discs(field.shape, at.astype(np.float32), radius.astype(np.float32), np.ones(len(index), np.float32))
    warp = 1.2 * field.scale
    image = blur(image * field.karyoplasm, warp)
    image = np.clip((image - 0.45 + 0.15 * smooth_noise(rng, field.shape, 4 * field.scale) * (image > 0.05)) * 4, 0, 1)
    return image.astype(np.float32), at.astype(np.float32), radius.astype(np.float32)


def _dna(rng: np.random.Generator, field: Field, nucleoli: Image) -> Image:
    """Draw mottled chromatin with dark nucleoli, folds and a denser rim, and condensed chromosomes in mitosis."""
    s, cells = field.scale, field.population
    mottle = octaves(rng, field.shape, (13 * s, 5.5 * s, 2.6 * s), (0.7, 0.9, 0.7))
    light = np.exp(rng.uniform(0.2, 0.55) * mottle) * (1 - rng.uniform(0.3, 0.95) * blur(nucleoli, 0.7 * s))
    if rng.random() < 0.3 + field.line.nucleus_lobes:
        fold = smooth_noise(rng, field.shape, 24 * s)
        light *= 1 - rng.uniform(0.2, 0.6) * np.exp(-np.square(fold / 0.05)) * (
            smooth_noise(rng, field.shape, 30 * s) > 0
        )
    rim = np.exp(-(((field.rim_px - 2.2 * s) / (1.2 * s)) ** 2))
    light *= 1 - 0.25 * np.exp(-field.rim_px / (1.3 * s)) + rng.uniform(0, 0.3) * rim
    if field.line.chromocentres:
        number = rng.poisson(field.line.chromocentres, len(cells))
        index = np.repeat(np.arange(len(cells)), number)
        turn, far = rng.uniform(0, 2 * np.pi, len(index)), np.sqrt(rng.random(len(index))) * 0.85
        at = cells.nucleus[index] + (far * cells.nucleus_px[index])[:, None] * np.stack([np.sin(turn), np.cos(turn)], 1)
        spots = splat(at.astype(np.float32), rng.uniform(0.5, 1.5, len(index)).astype(np.float32), field.shape)
        light += 22 * s * s * blur(spots, 1.6 * s)
    condensed = (cells.stage >= PROMETAPHASE) & (cells.stage <= ANAPHASE)
    amount = rng.lognormal(0, 0.22, len(cells)) * np.where(condensed, 1.9, 1.0)
    clump = np.where(cells.stage == PROMETAPHASE, 1.0, 0.0).astype(np.float32)
    light *= np.exp(0.9 * field.of_cells(clump) * smooth_noise(rng, field.shape, 5 * s))
    return np.asarray(light * field.karyoplasm * field.of_cells(amount.astype(np.float32)), dtype=np.float32)


def _tubulin(rng: np.random.Generator, field: Field, filaments: Filaments, body: Image) -> Image:
    """Draw filaments with a haze between them, denser in bundles, weaker above the nucleus, and spindles in mitosis."""
    s, cells, line = field.scale, field.population, field.line
    weights = rng.lognormal(-0.2, 1.0, len(filaments.cell)).astype(np.float32)
    light = filaments.draw(1.25 * weights, field)
    haze = (0.25 + 0.75 * body) * field.cytoplasm * np.exp(0.3 * smooth_noise(rng, field.shape, 7 * s))
    light = light + 2.2 * line.haze * rng.lognormal(0, 0.6) * haze
    patches = np.exp(rng.uniform(0, 0.2) * octaves(rng, field.shape, (30 * s, 13 * s), (0.7, 0.7)))
    light = light * patches * (0.35 + rng.uniform(0.3, 1.1) * body + 0.2 * field.karyoplasm)
    covered = field.of_cells(np.clip(rng.beta(1, 9, len(cells)), 0.05, 0.7).astype(np.float32))
    light = light * (1 - (1 - covered) * np.clip(field.rim_px / (4 * s), 0, 1))
    amount = rng.lognormal(0, 0.18, len(cells))
    light = light * field.of_cells(amount.astype(np.float32)) + 3 * spindles(rng, field)
    return np.asarray(light, dtype=np.float32)


def spindles(rng: np.random.Generator, field: Field) -> Image:
    """Draw the spindle of each cell in mitosis: fibres between two poles that meet the plate in the middle."""
    cells, s = field.population, field.scale
    image = np.zeros(field.shape, np.float32)
    dividing = (cells.stage >= METAPHASE) & (cells.stage <= ANAPHASE)
    for index in np.flatnonzero(dividing):
        axis = np.array([np.sin(cells.angle[index]), np.cos(cells.angle[index])])
        side = np.array([axis[1], -axis[0]])
        size = float(cells.nucleus_px[index])
        along = np.linspace(-1, 1, 60)
        bulge = rng.uniform(-0.85, 0.85, 40)[:, None] * np.sqrt(1 - along**2 + 1e-3)
        fibres = cells.centre[index] + 0.95 * size * (along[None, :, None] * axis + bulge[:, :, None] * side)
        image += splat(
            fibres.reshape(-1, 2).astype(np.float32),
            np.full(fibres.shape[0] * 60, 0.08 * s * s, np.float32),
            field.shape,
        )
        poles = (cells.centre[index] + 0.95 * size * np.stack([axis, -axis])).astype(np.float32)
        image += 6 * s * s * blur(splat(poles, np.ones(2, np.float32), field.shape), 1.5 * s)
    return blur(image, 0.7 * s) * field.of_cells(dividing.astype(np.float32))


def _reticulum(rng: np.random.Generator, field: Field, body: Image, nucleoli: Image) -> Image:
    """Draw the ER: granular with small holes, from around the nucleus to the edge or part of the way, dim above it."""
    s, cells, line = field.scale, field.population, field.line
    grain = octaves(rng, field.shape, (16 * s, 6 * s, 2.4 * s), (0.15, 0.6, 0.9))
    reach = np.clip(line.er_reach * rng.uniform(0.7, 1.6) * rng.lognormal(0, 0.12, len(cells)), 0.15, 1.3)
    far = field.of_cells(reach.astype(np.float32))
    near = np.exp(-field.off_nucleus_px / (rng.uniform(2, 9) * s))
    fade = np.clip(field.nearness / np.maximum(1.3 - far, 0.02), 0, 1)
    light = body * (0.06 + fade) + rng.uniform(0.05, 0.4) * near * field.cytoplasm
    holes = np.clip(smooth_noise(rng, field.shape, 5 * s) - 0.9, 0, 1) * (1 - field.nearness)
    light = light * np.exp(rng.uniform(0.4, 1.05) * line.er_grain * grain) * np.exp(-rng.uniform(0, 4) * holes)
    above = rng.uniform(0.03, 0.28) * rng.lognormal(0, 0.25, len(cells))
    above = field.of_cells(above.astype(np.float32)) * (1 + rng.uniform(-0.3, 0.3) * nucleoli)
    light = light + above * field.karyoplasm * np.exp(0.2 * grain)
    amount = rng.lognormal(0, 0.2, len(cells)) * np.where(cells.stage > 0, 1.2, 1.0)
    return np.asarray(light * field.of_cells(amount.astype(np.float32)), dtype=np.float32)
