"""Choosing a backend: by name, for a block, by entry point; and asking what would run."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from layers_helpers import data

from convexdistill.errors import NotConvergedError, ShapeError, UnknownNameError, UnsupportedError
from convexdistill.layers import Ridge, backends, explain, ridge, use_backend
from convexdistill.layers.backends import Backend, torch_backend
from convexdistill.layers.problems.ridge import RidgeProblem

REGISTRY = sys.modules["convexdistill.layers.backends"]


def test_a_block_chooses_and_a_name_wins_over_it():
    X, Y = data(8, 3)
    with use_backend("cvxpylayers"):
        assert ridge(X, Y).info.backend == "cvxpylayers"
        assert Ridge()(X, Y).info.backend == "cvxpylayers"
        assert ridge(X, Y, backend="torch").info.backend == "torch"
        with use_backend("auto"):
            assert ridge(X, Y).info.backend == "torch"
        assert ridge(X, Y).info.backend == "cvxpylayers"
    assert ridge(X, Y).info.backend == "torch"


def test_the_choice_ends_with_the_block_also_after_an_error():
    X, Y = data(8, 3)
    with pytest.raises(ShapeError), use_backend("cvxpylayers"):
        ridge(X, Y[:2])
    assert ridge(X, Y).info.backend == "torch"


def test_another_thread_has_its_own_choice():
    X, Y = data(8, 3)
    seen = []
    with use_backend("cvxpylayers"):
        thread = threading.Thread(target=lambda: seen.append(ridge(X, Y).info.backend))
        thread.start()
        thread.join()
    assert seen == ["torch"]


def test_an_unknown_choice_is_refused_before_the_block():
    with pytest.raises(UnknownNameError, match="'cvxpylayers'"), use_backend("jax"):
        pytest.fail("the block ran")


def test_a_chosen_backend_must_solve_the_problem(monkeypatch):
    monkeypatch.setitem(REGISTRY._REGISTRY, "empty", Backend("empty"))
    X, Y = data(8, 3)
    with pytest.raises(UnsupportedError, match="'empty' does not solve a RidgeProblem"), use_backend("empty"):
        ridge(X, Y)


class Point:
    """An entry point, as importlib.metadata hands it out."""

    def __init__(self, name, made):
        self.name, self.value, self.made = name, f"package:{name}", made

    def load(self):
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


def test_entry_points_add_backends_and_broken_ones_are_left_out(monkeypatch):
    points = [Point("other", Backend("other")), Point("broken", ImportError("no such file")), Point("odd", 3)]
    monkeypatch.setattr(REGISTRY, "_REGISTRY", dict(REGISTRY._REGISTRY))
    monkeypatch.setattr(REGISTRY, "_loaded", False)
    monkeypatch.setattr(REGISTRY, "entry_points", lambda group: points if group == REGISTRY.ENTRY_POINTS else [])
    with pytest.warns(UserWarning, match="was left out") as caught:
        names = set(backends())
    assert names == {"torch", "cvxpylayers", "other"}
    messages = sorted(str(w.message) for w in caught)
    assert "'broken'" in messages[0]
    assert "no such file" in messages[0]
    assert "it is a int, not a Backend" in messages[1]


def test_capabilities_are_listed():
    report = backends()
    assert report["torch"].double_backward
    assert not report["cvxpylayers"].double_backward
    assert report["torch"].devices == ("cpu", "cuda")  # mps has no float64
    assert report["cvxpylayers"].devices == ("cpu",)
    assert "ridge" in report["torch"].problems


@pytest.mark.parametrize(
    ("shape", "options", "form", "methods", "why"),
    [
        ((9, 4), {}, "primal", ("cholesky", "qr", "svd"), "n=9 >= d=4"),
        ((4, 9), {}, "dual", ("cholesky", "qr", "svd"), "n=4 < d=9"),
        ((4, 9), {"form": "primal"}, "primal", ("cholesky", "qr", "svd"), "asked for"),
        ((9, 4), {"method": "svd"}, "primal", ("svd",), "method='svd'"),
    ],
)
def test_explain_says_what_then_runs(shape, options, form, methods, why):
    X, Y = data(*shape)
    told = explain(ridge, X, Y, 0.5, **options)
    assert (told.problem, told.backend, told.form, told.methods) == ("RidgeProblem", "torch", form, methods)
    assert why in told.why
    assert told.why in str(told)
    info = ridge(X, Y, 0.5, **options).info
    assert (info.backend, info.form) == (told.backend, told.form)
    assert info.method in told.methods


def test_explain_takes_modules_and_other_backends_and_refuses_what_the_layer_refuses():
    X, Y = data(9, 4)
    assert explain(Ridge(0.5, backend="cvxpylayers"), X, Y).backend == "cvxpylayers"
    with pytest.raises(ShapeError):
        explain(ridge, X, Y[:3])
    with pytest.raises(UnsupportedError, match="announced no convex problem"):
        explain(torch.nn.Linear(4, 2, dtype=torch.float64), X)
    assert ridge(X, Y).info.ok  # and nothing stays switched on


def test_the_first_call_of_a_process_may_be_compiled():
    code = (
        "import torch; from convexdistill.layers import ridge\n"
        "solve = torch.compile(lambda x, y: ridge(x, y, 0.3).weight, backend='aot_eager', fullgraph=True)\n"
        "print(tuple(solve(torch.randn(5, 3), torch.randn(5, 2)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(3, 2)", done.stderr


def test_threads_that_come_first_see_the_whole_registry(monkeypatch):
    inside, go = threading.Event(), threading.Event()

    class Slow(Point):
        def load(self):
            inside.set()
            assert go.wait(10)
            return self.made

    points = [Slow("slow", Backend("slow"))]
    monkeypatch.setattr(REGISTRY, "_REGISTRY", dict(REGISTRY._REGISTRY))
    monkeypatch.setattr(REGISTRY, "_loaded", False)
    monkeypatch.setattr(REGISTRY, "entry_points", lambda group: points)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append("slow" in backends())) for _ in range(2)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()  # it waits, instead of seeing half of it
    go.set()
    for thread in threads:
        thread.join(10)
    assert seen == [True, True]


def test_compiled_layers_are_at_hand_while_another_is_compiled():
    guard = pytest.importorskip("convexdistill.layers.backends.cvxpylayers_backend.guard")
    cache, building, go = guard.Cache(), threading.Event(), threading.Event()
    first = object()
    assert cache.get("first", lambda: first) is first

    def slow():
        building.set()
        assert go.wait(10)
        return "second"

    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("second", slow))) for _ in range(2)]
    threads[0].start()
    assert building.wait(10)
    threads[1].start()
    hit = threading.Thread(target=lambda: found.append(cache.get("first", lambda: None)))
    hit.start()
    hit.join(5)
    assert found == [first]
    go.set()
    for thread in threads:
        thread.join(10)
    assert found == [first, "second", "second"]
    assert len(cache) == 2


@pytest.mark.parametrize("claims", [False, True])
def test_a_backend_is_not_believed(claims, monkeypatch):
    """An answer that is off by 1 %, with the residual of the right one, is refused."""

    def solve(problem, options):
        right = torch_backend.BACKEND.solvers[RidgeProblem](problem, options)
        return replace(right, answer=right.answer * 1.01, residual=right.residual if claims else None)

    monkeypatch.setitem(REGISTRY._registry(), "foreign", Backend("foreign", {RidgeProblem: solve}))
    with pytest.raises(NotConvergedError, match="not met"):
        ridge(*data(8, 3), backend="foreign")


@pytest.mark.parametrize("part", [slice(0, 1), slice(0, 2)])
def test_an_answer_of_the_wrong_shape_is_refused(part, monkeypatch):
    def solve(problem, options):
        right = torch_backend.BACKEND.solvers[RidgeProblem](problem, options)
        return replace(right, answer=right.answer[..., part])

    monkeypatch.setitem(REGISTRY._registry(), "foreign", Backend("foreign", {RidgeProblem: solve}))
    with pytest.raises(UnsupportedError, match=r"must return \(2, 3, 4\)"):
        ridge(*data(2, 8, 3, columns=4), backend="foreign")
