"""The `[segment]` section of a recipe."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from hpa.channels import REFERENCE_CHANNELS, Channel
from hpa.config import Section


class SegmentSection(Section):
    """`[segment]`: how cells and nuclei are found."""

    renamed: ClassVar[Mapping[str, str]] = {
        "least_nucleus": "min_nucleus_area",
        "least_cell": "min_cell_area",
        "cut_nucleus": "min_visible_nucleus",
    }

    network: str = Field(
        "compact",
        min_length=1,
        description="`compact` (shipped), a model of Cellpose 4 (`cpsam_v2`, `cpsam`, `cpdino`, `cpdino-vitb`; 1.2 GB, "
        "fetched at first use), or the path of a file with weights of either kind.",
    )
    channels: tuple[Channel, ...] = Field(
        ("yellow", "blue"),
        description="What the network reads: the nucleus and the ER, the microtubules (`red`) or both. Data without "
        "an ER channel are segmented on nucleus and microtubules.",
    )
    postprocess: Literal["auto", "nuclei", "cellpose"] = Field(
        "auto",
        description="How masks are made from the network's answer: `nuclei`, every nucleus is one cell and grows over "
        "the cell probability, following the flows; `cellpose`, Cellpose's own masks as they come; `auto`, `nuclei` "
        "with compact networks, which find nuclei too, and `cellpose` with the others.",
    )
    diameter_px: float = Field(
        0.0,
        ge=0,
        le=4096,
        allow_inf_nan=False,
        description="Equivalent diameter of a typical cell in pixels of the source; 0 finds it from "
        "a sample of the data.",
    )
    cell_threshold: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability of being in a cell above which a pixel is part of one; 0 takes 0.6 with `nuclei`, and "
        "0.5, which is Cellpose's own, with `cellpose`.",
    )
    nucleus_threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability of being in a nucleus above which a pixel is part of one."
    )
    min_nucleus_area: float = Field(
        0.015, ge=0, lt=1, description="Smaller nuclei are dropped, as a share of a typical cell's area."
    )
    min_visible_nucleus: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="With `nuclei`: cells at the edge of the frame are dropped where it shows less of their nucleus "
        "than this share of a whole one.",
    )
    min_cell_area: float = Field(
        0.05, ge=0, lt=1, description="Smaller cells are dropped, as a share of a typical cell's area."
    )
    flow_error: float = Field(
        0.4,
        ge=0,
        description="With `cellpose`: masks whose flows differ more than this from the network's are dropped (mean "
        "squared difference of unit vectors); 0 keeps all.",
    )
    crowded: int = Field(60, ge=1, description="More cells than this in an image set the flag `crowded`.")

    @field_validator("channels")
    @classmethod
    def _readable(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        allowed = set(channels) <= set(REFERENCE_CHANNELS) and len(set(channels)) == len(channels)
        if not allowed or "blue" not in channels or len(channels) < 2:
            raise ValueError("expected blue with yellow, red or both")
        return channels
