"""The `[crops]` section of a recipe."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hpa.config import Section

Window = Literal["cells", "full_frame", "five_crop", "random", "grid", "brightest"]
"""How crops are placed on an image."""

OutsideCell = Literal["keep", "dim", "zero"]
"""What happens to the pixels outside a crop's own cell: kept, dimmed to a quarter, or set to zero."""


class CropsSection(Section):
    """`[crops]`: where windows are placed, and how crops are cut from them."""

    windows: tuple[Window, ...] = Field(
        ("cells",),
        min_length=1,
        description="How crops are placed; each kind of window gets its own store. cells: one around each cell;"
        " full_frame: the whole image; five_crop: its four corners and its centre; random: at random positions;"
        " grid: a regular grid; brightest: where the protein channel is brightest.",
    )
    train_window: Window | Literal["same"] = Field(
        "same",
        description="The window to train on if it differs from the windows to predict on, for example random with"
        " five_crop.",
    )
    size_px: int = Field(128, ge=8, le=4096, description="Height and width of a crop, in crop pixels.")
    window_px: dict[Window, Annotated[int, Field(ge=8, le=4096)]] = Field(
        {},
        description="Height and width of the crops of single kinds of windows, where they differ from size_px, such as"
        " {full_frame = 1536}.",
    )
    scale: Literal["fit", "fixed"] = Field(
        "fit",
        description="How cells are scaled. fit: each cell fills its crop; fixed: the same number of source pixels per"
        " crop pixel for all cells, so that organelles keep their size and large cells are cut off (column in_window).",
    )
    source_px: float = Field(1.5, gt=0, le=64, description="Source pixels per crop pixel, with scale fixed.")
    margin: float = Field(
        0.05,
        ge=0,
        le=2,
        description="Margin on each side of a cell, as a fraction of the longer side of its bounding box, with scale"
        " fit.",
    )
    side: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Side of five_crop, random and brightest windows, as a fraction of the frame's shorter side.",
    )
    count: int = Field(
        5, ge=1, le=1000, description="Number of random windows per image, and maximum number of brightest windows."
    )
    grid: int = Field(3, ge=1, le=100, description="Number of grid windows along the longer side of the frame.")
    overlap: float = Field(
        0.25,
        ge=0,
        le=0.9,
        description="Minimum overlap of adjacent grid windows, as a fraction of their side.",
    )
    min_area: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Cells smaller than this fraction of the image's median cell area are dropped as specks.",
    )
    min_completeness: float = Field(
        0.0, ge=0, le=1, description="Cells at the border are dropped if less than this fraction of them is visible."
    )
    min_focus: float = Field(
        0.0, ge=0, description="Cells with a lower focus measure are dropped as out of focus; 0 keeps all."
    )
    drop: tuple[Literal["border", "no nucleus"], ...] = Field(
        (),
        description="Also dropped. border: cells that touch the border of the frame; no nucleus: cells without a"
        " nucleus.",
    )
    depth_16: Literal["full", "percentiles"] = Field(
        "full",
        description="How 16-bit images are converted to 8 bits: from their full range, or from percentiles of each"
        " image and channel (columns black and white of the crop table).",
    )
    low_percentile: float = Field(0.1, ge=0, lt=50, description="The percentile that becomes 0, with percentiles.")
    high_percentile: float = Field(
        99.9, gt=50, le=100, description="The percentile that becomes 255, with percentiles."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.windows)) != len(self.windows):
            raise ValueError("windows must not repeat")
        if unused := self.window_px.keys() - set(self.stores):
            raise ValueError(f"window_px: expected windows that the recipe cuts, found {min(unused)}")
        return self

    @property
    def stores(self) -> tuple[Window, ...]:
        """The windows that get a store: those to predict on, and the one that is only trained on."""
        return tuple(dict.fromkeys((*self.windows, *self.train_windows)))

    @property
    def train_windows(self) -> tuple[Window, ...]:
        """The windows to train on."""
        return self.windows if self.train_window == "same" else (self.train_window,)

    @property
    def needs_masks(self) -> bool:
        """Whether any window follows cells; otherwise images need not be segmented."""
        return "cells" in self.stores

    def train_window_for(self, window: Window) -> Window:
        """Return the window whose models predict on `window`."""
        return window if self.train_window == "same" else self.train_window

    def size_px_of(self, window: Window) -> int:
        """Return the height and width of the crops of a window."""
        return self.window_px.get(window, self.size_px)

    def of(self, window: Window) -> Self:
        """Return the settings that affect the store of one window; other windows of the recipe do not make it stale."""
        own = {"windows": (window,), "train_window": "same", "size_px": self.size_px_of(window), "window_px": {}}
        return self.model_copy(update=own)
