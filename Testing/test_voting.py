"""Votes of label maps: exact where all agree, ties that shrink nothing, weights that count."""

from __future__ import annotations

import numpy as np
from DeepRegAttentionLib.cohort import voting
from DeepRegAttentionLib.cohort.voting import vote


def maps(*columns: list[int]) -> list[np.ndarray]:
    """A label map of one row for each of the lists."""
    return [np.array(column, np.uint8).reshape(1, 1, -1) for column in columns]


def test_identical_maps_win_with_all_votes():
    labels = np.random.default_rng(2).integers(0, 9, (6, 7, 8)).astype(np.int16)
    winner, share = vote([labels] * 5)
    np.testing.assert_array_equal(winner, labels)
    assert winner.dtype == labels.dtype
    assert share.min() == share.max() == 1


def test_the_majority_wins_with_its_share():
    winner, share = vote(maps([1, 2, 0], [1, 2, 0], [3, 0, 0]))
    assert winner.ravel().tolist() == [1, 2, 0]
    np.testing.assert_allclose(share.ravel(), [2 / 3, 2 / 3, 1])


def test_a_tie_goes_with_the_first_map_and_not_to_the_background():
    winner, share = vote(maps([4, 0], [0, 4]))
    assert winner.ravel().tolist() == [4, 0]
    np.testing.assert_allclose(share.ravel(), [0.5, 0.5])


def test_the_order_of_the_maps_turns_no_majority():
    winner, _ = vote(maps([9], [7], [7], [9], [7]))
    assert winner.ravel().tolist() == [7]


def test_weights_decide_against_numbers():
    weights = np.array([0.6, 0.2, 0.2], np.float32).reshape(3, 1, 1, 1)
    winner, share = vote(maps([5], [6], [6]), weights)
    assert winner.ravel().tolist() == [5]
    np.testing.assert_allclose(share.ravel(), [0.6], rtol=1e-6)


def test_where_no_vote_counts_the_first_stands_without_any_share():
    winner, share = vote(maps([5], [6]), np.zeros((2, 1, 1, 1), np.float32))
    assert winner.ravel().tolist() == [5]
    assert share.ravel().tolist() == [0]


def test_large_maps_are_voted_on_in_parts(monkeypatch):
    ballots = [np.random.default_rng(seed).integers(0, 4, (9, 9, 9)).astype(np.uint8) for seed in range(5)]
    weights = np.random.default_rng(9).uniform(size=(5, 9, 9, 9)).astype(np.float32)
    whole = vote(ballots, weights)
    monkeypatch.setattr(voting, "_SLAB", 50)
    for one, other in zip(whole, vote(ballots, weights)):
        np.testing.assert_array_equal(one, other)
