"""Entries of a recipe's `channels`."""

import pytest

from hpa.channels import Mixture, parse_mixture


def test_entries_are_channels_means_and_maxima() -> None:
    assert parse_mixture("green").channels == ("green",)
    assert parse_mixture("red+yellow") == Mixture(("red", "yellow"), "mean")
    assert parse_mixture("yellow|red") == Mixture(("yellow", "red"), "maximum")


@pytest.mark.parametrize("text", ["", "purple", "red+", "red|yellow+blue", "red + yellow", "red|red"])
def test_other_entries_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, found '.*'$"):
        parse_mixture(text)
