"""The ``torch`` backend: closed forms, batched, on any device, differentiable to any order."""

from __future__ import annotations

from convexdistill.layers.backends.base import Backend
from convexdistill.layers.backends.torch_factorized import plan_factorized, solve_factorized
from convexdistill.layers.backends.torch_kernel import plan_kernel_ridge, solve_kernel_ridge
from convexdistill.layers.backends.torch_least_squares import plan_least_squares, solve_least_squares
from convexdistill.layers.backends.torch_logistic import plan_logistic, solve_logistic
from convexdistill.layers.backends.torch_operator import plan_operator, solve_operator
from convexdistill.layers.backends.torch_quadratic import plan_quadratic, solve_quadratic
from convexdistill.layers.backends.torch_ridge import plan_ridge, solve_ridge
from convexdistill.layers.factorized_problem import FactorizedProblem
from convexdistill.layers.kernel_problem import KernelRidgeProblem
from convexdistill.layers.least_squares_problem import LeastSquaresProblem
from convexdistill.layers.logistic_problem import LogisticProblem
from convexdistill.layers.operator_problem import OperatorProblem
from convexdistill.layers.problem import RidgeProblem
from convexdistill.layers.quadratic import QuadraticProblem

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
    devices=("cpu", "cuda", "mps"),
    double_backward=True,
    transforms=True,
    priority=100,
)
