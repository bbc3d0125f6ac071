"""How good a distilled set is: baselines, the protocol, and the table."""

from convexdistill.evaluate.axes import BASELINES, wanted_baselines
from convexdistill.evaluate.metrics import metrics
from convexdistill.evaluate.protocol import evaluate, matrix
from convexdistill.evaluate.table import EvaluationTable, Row

__all__ = ["BASELINES", "EvaluationTable", "Row", "evaluate", "matrix", "metrics", "wanted_baselines"]
