"""The `[crops]` section of a recipe."""

from typing import Literal

from pydantic import Field

from hpa.config import Section


class CropsSection(Section):
    """`[crops]`: where windows are placed and what becomes of them."""

    window: Literal["cells"] = Field("cells", description="How crops are placed: one around each cell.")
    size_px: int = Field(128, ge=8, le=1024, description="Height and width of a crop, in crop pixels.")
    margin: float = Field(0.05, ge=0, le=2, description="Added on each side, as a share of the cell's longer side.")
    min_area: float = Field(
        0.02, ge=0, lt=1, description="Smaller cells are specks and dropped; a share of the image's median cell area."
    )
