"""Near-duplicates of images with known truth, and published lists."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from hpa.atlas import draw_scene
from hpa.errors import UserError
from hpa.splitting.groups import join_groups, largest_group
from hpa.splitting.hashes import bit_distances, hash_plane, similar_pairs
from hpa.splitting.near_duplicates import SimilarImages, is_label_list, pairs_within, read_label_list, read_pairs

SCENES = 24
SIDE = 256


@pytest.fixture(scope="module")
def scenes() -> NDArray[np.uint8]:
    """Draw fields of view, red, green and blue; shape (N, 3, H, W)."""
    drawn = [
        draw_scene((17, n), cell_line=n % 3, target=(n % 28,), shares=(0.8,), size_px=SIDE).channels[:3]
        for n in range(SCENES)
    ]
    return np.stack(drawn)


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.array([[hash_plane(plane) for plane in image] for image in images], dtype=np.uint64)


def _shift(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shift a field by two pixels (1%) down and to the right; the new border is reflected."""
    return np.pad(image, ((0, 0), (2, 0), (2, 0)), mode="reflect")[:, :SIDE, :SIDE]


def _crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(cv2.resize(plane[4:-4, 4:-4], (SIDE, SIDE)), np.uint8) for plane in image])


def _brighter(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    brighter: NDArray[np.uint8] = np.clip(image.astype(np.float32) * 1.4 + 5, 0, 255).astype(np.uint8)
    return brighter


def _jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    planes = [cv2.imdecode(cv2.imencode(".jpg", plane)[1], cv2.IMREAD_GRAYSCALE) for plane in image]
    return np.stack([np.asarray(plane, np.uint8) for plane in planes])


@pytest.mark.parametrize("change", [_shift, _crop, _brighter, _jpeg])
def test_only_near_duplicates_are_found(scenes: NDArray[np.uint8], change) -> None:  # type: ignore[no-untyped-def]
    hashes = _hashes(np.concatenate([scenes, [change(image) for image in scenes]]))
    pairs = similar_pairs(hashes, np.ones(2 * SCENES, bool), 12)
    expected = {(n, n + SCENES) for n in range(SCENES)}
    found = {(int(a), int(b)) for a, b in pairs}
    assert found <= expected
    assert len(found) >= 0.9 * SCENES


def test_hash_does_not_depend_on_bit_depth(scenes: NDArray[np.uint8]) -> None:
    plane = scenes[0, 0]
    assert hash_plane(plane) == hash_plane(plane.astype(np.uint16) * 200)


@pytest.mark.parametrize("plane", [np.zeros((64, 64), np.uint8), np.full((64, 64), 77, np.uint8)])
def test_flat_planes_have_no_hash(plane: NDArray[np.uint8]) -> None:
    assert hash_plane(plane) is None
    noisy = plane + np.random.default_rng(0).integers(0, 2, plane.shape, dtype=np.uint8)
    assert hash_plane(noisy) is None


def test_flat_images_match_nothing(scenes: NDArray[np.uint8]) -> None:
    hashes = np.zeros((4, 3), np.uint64)
    assert len(similar_pairs(hashes, np.zeros(4, bool), 12)) == 0
    assert len(similar_pairs(hashes, np.array([True, True, False, True]), 12)) == 3


def test_similar_pairs_match_a_loop() -> None:
    draw = np.random.default_rng(4)
    # Few distinct hashes with a few flipped bits, over more images than a tile has rows.
    hashes = draw.integers(0, 2**63, (40, 2), dtype=np.uint64)[draw.integers(0, 40, 500)]
    hashes ^= np.uint64(1) << draw.integers(0, 64, hashes.shape, dtype=np.uint64)
    usable = draw.random(500) < 0.9
    pairs = similar_pairs(hashes, usable, 3)
    expected = [
        (i, j)
        for i in range(500)
        for j in range(i + 1, 500)
        if usable[i] and usable[j] and all((int(hashes[i, c]) ^ int(hashes[j, c])).bit_count() <= 3 for c in range(2))
    ]
    assert [(int(a), int(b)) for a, b in pairs] == expected
    bits = bit_distances(hashes, pairs)
    first = [(int(hashes[pairs[0, 0], c]) ^ int(hashes[pairs[0, 1], c])).bit_count() for c in range(2)]
    assert bits[0].tolist() == first
    assert len(similar_pairs(hashes[:0], usable[:0], 3)) == 0


def test_copies_are_expanded_as_a_loop_over_all_images_finds_them() -> None:
    draw = np.random.default_rng(5)
    distinct = draw.integers(0, 2**63, (12, 2), dtype=np.uint64)
    distinct[6:] = distinct[:6] ^ np.uint64(0b11)  # two bits from another one
    hashes = distinct[draw.integers(0, 12, 90)]
    usable, some = draw.random(90) < 0.9, draw.random(90) < 0.1
    similar = SimilarImages.of_hashes(hashes, usable, 3)

    def differing(i: int, j: int) -> list[int]:
        return [(int(hashes[i, c]) ^ int(hashes[j, c])).bit_count() for c in range(2)]

    both = [(i, j) for i in range(90) for j in range(i + 1, 90) if usable[i] and usable[j]]
    expected = {(i, j) for i, j in both if max(differing(i, j)) <= 3}
    listed = list(similar.closest_pairs())
    assert len(listed) == len(expected) == similar.n_pairs
    assert {(a, b) for a, b, _ in listed} == expected
    assert all(bits.tolist() == differing(a, b) for a, b, bits in listed)
    sums = [int(bits.sum()) for _, _, bits in listed]
    assert sums == sorted(sums)
    assert join_groups(90, [], similar.edges).tolist() == join_groups(90, [], np.array(sorted(expected))).tolist()
    like = {i for pair in expected for i, j in (pair, pair[::-1]) if some[j]} | set(np.flatnonzero(some))
    assert set(np.flatnonzero(similar.like(some))) == like
    assert similar.unusable == (~usable).sum()


def test_many_copies_take_little_memory() -> None:
    """20,000 images under many ids: 25 million pairs of copies, or of images that differ in a bit."""
    hashes = np.arange(8, dtype=np.uint64).repeat(2500)[:, None] << np.uint64(40)
    tracemalloc.start()
    copies = SimilarImages.of_hashes(hashes * np.uint64(0b111111), np.ones(20_000, bool), 0)
    groups = join_groups(20_000, [], copies.edges)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    assert copies.n_pairs == 8 * 2500 * 2499 // 2
    assert np.bincount(groups).tolist() == [2500] * 8
    tracemalloc.reset_peak()
    nearly = np.arange(7100, dtype=np.uint64)[:, None]  # at most 13 bits differ
    similar = SimilarImages.of_hashes(nearly, np.ones(7100, bool), 13)
    assert similar.n_pairs == 7100 * 7099 // 2
    assert join_groups(7100, [], similar.edges).max() == 0
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()


def test_published_list_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("Train,Extra,SimR\n../in/a.png,b,3\nin/b,c.jpg,0\nx,y,1\n")
    listed = read_pairs(tmp_path / "pairs.csv")
    assert listed["Train"].tolist() == ["a", "b", "x"]
    assert listed["Extra"].tolist() == ["b", "c", "y"]
    pairs = pairs_within(listed, pd.Series(["c", "b", "a"]))
    assert pairs.tolist() == [[1, 2], [0, 1]]
    assert join_groups(3, [], pairs).tolist() == [0, 0, 0]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"expected the columns Train, Extra in .*, found a, b"):
        read_pairs(tmp_path / "other.csv")
    with pytest.raises(UserError, match="expected a CSV with the columns Train, Extra, found no file"):
        read_pairs(tmp_path / "none.csv")


@pytest.mark.real_data("leaks", "kaggle2021")
def test_real_list_of_2021(real_data: Path) -> None:
    listed = read_pairs(real_data / "leaks" / "train_duplicates_2021.csv.gz")
    assert len(listed) == 1414
    assert listed[["SimR", "SimG", "SimB"]].astype(int).to_numpy().max() == 12
    ids = pd.read_csv(real_data / "kaggle2021" / "train.csv")["ID"]
    pairs = pairs_within(listed, ids)
    # The other rows pair a train image with one of the public atlas, or list images without labels.
    both = listed["Train"].isin(ids) & listed["Extra"].isin(ids)
    assert len(pairs) == 1080 == both.sum()
    groups = join_groups(len(ids), [], pairs)
    # A graph of components has at least as many edges as images that are not the first of theirs.
    joined = len(ids) - len(np.unique(groups))
    assert 0 < joined <= len(np.unique(np.sort(pairs, axis=1), axis=0))
    assert (groups[pairs[:, 0]] == groups[pairs[:, 1]]).all()
    assert 2 <= largest_group(groups) < 50


@pytest.mark.real_data("leaks", "kaggle2018")
def test_real_list_of_test_images_with_public_labels(real_data: Path) -> None:
    path = real_data / "leaks" / "test_vs_v18_phash.csv"
    test = pd.read_csv(real_data / "kaggle2018" / "sample_submission.csv")["Id"]
    assert is_label_list(path)
    assert read_label_list(path) == set(test) & read_label_list(path)
    assert len(read_label_list(path)) == 140


@pytest.mark.parametrize(("levels", "flat"), [(1.0, True), (8.0, False)])
def test_a_plane_is_flat_by_its_picture_not_by_its_bits(levels: float, flat: bool) -> None:
    rows, columns = np.mgrid[0:1:64j, 0:1:64j]
    plane = 20 + levels * rows * columns  # in gray levels of 8 bits
    eight, sixteen = plane.round().astype(np.uint8), (257 * plane).round().astype(np.uint16)
    assert (hash_plane(eight) is None) == flat
    assert (hash_plane(sixteen) is None) == flat
