"""Forward selection against refitting with every candidate, and against the label solve itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexdistill.data import load
from convexdistill.distill.outer import outer_terms
from convexdistill.distill.solve import label_system
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import choose
from convexdistill.select.forward import forward_selection
from convexdistill.select.target_space import TargetSpace, target_spaces

DIGITS = load("digits").subset(range(150))


def made(count=40, features=6, classes=3, extractors=1, seed=0):
    """Spaces of random candidates and of other random targets."""
    rng = np.random.default_rng(seed)
    spaces = []
    for _ in range(extractors):
        targets = np.hstack([rng.normal(size=(80, features)), np.ones((80, 1))])
        wanted = rng.normal(size=(80, classes))
        candidates = rng.normal(size=(count, features)).astype(np.float32)
        scale = np.append(np.full(features, 0.7), 1.0)
        spaces.append(TargetSpace(candidates, scale, targets.T @ targets / 80, targets.T @ wanted / 80))
    return spaces


def explained(spaces, subset):
    """By how much the best heads in the span of a subset lower the loss: a refit from scratch."""
    gains = []
    for space in spaces:
        rows = space.rows(slice(None))[subset]
        cross = rows @ space.cross
        gains.append((cross * np.linalg.solve(rows @ space.gram @ rows.T, cross)).sum())
    return float(np.mean(gains))


def one_group(count):
    return np.zeros(count, dtype=np.int64)


@pytest.mark.parametrize("extractors", [1, 3])
def test_every_choice_is_that_of_a_refit_with_every_candidate(extractors):
    spaces = made(extractors=extractors)
    steps = forward_selection(spaces, one_group(40), np.array([6]))
    before, subset = 0.0, []
    for choice, gain in zip(steps.chosen, steps.gains, strict=True):
        reached = {i: explained(spaces, [*subset, i]) for i in range(40) if i not in subset}
        assert choice == max(reached, key=reached.get)
        assert gain == pytest.approx(reached[choice] - before, rel=1e-8, abs=1e-8)
        before = reached[choice]
        subset.append(int(choice))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.integers(1, 2), st.integers(1, 12))
def test_the_gains_add_up_to_what_the_set_explains(seed, extractors, size):
    spaces = made(features=12, extractors=extractors, seed=seed)
    steps = forward_selection(spaces, one_group(40), np.array([size]))
    assert steps.gains.min() >= 0
    assert steps.gains.sum() == pytest.approx(explained(spaces, steps.chosen), rel=1e-8)


@pytest.mark.parametrize("lam", [1e-4, 1e-1])
def test_with_one_extractor_it_is_the_loss_of_the_label_solve_whatever_lam_is(lam):
    moments = accumulate(pool("convnet", count=1, width=8), DIGITS)
    spaces = list(target_spaces(DIGITS, moments))
    steps = forward_selection(spaces, one_group(len(DIGITS)), np.array([12]))
    base = choose(DIGITS, 12, balanced=False)
    chosen = torch.from_numpy(np.sort(steps.chosen))
    base = type(base)(**{**vars(base), "images": DIGITS.images[chosen], "labels": DIGITS.labels[chosen]})
    system = label_system(outer_terms(moments, base, lam))
    labels = torch.linalg.lstsq(system.design, system.wanted).solution
    loss = float((system.design @ labels - system.wanted).square().sum()) + system.constant
    assert 1 - 1 / 10 - steps.gains.sum() == pytest.approx(loss, abs=1e-8)


@pytest.mark.parametrize("size", [12, 50])
def test_with_a_pool_it_is_below_the_loss_of_every_random_choice(size):
    digits = load("digits")
    moments = accumulate(pool("convnet", count=3), digits)

    def loss(base):
        system = label_system(outer_terms(moments, base, 1e-3))
        labels = torch.linalg.lstsq(system.design, system.wanted).solution
        return float((system.design @ labels - system.wanted).square().sum()) + system.constant

    ours = loss(choose(digits, size, "solve-aware", balanced=False, moments=moments))
    assert ours < min(loss(choose(digits, size, balanced=False, seed=seed)) for seed in range(5))


def test_quotas_hold_and_the_rest_is_left_alone():
    groups = np.repeat([0, 1, -1], [10, 10, 20])
    steps = forward_selection(made(), groups, np.array([2, 3]))
    assert np.bincount(groups[steps.chosen], minlength=2).tolist() == [2, 3]


def test_what_is_chosen_already_is_not_chosen_again_as_its_copy():
    (space,) = made(count=20)
    doubled = TargetSpace(np.tile(space.features, (3, 1)), space.scale, space.gram, space.cross)
    alone = forward_selection([space], one_group(20), np.array([5]))
    tripled = forward_selection([doubled], one_group(60), np.array([5]))
    assert tripled.chosen.tolist() == alone.chosen.tolist()  # the first of equals


def test_when_everything_is_spanned_it_starts_again():
    spaces = made(features=4)
    steps = forward_selection(spaces, one_group(40), np.array([15]))
    assert len(set(steps.chosen.tolist())) == 15
    first, second, third = (steps.gains[start : start + 5].sum() for start in (0, 5, 10))
    # 4 features and a column of ones: five choices explain all that any can, and so do the next five.
    assert first == pytest.approx(second, rel=1e-6)
    assert first == pytest.approx(third, rel=1e-6)


def test_features_that_are_all_zero_can_be_chosen():
    space = TargetSpace(np.zeros((5, 2), np.float32), np.zeros(3), np.zeros((3, 3)), np.zeros((3, 2)))
    steps = forward_selection([space], one_group(5), np.array([3]))
    assert steps.chosen.tolist() == [0, 1, 2]
    assert steps.gains.tolist() == [0, 0, 0]


def test_nearly_dependent_candidates_do_not_spoil_the_sum():
    (space,) = made(count=300, features=20)
    space.features[:, 10:] = space.features[:, :10] + 1e-4 * space.features[:, 10:]
    steps = forward_selection([space], one_group(300), np.array([18]))
    assert steps.gains.sum() == pytest.approx(explained([space], steps.chosen), rel=1e-6)
