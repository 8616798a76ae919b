"""The four channels of a Human Protein Atlas image and what they stain."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

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


@dataclass(frozen=True)
class Mixture:
    """One plane made from one or several channels.

    Parameters
    ----------
    channels
        The channels, each once.
    rule
        ``"mean"`` of the gray levels, or ``"maximum"`` after each is normalised. Without effect on one channel.
    """

    channels: tuple[Channel, ...]
    rule: Literal["mean", "maximum"]


def parse_mixture(text: str) -> Mixture:
    """Parse an entry of a recipe's `channels`: a channel, or several joined by ``+`` (mean) or ``|`` (maximum).

    Raises
    ------
    ValueError
        If it has an unknown channel, a channel twice, or both signs.

    Examples
    --------
    >>> parse_mixture("yellow|red")
    Mixture(channels=('yellow', 'red'), rule='maximum')
    """
    rule: Literal["mean", "maximum"] = "maximum" if "|" in text else "mean"
    names = text.split("|" if rule == "maximum" else "+")
    if unknown := [name for name in names if name not in get_args(Channel)]:
        raise ValueError(
            f"expected channels of {', '.join(CHANNELS)}, or some joined by + or by |, found {unknown[0]!r}"
        )
    channels = tuple(channel for name in names for channel in CHANNELS if channel == name)
    if len(set(channels)) < len(channels):
        raise ValueError(f"expected every channel once, found {text!r}")
    return Mixture(channels, rule)
