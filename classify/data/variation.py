"""Augmentation of the drawn crops of a pretraining, batch by batch.

A pretraining sees millions of crops with a small network, where albumentations (`classify.data.augmentation`, for the
recipe's ``augment``) would take a fifth of the time: here the random numbers of a batch are drawn at once and crops are
changed in place, four times as fast.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from classify.augment_steps import Preset

_HOLES: Final = 4  # at most, with the preset strong
_NODES: Final = 5  # along each side of the grid whose random shifts bend a crop
_GREY: Final = np.arange(256, dtype=np.float32) / 255
_NORMAL: Final = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
"""Noise is a random stretch of these: to draw it anew would take longer than all else."""


@dataclass(frozen=True)
class _Changes:
    """What a preset changes; `*_share` is the share of crops that a change is made to.

    Parameters
    ----------
    scale, shift
        Zoom from .. to, and largest shift as a fraction of the side, of turned crops.
    gain
        Factor of each channel, from .. to.
    offset
        Largest change of brightness, of 255.
    gamma
        Exponent of each channel, from .. to.
    blur
        Passes of a 3 x 3 binomial filter, at most.
    noise
        Standard deviation, of 255, from .. to.
    elastic
        Largest shift of a node of the bending grid, as a fraction of the side.
    """

    affine_share: float
    scale: tuple[float, float]
    shift: float
    gain_share: float
    gain: tuple[float, float]
    offset_share: float
    offset: float
    gamma_share: float
    gamma: tuple[float, float]
    blur_share: float
    blur: int
    noise_share: float
    noise: tuple[float, float]
    elastic_share: float = 0.0
    elastic: float = 0.0
    hole_share: float = 0.0


_STANDARD: Final = _Changes(
    affine_share=0.5, scale=(0.85, 1.15), shift=0.06,
    gain_share=0.7, gain=(0.7, 1.4), offset_share=0.3, offset=0.05, gamma_share=0.3, gamma=(0.8, 1.25),
    blur_share=0.1, blur=1, noise_share=0.1, noise=(0.01, 0.03),
)  # fmt: skip
_STRONG: Final = _Changes(
    affine_share=0.7, scale=(0.75, 1.3), shift=0.1,
    gain_share=0.8, gain=(0.5, 1.7), offset_share=0.5, offset=0.1, gamma_share=0.5, gamma=(0.6, 1.7),
    blur_share=0.2, blur=3, noise_share=0.2, noise=(0.01, 0.05), elastic_share=0.2, elastic=0.06, hole_share=0.3,
)  # fmt: skip
_PRESETS: Final[dict[Preset, _Changes]] = {"standard": _STANDARD, "strong": _STRONG}


def vary(pixels: NDArray[np.uint8], draws: NDArray[np.float64], preset: Preset) -> NDArray[np.uint8]:
    """Make the changes of a preset but its dihedral views.

    Parameters
    ----------
    pixels
        Shape (N, C, S, S), uint8, C-contiguous; changed in place.
    draws
        Uniform random numbers of each crop, shape (N, at least 92); see `classify.data.seeds.row_uniforms`.
    preset
        ``"standard"`` or ``"strong"``.

    Returns
    -------
    ndarray
        `pixels`.
    """
    changes = _PRESETS[preset]
    numbers = _Numbers(draws, 1)  # the first is that of turn
    channels = pixels.shape[1]
    _move(pixels, numbers, changes)
    if changes.elastic_share:
        _bend(pixels, numbers, changes)
    gains = np.where(numbers.chosen(changes.gain_share)[:, None], numbers.between(changes.gain, channels), 1)
    gammas = np.where(numbers.chosen(changes.gamma_share)[:, None], numbers.between(changes.gamma, channels), 1)
    offsets = np.where(
        numbers.chosen(changes.offset_share)[:, None], numbers.between((-changes.offset, changes.offset), 1), 0
    )
    _map_greys(pixels, gains, gammas, offsets)
    blurred, passes = numbers.chosen(changes.blur_share), np.ceil(changes.blur * numbers.between((0, 1), 1)[:, 0])
    for row in np.flatnonzero(blurred).tolist():
        for plane in pixels[row]:
            for _ in range(int(passes[row])):
                cv2.GaussianBlur(plane, (3, 3), 0, dst=plane)
    noisy = numbers.chosen(changes.noise_share)
    deviations, places = 255 * numbers.between(changes.noise, 1)[:, 0], numbers.between((0, 1), 1)[:, 0]
    for row in np.flatnonzero(noisy).tolist():
        _add_noise(pixels[row], float(deviations[row]), float(places[row]))
    if changes.hole_share:
        _cut_holes(pixels, numbers, changes)
    return pixels


class _Numbers:
    """The random numbers of a batch, taken one column after another.

    Parameters
    ----------
    draws
        Shape (N, 96).
    start
        First column.
    """

    def __init__(self, draws: NDArray[np.float64], start: int) -> None:
        self._draws = draws
        self._next = start

    def chosen(self, share: float) -> NDArray[np.bool_]:
        """Return the crops that a change is made to, shape (N,)."""
        chosen: NDArray[np.bool_] = self.between((0, 1), 1)[:, 0] < share
        return chosen

    def between(self, limits: tuple[float, float], n: int) -> NDArray[np.float64]:
        """Return n numbers per crop within limits, shape (N, n)."""
        taken = self._draws[:, self._next : self._next + n]
        assert taken.shape[1] == n, "more numbers than were drawn"
        self._next += n
        return limits[0] + (limits[1] - limits[0]) * taken


def turn(pixels: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return one of the eight dihedral views of each crop."""
    views = (draws[:, 0] * 8).astype(int)
    turned = np.empty_like(pixels)
    for view in range(8):
        rows = views == view
        some = np.rot90(pixels[rows], view % 4, axes=(2, 3))
        turned[rows] = some[..., ::-1] if view >= 4 else some
    return turned


def _move(pixels: NDArray[np.uint8], numbers: _Numbers, changes: _Changes) -> None:
    """Turn by up to 45 degrees, zoom and shift in place."""
    chosen, height, width = numbers.chosen(changes.affine_share), *pixels.shape[2:]
    angles, zooms = numbers.between((-45, 45), 1)[:, 0], numbers.between(changes.scale, 1)[:, 0]
    shifts = numbers.between((-changes.shift, changes.shift), 2) * (width, height)
    centre = ((width - 1) / 2, (height - 1) / 2)
    for row in np.flatnonzero(chosen).tolist():
        matrix = cv2.getRotationMatrix2D(centre, angles[row], zooms[row])
        matrix[:, 2] += shifts[row]
        for plane in pixels[row]:
            plane[...] = cv2.warpAffine(plane, matrix, (width, height), flags=cv2.INTER_LINEAR)


def _bend(pixels: NDArray[np.uint8], numbers: _Numbers, changes: _Changes) -> None:
    """Bend in place, by random shifts of a few nodes."""
    chosen, height, width = numbers.chosen(changes.elastic_share), *pixels.shape[2:]
    phases = numbers.between((0, 2 * np.pi), 2)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    waves = np.arange(2 * _NODES**2)
    for row in np.flatnonzero(chosen).tolist():
        # All shifts are functions of two numbers of the crop; drawing each would take 50.
        shifts = np.sin(phases[row, 0] * (1 + waves) + phases[row, 1] * (1 + waves**2 / 7))
        nodes = (changes.elastic * shifts).astype(np.float32).reshape(2, _NODES, _NODES)
        across = xs + width * cv2.resize(nodes[0], (width, height), interpolation=cv2.INTER_CUBIC)
        down = ys + height * cv2.resize(nodes[1], (width, height), interpolation=cv2.INTER_CUBIC)
        for plane in pixels[row]:
            plane[...] = cv2.remap(plane, across, down, cv2.INTER_LINEAR)


def _map_greys(
    pixels: NDArray[np.uint8],
    gains: NDArray[np.float64],
    gammas: NDArray[np.float64],
    offsets: NDArray[np.float64],
) -> None:
    """Replace grey value v by 255 (gain (v / 255)^gamma + offset) in place; gains and gammas are per channel."""
    changed = (gains != 1) | (gammas != 1) | (offsets != 0)
    rows, channels = np.nonzero(changed)
    powers = _GREY ** gammas[rows, channels, None].astype(np.float32)
    mapped = gains[rows, channels, None].astype(np.float32) * powers + offsets[rows].astype(np.float32)
    tables = np.rint(np.clip(255 * mapped, 0, 255)).astype(np.uint8)
    for row, channel, table in zip(rows.tolist(), channels.tolist(), tables, strict=True):
        plane = pixels[row, channel]
        cv2.LUT(plane, table, dst=plane)


def _add_noise(crop: NDArray[np.uint8], deviation: float, place: float) -> None:
    start = int(place * (len(_NORMAL) - crop.size)) if crop.size < len(_NORMAL) else 0
    noise = np.resize(_NORMAL[start : start + crop.size], crop.shape)
    crop[...] = np.clip(np.rint(crop + np.float32(deviation) * noise), 0, 255)


def _cut_holes(pixels: NDArray[np.uint8], numbers: _Numbers, changes: _Changes) -> None:
    """Blacken one to four blocks, each of a tenth to a quarter of the side, in place."""
    chosen, side = numbers.chosen(changes.hole_share), pixels.shape[2]
    counts = 1 + (_HOLES * numbers.between((0, 1), 1)[:, 0]).astype(int)
    sides = np.maximum(1, (numbers.between((0.1, 0.25), 2 * _HOLES) * side).astype(int)).reshape(-1, _HOLES, 2)
    corners = (numbers.between((0, 1), 2 * _HOLES).reshape(-1, _HOLES, 2) * (side - sides + 1)).astype(int)
    for row in np.flatnonzero(chosen).tolist():
        for (top, left), (high, wide) in zip(corners[row, : counts[row]], sides[row, : counts[row]], strict=True):
            pixels[row, :, top : top + high, left : left + wide] = 0
