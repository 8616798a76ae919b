import csv
from pathlib import Path

import numpy as np
import pytest

from hpa.errors import UserError
from hpa.vocabulary import HPA28


@pytest.mark.real_data("kaggle2018")
def test_classes_match_the_competition(real_data: Path) -> None:
    with (real_data / "kaggle2018" / "class_counts.csv").open() as file:
        names = {int(row["class"]): row["name"] for row in csv.DictReader(file)}
    assert tuple(names[i] for i in range(28)) == HPA28.classes


def test_parse_sorts_and_format_inverts() -> None:
    assert HPA28.parse("16 0") == (0, 16)
    assert HPA28.parse(" 7  1 2\t0 ") == (0, 1, 2, 7)
    assert HPA28.parse("8|5|0", "|") == (0, 5, 8)
    assert HPA28.parse("") == HPA28.parse("", "|") == ()
    assert HPA28.format((16, 0)) == "0 16"
    assert HPA28.format((5, 0), "|") == "0|5"


@pytest.mark.parametrize("text", ["28", "-1", "a", "1.0", "0 99", "٣", "1,2"])
def test_parse_rejects_invalid_labels(text: str) -> None:
    with pytest.raises(UserError, match=r"expected labels 0\.\.27, found"):
        HPA28.parse(text)


def test_multi_hot_matches_a_loop() -> None:
    targets = [(0, 27), (), (3,)]
    expected = np.zeros((3, 28), dtype=bool)
    for row, target in enumerate(targets):
        for c in target:
            expected[row, c] = True
    np.testing.assert_array_equal(HPA28.multi_hot(targets), expected)
    assert HPA28.multi_hot([]).shape == (0, 28)


def test_index_by_name() -> None:
    assert HPA28.index("Rods & rings") == 27
    with pytest.raises(UserError, match="found 'Rods and rings'"):
        HPA28.index("Rods and rings")
