"""How solved labels are handed to a network: label space and recipe together.

The solve gives centred labels Y: what a ridge head should say on the base images. A network can be asked for the
same in two ways, the two recipes:

- *centred*: regress s·Y under the mean squared error;
- *paper*: match probabilities under soft cross-entropy. Labels solved on the simplex are probabilities as they
  are, Y + 1/C. Others are taken as logits, softmax(s·Y): cross-entropy is least where the network's logits are
  s·Y.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.training import Recipe, training_steps
from convexdistill.training.augmentation import check_augmentation

RECIPES = ("centred", "paper")
LABEL_SCALES = (4.0, 8.0)  # without a validation split the last is taken


@dataclass(frozen=True)
class Form:
    """One way to train on solved labels.

    Attributes:
        recipe: loss and scale; the steps are chosen in training.
        logit_scale: s where labels are softmax(s·Y), else ``None``.
        shift: what is added to labels that are no logits: 1/C turns centred ones into probabilities.
    """

    recipe: Recipe
    logit_scale: float | None = None
    shift: float = 0.0

    @property
    def space(self) -> str:
        """The label space of what :meth:`labels` gives."""
        return "probability" if self.recipe.loss == "soft-cross-entropy" else "centred"

    def labels(self, solved: Tensor) -> Tensor:
        """What a network is trained on, ``(n, C)``, from centred solved labels."""
        if self.logit_scale is not None:
            return (self.logit_scale * solved).softmax(1)
        labels = solved + self.shift
        return labels.clamp_min(0) if self.space == "probability" else labels  # 1/C − 1/C leaves −1e-17


def forms(
    recipe: Recipe | str | None,
    label_scale: float | None,
    constraint: str,
    base_size: int,
    classes: int,
    augmentation: str = "none",
) -> list[Form]:
    """The forms to choose from.

    Args:
        recipe: ``"centred"``, ``"paper"``, a recipe that fixes everything, or ``None``: paper for labels on the
            simplex, else centred.
        label_scale: fixes the scale; ``None``: all of :data:`LABEL_SCALES`.
        constraint: of the solve.
        base_size: n.
        classes: C.
        augmentation: of the recipes that are not given.

    Raises:
        UnknownNameError: no recipe of that name.
        InvalidInputError: the paper recipe with a constraint whose labels are neither probabilities nor logits.
    """
    check_recipe(recipe, constraint)
    steps = training_steps(base_size)[-1]
    given = recipe if isinstance(recipe, Recipe) else None
    paper = recipe == "paper" or (recipe is None and constraint == "simplex")
    if given is not None:
        paper, label_scale = given.loss == "soft-cross-entropy", given.label_scale
    scales = LABEL_SCALES if label_scale is None else (label_scale,)
    if not paper:
        return [Form(given or Recipe("mse", scale, steps, augmentation=augmentation)) for scale in scales]
    loss = given or Recipe("soft-cross-entropy", steps=steps, augmentation=augmentation)
    if constraint == "simplex":
        return [Form(loss, shift=1 / classes)]
    plain = Recipe(**{**loss.to_dict(), "label_scale": 1.0})
    return [Form(plain, logit_scale=scale) for scale in scales]


def augmentation_of(recipe: Recipe | str | None, augmentation: str) -> str:
    """What is done to base images in training: as a recipe that fixes everything says, else as it is given.

    Raises:
        UnknownNameError: no such augmentation.
        InvalidInputError: recipe and argument differ.
    """
    check_augmentation(augmentation)
    if not isinstance(recipe, Recipe):
        return augmentation
    if augmentation not in ("none", recipe.augmentation):
        raise InvalidInputError(
            f"the recipe that is given trains with augmentation {recipe.augmentation!r}, not {augmentation!r}; "
            f"give Recipe(..., augmentation={augmentation!r}), or a recipe by its name"
        )
    return recipe.augmentation


def check_recipe(recipe: Recipe | str | None, constraint: str) -> None:
    """Raise on a recipe that is not known, or does not go with the constraint."""
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise UnknownNameError(f"unknown recipe {recipe!r}; known are {', '.join(RECIPES)}")
    loss = recipe.loss if isinstance(recipe, Recipe) else None
    if loss not in (None, "mse", "soft-cross-entropy"):
        raise InvalidInputError(
            f"labels are solved for the losses mse and soft-cross-entropy, not {loss!r}; evaluate them under it: "
            "`convexdistill evaluate FILE --losses kl:4`"
        )
    if (recipe == "paper" or loss == "soft-cross-entropy") and constraint in ("nonnegative", "box"):
        raise InvalidInputError(
            f"labels under constraint {constraint!r} do not sum to 1, so soft cross-entropy has no meaning for "
            "them; take constraint='simplex' or 'none', or recipe='centred'"
        )
    if isinstance(recipe, Recipe) and constraint == "simplex" and loss != "mse" and recipe.label_scale != 1:
        raise ParameterRangeError("probabilities are trained on as they are: leave the recipe's label_scale at 1")
