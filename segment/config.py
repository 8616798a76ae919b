"""The `[segment]` section of a recipe."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from hpa.channels import REFERENCE_CHANNELS, parse_mixture
from hpa.config import Section, number_as_text

Precision = Annotated[Literal["auto", "32", "bf16"], BeforeValidator(number_as_text)]


class SegmentSection(Section):
    """`[segment]`: how cells and nuclei are segmented."""

    renamed: ClassVar[Mapping[str, str]] = {
        "least_nucleus": "min_nucleus_area",
        "least_cell": "min_cell_area",
        "cut_nucleus": "min_visible_nucleus",
    }

    network: str = Field(
        "compact",
        min_length=1,
        description="`compact` (shipped), a Cellpose 4 model (`cpsam_v2`, `cpsam`, `cpdino`, `cpdino-vitb`; 1.2 GB, "
        "downloaded on first use), or the path of a weights file of either kind.",
    )
    channels: tuple[str, ...] = Field(
        ("yellow", "blue"),
        description="Channels that the network reads: `blue` (nucleus) with `yellow` (ER), `red` (microtubules), both, "
        "or one plane made from both: `yellow|red` is the maximum after each is normalised, `yellow+red` the mean. "
        "Data without an ER channel are segmented on nucleus and microtubules.",
    )
    postprocess: Literal["auto", "nuclei", "cellpose"] = Field(
        "auto",
        description="How masks are made from the network output. `nuclei`: each nucleus grows into one cell, guided "
        "by cell probability and flows. `cellpose`: Cellpose's own masks, unchanged. `auto`: `nuclei` with compact "
        "networks, which also detect nuclei, and `cellpose` with all others.",
    )
    diameter_px: float = Field(
        0.0,
        ge=0,
        le=4096,
        allow_inf_nan=False,
        description="Equivalent diameter of a typical cell in source pixels; 0 estimates it from a sample of the "
        "data, and again for each image whose cells differ from those.",
    )
    cell_threshold: float = Field(
        0.5, gt=0, lt=1, description="Cell probability above which a pixel belongs to a cell."
    )
    nucleus_threshold: float = Field(
        0.5, gt=0, lt=1, description="Nucleus probability above which a pixel belongs to a nucleus."
    )
    min_nucleus_area: float = Field(
        0.015, ge=0, lt=1, description="Minimum area of a nucleus, as a share of a typical cell's area."
    )
    min_visible_nucleus: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="With `nuclei`: cells whose nucleus is cut off by the edge of the frame are dropped if less of it "
        "is visible than this share of a typical nucleus.",
    )
    min_cell_area: float = Field(
        0.05, ge=0, lt=1, description="Minimum area of a cell, as a share of a typical cell's area."
    )
    flow_error: float = Field(
        0.4,
        ge=0,
        description="With `cellpose`: masks whose flows differ by more than this from the network's are dropped (mean "
        "squared difference of unit vectors); 0 keeps all.",
    )
    precision: Precision = Field(
        "auto",
        description="Arithmetic of the network: float32; bfloat16, twice as fast on processors with instructions for "
        "it, and many times slower on others; or auto, bfloat16 where there are such instructions. Masks differ by "
        "a few pixels, rarely by a cell.",
    )
    crowded: int = Field(60, ge=1, description="An image with more cells than this is flagged as `crowded`.")

    @field_validator("channels")
    @classmethod
    def _check_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        read = [channel for entry in channels for channel in parse_mixture(entry).channels]
        allowed = set(read) <= set(REFERENCE_CHANNELS) and len(set(read)) == len(read)
        if not allowed or "blue" not in channels or len(channels) < 2:
            raise ValueError(
                f"expected blue with yellow, red, both or their mixture, found {', '.join(channels) or 'none'}"
            )
        return channels
