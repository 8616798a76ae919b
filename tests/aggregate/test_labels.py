import numpy as np

from aggregate.labels import Labels


def test_unknown_pairs_are_no_positives_and_do_not_count() -> None:
    targets = np.array([[True, True], [False, True], [True, False]])
    known = np.array([[True, False], [True, True], [False, False]])
    labels = Labels(targets, known, np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert labels.targets.tolist() == [[True, False], [False, True], [False, False]]
    assert labels.n_known.tolist() == [2, 1]
    assert labels.support.tolist() == [1, 1]
    assert labels.frequencies.tolist() == [0.5, 1.0]
    assert Labels(targets, np.zeros_like(known), labels.groups, labels.folds).frequencies.tolist() == [0, 0]


def test_rows_are_taken_by_mask_or_by_index() -> None:
    targets = np.array([[True, False], [False, True], [True, True]])
    labels = Labels.all_known(targets, folds=np.array([2, 0, 1]))
    for rows in (np.array([True, False, True]), np.array([0, 2])):
        part = labels.take(rows)
        assert len(part) == 2
        assert part.targets.tolist() == targets[[0, 2]].tolist()
        assert part.known.all()
        assert part.groups.tolist() == [0, 2]
        assert part.folds.tolist() == [2, 1]
    assert Labels.all_known(targets).folds.tolist() == [0, 0, 0]
