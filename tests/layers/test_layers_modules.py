"""The modules, the registry, and the records: what is around the solve."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
import torch.utils._pytree as pytree
from layers_helpers import data
from torch import nn

from convexdistill.errors import (
    BackendUnavailableError,
    ParameterRangeError,
    UnsupportedError,
)
from convexdistill.layers import (
    ConvexHead,
    LinearFit,
    Ridge,
    SolveInfo,
    backends,
    register_backend,
    ridge,
)
from convexdistill.layers import backends as registry_function
from convexdistill.layers.backends import _REGISTRY, Backend, Solved
from convexdistill.layers.problems.ridge import RidgeProblem


def test_module_is_the_function():
    X, Y = data(7, 4)
    s = torch.rand(7, dtype=torch.float64)
    layer = Ridge(0.3, intercept="free")
    assert torch.equal(
        layer(X, Y, sample_weight=s).weight,
        ridge(X, Y, 0.3, sample_weight=s, intercept="free").weight,
    )
    assert torch.equal(layer(X, Y, lam=2.0).weight, ridge(X, Y, 2.0, intercept="free").weight)


def test_lam_can_be_learnt():
    X, Y = data(7, 4)
    layer = Ridge(0.3, learn_lam=True)
    torch.testing.assert_close(layer(X, Y).weight, ridge(X, Y, 0.3).weight, rtol=1e-6, atol=1e-7)
    layer(X.float(), Y.float()).weight.pow(2).sum().backward()
    lam = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ridge(X, Y, lam).weight.pow(2).sum().backward()
    assert float(layer.log_lam.grad) == pytest.approx(float(lam.grad) * 0.3, rel=1e-4)
    assert [name for name, _ in layer.named_parameters()] == ["log_lam"]
    assert list(Ridge(0.3).parameters()) == []


@pytest.mark.parametrize("learn_lam", [False, True])
def test_copies_pickles_and_state_dicts_answer_alike(backend, learn_lam):
    X, Y = data(7, 4)
    layer = Ridge(0.3, learn_lam=learn_lam, intercept="free", backend=backend)
    answer = layer(X, Y).weight  # a solve first: it must leave nothing behind that cannot be copied
    fresh = Ridge(0.9, learn_lam=learn_lam, intercept="free", backend=backend)
    fresh.load_state_dict(layer.state_dict())
    assert set(layer.state_dict()) == ({"log_lam"} if learn_lam else set())
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    for other in copies + ([fresh] if learn_lam else []):
        torch.testing.assert_close(other(X, Y).weight, answer)


def test_repr_shows_what_is_not_default():
    assert repr(Ridge(0.5)) == "Ridge(lam=0.5)"
    text = repr(Ridge(2.0, learn_lam=True, intercept="free", form="dual"))
    assert text == "Ridge(lam=2, learn_lam=True, intercept='free', form='dual')"


def test_head_scores_queries_and_passes_gradients_to_labels_images_and_extractor(backend):
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(9, 5))
    head = ConvexHead(extractor, Ridge(0.1, backend=backend))
    base, query = torch.randn(8, 1, 3, 3, requires_grad=True), torch.randn(4, 1, 3, 3)
    labels = torch.randn(8, 3, requires_grad=True)
    logits = head(base, labels, query)
    assert logits.shape == (4, 3)
    expected = ridge(extractor(base), labels, 0.1).predict(extractor(query))
    torch.testing.assert_close(logits, expected)
    logits.pow(2).sum().backward()
    for tensor in (base, labels, *extractor.parameters()):
        assert tensor.grad.abs().max() > 0


def test_an_interpolating_head_returns_the_labels_of_the_base_images():
    head = ConvexHead(nn.Flatten(), Ridge(0.0))
    images, labels = torch.randn(5, 1, 4, 4).double(), torch.randn(5, 3).double()
    torch.testing.assert_close(head(images, labels, images), labels)


@pytest.mark.parametrize("intercept", ["none", "free"])
def test_fits_are_pytrees(intercept):
    X, Y = data(3, 7, 4, columns=1)
    fit = ridge(X, Y[..., 0], 0.3, intercept=intercept)
    leaves, spec = pytree.tree_flatten(fit)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, LinearFit)
    assert isinstance(again.info, SolveInfo)
    query = torch.randn(3, 2, 4, dtype=torch.float64)
    assert torch.equal(again.predict(query), fit.predict(query))
    doubled = pytree.tree_map(lambda t: 2 * t, fit)
    torch.testing.assert_close(doubled.predict(query), 2 * fit.predict(query))
    assert (again.info.backend, again.info.form) == (fit.info.backend, fit.info.form)


def test_fits_can_be_pickled():
    fit = ridge(*data(7, 4), intercept="free")
    again = pickle.loads(pickle.dumps(fit))
    assert torch.equal(again.weight, fit.weight)
    assert again.info.method == fit.info.method


def test_info_reads_as_a_sentence():
    text = repr(ridge(*data(3, 7, 4)).info)
    assert "backend='torch'" in text
    assert "{'OPTIMAL': 3}" in text


@pytest.fixture
def restored_registry():
    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)


@pytest.mark.usefixtures("restored_registry")
class TestRegistry:
    def test_lists_what_is_there_and_why_the_rest_is_not(self):
        register_backend(Backend("quantum", unavailable=lambda: "no qubits; buy some"))
        reports = registry_function()
        assert reports["torch"].available
        assert reports["torch"].problems[0] == "ridge"
        assert not reports["cvxpylayers"].double_backward
        assert not reports["quantum"].available
        assert reports["quantum"].reason == "no qubits; buy some"
        with pytest.raises(BackendUnavailableError, match="no qubits"):
            ridge(*data(4, 2), backend="quantum")

    def test_a_registered_backend_solves(self):
        def solve(problem, options):
            X, Y, lam = problem.features, problem.labels, problem.lam
            A = X.mT @ X + lam.unsqueeze(-1) * torch.eye(X.shape[-1], dtype=X.dtype)
            return Solved(torch.linalg.solve(A, X.mT @ Y), "primal", "lu")

        register_backend(Backend("lu", {RidgeProblem: solve}))
        X, Y = data(6, 3)
        fit = ridge(X, Y, 0.5, intercept="free", backend="lu")
        assert (fit.info.backend, fit.info.method) == ("lu", "lu")
        torch.testing.assert_close(fit.weight, ridge(X, Y, 0.5, intercept="free").weight)

    def test_a_backend_that_answers_wrongly_is_found_out(self):
        def solve(problem, options):
            return Solved(torch.zeros(3, 2, dtype=torch.float64), "primal", "guess")

        register_backend(Backend("guess", {RidgeProblem: solve}))
        fit = ridge(*data(6, 3), 0.5, backend="guess", on_failure="nan")
        assert fit.info.status == 1
        assert fit.weight.isnan().all()

    def test_names_are_taken_once(self):
        with pytest.raises(ParameterRangeError, match="registered already"):
            register_backend(Backend("torch"))
        register_backend(Backend("torch"), overwrite=True)
        with pytest.raises(UnsupportedError, match="does not solve"):
            ridge(*data(4, 2), backend="torch")
        with pytest.raises(ParameterRangeError, match="auto"):
            register_backend(Backend("auto"))

    def test_auto_takes_the_closed_form(self):
        assert ridge(*data(4, 2)).info.backend == "torch"


def test_import_stays_light():
    code = (
        "import sys, convexdistill.layers as l; l.backends(); "
        "print([m for m in ('cvxpy', 'cvxpylayers', 'diffcp', 'moreau') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_docstring_examples_run():
    import doctest
    import importlib
    import pkgutil

    import convexdistill.layers as package

    assert backends is registry_function
    ran = 0
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        ran += result.attempted
    assert ran >= 10
