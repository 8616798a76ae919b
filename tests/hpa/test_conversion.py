import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa.layouts.conversion import NEGATIVE, PARTS, ConvertedLabels, converter, join_labels
from hpa.vocabulary import HPA19, HPA28, JOVIAN10, VOCABULARIES, Vocabulary


def _worlds(source: Vocabulary, target: tuple[int, ...], few: list[int]) -> list[set[int]]:
    """Return every set of some of the 28 classes, out of `few`, that `source` would call `target`."""
    found = []
    for size in range(len(few) + 1):
        for world in itertools.combinations(few, size):
            hot = np.zeros(28, bool)
            hot[list(world)] = True
            if tuple(np.flatnonzero(hot @ PARTS[source.name])) == target:
                found.append(set(world))
    return found


@pytest.mark.parametrize(
    ("source", "to"),
    [(HPA28, HPA19), (HPA28, JOVIAN10), (HPA19, HPA28), (JOVIAN10, HPA28), (HPA19, JOVIAN10), (JOVIAN10, HPA19)],
    ids=lambda vocabulary: vocabulary.name,
)
def test_certain_labels_hold_for_every_compatible_set(source: Vocabulary, to: Vocabulary) -> None:
    """Enumerate the sets of 2018 classes that give a target: a label is certain if it holds for all of them."""
    few = [0, 12, 13, 21, 22, 23, 27]
    convert = converter(source, to)
    seen = {tuple(int(c) for c in np.flatnonzero(_hot(world) @ PARTS[source.name])) for world in _subsets(few)}
    for target in sorted(seen):
        compatible = _worlds(source, target, few)
        converted = [set(np.flatnonzero(_hot(world) @ PARTS[to.name])) for world in compatible]
        labels = convert(target)
        always, ever = set.intersection(*converted), set.union(*converted)
        # classes without a part among the few may also be positive if `source` cannot exclude them
        judged = {b for b in range(len(to)) if set(np.flatnonzero(PARTS[to.name][:, b])) & set(few)}
        assert set(labels.target) == always
        assert set(labels.unknown_classes) & judged == ever - always


def _hot(world: set[int] | tuple[int, ...]) -> np.ndarray:
    hot = np.zeros(28, bool)
    hot[list(world)] = True
    return hot


def _subsets(few: list[int]) -> list[tuple[int, ...]]:
    return [world for size in range(len(few) + 1) for world in itertools.combinations(few, size)]


def test_28_to_19_and_10_by_name() -> None:
    to19, to10 = converter(HPA28, HPA19), converter(HPA28, JOVIAN10)
    names = ("Focal adhesion sites", "Cytosol", "Rods & rings")
    target = tuple(sorted(HPA28.index(name) for name in names))
    assert to19(target) == ConvertedLabels((HPA19.index("Actin filaments"), HPA19.index("Cytosol")), ())
    assert to19((27,)) == ConvertedLabels((), (HPA19.index(NEGATIVE),))
    assert to10(target) == ConvertedLabels((JOVIAN10.index("Cytosol"),), ())


def test_19_to_28_leaves_ambiguous_classes_unknown() -> None:
    to28 = converter(HPA19, HPA28)
    none = (15, 16, 27)  # no class of 2021 includes these
    assert to28((0,)) == ConvertedLabels((0,), none)
    assert to28((9,)) == ConvertedLabels((), tuple(sorted((12, 13, *none))))
    assert to28((18,)) == ConvertedLabels((), none)


def test_conversion_to_the_same_vocabulary_changes_nothing() -> None:
    for vocabulary in VOCABULARIES.values():
        assert converter(vocabulary, vocabulary)((0, 3)) == ConvertedLabels((0, 3), ())


def test_join_labels() -> None:
    two = ConvertedLabels((0, 18), ())
    assert join_labels(ConvertedLabels((0,), ()), ConvertedLabels((0,), ()), HPA19) == (
        ConvertedLabels((0,), ()),
        False,
    )
    assert join_labels(ConvertedLabels((0,), (18,)), ConvertedLabels((), ()), HPA19) == (
        ConvertedLabels((0,), ()),
        True,
    )
    assert join_labels(ConvertedLabels((), (12, 13)), ConvertedLabels((12,), ()), HPA28) == (
        ConvertedLabels((12,), ()),
        False,
    )
    assert join_labels(ConvertedLabels((), (12, 13)), ConvertedLabels((), (12,)), HPA28) == (
        ConvertedLabels((), (12,)),
        False,
    )
    assert join_labels(two, ConvertedLabels((18,), ()), HPA19)[0] == ConvertedLabels((0,), ())


@pytest.mark.real_data("kaggle2018", "kaggle2021")
def test_matrix_agrees_with_images_labelled_in_both_years(real_data: Path) -> None:
    old = pd.read_csv(real_data / "kaggle2018" / "train.csv").set_index("Id")["Target"]
    new = pd.read_csv(real_data / "kaggle2021" / "train.csv").set_index("ID")["Label"]
    converted = HPA28.multi_hot(HPA28.parse(text) for text in old.loc[new.index]) @ PARTS["hpa19"]
    given = HPA19.multi_hot(HPA19.parse(text, "|") for text in new)
    positive = converted.any(axis=1)  # images with rods & rings only, for example, have no class of 2021
    agree = (converted == given)[positive].mean(axis=0)
    recall = (converted & given).sum(axis=0) / np.maximum(converted.sum(axis=0), 1)
    assert (agree > 0.98).all()
    assert (recall[:18] > 0.9).all()
