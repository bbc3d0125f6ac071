"""Differentiable convex-optimization layers for PyTorch, and label distillation built on them.

The layers live in :mod:`convexdistill.layers`; the way from a data set to a distilled set and its report
runs through :mod:`data`, :mod:`select`, :mod:`features`, :func:`accumulate`, :mod:`distill`,
:mod:`evaluate` and :mod:`report`, in that order.
"""

import os

# Before torch loads its threads. Small steps on few cores spend their time at thread barriers; by default a
# waiting thread spins there and keeps the one it waits for off the core as soon as anything else runs.
# Two trainings at once on two cores: 710 ms a step spinning, 20 ms with waiting threads asleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from importlib.metadata import version

from convexdistill import data, distill, errors, evaluate, features, layers, report, select, training
from convexdistill.distilled import DistilledSet, load
from convexdistill.layers import ConvexHead
from convexdistill.moments import Moments, accumulate

__version__ = version("convexdistill")

__all__ = [
    "ConvexHead",
    "DistilledSet",
    "Moments",
    "accumulate",
    "data",
    "distill",
    "errors",
    "evaluate",
    "features",
    "layers",
    "load",
    "report",
    "select",
    "training",
]
