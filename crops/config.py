"""The `[crops]` section of a recipe."""

from typing import Literal, Self

from pydantic import Field, model_validator

from hpa.config import Section

Window = Literal["cells", "full_frame", "five_crop", "random", "grid", "brightest"]
OutsideCell = Literal["keep", "dim", "zero"]
"""What a crop shows outside its own cell: the image, a quarter of its brightness, or black."""


class CropsSection(Section):
    """`[crops]`: where windows are placed and what becomes of them."""

    windows: tuple[Window, ...] = Field(
        ("cells",),
        min_length=1,
        description="How crops are placed, each kind in a store of its own: cells, one around each cell; full_frame,"
        " the whole image; five_crop, its four corners and its centre; random, anywhere; grid, n x n; brightest, where"
        " the protein channel is brightest.",
    )
    train_window: Window | Literal["same"] = Field(
        "same",
        description="The kind of crops to train on, if not the kind that is predicted: for example random with"
        " five_crop.",
    )
    size_px: int = Field(128, ge=8, le=1024, description="Height and width of a crop, in crop pixels.")
    scale: Literal["fit", "fixed"] = Field(
        "fit",
        description="Of cells: fit, each cell fills its crop; fixed, as many source pixels a crop pixel for all, so"
        " that organelles keep their size and a large cell is cut (column in_window).",
    )
    source_px: float = Field(1.5, gt=0, le=64, description="With scale fixed: source pixels per crop pixel.")
    margin: float = Field(
        0.05, ge=0, le=2, description="With scale fit: added on each side, as a share of the cell's longer side."
    )
    side: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Side of five_crop, random and brightest windows, as a share of the frame's shorter side.",
    )
    count: int = Field(
        5, ge=1, le=1000, description="Number of random windows per image, and the most brightest windows."
    )
    grid: int = Field(3, ge=1, le=100, description="Windows along the longer side of the frame with grid.")
    overlap: float = Field(
        0.25, ge=0, le=0.9, description="Share of a window's side that its neighbour covers too, with grid."
    )
    min_area: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Smaller cells are dropped as specks; a share of the image's median cell area.",
    )
    min_completeness: float = Field(
        0.0, ge=0, le=1, description="Cells at the border that are seen to a smaller share are dropped."
    )
    min_focus: float = Field(
        0.0, ge=0, description="Cells whose focus measure is smaller are dropped as out of focus; 0 keeps all."
    )
    drop: tuple[Literal["border", "no nucleus"], ...] = Field(
        (), description="Also dropped: border, cells that touch the frame's border; no nucleus, cells without one."
    )
    depth_16: Literal["full", "percentiles"] = Field(
        "full",
        description="How 16-bit images become 8-bit: from their full range, or from percentiles of each image and"
        " channel (columns black and white of the crop table).",
    )
    low_percentile: float = Field(0.1, ge=0, lt=50, description="With percentiles: what becomes 0.")
    high_percentile: float = Field(99.9, gt=50, le=100, description="With percentiles: what becomes 255.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.windows)) != len(self.windows):
            raise ValueError("no kind of window twice")
        return self

    @property
    def stores(self) -> tuple[Window, ...]:
        """The kinds of windows that are cut: those that are predicted and the one that is only trained on."""
        return tuple(dict.fromkeys((*self.windows, *self.trained)))

    @property
    def trained(self) -> tuple[Window, ...]:
        """The kinds of windows that are trained on."""
        return self.windows if self.train_window == "same" else (self.train_window,)

    @property
    def needs_masks(self) -> bool:
        """Whether any window follows cells; without one, nothing has to be segmented."""
        return "cells" in self.stores

    def trained_for(self, window: Window) -> Window:
        """Return the kind of window whose models predict `window`."""
        return window if self.train_window == "same" else self.train_window

    def of(self, window: Window) -> Self:
        """Return what decides the store of one kind of window; other kinds of the recipe do not make it stale."""
        return self.model_copy(update={"windows": (window,), "train_window": "same"})
