"""Training networks from scratch on a few labelled images."""

from convexdistill.training.augmentation import AUGMENTATIONS, Augmenter
from convexdistill.training.loop import train_together
from convexdistill.training.optimizers import OPTIMIZERS, find_optimizer, optimizer_names
from convexdistill.training.orders import ORDERS, minibatches
from convexdistill.training.ready import ReadyNetwork
from convexdistill.training.recipe import LOSSES, Recipe
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
    "AUGMENTATIONS",
    "LOSSES",
    "OPTIMIZERS",
    "ORDERS",
    "Augmenter",
    "Candidate",
    "Course",
    "ReadyNetwork",
    "Recipe",
    "SideBySide",
    "Trial",
    "accuracies",
    "courses",
    "find_optimizer",
    "minibatches",
    "optimizer_names",
    "predictions",
    "run_trials",
    "train_together",
    "training_steps",
    "validation_part",
]
