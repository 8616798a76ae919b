"""Find touching nuclei in logits and in the nucleus channel."""

import numpy as np
from scipy import ndimage

from segment.postprocess.nuclei import nuclei_from_channel, nuclei_from_logits, nucleus_cores
from segment.score import mask_average_precision
from tests.support.shapes import TOUCHING


def test_cores_of_touching_nuclei_stay_apart() -> None:
    core = nucleus_cores(TOUCHING)
    assert ndimage.label(TOUCHING > 0)[1] == 2
    assert ndimage.label(core)[1] == 3
    assert not (core & (TOUCHING == 0)).any()


def test_logits_of_nuclei_reproduce_the_nuclei() -> None:
    nucleus = np.where(TOUCHING > 0, 4.0, -4.0).astype(np.float32)
    core = np.where(nucleus_cores(TOUCHING), 4.0, -4.0).astype(np.float32)
    found = nuclei_from_logits(nucleus, core, level=0.0, min_area=0.03)
    assert mask_average_precision(found, TOUCHING, 0.8) == 1


def test_a_nucleus_without_a_core_is_kept_and_a_speck_is_dropped() -> None:
    nucleus = np.where(TOUCHING > 0, 4.0, -4.0).astype(np.float32)
    nucleus[60:62, 2:4] = 4
    found = nuclei_from_logits(nucleus, np.full_like(nucleus, -4), level=0.0, min_area=0.03)
    assert found.max() == 2
    assert found[61, 3] == 0


def test_touching_nuclei_in_the_channel_are_split() -> None:
    plane = ndimage.gaussian_filter((TOUCHING > 0) * np.float32(200), 1)
    found = nuclei_from_channel(plane, min_area=0.03)
    assert mask_average_precision(found, TOUCHING, 0.7) == 1
    assert not nuclei_from_channel(np.zeros((32, 32), np.float32), min_area=0.03).any()
