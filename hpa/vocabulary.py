"""Label vocabularies: the classes of a run, by name and by index."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpa.errors import UserError

_MAX_DIGITS: Final = 20  # Python refuses to convert thousands


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a run, in the order of their indices.

    Parameters
    ----------
    name
        Name used in recipes, for example ``"hpa28"``.
    classes
        Name of each class; the position is the class index.
    header
        Column names of the competition's submission: image and labels.
    """

    name: str
    classes: tuple[str, ...]
    header: tuple[str, str] = ("Id", "Predicted")

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    def index(self, name: str) -> int:
        """Return the index of the class `name`.

        Raises
        ------
        UserError
            If no class has that name.
        """
        if name not in self._index:
            raise UserError(f"expected a class of the vocabulary {self.name}, found {name!r}")
        return self._index[name]

    def parse(self, text: str, separator: str | None = None) -> tuple[int, ...]:
        """Parse a target such as ``"16 0"`` into sorted, distinct class indices.

        Parameters
        ----------
        text
            Class indices joined by `separator`; an empty text is the empty target.
        separator
            Separator between the indices; None means any white space.

        Raises
        ------
        UserError
            If a part is not an integer in ``0..len(self) - 1``.

        Examples
        --------
        >>> from hpa.vocabulary import HPA28
        >>> HPA28.parse("16 0")
        (0, 16)
        >>> HPA28.parse("8|5|0", "|")
        (0, 5, 8)
        """
        indices = set()
        for part in text.split(separator) if text.strip() else ():
            if not (part.isascii() and part.isdigit() and len(part) < _MAX_DIGITS and int(part) < len(self)):
                raise UserError(f"expected labels 0..{len(self) - 1}, found {part!r} in {text!r}")
            indices.add(int(part))
        return tuple(sorted(indices))

    def format(self, target: Iterable[int], separator: str = " ") -> str:
        """Format a target as its sorted class indices joined by `separator`."""
        return separator.join(str(index) for index in sorted(target))

    def multi_hot(self, targets: Iterable[Iterable[int]]) -> NDArray[np.bool_]:
        """Convert N targets to a boolean array of shape (N, K), where K is the number of classes."""
        rows = [tuple(target) for target in targets]
        hot = np.zeros((len(rows), len(self)), dtype=bool)
        for row, target in zip(hot, rows, strict=True):
            row[list(target)] = True
        return hot


def parse_target(image_id: str, text: str, vocabulary: Vocabulary, separator: str | None = None) -> tuple[int, ...]:
    """Parse the target of a train image, which must have at least one label.

    Parameters
    ----------
    image_id
        Id to name in messages.
    text, separator
        As for `Vocabulary.parse`.
    vocabulary
        Vocabulary of the labels.

    Returns
    -------
    tuple of int
        Sorted class indices.

    Raises
    ------
    UserError
        If a label is unknown or there is none; the message names the image.
    """
    try:
        target = vocabulary.parse(text, separator)
    except UserError as error:
        marks = {mark for mark in ",;| " if mark in text.strip()} - {separator or " "}
        between = f"; separate labels with {separator or 'a blank'!r}" if marks else ""
        raise UserError(f"{error} (image {image_id}{between})") from None
    if not target:
        raise UserError(f"expected at least one label for the train image {image_id}, found none")
    return target


HPA28: Final = Vocabulary(
    "hpa28",
    (
        "Nucleoplasm",
        "Nuclear membrane",
        "Nucleoli",
        "Nucleoli fibrillar center",
        "Nuclear speckles",
        "Nuclear bodies",
        "Endoplasmic reticulum",
        "Golgi apparatus",
        "Peroxisomes",
        "Endosomes",
        "Lysosomes",
        "Intermediate filaments",
        "Actin filaments",
        "Focal adhesion sites",
        "Microtubules",
        "Microtubule ends",
        "Cytokinetic bridge",
        "Mitotic spindle",
        "Microtubule organizing center",
        "Centrosome",
        "Lipid droplets",
        "Plasma membrane",
        "Cell junctions",
        "Mitochondria",
        "Aggresome",
        "Cytosol",
        "Cytoplasmic bodies",
        "Rods & rings",
    ),
)
"""The 28 classes of the Kaggle 2018 competition, in its numbering."""

HPA19: Final = Vocabulary(
    "hpa19",
    (
        *HPA28.classes[:8],
        "Intermediate filaments",
        "Actin filaments",
        "Microtubules",
        "Mitotic spindle",
        "Centrosome",
        "Plasma membrane",
        "Mitochondria",
        "Aggresome",
        "Cytosol",
        "Vesicles and punctate cytosolic patterns",
        "Negative",
    ),
)
"""The 19 classes of the Kaggle 2021 single-cell competition, in its numbering."""

JOVIAN10: Final = Vocabulary(
    "jovian10",
    (
        "Mitochondria",
        "Nuclear bodies",
        "Nucleoli",
        "Golgi apparatus",
        "Nucleoplasm",
        "Nucleoli fibrillar center",
        "Cytosol",
        "Plasma membrane",
        "Centrosome",
        "Nuclear speckles",
    ),
    ("Image", "Label"),
)
"""The ten classes of the Jovian "Zero to GANs" competition, in its numbering."""

VOCABULARIES: Final = {vocabulary.name: vocabulary for vocabulary in (HPA28, HPA19, JOVIAN10)}
