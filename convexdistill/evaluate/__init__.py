"""How good a distilled set is: baselines, the protocol, and the table."""

from convexdistill.evaluate.metrics import metrics
from convexdistill.evaluate.protocol import evaluate
from convexdistill.evaluate.table import EvaluationTable, Row

__all__ = ["EvaluationTable", "Row", "evaluate", "metrics"]
