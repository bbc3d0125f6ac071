"""Training networks from scratch on a few labelled images."""

from convexdistill.training.loop import minibatches, train_together
from convexdistill.training.ready import ReadyNetwork
from convexdistill.training.recipe import LOSSES, OPTIMIZERS, Recipe
from convexdistill.training.side_by_side import SideBySide
from convexdistill.training.trials import (
    Candidate,
    Course,
    Trial,
    accuracies,
    courses,
    predictions,
    run_trials,
    training_steps,
    validation_part,
)

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "Candidate",
    "Course",
    "ReadyNetwork",
    "Recipe",
    "SideBySide",
    "Trial",
    "accuracies",
    "courses",
    "minibatches",
    "predictions",
    "run_trials",
    "train_together",
    "training_steps",
    "validation_part",
]
