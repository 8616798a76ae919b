"""The `[segment]` section of a recipe."""

from typing import Literal

from pydantic import Field

from hpa.config import Section


class SegmentSection(Section):
    """`[segment]`: how cells and nuclei are found."""

    network: str = Field(
        "compact",
        min_length=1,
        description="`compact` (shipped), `cpsam_v2` (305 million parameters, a file of 1.2 GB that you provide), or "
        "the path of a file with weights of either kind.",
    )
    postprocess: Literal["nuclei", "cellpose"] = Field(
        "nuclei",
        description="How masks are made from the network's answer: `nuclei`, every nucleus is one cell and grows over "
        "the cell probability, following the flows; `cellpose`, Cellpose's own masks as they come.",
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
        0.5, gt=0, lt=1, description="Probability of being in a cell above which a pixel is part of one."
    )
    nucleus_threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability of being in a nucleus above which a pixel is part of one."
    )
    least_nucleus: float = Field(
        0.03, ge=0, lt=1, description="Smaller nuclei are dropped, as a share of a typical cell's area."
    )
    least_cell: float = Field(
        0.05, ge=0, lt=1, description="Smaller cells are dropped, as a share of a typical cell's area."
    )
    flow_error: float = Field(
        0.4,
        ge=0,
        description="With `cellpose`: masks whose flows differ more than this from the network's are dropped (mean "
        "squared difference of unit vectors); 0 keeps all.",
    )
    crowded: int = Field(60, ge=1, description="More cells than this in an image set the flag `crowded`.")
