"""The label solve against brute force: real target features, N×C labels, normal equations by numpy."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import nn

from convexdistill import layers
from convexdistill.data import load
from convexdistill.distill import solve as solve_module
from convexdistill.distill.crosscheck import LARGEST, cross_check
from convexdistill.distill.outer import outer_terms, teacher_scores
from convexdistill.distill.solve import descend_labels, label_system, solve_labels
from convexdistill.errors import NotConvergedError, PerformanceWarning
from convexdistill.features import ModuleSpec, extract, pool
from convexdistill.moments import accumulate
from convexdistill.select import choose

DIGITS = load("digits")
MOMENTS = accumulate(pool("convnet", count=3, width=4), DIGITS)
BASE = choose(DIGITS, 20)
LAM, GAMMA = 1e-2, 0.1
TERMS = outer_terms(MOMENTS, BASE, LAM)
SYSTEM = label_system(TERMS)
N, C, n = len(DIGITS), 10, len(BASE)
CENTRED = nn.functional.one_hot(DIGITS.labels, C).double() - 1 / C


def with_ones(features, scale):
    return torch.cat([features * scale, torch.ones(len(features), 1, dtype=torch.float64)], 1)


def brute_force(moments=MOMENTS, base=BASE, lam=LAM):
    """Φ and Φ_T of each extractor, scaled and with ones, and λ."""
    found = []
    for extractor in moments.extractors:
        target = extract(extractor, DIGITS.images, moments.preprocessing)
        scale = 1 / target.square().sum(1).mean().sqrt()
        features = with_ones(extract(extractor, base.images, moments.preprocessing), scale)
        found.append((features, with_ones(target, scale), lam * float(features.square().sum(1).mean())))
    return found


def head(features, labels, lam):
    return torch.linalg.solve(features.T @ features + lam * torch.eye(features.shape[1]), features.T @ labels)


def brute_loss(labels):
    losses = [
        (target @ head(features, labels, lam) - CENTRED).square().sum() / N
        for features, target, lam in brute_force()
    ]
    return float(torch.stack(losses).mean())


PRIORS = {"zero": None, "teacher": teacher_scores(outer_terms(MOMENTS, BASE, 1.0))}


@pytest.mark.parametrize("prior", PRIORS)
class TestTheSolve:
    def test_the_certificate_is_the_loss_on_all_target_images(self, prior):
        labels, certificate = solve_labels(SYSTEM, GAMMA, PRIORS[prior])
        assert certificate["outer_loss"] == pytest.approx(brute_loss(labels), rel=1e-9)
        start = torch.zeros(n, C) if PRIORS[prior] is None else PRIORS[prior]
        penalty = SYSTEM.absolute(GAMMA) * float((labels - start).square().sum())
        assert certificate["objective"] == pytest.approx(certificate["outer_loss"] + penalty, rel=1e-12)
        assert certificate["largest_label"] == float(labels.abs().max())

    def test_the_labels_solve_the_normal_equations(self, prior):
        H, right = np.zeros((n, n)), np.zeros((n, C))
        for features, target, lam in brute_force():
            F, T = features.numpy(), target.numpy()
            M = np.linalg.solve(F.T @ F + lam * np.eye(F.shape[1]), F.T)
            H += M.T @ (T.T @ T) @ M / N / 3
            right += M.T @ (T.T @ CENTRED.numpy()) / N / 3
        gamma = GAMMA * np.trace(H) / n
        start = np.zeros((n, C)) if PRIORS[prior] is None else PRIORS[prior].numpy()
        expected = np.linalg.solve(H + gamma * np.eye(n), right + gamma * start)
        labels, _ = solve_labels(SYSTEM, GAMMA, PRIORS[prior])
        np.testing.assert_allclose(labels.numpy(), expected, rtol=0, atol=1e-8)

    @settings(deadline=None, max_examples=30)
    @given(seed=st.integers(0, 10**6), size=st.floats(-4, 1))
    def test_any_other_labels_are_worse(self, prior, seed, size):
        start = torch.zeros(n, C, dtype=torch.float64) if PRIORS[prior] is None else PRIORS[prior]
        labels, best = solve_labels(SYSTEM, GAMMA, start)
        draw = torch.Generator().manual_seed(seed)
        other = labels + 10**size * torch.randn(n, C, dtype=torch.float64, generator=draw)
        assert SYSTEM.certificate(other, GAMMA, start)["objective"] > best["objective"]

    def test_the_gradient_is_zero_there_and_nowhere_near(self, prior):
        start = torch.zeros(n, C, dtype=torch.float64) if PRIORS[prior] is None else PRIORS[prior]
        labels, certificate = solve_labels(SYSTEM, GAMMA, start)
        assert certificate["residual"] < 1e-12
        assert SYSTEM.certificate(1.001 * labels, GAMMA, start)["residual"] > 1e-5
        wanted = labels.clone().requires_grad_()
        losses = [term.loss(term.head(wanted)) for term in TERMS]
        objective = torch.stack(losses).mean() + SYSTEM.absolute(GAMMA) * (wanted - start).square().sum()
        objective.backward()
        assert float(wanted.grad.norm()) < 1e-10

    def test_a_large_gamma_returns_the_prior(self, prior):
        labels, _ = solve_labels(SYSTEM, 1e9, PRIORS[prior])
        start = 0 if PRIORS[prior] is None else PRIORS[prior]
        assert (labels - start).abs().max() < 1e-6

    def test_a_smaller_gamma_fits_the_target_better(self, prior):
        losses = [solve_labels(SYSTEM, g, PRIORS[prior])[1]["outer_loss"] for g in (1.0, 0.1, 0.01, 1e-4)]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0]


def test_the_constant_is_the_loss_that_no_head_can_avoid():
    for term, (_, target, _) in zip(TERMS, brute_force(), strict=True):
        best = torch.linalg.lstsq(target, CENTRED, driver="gelsd").solution
        assert term.constant == pytest.approx(float((target @ best - CENTRED).square().sum() / N), rel=1e-8)


def test_the_outer_terms_are_the_base_features_scaled():
    for term, (features, target, lam) in zip(TERMS, brute_force(), strict=True):
        torch.testing.assert_close(term.features, features, rtol=1e-10, atol=1e-12)
        assert term.lam == pytest.approx(lam, rel=1e-10)
        torch.testing.assert_close(term.root.T @ term.root, target.T @ target / N, rtol=0, atol=1e-12)
        torch.testing.assert_close(term.root.T @ term.wanted, target.T @ CENTRED / N, rtol=0, atol=1e-10)


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_labels_do_not_depend_on_the_scale_of_features(factor):
    class Scaled(nn.Module):
        def __init__(self, inner, factor):
            super().__init__()
            self.inner, self.factor = inner, factor

        def forward(self, x):
            return self.inner(x) * self.factor

    def solved(factor):
        specs = [ModuleSpec(Scaled(spec.build(DIGITS.shape), factor)) for spec in MOMENTS.pool[:2]]
        terms = outer_terms(accumulate(specs, DIGITS), BASE, LAM)
        return solve_labels(label_system(terms), GAMMA)[0]

    torch.testing.assert_close(solved(factor), solved(1.0), rtol=1e-5, atol=1e-6)


def test_features_that_are_all_zero_leave_the_mean_label():
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.zeros_(dead[1].weight)
    nn.init.zeros_(dead[1].bias)
    labels, certificate = solve_labels(
        label_system(outer_terms(accumulate([ModuleSpec(dead)], DIGITS), BASE, LAM)), GAMMA
    )
    assert labels.isfinite().all()
    assert labels.std(0).max() < 1e-9  # only the ones are left, so every example says the same
    assert certificate["residual"] < 1e-10


@pytest.mark.parametrize("alpha", [1e-4, 1e-1])
def test_the_teacher_is_scikit_learns_ridge_on_all_target_images(alpha):
    expected = torch.zeros(n, C, dtype=torch.float64)
    for features, target, _ in brute_force():
        kernel = target.T @ target / N
        rank = int(np.linalg.matrix_rank(kernel.numpy(), rtol=1e-13, hermitian=True))
        penalty = alpha * float(kernel.trace()) / rank * N
        fit = Ridge(penalty, fit_intercept=False, solver="svd").fit(target.numpy(), CENTRED.numpy())
        expected += torch.from_numpy(fit.predict(features.numpy())) / 3
    torch.testing.assert_close(teacher_scores(outer_terms(MOMENTS, BASE, 1.0), alpha), expected, rtol=0, atol=1e-6)


def test_label_gradients_through_both_backends_agree():
    term = TERMS[0]
    labels = torch.randn(n, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for backend in ("torch", "cvxpylayers"):
        wanted = labels.clone().requires_grad_()
        term.loss(term.head(wanted, backend)).backward()
        gradients.append(wanted.grad)
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert float(difference) < 1e-5


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("backend", ["torch", "cvxpylayers"])
def test_descent_through_the_layer_ends_at_the_solve(backend, prior):
    gamma = 1e-2
    terms = TERMS[:1]
    exact, certificate = solve_labels(label_system(terms), gamma, PRIORS[prior])
    labels, descended = descend_labels(terms, gamma, PRIORS[prior], backend=backend)
    assert float((labels - exact).norm() / exact.norm()) < 1e-3
    assert descended["objective"] == pytest.approx(certificate["objective"], rel=1e-6)
    assert descended["residual"] < 1e-6
    assert descended["solver"] == f"{backend}/l-bfgs"


def test_descent_that_does_not_arrive_is_an_error():
    with pytest.raises(NotConvergedError, match="stopped after 2 steps at a relative gradient of"):
        descend_labels(TERMS, 1e-2, backend="torch", steps=2)


def test_the_cross_check_compares_two_independent_solvers():
    labels, _ = solve_labels(SYSTEM, GAMMA)
    found = cross_check(TERMS[0].features, labels, TERMS[0].lam)
    assert (found["n"], found["d"]) == tuple(TERMS[0].features.shape)
    assert 0 <= found["relative_difference"] < 1e-6


def test_the_cross_check_sees_a_wrong_head(monkeypatch):
    right = layers.ridge

    def wrong(features, labels, lam, backend="auto"):
        fit = right(features, labels, lam * (2 if backend == "cvxpylayers" else 1), backend=backend)
        return dataclasses.replace(fit)

    monkeypatch.setattr(layers, "ridge", wrong)
    found = cross_check(TERMS[0].features, SYSTEM.design.T @ SYSTEM.wanted, TERMS[0].lam)
    assert found["relative_difference"] > 1e-3


def test_the_cross_check_leaves_large_problems_alone():
    rows = math.ceil((LARGEST + 1) / TERMS[0].features.shape[1])
    large = torch.zeros(rows, TERMS[0].features.shape[1])
    assert cross_check(large, torch.zeros(rows, C), 1.0) is None


@pytest.mark.parametrize("size", [60, 400])
def test_more_base_examples_than_features_are_solved_on_the_stacked_features(size):
    base = choose(DIGITS, size, balanced=False)
    terms = outer_terms(MOMENTS, base, LAM)
    system = label_system(terms)
    direct = [
        term.root
        @ torch.linalg.solve(
            term.features.T @ term.features + term.lam * torch.eye(term.features.shape[1]), term.features.T
        )
        for term in terms
    ]
    design = torch.cat(direct) / math.sqrt(len(terms))
    assert float((system.design - design).norm() / design.norm()) < 1e-8
    labels, certificate = solve_labels(system, GAMMA)
    hessian = design.T @ design + system.absolute(GAMMA) * torch.eye(size)
    expected = torch.linalg.solve(hessian, design.T @ system.wanted)
    assert float((labels - expected).norm() / expected.norm()) < 1e-8
    assert certificate["residual"] < 1e-10
    assert "dual" in certificate["solver"]  # of the size of the stacked features, at most 51


def test_memory_grows_with_the_number_of_base_examples_not_with_its_square():
    # 20,000 base examples: an n×n matrix alone would be 3.2 GB.
    rows = 20_000
    draw = torch.Generator().manual_seed(0)
    terms = [
        dataclasses.replace(
            term, features=torch.randn(rows, term.features.shape[1], generator=draw, dtype=torch.float64)
        )
        for term in TERMS
    ]
    labels, certificate = solve_labels(label_system(terms), GAMMA)
    assert labels.shape == (rows, C)
    assert certificate["residual"] < 1e-10


def test_a_solve_that_runs_out_of_memory_goes_on_in_halved_chunks(monkeypatch):
    system = SYSTEM
    expected, _ = solve_labels(system, 0.1)
    real, asked = layers.ridge_in_chunks, []

    def small_device(*arguments, memory, **options):
        asked.append(memory)
        if len(asked) < 3:
            raise torch.OutOfMemoryError("no memory")
        return real(*arguments, memory=1 << 20, **options)  # what is asked for here is too little for a chunk

    def no_memory(*arguments, **options):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(solve_module.layers, "ridge", no_memory)
    monkeypatch.setattr(solve_module.layers, "ridge_in_chunks", small_device)
    monkeypatch.setattr(solve_module, "LEAST_MEMORY", 100)
    with pytest.warns(PerformanceWarning, match="out of memory on cpu: the label solve goes on in chunks of"):
        labels, certificate = solve_labels(system, 0.1)
    assert [first // second for first, second in pairwise(asked)] == [2, 2]
    torch.testing.assert_close(labels, expected, rtol=0, atol=1e-9)
    assert certificate["residual"] < 1e-9
    monkeypatch.setattr(solve_module.layers, "ridge_in_chunks", no_memory)
    with pytest.warns(PerformanceWarning), pytest.raises(torch.OutOfMemoryError):
        solve_labels(system, 0.1)


def test_terms_move_to_a_device_as_they_are():
    moved = label_system(TERMS, torch.device("cpu"))
    assert torch.equal(moved.design, SYSTEM.design)
    assert TERMS[0].to(torch.device("meta")).root.is_meta


def test_where_the_device_is_too_small_the_cpu_goes_on(monkeypatch):
    real = solve_module._label_system

    def small(terms, device):
        if device is not None:
            raise torch.OutOfMemoryError("no memory")
        return real(terms, None)

    monkeypatch.setattr(solve_module, "_label_system", small)
    with pytest.warns(PerformanceWarning, match="out of memory on cuda:0: the label solve goes on on the CPU"):
        system = label_system(TERMS, torch.device("cuda:0"))
    assert torch.equal(system.design, SYSTEM.design)


def test_all_that_a_solve_reads_is_on_the_device_of_the_features(monkeypatch):
    class ReadError(Exception):
        pass

    def ridge(features, labels, lam, prior):
        assert {features.device, labels.device, prior.device} == {torch.device("meta")}
        raise ReadError

    monkeypatch.setattr(solve_module.layers, "ridge", ridge)
    few = len(TERMS[0].root) - 1  # fewer features than base examples: the road of large base sets
    term = dataclasses.replace(TERMS[0], root=TERMS[0].root[:few], features=TERMS[0].features[: few + 1])
    assert len(term.features) > len(term.root)
    with pytest.raises(ReadError):
        label_system([term], torch.device("meta"))
