import csv
from pathlib import Path

import numpy as np
import pytest

from hpa.errors import UserError
from hpa.vocabulary import HPA19, HPA28, JOVIAN10, Vocabulary


@pytest.mark.real_data("kaggle2018")
def test_classes_match_the_competition(real_data: Path) -> None:
    with (real_data / "kaggle2018" / "class_counts.csv").open() as file:
        names = {int(row["class"]): row["name"] for row in csv.DictReader(file)}
    assert tuple(names[i] for i in range(28)) == HPA28.classes


KAGGLE_2018 = """0 Nucleoplasm. 1 Nuclear membrane. 2 Nucleoli. 3 Nucleoli fibrillar center. 4 Nuclear speckles.
5 Nuclear
bodies. 6 Endoplasmic reticulum. 7 Golgi apparatus. 8 Peroxisomes. 9 Endosomes. 10 Lysosomes. 11 Intermediate filaments.
12 Actin filaments. 13 Focal adhesion sites. 14 Microtubules. 15 Microtubule ends. 16 Cytokinetic bridge. 17 Mitotic
spindle. 18 Microtubule organizing center. 19 Centrosome. 20 Lipid droplets. 21 Plasma membrane. 22 Cell junctions.
23 Mitochondria. 24 Aggresome. 25 Cytosol. 26 Cytoplasmic bodies. 27 Rods & rings."""
KAGGLE_2021 = """0 Nucleoplasm. 1 Nuclear membrane. 2 Nucleoli. 3 Nucleoli fibrillar center. 4 Nuclear speckles.
5 Nuclear
bodies. 6 Endoplasmic reticulum. 7 Golgi apparatus. 8 Intermediate filaments. 9 Actin filaments. 10 Microtubules.
11 Mitotic spindle. 12 Centrosome. 13 Plasma membrane. 14 Mitochondria. 15 Aggresome. 16 Cytosol.
17 Vesicles and punctate
cytosolic patterns. 18 Negative."""
JOVIAN = """0 Mitochondria. 1 Nuclear bodies. 2 Nucleoli. 3 Golgi apparatus. 4 Nucleoplasm. 5 Nucleoli fibrillar center.
6 Cytosol. 7 Plasma membrane. 8 Centrosome. 9 Nuclear speckles."""


@pytest.mark.parametrize(
    ("vocabulary", "published"),
    [(HPA28, KAGGLE_2018), (HPA19, KAGGLE_2021), (JOVIAN10, JOVIAN)],
    ids=["hpa28", "hpa19", "jovian10"],
)
def test_classes_have_the_numbers_of_the_competition_pages(vocabulary: Vocabulary, published: str) -> None:
    numbered = [entry.split(maxsplit=1) for entry in " ".join(published.split()).rstrip(".").split(". ")]
    assert {int(number): name for number, name in numbered} == dict(enumerate(vocabulary.classes))


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
