"""Intervals: by hand on small cases, right as often as they say on drawn ones, wider by groups than by images."""

import itertools

import numpy as np
import pytest

from jedi.evaluation.statistics import ConfidenceInterval, bootstrap, difference_interval, ratio_interval


def test_the_mean_and_a_pinned_interval():
    found = bootstrap([0.1, 0.4, 0.2, 0.8, 0.5, 0.3], ["a", "a", "b", "b", "c", "c"])
    assert (found.n, found.groups) == (6, 3)
    assert found.mean == pytest.approx(2.3 / 6)
    # The groups' means are 0.25, 0.5 and 0.4: one draw in 27 has the least three times, more than 2.5 %.
    assert (found.low, found.high) == pytest.approx((0.25, 0.5))
    assert bootstrap([0.1, 0.4, 0.2, 0.8, 0.5, 0.3], ["a", "a", "b", "b", "c", "c"]) == found


def test_all_draws_of_two_groups():
    """Means 1 and 3: draws average 1, 2, 2 or 3, so the middle half is 1.x to 2.x and the ends are the groups."""
    assert bootstrap([1, 3], level=0.95) == ConfidenceInterval(2.0, 1.0, 3.0, 2, 2)
    inner = bootstrap([1, 3], level=0.4)
    assert (inner.low, inner.high) == (2.0, 2.0)


def test_values_are_averaged_not_groups():
    found = bootstrap([0, 0, 0, 4], ["a", "a", "a", "b"])
    assert found.mean == 1.0
    assert (found.low, found.high) == (0.0, 4.0)
    inner = bootstrap([0, 0, 0, 4], ["a", "a", "a", "b"], level=0.4)
    assert (inner.low, inner.high) == (1.0, 1.0)  # one draw of each: 4 / 4, not (0 + 4) / 2


def test_whole_groups_are_drawn():
    """Twenty images a subject, all alike: the interval is that of the subjects alone."""
    subjects = np.random.default_rng(0).normal(size=12)
    alone = bootstrap(subjects)
    many = bootstrap(np.repeat(subjects, 20), np.repeat(np.arange(12), 20).tolist())
    assert (many.low, many.high) == pytest.approx((alone.low, alone.high))
    as_images = bootstrap(np.repeat(subjects, 20))
    assert as_images.high - as_images.low < 0.3 * (many.high - many.low)


def test_the_order_of_values_does_not_matter_for_the_mean_and_seeds_do_little():
    values = np.random.default_rng(1).normal(size=40)
    first, other = bootstrap(values), bootstrap(values, seed=1)
    assert first != other
    assert (first.low, first.high) == pytest.approx((other.low, other.high), abs=0.05)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        subjects = random.normal(size=30)
        values = (subjects[:, None] + random.normal(size=(30, 4))).ravel()
        found = bootstrap(values, np.repeat(np.arange(30), 4).tolist(), samples=400)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.98


def test_one_group_has_no_interval():
    assert bootstrap([1, 2, 3], ["a"] * 3) == ConfidenceInterval(2.0, None, None, 3, 1)
    assert ratio_interval([1, 2], [2, 4], ["a", "a"]) == ConfidenceInterval(0.5, None, None, 2, 1)


def test_a_difference_is_paired():
    """b is a plus noise that is the same in every subject: the difference has no width, though the means are unsure."""
    a = np.random.default_rng(3).normal(size=20).tolist()
    found = difference_interval([x + 0.5 for x in a], a, [i // 2 for i in range(20)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5)) and (found.n, found.groups) == (20, 10)
    assert difference_interval([1, 5], [0, 2]) == ConfidenceInterval(2.0, 1.0, 3.0, 2, 2)
    with pytest.raises(ValueError, match="2 and 1 values: a difference is paired by position"):
        difference_interval([1, 2], [1])


def test_a_ratio_of_equal_shares_has_no_width():
    """b is half of a in every subject: paired draws all give 2, separate ones would not."""
    a = [1.0, 2.0, 5.0, 9.0]
    found = ratio_interval(a, [x / 2 for x in a])
    assert (found.mean, found.low, found.high, found.n, found.groups) == (2.0, 2.0, 2.0, 4, 4)


def test_a_ratio_is_paired_by_name_not_by_place():
    found = ratio_interval([1, 1, 2, 2, 8], [4, 0.5, 1], ["x", "x", "y", "y", "z"], ["z", "x", "y"])
    assert found.mean == pytest.approx((14 / 5) / (5.5 / 3))
    # Every one of the 27 draws is likelier than 2.5 %, so the ends are the least and the greatest of them.
    a, b = {"x": [1, 1], "y": [2, 2], "z": [8]}, {"x": 0.5, "y": 1, "z": 4}
    draws = [
        np.mean([v for group in draw for v in a[group]]) / np.mean([b[group] for group in draw])
        for draw in itertools.product("xyz", repeat=3)
    ]
    assert (found.low, found.high) == pytest.approx((min(draws), max(draws)))


def test_a_ratio_without_a_bound():
    """One of three subjects has all of b's values that are not 0: 8 of 27 draws miss it."""
    found = ratio_interval([1, 1, 1], [1, 0, 0])
    assert found.mean == pytest.approx(3.0)
    assert found.low is None and found.high is None
    rare = ratio_interval([1] * 40, [1] * 39 + [0])
    assert rare.low == pytest.approx(1.0) and 1.0 < rare.high < 1.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap([]), r"values: expected a list of numbers, got an array of shape \(0,\)"),
        (lambda: bootstrap([1, float("nan"), float("inf")]), "2 of 3 are not finite"),
        (lambda: bootstrap([1, 2], ["a"]), "2 values and 1 groups"),
        (lambda: bootstrap([1, 2], level=95), "level=95: a share between 0 and 1"),
        (lambda: ratio_interval([1, 2], [1]), "2 and 1 values without groups"),
        (lambda: ratio_interval([1, 2], [1, 2], ["a", "b"], ["a", "c"]), r"groups of one side only: \['b', 'c'\]"),
        (lambda: ratio_interval([1, 2], [0, 0]), "average 0"),
        (lambda: ratio_interval([1, 2], [1, float("nan")]), "b: 1 of 2 are not finite"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
