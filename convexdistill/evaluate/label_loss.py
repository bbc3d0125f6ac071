"""Which loss the networks of a table are trained under, and what that makes of the labels.

Labels come as probabilities, centred (one-hot minus 1/C, any sign) or as logits. Under a loss of its own choosing
an evaluation brings all of them, the distilled ones and the baselines, into the space of that loss:

- ``soft-cross-entropy`` and ``kl`` take probabilities: centred labels Y become softmax(4 Y), logits softmax(Y);
- ``mse`` takes centred labels times a scale: probabilities become p − 1/C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from convexdistill.errors import ParameterRangeError, UnknownNameError
from convexdistill.training import LOSSES, Candidate, Recipe

OWN = "own"
LOGIT_SCALE = 4.0  # of the two scales that the solves choose from, the softer one
LABEL_SCALE = 8.0
TEMPERATURE = 4.0


@dataclass(frozen=True)
class LabelLoss:
    """A loss, or ``"own"``: the recipe in the file, and for one-hot baselines the paper's.

    Attributes:
        name: ``"own"`` or a key of :data:`convexdistill.training.LOSSES`.
        temperature: of ``"kl"``.
    """

    name: str = OWN
    temperature: float = 1.0

    @classmethod
    def parse(cls, text: str) -> LabelLoss:
        """A loss from its name; ``"kl:2"`` is the divergence at temperature 2, ``"kl"`` that at 4.

        Raises:
            UnknownNameError: no such loss; the message lists the known ones.
            ParameterRangeError: the temperature is not a positive number.

        Example:
            >>> LabelLoss.parse("kl:2"), LabelLoss.parse("mse")
            (LabelLoss(name='kl', temperature=2.0), LabelLoss(name='mse', temperature=1.0))
        """
        name, colon, rest = text.partition(":")
        if name not in (OWN, *LOSSES) or (colon and name != "kl"):
            raise UnknownNameError(f"unknown loss {text!r}; known are {OWN}, {', '.join(LOSSES)}, and kl:T")
        try:
            temperature = float(rest) if colon else TEMPERATURE
        except ValueError:
            temperature = math.nan
        if not 0 < temperature < math.inf:
            raise ParameterRangeError(f"the temperature of kl:T must be a positive number, found {rest!r}")
        return cls(name, temperature if name == "kl" else 1.0)

    def __str__(self) -> str:
        return f"kl:{self.temperature:g}" if self.name == "kl" else self.name

    def apply(self, name: str, labels: Tensor, space: str, recipe: Recipe) -> Candidate:
        """A candidate with labels and recipe of this loss.

        Args:
            name: of the candidate.
            labels: ``(n, C)``.
            space: their label space.
            recipe: everything but the loss; also its loss where this one is ``"own"``.
        """
        if self.name == OWN:
            return Candidate(name, labels, recipe)
        scale = recipe.label_scale if recipe.loss == self.name == "mse" else LABEL_SCALE
        changed = replace(
            recipe,
            loss=self.name,
            temperature=self.temperature,
            label_scale=scale if self.name == "mse" else 1.0,
        )
        convert = centred if self.name == "mse" else probabilities
        return Candidate(name, convert(labels, space), changed)


def probabilities(labels: Tensor, space: str) -> Tensor:
    """Labels of any space as probabilities."""
    if space == "probability":
        return labels
    return (labels * (LOGIT_SCALE if space == "centred" else 1.0)).softmax(1)


def centred(labels: Tensor, space: str) -> Tensor:
    """Labels of any space as centred ones."""
    return labels if space == "centred" else probabilities(labels, space) - 1 / labels.shape[1]
