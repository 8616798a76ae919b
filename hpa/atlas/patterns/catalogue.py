"""The 28 protein patterns by class index, and the cells that can show each of them."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import ANAPHASE, METAPHASE, TELOPHASE, Population
from hpa.atlas.noise import Image
from hpa.atlas.patterns import cytoplasm as cytoplasm
from hpa.atlas.patterns import cytoskeleton as skeleton
from hpa.atlas.patterns import nuclear as nuclear
from hpa.atlas.stains import Stained
from hpa.vocabulary import HPA28

Pattern = Callable[[np.random.Generator, Stained], Image]

_BY_NAME: Final[dict[str, Pattern]] = {
    "Nucleoplasm": nuclear.nucleoplasm,
    "Nuclear membrane": nuclear.nuclear_membrane,
    "Nucleoli": nuclear.nucleoli,
    "Nucleoli fibrillar center": nuclear.fibrillar_centre,
    "Nuclear speckles": nuclear.nuclear_speckles,
    "Nuclear bodies": nuclear.nuclear_bodies,
    "Endoplasmic reticulum": cytoplasm.endoplasmic_reticulum,
    "Golgi apparatus": cytoplasm.golgi,
    "Peroxisomes": cytoplasm.peroxisomes,
    "Endosomes": cytoplasm.endosomes,
    "Lysosomes": cytoplasm.lysosomes,
    "Intermediate filaments": skeleton.intermediate_filaments,
    "Actin filaments": skeleton.actin_filaments,
    "Focal adhesion sites": skeleton.focal_adhesions,
    "Microtubules": skeleton.microtubules,
    "Microtubule ends": skeleton.microtubule_ends,
    "Cytokinetic bridge": skeleton.cytokinetic_bridge,
    "Mitotic spindle": skeleton.mitotic_spindle,
    "Microtubule organizing center": skeleton.organising_centre,
    "Centrosome": skeleton.centrosome,
    "Lipid droplets": cytoplasm.lipid_droplets,
    "Plasma membrane": cytoplasm.plasma_membrane,
    "Cell junctions": cytoplasm.cell_junctions,
    "Mitochondria": cytoplasm.mitochondria,
    "Aggresome": cytoplasm.aggresome,
    "Cytosol": cytoplasm.cytosol,
    "Cytoplasmic bodies": cytoplasm.cytoplasmic_bodies,
    "Rods & rings": nuclear.rods_and_rings,
}
PATTERNS: Final[tuple[Pattern, ...]] = tuple(_BY_NAME[name] for name in HPA28.classes)
"""The function that draws each class, by class index."""

OTHER_FORMS: Final[dict[int, Pattern]] = {
    HPA28.index("Nucleoli"): nuclear.lobed_nucleoli,
    HPA28.index("Intermediate filaments"): skeleton.filament_cage,
}
"""Second forms, by class index. Only drawings to train on have them, so that images of the atlas stay as they were."""

BRIDGE: Final = HPA28.index("Cytokinetic bridge")
SPINDLE: Final = HPA28.index("Mitotic spindle")


def can_carry(label: int, cells: Population) -> NDArray[np.bool_]:
    """Return which cells can show a class, bool (N,): spindles require cells in mitosis, bridges require sisters."""
    if label == SPINDLE:
        return (cells.stage >= METAPHASE) & (cells.stage <= ANAPHASE)
    if label == BRIDGE:
        return np.asarray(cells.stage == TELOPHASE)
    return np.ones(len(cells), bool)
