"""What `benchmarks/layers.py` compares: one small function for each way to fit ridge regression.

A candidate takes (X, Y, λ), prepares what a user would prepare once, and returns a function without arguments that
does the measured work: fit, then take the gradient that the case asks for. Peers are development dependencies; one
that is not installed is reported as such.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.layers import ridge

Work = Callable[[], tuple[Tensor, Tensor | None]]  # the weight, and the gradient to X or Y where there is one
Candidate = Callable[[Tensor, Tensor, float, str], Work]


class Peer(NamedTuple):
    """A candidate, and what to say of it in the table."""

    name: str
    make: Candidate
    note: str = ""


def differentiated(solve: Callable[[Tensor, Tensor], Tensor], X: Tensor, Y: Tensor, wanted: str) -> Work:
    """Fit, and the gradient of ⟨G, W⟩ to the features or the labels, for one fixed G."""
    X, Y = X.clone().requires_grad_(wanted == "features"), Y.clone().requires_grad_(wanted == "labels")
    leaf = X if wanted == "features" else Y
    shape = solve(X, Y).shape
    G = torch.cos(torch.arange(shape.numel(), dtype=X.dtype)).reshape(shape)

    def work() -> tuple[Tensor, Tensor | None]:
        W = solve(X, Y)
        return W, torch.autograd.grad(W, leaf, G)[0]

    return work


def ours(backend: str, **options: Any) -> Candidate:
    def make(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
        return differentiated(lambda X, Y: ridge(X, Y, lam, backend=backend, **options).weight, X, Y, wanted)

    return make


def by_hand(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    """Cholesky as one would write it, nothing checked."""

    def solve(X: Tensor, Y: Tensor) -> Tensor:
        A = X.mT @ X + lam * torch.eye(X.shape[-1], dtype=X.dtype)
        L, _ = torch.linalg.cholesky_ex(A)
        return torch.cholesky_solve(X.mT @ Y, L)

    return differentiated(solve, X, Y, wanted)


def bare_torch(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    """The factorisation and the products alone, without autograd: the floor."""
    G = torch.cos(torch.arange(X.shape[-1] * Y.shape[-1], dtype=X.dtype)).reshape(X.shape[-1], Y.shape[-1])
    G = G.expand(*X.shape[:-2], *G.shape)

    @torch.no_grad()
    def work() -> tuple[Tensor, Tensor | None]:
        S = X.mT @ X
        S.diagonal(dim1=-2, dim2=-1).add_(lam)
        L = torch.linalg.cholesky_ex(S).L
        W = torch.cholesky_solve(X.mT @ Y, L)
        U = torch.cholesky_solve(G, L)
        XU = X @ U
        if wanted == "labels":
            return W, XU
        return W, (Y - X @ W) @ U.mT - XU @ W.mT

    return work


def bare_lapack(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    """The same by scipy's BLAS and LAPACK wrappers."""
    from scipy.linalg import blas, lapack

    if X.ndim > 2 or wanted != "labels":
        raise NotImplementedError("one system, gradient to labels")
    x, y = X.numpy(), Y.numpy()
    G = torch.cos(torch.arange(x.shape[1] * y.shape[1], dtype=X.dtype)).reshape(x.shape[1], -1).numpy()

    def work() -> tuple[Tensor, Tensor | None]:
        S = blas.dsyrk(1.0, x.T, lower=1)
        S.flat[:: S.shape[0] + 1] += lam
        L, _ = lapack.dpotrf(S, lower=1, clean=0, overwrite_a=1)
        W, _ = lapack.dpotrs(L, blas.dgemm(1.0, x.T, y.T, trans_b=1), lower=1)
        U, _ = lapack.dpotrs(L, G, lower=1)
        return torch.from_numpy(W), torch.from_numpy(blas.dgemm(1.0, x.T, U, trans_a=1))

    return work


def cvxpy_layer(solver: str | None, arguments: dict[str, Any]) -> Candidate:
    """cvxpylayers as its manual has it, the columns of the labels as its batch."""

    def make(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
        import cvxpy as cp
        from cvxpylayers.torch import CvxpyLayer

        if X.ndim > 2 or wanted != "labels":
            raise NotImplementedError("one system, gradient to labels")
        n, d = X.shape
        A, y, w = cp.Parameter((n, d)), cp.Parameter(n), cp.Variable(d)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ w - y) + lam * cp.sum_squares(w)))
        layer = CvxpyLayer(problem, [A, y], [w], **({"solver": solver} if solver else {}))

        def solve(X: Tensor, Y: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return layer(X, Y.mT, solver_args=arguments)[0].mT

        return differentiated(solve, X, Y, wanted)

    return make


def qpth(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    """qpth's QPFunction, one QP a column; it wants an inequality, so it gets one that says nothing."""
    from qpth.qp import QPFunction

    if X.ndim > 2 or wanted != "labels":
        raise NotImplementedError("one system, gradient to labels")
    d = X.shape[1]
    nothing, one, none = torch.zeros(1, d, dtype=X.dtype), torch.ones(1, dtype=X.dtype), torch.Tensor()

    def solve(X: Tensor, Y: Tensor) -> Tensor:
        Q = 2 * (X.mT @ X + lam * torch.eye(d, dtype=X.dtype))
        return QPFunction(verbose=-1)(Q, -2 * (X.mT @ Y).mT, nothing, one, none, none).mT

    return differentiated(solve, X, Y, wanted)


def lstsq(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    """torch.linalg.lstsq of [X; √λ I], which is differentiable."""
    root = lam**0.5 * torch.eye(X.shape[-1], dtype=X.dtype).expand(*X.shape[:-2], -1, -1)

    def solve(X: Tensor, Y: Tensor) -> Tensor:
        zeros = Y.new_zeros(*Y.shape[:-2], X.shape[-1], Y.shape[-1])
        return torch.linalg.lstsq(torch.cat([X, root], -2), torch.cat([Y, zeros], -2)).solution

    return differentiated(solve, X, Y, wanted)


def scikit_learn(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    from sklearn.linear_model import Ridge

    if X.ndim > 2:
        raise NotImplementedError("one system")
    model, x, y = Ridge(lam, fit_intercept=False, solver="cholesky"), X.numpy(), Y.numpy()
    return lambda: (torch.from_numpy(model.fit(x, y).coef_.T), None)


def himalaya(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    from himalaya.ridge import Ridge

    if X.ndim > 2:
        raise NotImplementedError("one system")
    model, x, y = Ridge(alpha=lam, fit_intercept=False), X.numpy(), Y.numpy()

    def work() -> tuple[Tensor, Tensor | None]:
        with warnings.catch_warnings():  # it advises its kernel ridge where n < d
            warnings.simplefilter("ignore")
            return torch.from_numpy(model.fit(x, y).coef_), None

    return work


PEERS = (
    Peer("convexdistill", ours("torch"), "verified"),
    Peer("convexdistill, cvxpylayers backend", ours("cvxpylayers"), "verified"),
    Peer("by hand: cholesky_ex + cholesky_solve", by_hand, "unchecked"),
    Peer("bare torch products and factorisation", bare_torch, "no autograd"),
    Peer("bare BLAS and LAPACK (scipy)", bare_lapack, "no autograd"),
    Peer("cvxpylayers, DIFFCP, eps 1e-8", cvxpy_layer(None, {"eps": 1e-8, "max_iters": 100_000})),
    Peer("cvxpylayers, MOREAU", cvxpy_layer("MOREAU", {"solver": "ipm"})),
    Peer("qpth", qpth),
    Peer("torch.linalg.lstsq", lstsq),
    Peer("scikit-learn Ridge", scikit_learn, "no gradient"),
    Peer("himalaya Ridge", himalaya, "no gradient"),
)
