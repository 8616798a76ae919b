"""Label sets, shares of carriers and the plan of a data set, against the counts of the real tables."""

from collections import Counter

import numpy as np
import pytest

from hpa.atlas.geometry.cells import grow_field
from hpa.atlas.labels import MEAN_SHARES, draw_carriers, label_sets, sample_shares
from hpa.atlas.plan import PlannedImage, plan_images
from hpa.atlas.styles import CELL_LINES
from hpa.errors import UserError


def test_label_sets_match_the_competition() -> None:
    """31,072 images; numbers of labels and the counts of some classes as in the training table."""
    sets, images = label_sets()
    assert images.sum() == 31_072
    by_number: Counter[int] = Counter()
    by_class: Counter[int] = Counter()
    for target, count in zip(sets, images, strict=True):
        by_number[len(target)] += int(count)
        for label in target:
            by_class[label] += int(count)
    assert by_number == {1: 15_126, 2: 12_485, 3: 3_160, 4: 299, 5: 2}
    assert [by_class[k] for k in (0, 8, 9, 10, 15, 25, 27)] == [12_885, 53, 45, 28, 21, 8_228, 11]


@pytest.fixture(scope="module")
def real_mix() -> list[tuple[int, tuple[float, ...]]]:
    """Shares of 4,000 images drawn as often as the real label sets."""
    rng = np.random.default_rng(0)
    sets, images = label_sets()
    drawn = [sets[k] for k in rng.choice(len(sets), 4000, p=images / images.sum())]
    return [(len(target), sample_shares(rng, target)) for target in drawn]


def test_shares_fall_with_the_number_of_labels(real_mix: list[tuple[int, tuple[float, ...]]]) -> None:
    """Real cells: 0.81, 0.67, 0.64 for images of 1, 2 and 3 labels."""
    for number, real in ((1, 0.81), (2, 0.67), (3, 0.64)):
        mean = np.mean([share for n, shares in real_mix if n == number for share in shares])
        assert mean == pytest.approx(real, abs=0.07), number


def test_shares_of_zero_and_one_have_realistic_frequencies(real_mix: list[tuple[int, tuple[float, ...]]]) -> None:
    """Real pairs of image and label: 4.5% without a carrier, 15% below a fifth, 34% all cells."""
    shares = np.array([share for _, shares in real_mix for share in shares])
    assert (shares == 0).mean() == pytest.approx(0.045, abs=0.02)
    assert (shares < 0.2).mean() == pytest.approx(0.15, abs=0.06)
    assert (shares == 1).mean() == pytest.approx(0.34, abs=0.08)


def test_every_class_has_a_share() -> None:
    assert sorted(MEAN_SHARES) == list(range(28))


def test_realistic_shares_of_negative_and_off_target_cells() -> None:
    """Real cells: 10% negative, 3% with a class their image does not have."""
    rng = np.random.default_rng(1)
    sets, images = label_sets()
    cells = grow_field(rng, CELL_LINES[1], (256, 256), dividing=0.14, telophase=0.1).population
    negative, off_target = [], []
    for index in rng.choice(len(sets), 500, p=images / images.sum()):
        target = sets[index]
        carried = draw_carriers(rng, cells, target, sample_shares(rng, target))
        negative.append((~carried.any(axis=1)).mean())
        off_target.append(np.delete(carried, target, axis=1).any(axis=1).mean())
    assert np.mean(negative) == pytest.approx(0.10, abs=0.06)
    assert np.mean(off_target) == pytest.approx(0.03, abs=0.01)


@pytest.fixture(scope="module")
def plan() -> list[PlannedImage]:
    return plan_images(400, 100, 0)


def of_split(plan: list[PlannedImage], split: str) -> list[PlannedImage]:
    return [image for image in plan if image.split == split]


def test_plan_has_the_requested_numbers(plan: list[PlannedImage]) -> None:
    assert [len(of_split(plan, split)) for split in ("train", "test")] == [400, 100]
    assert [image.index for image in plan] == list(range(500))
    assert len({image.image_id for image in plan}) == 500
    assert plan == plan_images(400, 100, 0)
    assert plan != plan_images(400, 100, 1)


def test_train_and_test_share_no_antibody(plan: list[PlannedImage]) -> None:
    train, test = ({image.antibody for image in of_split(plan, split)} for split in ("train", "test"))
    assert not train & test


@pytest.mark.parametrize(("images", "test"), [(400, 100), (240, 60)])
def test_every_class_occurs(images: int, test: int) -> None:
    for seed in range(3):
        plan = plan_images(images, test, seed)
        for split, minimum in (("train", 2), ("test", 1)):
            antibodies = {(image.antibody, label) for image in of_split(plan, split) for label in image.target}
            have = Counter(label for _, label in antibodies)
            assert min(have[label] for label in range(28)) >= minimum, (split, seed)


def test_frequent_classes_stay_frequent(plan: list[PlannedImage]) -> None:
    have = Counter(label for image in of_split(plan, "train") for label in image.target)
    assert {label for label, _ in have.most_common(2)} == {0, 25}
    assert np.mean([len(image.target) for image in plan]) == pytest.approx(1.64, abs=0.35)


def test_antibody_has_one_label_set_one_plate_and_few_lines(plan: list[PlannedImage]) -> None:
    for antibody in {image.antibody for image in plan}:
        own = [image for image in plan if image.antibody == antibody]
        assert len({image.target for image in own}) == len({image.plate for image in own}) == 1
        assert len({image.cell_line for image in own}) <= 3
        assert len(own) <= 10
    sizes = Counter(image.antibody for image in of_split(plan, "train") if not image.antibody.startswith("HPA5"))
    assert 4 <= np.mean(list(sizes.values())) <= 9


def test_few_images_are_near_duplicates_of_an_earlier_one(plan: list[PlannedImage]) -> None:
    again = [image for image in plan if image.scene != image.index]
    assert 0.01 < len(again) / len(plan) < 0.07
    for image in again:
        original = plan[image.scene]
        assert original.index < image.index
        assert original.scene == original.index
        assert (original.split, original.target, original.cell_line) == (image.split, image.target, image.cell_line)


@pytest.mark.parametrize(
    ("images", "test", "seed", "sentence"),
    [
        (0, 5, 0, "expected at least 1 training image, found 0"),
        (5, -1, 0, "expected 0 or more test images, found -1"),
        (5, 1, -2, "expected a seed from 0 to 2147483647, found -2"),
        (5, 1, 2**31, "expected a seed from 0 to 2147483647, found 2147483648"),
    ],
)
def test_invalid_counts_raise(images: int, test: int, seed: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        plan_images(images, test, seed)


def test_plan_of_one_image() -> None:
    assert len(plan_images(1, 0, 0)) == 1


def test_penetrance_multiplies_the_share_of_carriers() -> None:
    def mean(penetrance: float) -> float:
        rng = np.random.default_rng(0)
        return float(np.mean([sample_shares(rng, (16,), penetrance) for _ in range(2000)]))

    plain = np.random.default_rng(3), np.random.default_rng(3)
    assert sample_shares(plain[0], (0, 5)) == sample_shares(plain[1], (0, 5), 1.0)
    # Cytosol alone: 0.90 of the cells times 1.14 is held at 0.96; half of it is 0.513.
    assert mean(1.0) == pytest.approx(0.96, abs=0.02)
    assert mean(0.5) == pytest.approx(0.513, abs=0.03)
