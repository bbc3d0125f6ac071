"""Training networks from scratch on a few labelled images."""

from convexdistill.training.loop import minibatches, train_together
from convexdistill.training.ready import ReadyNetwork
from convexdistill.training.recipe import LOSSES, OPTIMIZERS, Recipe
from convexdistill.training.side_by_side import SideBySide

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "ReadyNetwork",
    "Recipe",
    "SideBySide",
    "minibatches",
    "train_together",
]
