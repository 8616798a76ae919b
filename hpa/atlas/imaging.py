"""How optics, camera and later editing of an image may differ from those of the ordinary atlas."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.styles import CELL_LINES, SHARES
from hpa.errors import UserError

Range = tuple[float, float]


@dataclass(frozen=True)
class Imaging:
    """How one channel of one image differs from the ordinary atlas.

    Parameters
    ----------
    blur_px
        Blur in addition to that of the optics, standard deviation in px of a frame of 512 px.
    photon
        Factor on the gray value of one photon: above 1 there is more noise.
    stray
        Share of the light that is spread widely, so that other cells shine into a cell.
    gain
        Factor on gray values; what exceeds 255 is clipped.
    black
        Gray value that becomes 0, so that what is darker is clipped.
    gamma
        Exponent of gray values between 0 and 1; above 1 what is dim becomes dimmer.
    unspecific
        Factor on the light of antibodies that bind anywhere; only the protein has it, like the two below.
    expression
        Sigma of the logarithm of the amount of protein in a cell: how much cells of one image differ.
    other_forms
        Whether patterns that real images show in more than one form are drawn in their second one.
    """

    blur_px: float = 0.0
    photon: float = 1.0
    stray: float = 0.0
    gain: float = 1.0
    black: float = 0.0
    gamma: float = 1.0
    unspecific: float = 1.0
    expression: float = 0.35
    other_forms: bool = False

    def edit(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Apply black level, gain and gamma to a plane of any shape (H, W)."""
        if (self.gain, self.black, self.gamma) == (1.0, 0.0, 1.0):
            return plane
        value = np.clip((np.arange(256) - self.black) * self.gain / 255, 0, 1) ** self.gamma
        return np.asarray(cv2.LUT(plane, np.rint(255 * value).astype(np.uint8)), dtype=np.uint8)


ORDINARY: Final = Imaging()


@dataclass(frozen=True)
class Style:
    """A set of images: the ranges in which their imaging lies, and their cell lines.

    Parameters
    ----------
    ordinary
        Share of images that are imaged as the ordinary atlas is.
    blur_px, stray, black, expression
        Ranges of `Imaging`, drawn uniformly.
    photon, gain, gamma, unspecific
        Ranges of `Imaging`, drawn uniformly on a logarithmic scale.
    other_forms
        Share of images whose patterns have their second form.
    lines
        Indices into `hpa.atlas.styles.CELL_LINES`.
    """

    ordinary: float
    blur_px: Range
    photon: Range
    stray: Range
    gain: Range
    black: Range
    gamma: Range
    unspecific: Range
    expression: Range
    other_forms: float
    lines: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> Imaging:
        """Draw the imaging of one channel."""
        blur, stray, black = (float(rng.uniform(*span)) for span in (self.blur_px, self.stray, self.black))
        photon, gain, gamma, unspecific = (
            float(np.exp(rng.uniform(*np.log(span)))) for span in (self.photon, self.gain, self.gamma, self.unspecific)
        )
        expression, other = float(rng.uniform(*self.expression)), bool(rng.random() < self.other_forms)
        drawn = Imaging(blur, photon, stray, gain, black, gamma, unspecific, expression, other)
        return ORDINARY if rng.random() < self.ordinary else drawn

    def line_shares(self) -> NDArray[np.float64]:
        """Return the share of images of each of `CELL_LINES`, float64 (17,)."""
        shares = np.array([share * (index in self.lines) for index, share in enumerate(SHARES)])
        return np.asarray(shares / shares.sum(), dtype=np.float64)


HELD_OUT_LINES: Final = tuple(
    index for index, line in enumerate(CELL_LINES) if line.name in ("HaCaT", "hTCEpi", "NIH 3T3", "BJ")
)
"""Cell lines that are not drawn for training, so that another style can have lines of its own."""

ATLAS: Final = Style(
    ordinary=1, blur_px=(0, 0), photon=(1, 1), stray=(0, 0), gain=(1, 1), black=(0, 0), gamma=(1, 1),
    unspecific=(1, 1), expression=(0.35, 0.35), other_forms=0, lines=tuple(range(len(CELL_LINES))),
)  # fmt: skip
"""The ordinary atlas, whose exposures are fitted to real images."""

VARIED: Final = Style(
    ordinary=0.35, blur_px=(0, 0.9), photon=(0.4, 2.0), stray=(0, 0.10), gain=(0.6, 1.6), black=(0, 6),
    gamma=(0.7, 1.4), unspecific=(0.5, 6), expression=(0.2, 1.0), other_forms=0.5,
    lines=tuple(index for index in range(len(CELL_LINES)) if index not in HELD_OUT_LINES),
)  # fmt: skip
"""Drawn for training: wider than the atlas in everything."""

OTHER: Final = Style(
    ordinary=0, blur_px=(1.0, 1.4), photon=(2.1, 2.6), stray=(0.12, 0.18), gain=(1.65, 1.9), black=(6.5, 9),
    gamma=(1.45, 1.6), unspecific=(6.5, 9), expression=(1.05, 1.3), other_forms=0, lines=HELD_OUT_LINES,
)  # fmt: skip
"""Outside of all ranges of `VARIED`, to test what training on them is worth elsewhere."""

STYLES: Final = {"atlas": ATLAS, "varied": VARIED, "other": OTHER}


def style_named(name: str) -> Style:
    """Return one of `STYLES`.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    if name not in STYLES:
        raise UserError(f"expected a style ({', '.join(STYLES)}), found {name!r}")
    return STYLES[name]
