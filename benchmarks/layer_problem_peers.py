"""What `benchmarks/layers.py` compares for the layers beside ridge: the same problem through each library.

A candidate takes (X, Y, λ) and returns a function without arguments that fits and takes the gradient of ⟨G, W⟩ to
the labels, as those of `layer_peers.py` do. Plain cvxpylayers is written as its manual has it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from layer_peers import Candidate, Peer, Work, differentiated
from torch import Tensor

from convexdistill.layers import (
    ConvexLayer,
    constrained_ridge,
    kernel_ridge,
    least_squares,
    linear_svm,
    logistic_regression,
)

Fit = Callable[[Tensor, Tensor, float], Tensor]


def layer(fit: Fit) -> Candidate:
    """One of our layers, or any other differentiable function."""
    return lambda X, Y, lam, wanted: differentiated(lambda X, Y: fit(X, Y, lam), X, Y, wanted)


def without_gradient(fit: Callable[[np.ndarray, np.ndarray, float], np.ndarray]) -> Candidate:
    """A library that fits and has no gradient."""

    def make(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
        x, y = X.numpy(), Y.numpy()
        return lambda: (torch.from_numpy(np.ascontiguousarray(fit(x, y, lam))), None)

    return make


# -- nonnegative ridge -----------------------------------------------------------------------------


def _nonnegative_program(n: int, d: int, lam: float) -> tuple[Any, list[Any], list[Any]]:
    import cvxpy as cp

    A, y, w = cp.Parameter((n, d)), cp.Parameter(n), cp.Variable(d)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ w - y) + lam * cp.sum_squares(w)), [w >= 0])
    return problem, [A, y], [w]


def nonnegative_cvxpy(solver: str | None, arguments: dict[str, Any]) -> Candidate:
    def make(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
        from cvxpylayers.torch import CvxpyLayer

        plain = CvxpyLayer(*_nonnegative_program(*X.shape, lam), **({"solver": solver} if solver else {}))

        def solve(X: Tensor, Y: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return plain(X, Y.mT, solver_args=arguments)[0].mT

        return differentiated(solve, X, Y, wanted)

    return make


def nonnegative_convex_layer(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    checked = ConvexLayer(*_nonnegative_program(*X.shape, lam))
    return differentiated(lambda X, Y: checked(X.unsqueeze(0), Y.mT)[0].mT, X, Y, wanted)


def nonnegative_qpth(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    from qpth.qp import QPFunction

    d = X.shape[1]
    eye, none = torch.eye(d, dtype=X.dtype), torch.Tensor()

    def solve(X: Tensor, Y: Tensor) -> Tensor:
        Q = 2 * (X.mT @ X + lam * eye)
        zeros = torch.zeros(d, dtype=X.dtype)
        return QPFunction(verbose=-1)(Q, -2 * (X.mT @ Y).mT, -eye, zeros, none, none).mT

    return differentiated(solve, X, Y, wanted)


def _nnls(x: np.ndarray, y: np.ndarray, lam: float) -> np.ndarray:
    from scipy.optimize import nnls

    d = x.shape[1]
    tall = np.vstack([x, lam**0.5 * np.eye(d)])
    return np.stack([nnls(tall, np.concatenate([column, np.zeros(d)]))[0] for column in y.T], 1)


def _positive_ridge(x: np.ndarray, y: np.ndarray, lam: float) -> np.ndarray:
    from sklearn.linear_model import Ridge

    return Ridge(lam, fit_intercept=False, positive=True, tol=1e-10, max_iter=100_000).fit(x, y).coef_.T


# -- logistic regression ---------------------------------------------------------------------------


def logistic_cvxpy(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    (n, d), C = X.shape, Y.shape[1]
    A, y, W = cp.Parameter((n, d)), cp.Parameter((n, C)), cp.Variable((d, C))
    Z = cp.Variable((n, C))
    loss = cp.sum(cp.log_sum_exp(Z, axis=1)) - cp.sum(cp.multiply(y, Z)) + lam / 2 * cp.sum_squares(W)
    plain = CvxpyLayer(cp.Problem(cp.Minimize(loss), [Z == A @ W]), [A, y], [W])

    def solve(X: Tensor, Y: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return plain(X, Y, solver_args={"eps": 1e-8, "max_iters": 100_000})[0]

    return differentiated(solve, X, Y, wanted)


def _logistic_sklearn(x: np.ndarray, y: np.ndarray, lam: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    # Soft labels as scikit-learn takes them: every example once for every class, weighted.
    n, C = y.shape
    model = LogisticRegression(C=1 / lam, fit_intercept=False, tol=1e-10, max_iter=10_000)
    return model.fit(np.repeat(x, C, 0), np.tile(np.arange(C), n), sample_weight=y.reshape(-1)).coef_.T


# -- support vector machine, least squares, kernel ridge -------------------------------------------


def _hinge_sklearn(x: np.ndarray, y: np.ndarray, lam: float) -> np.ndarray:
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=1 / lam, loss="hinge", multi_class="crammer_singer", fit_intercept=False, max_iter=100_000)
    return model.set_params(tol=1e-8).fit(x, y.argmax(1)).coef_.T


def svm_cvxpy(X: Tensor, Y: Tensor, lam: float, wanted: str) -> Work:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    (n, d), C = X.shape, Y.shape[1]
    A, y, W = cp.Parameter((n, d)), cp.Parameter((n, C)), cp.Variable((d, C))
    Z = cp.Variable((n, C))
    loss = cp.sum(cp.max(Z, axis=1)) - cp.sum(cp.multiply(y, Z)) + lam / 2 * cp.sum_squares(W)
    plain = CvxpyLayer(cp.Problem(cp.Minimize(loss), [A @ W - y == Z]), [A, y], [W])

    def solve(X: Tensor, Y: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return plain(X, Y, solver_args={"eps": 1e-8, "max_iters": 100_000})[0]

    return differentiated(solve, X, Y, wanted)


def _kernel_sklearn(x: np.ndarray, y: np.ndarray, lam: float) -> np.ndarray:
    from sklearn.kernel_ridge import KernelRidge

    return KernelRidge(alpha=lam, kernel="precomputed").fit(x @ x.T, y).dual_coef_


def _kernel_by_hand(X: Tensor, Y: Tensor, lam: float) -> Tensor:
    K = X @ X.mT + lam * torch.eye(len(X), dtype=X.dtype)
    return torch.cholesky_solve(Y, torch.linalg.cholesky_ex(K).L)


OURS = "convexdistill"
DIFFCP, MOREAU = "cvxpylayers, DIFFCP, eps 1e-8", "cvxpylayers, MOREAU"

NONNEGATIVE = (
    Peer(OURS, layer(lambda X, Y, lam: constrained_ridge(X, Y, lam).weight), "verified"),
    Peer("convexdistill, ConvexLayer on the same program", nonnegative_convex_layer, "verified"),
    Peer(DIFFCP, nonnegative_cvxpy(None, {"eps": 1e-8, "max_iters": 100_000})),
    Peer(MOREAU, nonnegative_cvxpy("MOREAU", {"solver": "ipm"})),
    Peer("qpth", nonnegative_qpth),
    Peer("scipy nnls", without_gradient(_nnls), "no gradient"),
    Peer("scikit-learn Ridge(positive=True)", without_gradient(_positive_ridge), "no gradient"),
)
LOGISTIC = (
    Peer(OURS, layer(lambda X, Y, lam: logistic_regression(X, Y, lam).weight), "verified"),
    Peer(DIFFCP, logistic_cvxpy),
    Peer("scikit-learn LogisticRegression", without_gradient(_logistic_sklearn), "no gradient"),
)
SVM = (
    Peer(OURS, layer(lambda X, Y, lam: linear_svm(X, Y, lam).weight), "verified"),
    Peer(DIFFCP, svm_cvxpy),
    Peer("scikit-learn LinearSVC", without_gradient(_hinge_sklearn), "no gradient"),
)
KERNEL = (
    Peer(OURS, layer(lambda X, Y, lam: kernel_ridge(X @ X.mT, Y, lam).weight), "verified"),
    Peer("by hand: cholesky_ex + cholesky_solve", layer(_kernel_by_hand), "unchecked"),
    Peer("scikit-learn KernelRidge", without_gradient(_kernel_sklearn), "no gradient"),
)
LEAST_SQUARES = (
    Peer(OURS, layer(lambda X, Y, lam: least_squares(X, Y).weight), "verified"),
    Peer("torch.linalg.lstsq", layer(lambda X, Y, lam: torch.linalg.lstsq(X, Y).solution)),
    Peer("torch.linalg.pinv", layer(lambda X, Y, lam: torch.linalg.pinv(X) @ Y)),
    Peer(
        "numpy.linalg.lstsq",
        without_gradient(lambda x, y, lam: np.linalg.lstsq(x, y, rcond=None)[0]),
        "no gradient",
    ),
)
