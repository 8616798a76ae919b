"""Labels of one vocabulary told in another.

Every vocabulary is tied to the 28 classes of 2018 by a matrix (`PARTS`): which of the 28 make up each of its classes.
What follows from a target by that matrix is certain; where nothing follows, the class is *unknown*: neither trained on
nor scored. So 28 to 19 and 28 to 10 are plain, but for `Negative`, which no 2018 label speaks about, and 19 to 28
leaves open which of several joined classes is meant.
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

_JOINED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    HPA28.name: {},
    # Held against the 21,806 images that have labels in both vocabularies. Microtubule ends, cytokinetic bridge and
    # rods & rings of 2018 have no partner: their images went to no class in particular.
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
        for part in _JOINED[vocabulary.name].get(name, (name,)):
            matrix[HPA28.index(part), column] = True
    matrix.setflags(write=False)
    return matrix


PARTS: Final[Mapping[str, NDArray[np.bool_]]] = {name: _parts(one) for name, one in VOCABULARIES.items()}
"""By the name of a vocabulary of K classes, shape (28, K): which of the 28 classes make up each of its classes.

``multi_hot @ PARTS[name]`` tells targets of 2018 in that vocabulary.
"""


class Labels(NamedTuple):
    """What is known of an image: the classes that it carries, and those of which nothing is known."""

    target: Target
    unknown_classes: Target


def lies_within(source: Vocabulary, to: Vocabulary) -> NDArray[np.bool_]:
    """Tell which classes of `source` (rows) lie wholly within which of `to` (columns); `NEGATIVE` in none."""
    ours, theirs = PARTS[source.name], PARTS[to.name]
    sizes = ours.sum(axis=0)[:, None]
    within: NDArray[np.bool_] = (ours.T.astype(int) @ theirs == sizes) & (sizes > 0)
    return within


def converter(source: Vocabulary, to: Vocabulary) -> Callable[[Target], Labels]:
    """Return the function that tells a target of `source` in the vocabulary `to`.

    A class of `to` is carried if one of its parts is carried for certain, or a class of `source` is carried all whose
    parts it has; it is not carried if none of its parts can be; otherwise it is unknown. `NEGATIVE` is not carried
    where another class is.
    """
    if source == to:
        return lambda target: Labels(target, ())
    ours, theirs = PARTS[source.name], PARTS[to.name]
    covered = np.asarray(ours.any(axis=1))
    within = lies_within(source, to)
    negative = to.classes.index(NEGATIVE) if NEGATIVE in to.classes else None

    @cache
    def convert(target: Target) -> Labels:
        """Tell one label set; images share few of them, so each is worked out once."""
        carried = np.zeros(len(source), dtype=bool)
        carried[list(target)] = True
        possible = np.asarray(~covered | ours[:, carried].any(axis=1))
        positive = np.asarray(within[carried].any(axis=0))
        unknown_classes = ~positive & np.asarray((theirs & possible[:, None]).any(axis=0))
        if negative is not None:
            unknown_classes[negative] = not positive.any()
        return Labels(_indices(positive), _indices(unknown_classes))

    return convert


def join(one: Labels, other: Labels, vocabulary: Vocabulary) -> tuple[Labels, bool]:
    """Join what two sources know of one image.

    Parameters
    ----------
    one, other
        Classes that the image carries, and those of which nothing is known, in `vocabulary`.
    vocabulary
        Of both.

    Returns
    -------
    Labels
        Every class that either carries; unknown are those that both leave open. `NEGATIVE` gives way to any other
        class.
    bool
        Whether they contradict each other: a class is carried by one and denied by the other.
    """
    carried = set(one.target) | set(other.target)
    conflict = any(set(a.target) - set(b.target) - set(b.unknown_classes) for a, b in ((one, other), (other, one)))
    if NEGATIVE in vocabulary.classes and len(carried) > 1:
        carried.discard(vocabulary.classes.index(NEGATIVE))
    unknown_classes = set(one.unknown_classes) & set(other.unknown_classes) - carried
    return Labels(tuple(sorted(carried)), tuple(sorted(unknown_classes))), conflict


def _indices(hot: NDArray[np.bool_]) -> Target:
    return tuple(int(index) for index in np.flatnonzero(hot))
