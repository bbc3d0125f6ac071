import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convexdistill.evaluate.statistics import bootstrap_interval, paired_difference, unpaired_difference


def test_the_bootstrap_of_one_base_set_is_scipys():
    runs = np.random.default_rng(1).normal(80, 3, 20)
    expected = stats.bootstrap((runs,), np.mean, n_resamples=20_000, method="percentile", rng=0)
    low, high = bootstrap_interval([runs])
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.1)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.1)


def test_the_nested_bootstrap_has_the_variance_of_both_levels():
    # Var = (between + within / trainings) / base sets, of the resampled values: the classical result.
    draw = np.random.default_rng(2)
    runs = [draw.normal(centre, 2, 6) for centre in draw.normal(80, 4, 12)]
    low, high = bootstrap_interval(runs)
    between = np.var([group.mean() for group in runs])
    within = np.mean([np.var(group) for group in runs])
    spread = np.sqrt((between + within / 6) / 12)
    assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.06)


@given(st.lists(st.lists(st.floats(0, 100), max_size=4), min_size=1, max_size=4))
def test_the_bootstrap_stays_within_the_runs(runs):
    flat = [value for group in runs for value in group]
    low, high = bootstrap_interval(runs)
    if len(flat) < 2:
        assert (low, high) == (None, None)
    else:
        assert min(flat) - 1e-9 <= low <= high <= max(flat) + 1e-9
        assert bootstrap_interval(runs) == (low, high)


def test_paired_differences_are_the_paired_t_test():
    draw = np.random.default_rng(3)
    ours, theirs = draw.normal(80, 2, 8), draw.normal(78, 2, 8)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = paired_difference([ours], [theirs])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.pairs, found.over) == (8, "trainings")
    sets = paired_difference([[a, a + 1] for a in ours], [[b, b + 1] for b in theirs])
    assert (sets.low, sets.high) == pytest.approx((expected.low, expected.high))
    assert (sets.pairs, sets.over) == (8, "base sets")


def test_what_diverged_takes_its_partner_with_it():
    found = paired_difference([[90.0, None, 92.0]], [[80.0, 10.0, None]])
    assert (found.mean, found.low, found.pairs) == (10.0, None, 1)
    assert paired_difference([[None, None]], [[80.0, 81.0]]) is None


def test_a_baseline_without_training_is_compared_with_every_training():
    found = paired_difference([[90.0, 92.0]], [[80.0]])
    assert (found.mean, found.pairs, found.over) == (11.0, 2, "trainings")


def test_without_pairs_base_sets_are_the_units_where_there_are_several():
    # Base sets far apart, trainings close: trainings on one base set say little about another.
    ours, theirs = [[80.0, 80.1, 80.2], [85.0, 85.1, 85.2], [90.0, 90.1, 90.2]], [98.0, 98.2, 98.4]
    found = unpaired_difference(ours, [theirs])
    expected = stats.ttest_ind([80.1, 85.1, 90.1], theirs, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.pairs, found.over) == (3, "unpaired base sets")
    assert unpaired_difference(ours, [[]]) is None


def test_runs_that_do_not_pair_up_have_no_difference():
    assert paired_difference([[90.0, 92.0]], [[80.0], [81.0]]) is None
    assert paired_difference([[90.0, 92.0, 93.0]], [[80.0, 81.0]]) is None
