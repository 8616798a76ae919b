"""Each of the 28 patterns is bright where its biology requires it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from hpa.atlas.geometry.cells import grow_field
from hpa.atlas.geometry.field import METAPHASE, TELOPHASE
from hpa.atlas.patterns.catalogue import OTHER_FORMS, PATTERNS, can_carry
from hpa.atlas.stains import Stained, spindles, stain
from hpa.atlas.styles import CELL_LINES
from hpa.vocabulary import HPA28

Light = NDArray[np.float32]
NUCLEAR = ("Nucleoplasm", "Nucleoli", "Nucleoli fibrillar center", "Nuclear speckles", "Nuclear bodies")
CYTOPLASMIC = (
    "Endoplasmic reticulum", "Golgi apparatus", "Peroxisomes", "Endosomes", "Lysosomes", "Intermediate filaments",
    "Microtubules", "Lipid droplets", "Mitochondria", "Cytosol", "Cytoplasmic bodies",
)  # fmt: skip
SPARSE = (
    "Golgi apparatus", "Peroxisomes", "Endosomes", "Lysosomes", "Microtubule organizing center", "Centrosome",
    "Lipid droplets", "Aggresome", "Cytoplasmic bodies", "Rods & rings", "Nuclear bodies", "Nucleoli fibrillar center",
)  # fmt: skip


@pytest.fixture(scope="module")
def stained() -> Stained:
    field = grow_field(np.random.default_rng(4), CELL_LINES[1], (512, 512), dividing=0.15, telophase=0.15)
    return stain(np.random.default_rng(4), field)


@pytest.fixture(scope="module")
def drawn(stained: Stained) -> dict[str, Light]:
    return {
        name: pattern(np.random.default_rng(k), stained)
        for k, (name, pattern) in enumerate(zip(HPA28.classes, PATTERNS, strict=True))
    }


def density(light: Light, where: NDArray[np.bool_]) -> float:
    """Return the mean light in a region relative to the mean light of the frame."""
    return float(light[where].mean() / light.mean())


def share_of_light(light: Light, where: NDArray[np.bool_], stained: Stained) -> float:
    """Return the share of the light above the median of all cells that lies in a region."""
    above = np.maximum(light - np.median(light[stained.field.cytoplasm > 0]), 0)
    return float(above[where].sum() / above.sum())


def test_every_pattern_is_finite_light(drawn: dict[str, Light], stained: Stained) -> None:
    for name, light in drawn.items():
        assert light.shape == stained.field.shape, name
        assert light.dtype == np.float32, name
        assert np.isfinite(light).all(), name
        assert light.min() >= 0, name
        assert light.max() > 0.3, name


def test_no_two_patterns_are_the_same(drawn: dict[str, Light]) -> None:
    names = list(drawn)
    flat = np.stack([ndimage.gaussian_filter(drawn[name], 0.5).ravel() for name in names])
    alike = np.corrcoef(flat) - 2 * np.eye(len(names))
    assert alike.max() < 0.97, [names[k] for k in np.unravel_index(alike.argmax(), alike.shape)]


@pytest.mark.parametrize("name", NUCLEAR)
def test_nuclear_patterns_are_in_nuclei(name: str, drawn: dict[str, Light], stained: Stained) -> None:
    assert drawn[name][stained.field.nuclei > 0].sum() > 0.9 * drawn[name].sum()


@pytest.mark.parametrize("name", CYTOPLASMIC)
def test_cytoplasmic_patterns_are_in_the_cytoplasm(name: str, drawn: dict[str, Light], stained: Stained) -> None:
    light, field = drawn[name], stained.field
    assert light[field.cytoplasm > 0].sum() > 0.7 * light.sum()


@pytest.mark.parametrize("name", SPARSE)
def test_bodies_and_vesicles_cover_little_of_the_cell(name: str, drawn: dict[str, Light], stained: Stained) -> None:
    light = drawn[name][stained.field.owner > 0]
    assert (light > 0.3 * np.percentile(light, 99.9)).mean() < 0.12


def test_nucleoli_are_dark_in_dna_and_bright_in_their_pattern(drawn: dict[str, Light], stained: Stained) -> None:
    inside = stained.nucleoli > 0.5
    around = (stained.field.nuclei > 0) & (stained.nucleoli < 0.05)
    assert stained.dna[inside].mean() < 0.95 * stained.dna[around].mean()
    assert drawn["Nucleoli"][inside].mean() > 3 * drawn["Nucleoli"][around].mean()
    assert density(drawn["Nucleoli fibrillar center"], inside) > 5
    assert drawn["Nuclear speckles"][inside].mean() < 0.6 * drawn["Nuclear speckles"][around].mean()


def test_nuclear_membrane_is_a_rim(drawn: dict[str, Light], stained: Stained) -> None:
    field = stained.field
    rim = (field.nuclei > 0) & (field.rim_px < 2)
    assert drawn["Nuclear membrane"][rim].mean() > 2 * drawn["Nuclear membrane"][(field.rim_px > 5)].mean()


@pytest.mark.parametrize("name", ["Plasma membrane", "Focal adhesion sites", "Microtubule ends"])
def test_edge_patterns_are_near_the_edge(name: str, drawn: dict[str, Light], stained: Stained) -> None:
    edge = stained.field.edge_px
    near, far = (edge > 0) & (edge < 8), edge > 14
    light = np.maximum(drawn[name] - np.median(drawn[name][stained.field.cytoplasm > 0]), 0)
    assert light[near].mean() > 1.8 * light[far].mean()


def test_junctions_are_only_where_cells_touch(drawn: dict[str, Light], stained: Stained) -> None:
    owner = stained.field.owner
    high = ndimage.maximum_filter(owner, 5)
    low = ndimage.minimum_filter(np.where(owner > 0, owner, 10_000), 5)
    touching = (owner > 0) & (high != low) & (low < 10_000)
    free_edge = (stained.field.edge_px < 2) & (owner > 0) & ~touching
    assert drawn["Cell junctions"][touching].mean() > 4 * drawn["Cell junctions"][free_edge].mean()


def test_er_and_microtubules_follow_their_stains(drawn: dict[str, Light], stained: Stained) -> None:
    cells = stained.field.owner > 0
    for name, reference in (("Endoplasmic reticulum", stained.reticulum), ("Microtubules", stained.tubulin)):
        assert np.corrcoef(drawn[name][cells], reference[cells])[0, 1] > 0.7, name


def test_er_is_dense_inside_and_microtubules_reach_further() -> None:
    """In the mean of several images: in some the ER fills the cell to its edge."""
    er, tubulin = [], []
    for k in range(6):
        field = grow_field(np.random.default_rng(k), CELL_LINES[0], (384, 384), dividing=0, telophase=0)
        light = stain(np.random.default_rng(k), field)
        inner, outer = field.nearness > 0.7, (field.nearness > 0) & (field.nearness < 0.2)
        er.append(light.reticulum[outer].mean() / light.reticulum[inner].mean())
        tubulin.append(light.tubulin[outer].mean() / light.tubulin[inner].mean())
        assert light.reticulum[field.rim_px > 3].mean() < 0.5 * light.reticulum[inner].mean()
    assert np.mean(er) < 0.8
    assert np.mean(tubulin) > np.mean(er)


def test_golgi_and_centrosome_are_near_the_organising_centre(drawn: dict[str, Light], stained: Stained) -> None:
    field = stained.field
    own = np.concatenate([np.zeros((1, 2), np.float32), stained.centres])[field.owner]
    rows, columns = np.indices(field.shape)
    near = (np.hypot(rows - own[..., 0], columns - own[..., 1]) < 15) & (field.owner > 0)
    for name in ("Golgi apparatus", "Centrosome", "Microtubule organizing center", "Aggresome"):
        assert share_of_light(drawn[name], near, stained) > 0.5, name


def test_filaments_that_never_grow_have_no_ends(drawn: dict[str, Light], stained: Stained) -> None:
    assert not stained.filaments.alive[0].all()
    assert drawn["Microtubule ends"].max() < 20


def test_spindles_look_alike_at_every_size() -> None:
    contrasts = []
    for side in (256, 512):
        field = grow_field(np.random.default_rng(4), CELL_LINES[1], (side, side), dividing=0.5, telophase=0)
        light = spindles(np.random.default_rng(0), field)
        contrasts.append((light**2).mean() / light.mean() ** 2)
    assert contrasts[0] == pytest.approx(contrasts[1], rel=0.1)


def test_spindles_and_bridges_belong_to_dividing_cells(drawn: dict[str, Light], stained: Stained) -> None:
    cells = stained.field.population
    spindle, bridge = HPA28.index("Mitotic spindle"), HPA28.index("Cytokinetic bridge")
    assert can_carry(spindle, cells)[cells.stage == METAPHASE].all()
    assert not can_carry(spindle, cells)[cells.stage == TELOPHASE].any()
    assert (can_carry(bridge, cells) == (cells.sister >= 0)).all()
    assert can_carry(0, cells).all()
    dividing = stained.field.of_cells(can_carry(spindle, cells).astype(np.float32)) > 0
    assert share_of_light(drawn["Mitotic spindle"], dividing, stained) > 0.9
    pairs = np.flatnonzero(cells.sister >= 0)
    assert (cells.sister[cells.sister[pairs]] == pairs).all()
    middle = ((cells.centre[pairs] + cells.centre[cells.sister[pairs]]) / 2).round().astype(int)
    middle = middle[((middle > 12) & (middle < 500)).all(axis=1)]
    bright = ndimage.maximum_filter(drawn["Cytokinetic bridge"], 13)
    assert (bright[middle[:, 0], middle[:, 1]] > 0.5).all()


def other_form(name: str, stained: Stained) -> Light:
    return OTHER_FORMS[HPA28.index(name)](np.random.default_rng(9), stained)


def test_lobed_nucleoli_are_uneven_and_lie_where_the_dna_is_dark(drawn: dict[str, Light], stained: Stained) -> None:
    lobed, field = other_form("Nucleoli", stained), stained.field
    outside = (field.nuclei > 0) & (ndimage.binary_dilation(stained.nucleoli > 0.1, iterations=3) == 0)
    assert density(lobed, stained.nucleoli > 0.5) > 3 * density(lobed, outside)

    def unevenness(light: Light) -> float:
        inside = ndimage.gaussian_filter(light, 0.8)[stained.nucleoli > 0.5]
        return float(inside.std() / inside.mean())

    assert unevenness(lobed) > 1.7 * unevenness(drawn["Nucleoli"])


def test_filament_cages_are_packed_on_one_side_of_the_nucleus(drawn: dict[str, Light], stained: Stained) -> None:
    cage, net, field = other_form("Intermediate filaments", stained), drawn["Intermediate filaments"], stained.field
    assert cage[field.cytoplasm > 0].sum() > 0.85 * cage.sum()
    near = (field.cytoplasm > 0) & (field.off_nucleus_px < 10 * field.scale)
    assert share_of_light(cage, near, stained) > share_of_light(net, near, stained)

    def one_sidedness(light: Light) -> float:
        """Return how far the light's middle lies from the middle of the nucleus, in its radii (median over cells)."""
        cells = field.population
        far = []
        for index in np.flatnonzero(cells.stage == 0):
            rows, columns = np.nonzero((field.owner == index + 1) & (field.off_nucleus_px < 12 * field.scale))
            weight = light[rows, columns]
            if len(rows) > 500 and weight.sum() > 0:
                middle = np.array([rows @ weight, columns @ weight]) / weight.sum()
                far.append(np.linalg.norm(middle - cells.nucleus[index]) / cells.nucleus_px[index])
        assert len(far) > 5
        return float(np.median(far))

    assert one_sidedness(cage) > one_sidedness(net)
