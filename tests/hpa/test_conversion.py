import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa.layouts.conversion import NEGATIVE, PARTS, Labels, converter, join_labels
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
def test_what_is_certain_is_what_holds_in_every_possible_world(source: Vocabulary, to: Vocabulary) -> None:
    """Enumerate the sets of 2018 classes behind a target: certain is what all of them share."""
    few = [0, 12, 13, 21, 22, 23, 27]
    convert = converter(source, to)
    seen = {tuple(int(c) for c in np.flatnonzero(_hot(world) @ PARTS[source.name])) for world in _subsets(few)}
    for target in sorted(seen):
        worlds = _worlds(source, target, few)
        told = [set(np.flatnonzero(_hot(world) @ PARTS[to.name])) for world in worlds]
        labels = convert(target)
        always, ever = set.intersection(*told), set.union(*told)
        # classes none of whose parts are among the few could be carried too, where `source` cannot deny them
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
    assert to19(target) == Labels((HPA19.index("Actin filaments"), HPA19.index("Cytosol")), ())
    assert to19((27,)) == Labels((), (HPA19.index(NEGATIVE),))
    assert to10(target) == Labels((JOVIAN10.index("Cytosol"),), ())


def test_19_to_28_masks_what_is_ambiguous() -> None:
    to28 = converter(HPA19, HPA28)
    none = (15, 16, 27)  # no class of 2021 speaks about these
    assert to28((0,)) == Labels((0,), none)
    assert to28((9,)) == Labels((), tuple(sorted((12, 13, *none))))
    assert to28((18,)) == Labels((), none)


def test_every_vocabulary_is_told_in_itself_unchanged() -> None:
    for vocabulary in VOCABULARIES.values():
        assert converter(vocabulary, vocabulary)((0, 3)) == Labels((0, 3), ())


def test_two_sources_join() -> None:
    two = Labels((0, 18), ())
    assert join_labels(Labels((0,), ()), Labels((0,), ()), HPA19) == (Labels((0,), ()), False)
    assert join_labels(Labels((0,), (18,)), Labels((), ()), HPA19) == (Labels((0,), ()), True)
    assert join_labels(Labels((), (12, 13)), Labels((12,), ()), HPA28) == (Labels((12,), ()), False)
    assert join_labels(Labels((), (12, 13)), Labels((), (12,)), HPA28) == (Labels((), (12,)), False)
    assert join_labels(two, Labels((18,), ()), HPA19)[0] == Labels((0,), ())


def test_the_matrix_holds_on_images_labelled_in_both_years() -> None:
    real = Path(os.environ.get("CELLWISE_REAL_DATA", "../shared/real"))
    if not real.exists():
        pytest.skip(f"no real data at {real}")
    old = pd.read_csv(real / "kaggle2018" / "train.csv").set_index("Id")["Target"]
    new = pd.read_csv(real / "kaggle2021" / "train.csv").set_index("ID")["Label"]
    told = HPA28.multi_hot(HPA28.parse(text) for text in old.loc[new.index]) @ PARTS["hpa19"]
    given = HPA19.multi_hot(HPA19.parse(text, "|") for text in new)
    carried = told.any(axis=1)  # rods & rings alone, say, tell nothing
    agree = (told == given)[carried].mean(axis=0)
    recall = (told & given).sum(axis=0) / np.maximum(told.sum(axis=0), 1)
    assert (agree > 0.98).all()
    assert (recall[:18] > 0.9).all()
