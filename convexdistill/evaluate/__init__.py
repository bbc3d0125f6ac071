"""How good a distilled set is: baselines, the protocol, and the table."""

from convexdistill.evaluate.axes import BASELINES, wanted_baselines
from convexdistill.evaluate.bias import bias
from convexdistill.evaluate.cost import DISTIL_SECONDS, cost
from convexdistill.evaluate.disparity import BiasReport
from convexdistill.evaluate.energy import Spent, spending
from convexdistill.evaluate.metrics import metrics
from convexdistill.evaluate.protocol import evaluate, matrix
from convexdistill.evaluate.table import EvaluationTable, Row

__all__ = [
    "BASELINES",
    "DISTIL_SECONDS",
    "BiasReport",
    "EvaluationTable",
    "Row",
    "Spent",
    "bias",
    "cost",
    "evaluate",
    "matrix",
    "metrics",
    "spending",
    "wanted_baselines",
]
