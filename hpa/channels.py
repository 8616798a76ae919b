"""The four channels of a Human Protein Atlas image and what they stain."""

from typing import Final, Literal

Channel = Literal["red", "green", "blue", "yellow"]

STAINS: Final[dict[Channel, str]] = {
    "red": "microtubules",
    "green": "the protein",
    "blue": "nucleus",
    "yellow": "endoplasmic reticulum (ER)",
}
CHANNELS: Final[tuple[Channel, ...]] = ("red", "green", "blue", "yellow")
REFERENCE_CHANNELS: Final[tuple[Channel, ...]] = ("red", "blue", "yellow")
"""The channels that show the same structures whichever protein is stained."""
