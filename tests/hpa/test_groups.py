import numpy as np

from hpa.splitting.groups import join_groups, largest_group


def test_antibody_makes_a_group_and_unknown_antibodies_do_not() -> None:
    assert join_groups(5, [["A", None, "B", "A", None]]).tolist() == [0, 1, 2, 0, 3]
    assert join_groups(0, [[]]).tolist() == []


def test_antibody_well_and_pairs_join_indirectly() -> None:
    antibodies = ["A", "A", "B", None, None, None]
    wells = [None, "w", "w", "v", None, "u"]
    groups = join_groups(6, [antibodies, wells], np.array([[3, 4]]))
    assert groups.tolist() == [0, 0, 0, 1, 1, 2]
    assert largest_group(groups) == 3


def test_groups_match_a_loop() -> None:
    draw = np.random.default_rng(0)
    n = 80
    keys = [[None if draw.random() < 0.3 else f"k{draw.integers(0, 60)}" for _ in range(n)] for _ in range(2)]
    pairs = draw.integers(0, n, (20, 2))
    expected = list(range(n))
    changed = True
    while changed:
        changed = False
        for i in range(n):
            for j in range(n):
                tied = any(values[i] is not None and values[i] == values[j] for values in keys)
                tied |= bool(((pairs == (i, j)) | (pairs == (j, i))).all(axis=1).any())
                if tied and expected[i] != expected[j]:
                    expected[i] = expected[j] = min(expected[i], expected[j])
                    changed = True
    groups = join_groups(n, keys, pairs)
    same = groups[:, None] == groups
    assert (same == (np.array(expected)[:, None] == np.array(expected))).all()
