"""What every label solve checks of its inputs, and puts into the distilled set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.versions import versions
from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError, ParameterRangeError
from convexdistill.features import Shape
from convexdistill.select import BaseExamples


def check_validation(validation: ImageData | None, classes: Sequence[str], shape: Shape) -> None:
    """Raise unless ``validation`` may choose for a target of these classes and this image shape.

    Raises:
        InvalidInputError: it is a test split, or has other classes or another image shape.
    """
    if validation is None:
        return
    validation.refuse_test("to choose settings")
    if list(validation.classes) != list(classes):
        raise InvalidInputError(
            f"validation has the classes {', '.join(validation.classes)}, the target set {', '.join(classes)}"
        )
    if validation.shape != shape:
        raise InvalidInputError(f"validation has images of {validation.shape}, the target set of {shape}")


def check_positive(**values: float | None) -> None:
    """Raise unless every number that is given is positive and finite."""
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ParameterRangeError(f"{name} must be a positive number, found {value}")


def distilled_set(
    target: Mapping[str, Any],
    extractors: Sequence[Mapping[str, Any]],
    preprocessing: Preprocessing,
    base: BaseExamples,
    images: Tensor,
    labels: Tensor,
    space: str,
    baselines: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> DistilledSet:
    """The distilled set, with a manifest that says where everything came from.

    Args:
        target: name, split, classes, shape and parts of the target, and the number of its ``images``.
        extractors: records of the extractors that took part.
        preprocessing: normalisation of all images.
        base: the base examples.
        images: theirs, in the target's shape.
        labels: ``(n, C)``, in ``space``.
        space: the label space.
        baselines: further labels, in the same space.
        facts: method, recipe, settings, certificate, seed.
    """
    manifest = {
        **facts,
        "target": dict(target),
        "source": {
            "name": base.source,
            "split": base.split,
            "classes": list(base.classes),
            "shape": list(base.shape),
            "fingerprint": base.fingerprint,
        },
        "selection": {"method": base.method, "balanced": base.balanced, "seed": base.seed},
        "preprocessing": preprocessing.to_dict(),
        "extractors": [dict(record) for record in extractors],
        "versions": versions(),
    }
    baselines = {name: values.float() for name, values in baselines.items()}
    return DistilledSet(images, labels.float(), space, base.indices, base.labels, manifest, baselines)
