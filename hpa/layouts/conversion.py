"""Convert labels from one vocabulary to another.

A matrix (`PARTS`) relates every vocabulary to the 28 classes of 2018: it says which of the 28 make up each class. A
label that follows from the target by that matrix is certain. A class about which nothing follows is *unknown*: it is
neither trained on nor scored. Conversion from 28 to 19 and from 28 to 10 classes is therefore unambiguous, except for
`Negative`, which no 2018 label implies; conversion from 19 to 28 leaves open which of several merged classes is meant.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpa.vocabulary import HPA19, HPA28, JOVIAN10, VOCABULARIES, Vocabulary

Target = tuple[int, ...]

NEGATIVE: Final = "Negative"
"""The class of HPA19 that excludes all others."""

_MERGED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    HPA28.name: {},
    # Checked against the 21,806 images that are labelled in both vocabularies. Microtubule ends, cytokinetic bridge and
    # rods & rings of 2018 have no counterpart: their images went to no particular class.
    HPA19.name: {
        "Actin filaments": ("Actin filaments", "Focal adhesion sites"),
        "Centrosome": ("Microtubule organizing center", "Centrosome"),
        "Plasma membrane": ("Plasma membrane", "Cell junctions"),
        "Vesicles and punctate cytosolic patterns": (
            *("Peroxisomes", "Endosomes", "Lysosomes", "Lipid droplets", "Cytoplasmic bodies"),
        ),
        NEGATIVE: (),
    },
    JOVIAN10.name: {},
}


def _parts(vocabulary: Vocabulary) -> NDArray[np.bool_]:
    matrix = np.zeros((len(HPA28), len(vocabulary)), dtype=bool)
    for column, name in enumerate(vocabulary.classes):
        for part in _MERGED[vocabulary.name].get(name, (name,)):
            matrix[HPA28.index(part), column] = True
    matrix.setflags(write=False)
    return matrix


PARTS: Final[Mapping[str, NDArray[np.bool_]]] = {name: _parts(one) for name, one in VOCABULARIES.items()}
"""For each vocabulary name, a matrix of shape (28, K): which of the 28 classes make up each of its K classes.

``multi_hot @ PARTS[name]`` converts targets of 2018 to that vocabulary.
"""


class ConvertedLabels(NamedTuple):
    """ConvertedLabels of an image: its classes, and the classes for which no label is known."""

    target: Target
    unknown_classes: Target


def containment_matrix(source: Vocabulary, to: Vocabulary) -> NDArray[np.bool_]:
    """Return which classes of `source` (rows) are fully contained in which of `to` (columns); `NEGATIVE` in none."""
    source_parts, to_parts = PARTS[source.name], PARTS[to.name]
    sizes = source_parts.sum(axis=0)[:, None]
    contained: NDArray[np.bool_] = (source_parts.T.astype(int) @ to_parts == sizes) & (sizes > 0)
    return contained


def converter(source: Vocabulary, to: Vocabulary) -> Callable[[Target], ConvertedLabels]:
    """Return a function that converts a target of `source` to labels in the vocabulary `to`.

    A class of `to` is positive if it fully contains a positive class of `source`, negative if none of its parts can be
    positive, and unknown otherwise. `NEGATIVE` is negative if another class is positive.
    """
    if source == to:
        return lambda target: ConvertedLabels(target, ())
    source_parts, to_parts = PARTS[source.name], PARTS[to.name]
    covered = np.asarray(source_parts.any(axis=1))
    contained = containment_matrix(source, to)
    negative = to.classes.index(NEGATIVE) if NEGATIVE in to.classes else None

    @cache
    def convert(target: Target) -> ConvertedLabels:
        """Convert one label set. Many images share the same few label sets, so results are cached."""
        given = np.zeros(len(source), dtype=bool)
        given[list(target)] = True
        possible = np.asarray(~covered | source_parts[:, given].any(axis=1))
        positive = np.asarray(contained[given].any(axis=0))
        unknown = ~positive & np.asarray((to_parts & possible[:, None]).any(axis=0))
        if negative is not None:
            unknown[negative] = not positive.any()
        return ConvertedLabels(_indices(positive), _indices(unknown))

    return convert


def join_labels(one: ConvertedLabels, other: ConvertedLabels, vocabulary: Vocabulary) -> tuple[ConvertedLabels, bool]:
    """Join the labels that two sources give one image.

    Parameters
    ----------
    one, other
        ConvertedLabels in `vocabulary`.
    vocabulary
        Vocabulary of both.

    Returns
    -------
    ConvertedLabels
        The classes of either source; unknown are the classes unknown to both. `NEGATIVE` is dropped if there is any
        other class.
    bool
        Whether the sources contradict each other: a class is positive in one and negative in the other.
    """
    target = set(one.target) | set(other.target)
    conflict = any(set(a.target) - set(b.target) - set(b.unknown_classes) for a, b in ((one, other), (other, one)))
    if NEGATIVE in vocabulary.classes and len(target) > 1:
        target.discard(vocabulary.classes.index(NEGATIVE))
    unknown = set(one.unknown_classes) & set(other.unknown_classes) - target
    return ConvertedLabels(tuple(sorted(target)), tuple(sorted(unknown))), conflict


def _indices(hot: NDArray[np.bool_]) -> Target:
    return tuple(int(index) for index in np.flatnonzero(hot))
