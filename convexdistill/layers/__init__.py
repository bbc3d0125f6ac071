"""Differentiable convex layers: functions first, ``nn.Module`` thin over them.

Example:
    >>> import torch
    >>> from convexdistill import layers
    >>> features, labels = torch.randn(20, 5), torch.randn(20, 3, requires_grad=True)
    >>> fit = layers.ridge(features, labels, lam=0.1)
    >>> fit.predict(torch.randn(7, 5)).sum().backward()
    >>> labels.grad.shape
    torch.Size([20, 3])
"""

from importlib import import_module
from typing import Any

from convexdistill.layers.backends import backends, register_backend, use_backend
from convexdistill.layers.backends.base import Backend, Plan, Solved, SolveOptions
from convexdistill.layers.chunks import ridge_in_chunks
from convexdistill.layers.constrained import constrained_ridge
from convexdistill.layers.convex_layer import ConvexLayer, ConvexSolution
from convexdistill.layers.explain import Explanation, explain
from convexdistill.layers.factorized import FactorizedRidge, factorize
from convexdistill.layers.folds import kfold_score
from convexdistill.layers.gram import GramAccumulator, ridge_from_gram
from convexdistill.layers.head import ConvexHead
from convexdistill.layers.held_out import gcv_score, loo_residuals, loo_score
from convexdistill.layers.kernel_ridge import kernel_ridge
from convexdistill.layers.least_squares import least_squares
from convexdistill.layers.logistic import logistic_regression
from convexdistill.layers.matrix_free import ridge_matrix_free
from convexdistill.layers.modules import (
    ConstrainedRidge,
    KernelRidge,
    LeastSquares,
    LinearSVM,
    LogisticRegression,
    Ridge,
    RidgeCV,
)
from convexdistill.layers.operators import LinearOperator
from convexdistill.layers.ridge import ridge
from convexdistill.layers.selection import LamSelection, select_lam
from convexdistill.layers.solution import LinearFit, SolveInfo
from convexdistill.layers.status import Status
from convexdistill.layers.svm import linear_svm

__all__ = [
    "Backend",
    "ClosedForm",
    "ConstrainedRidge",
    "ConvexHead",
    "ConvexLayer",
    "ConvexSolution",
    "Explanation",
    "FactorizedRidge",
    "GramAccumulator",
    "KernelRidge",
    "LamSelection",
    "LeastSquares",
    "LinearFit",
    "LinearOperator",
    "LinearSVM",
    "LogisticRegression",
    "Plan",
    "Ridge",
    "RidgeCV",
    "SolveInfo",
    "SolveOptions",
    "Solved",
    "Status",
    "backends",
    "constrained_ridge",
    "explain",
    "factorize",
    "gcv_score",
    "kernel_ridge",
    "kfold_score",
    "least_squares",
    "linear_svm",
    "logistic_regression",
    "loo_residuals",
    "loo_score",
    "register_backend",
    "ridge",
    "ridge_from_gram",
    "ridge_in_chunks",
    "ridge_matrix_free",
    "select_lam",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """``ClosedForm`` derives from a class of cvxpylayers, which loads with its first use."""
    if name == "ClosedForm":
        return import_module("convexdistill.layers.solver_interface").ClosedForm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
