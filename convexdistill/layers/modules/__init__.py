"""The layers as ``nn.Module``: thin over the functions."""

from convexdistill.layers.modules.constrained import ConstrainedRidge
from convexdistill.layers.modules.kernel_ridge import KernelRidge
from convexdistill.layers.modules.least_squares import LeastSquares
from convexdistill.layers.modules.logistic import LogisticRegression
from convexdistill.layers.modules.ridge import Ridge
from convexdistill.layers.modules.ridge_cv import RidgeCV
from convexdistill.layers.modules.svm import LinearSVM

__all__ = [
    "ConstrainedRidge",
    "KernelRidge",
    "LeastSquares",
    "LinearSVM",
    "LogisticRegression",
    "Ridge",
    "RidgeCV",
]
