"""The `[aggregate]` section of a recipe."""

from typing import Literal

from pydantic import Field

from hpa.config import Section


class AggregateSection(Section):
    """`[aggregate]`: from crop probabilities to labels."""

    pooling: Literal["max"] = Field("max", description="How an image's crops become its probabilities.")
    thresholds: Literal["per-class"] = Field("per-class", description="How thresholds are tuned on oof rows.")
    empty: str = Field(
        "argmax", description='What a row without a class gets: "argmax", "blank" or the name of a class.'
    )
