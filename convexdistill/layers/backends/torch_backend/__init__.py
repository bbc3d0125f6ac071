"""The ``torch`` backend: closed forms, batched, on any device, differentiable to any order."""

from __future__ import annotations

from convexdistill.layers.backends.base import Backend
from convexdistill.layers.backends.torch_backend.kernel.solver import plan_kernel_ridge, solve_kernel_ridge
from convexdistill.layers.backends.torch_backend.least_squares.solver import (
    plan_least_squares,
    solve_least_squares,
)
from convexdistill.layers.backends.torch_backend.logistic.solver import plan_logistic, solve_logistic
from convexdistill.layers.backends.torch_backend.operator.solver import plan_operator, solve_operator
from convexdistill.layers.backends.torch_backend.quadratic.solver import plan_quadratic, solve_quadratic
from convexdistill.layers.backends.torch_backend.ridge.factorized import plan_factorized, solve_factorized
from convexdistill.layers.backends.torch_backend.ridge.solver import plan_ridge, solve_ridge
from convexdistill.layers.problems.factorized import FactorizedProblem
from convexdistill.layers.problems.kernel import KernelRidgeProblem
from convexdistill.layers.problems.least_squares import LeastSquaresProblem
from convexdistill.layers.problems.logistic import LogisticProblem
from convexdistill.layers.problems.operator import OperatorProblem
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.problems.ridge import RidgeProblem

BACKEND = Backend(
    name="torch",
    solvers={
        RidgeProblem: solve_ridge,
        FactorizedProblem: solve_factorized,
        KernelRidgeProblem: solve_kernel_ridge,
        LeastSquaresProblem: solve_least_squares,
        LogisticProblem: solve_logistic,
        OperatorProblem: solve_operator,
        QuadraticProblem: solve_quadratic,
    },
    plans={
        RidgeProblem: plan_ridge,
        FactorizedProblem: plan_factorized,
        KernelRidgeProblem: plan_kernel_ridge,
        LeastSquaresProblem: plan_least_squares,
        LogisticProblem: plan_logistic,
        OperatorProblem: plan_operator,
        QuadraticProblem: plan_quadratic,
    },
    summary="closed forms in PyTorch: batched, any device, double backward, torch.func, compile",
    devices=("cpu", "cuda"),
    double_backward=True,
    transforms=True,
    priority=100,
)
