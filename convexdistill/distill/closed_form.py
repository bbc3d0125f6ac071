"""``closed_form``: from moments and base examples to a distilled set, by the exact pooled label solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convexdistill.data import ImageData
from convexdistill.device import resolve_device
from convexdistill.distill.choose import DEFAULT_GAMMA, choose_recipe, default_recipe
from convexdistill.distill.crosscheck import LARGEST, cross_check
from convexdistill.distill.outer import outer_terms, teacher_scores
from convexdistill.distill.solve import descend_labels, label_system, solve_labels
from convexdistill.distill.versions import versions
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError, UnsupportedError
from convexdistill.features import Shape
from convexdistill.moments import Moments
from convexdistill.select import BaseExamples
from convexdistill.training import Recipe

BACKENDS = ("auto", "torch", "cvxpylayers")
PRIORS = ("zero", "teacher")


def closed_form(
    moments: Moments,
    base: BaseExamples,
    validation: ImageData | None = None,
    *,
    lam: float = 1e-3,
    gamma: float | None = None,
    prior: str | None = None,
    label_scale: float | None = None,
    recipe: Recipe | None = None,
    network: str | Callable[[Shape, int], nn.Module] = "lenet",
    backend: str = "auto",
    seed: int = 0,
    device: str | torch.device = "auto",
) -> DistilledSet:
    """Learn the soft labels of the base examples by one exact solve.

    Minimises over Y, for a pool of K frozen extractors with ridge heads W_k(Y) on the base features::

        1/K Σ_k ‖Φ_T,k W_k(Y) − T‖² / N + γ‖Y − Y₀‖²

    where T is the centred one-hot target (Bohdal et al. 2020, §RR, with the loop over minibatches replaced by
    the solution it walks towards; Nguyen, Chen and Lee 2021 solve K = 1, γ → 0). Labels come out centred.

    Args:
        moments: of the target set under the pool; see :func:`convexdistill.accumulate`.
        base: base examples, from the target's train split or from any other data set.
        validation: the target's validation split; it chooses γ, prior, label scale and steps where they are
            not given. Without it the defaults 0.1, zero, 8 and the longest training are taken.
        lam: λ of the ridge heads, relative to the mean diagonal of ΦΦᵀ.
        gamma: γ relative to tr(H)/n, H the Hessian of the outer loss; ``None`` chooses.
        prior: Y₀: ``"zero"``, or ``"teacher"``, the full-data ridge scores; ``None`` chooses between them
            where γ is chosen, and is zero where γ is given.
        label_scale: of the recipe; ``None`` chooses.
        recipe: fixes label scale and steps together.
        network: what is trained from scratch to choose.
        backend: ``"auto"`` and ``"torch"`` solve in closed form; ``"cvxpylayers"`` (small base sets) descends
            the labels by gradients through the cvxpylayers ridge layer, to the same labels.
        seed: of the trainings that choose.
        device: where networks are trained.

    Raises:
        ParameterRangeError: λ, γ or the label scale is not positive.
        UnknownNameError: no such backend or prior.
        UnsupportedError: ``backend="cvxpylayers"`` with more than 20,000 entries of Φ.
        InvalidInputError: validation is a test split, or has other classes or another image shape than the
            target.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool(count=1), digits)
        >>> base = cd.select.choose(digits, size=20, seed=0)
        >>> cd.distill.closed_form(moments, base, gamma=0.1).manifest["certificate"]["residual"] < 1e-10
        True
    """
    check_settings(lam, gamma, label_scale, prior, backend)
    if validation is not None:
        validation.refuse_test("to choose settings")
    if validation is not None and list(validation.classes) != list(moments.target["classes"]):
        raise InvalidInputError(
            f"validation has the classes {', '.join(validation.classes)}, the target set "
            f"{', '.join(moments.target['classes'])}"
        )
    if validation is not None and validation.shape != moments.shape:
        raise InvalidInputError(f"validation has images of {validation.shape}, the target set of {moments.shape}")
    images = base.resized(moments.shape).images
    terms = outer_terms(moments, base, lam)
    if backend == "cvxpylayers" and terms[0].features.numel() > LARGEST:
        raise UnsupportedError(
            f"backend 'cvxpylayers' descends the labels of small base sets only: n·d is "
            f"{terms[0].features.numel():,}, above {LARGEST:,}; take backend='torch', or fewer base examples"
        )
    system = label_system(terms)
    teacher = teacher_scores(terms)
    priors = {"zero": torch.zeros_like(teacher), "teacher": teacher}
    if prior is None and (gamma is not None or validation is None):
        prior = "zero"
    tried: list[dict[str, Any]] = []
    if recipe is not None:
        label_scale = recipe.label_scale
    if validation is not None and (recipe is None or gamma is None):
        choice = choose_recipe(
            system,
            priors if prior is None else {prior: priors[prior]},
            images,
            moments.preprocessing,
            validation,
            lambda s: fresh_network(network, moments.shape, moments.num_classes, s),
            gamma=gamma,
            label_scale=label_scale,
            seed=seed,
            device=resolve_device(device),
        )
        gamma, prior, tried = choice.gamma, choice.prior, choice.tried
        recipe = recipe or choice.recipe
    assert prior is not None  # chosen, or settled above
    gamma = DEFAULT_GAMMA if gamma is None else gamma
    recipe = recipe or default_recipe(len(base), label_scale)
    if backend == "cvxpylayers":
        labels, certificate = descend_labels(terms, gamma, priors[prior], backend=backend)
    else:
        labels, certificate = solve_labels(system, gamma, priors[prior])
    certificate["cross_check"] = cross_check(terms[0], labels)
    facts = {
        "method": "closed-form",
        "backend": "torch" if backend == "auto" else backend,
        "recipe": recipe.to_dict(),
        "lam": lam,
        "gamma": gamma,
        "prior": prior,
        "certificate": certificate,
        "chosen_from": tried,
        "seed": seed,
    }
    return _distilled(moments, base, images, labels, {"teacher": teacher}, facts)


def check_settings(
    lam: float, gamma: float | None, label_scale: float | None, prior: str | None, backend: str
) -> None:
    """Raise on a setting of :func:`closed_form` that can be known to be wrong without any data."""
    for name, value in (("lam", lam), ("gamma", gamma), ("label_scale", label_scale)):
        if value is not None and not 0 < value < float("inf"):
            raise ParameterRangeError(f"{name} must be a positive number, found {value}")
    if backend not in BACKENDS:
        raise UnknownNameError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}")
    if prior not in (None, *PRIORS):
        raise UnknownNameError(f"unknown prior {prior!r}; known are {', '.join(PRIORS)}")


def _distilled(
    moments: Moments,
    base: BaseExamples,
    images: Tensor,
    labels: Tensor,
    baselines: dict[str, Tensor],
    facts: dict[str, Any],
) -> DistilledSet:
    manifest = {
        **facts,
        "target": {**moments.target, "images": moments.images},
        "source": {
            "name": base.source,
            "split": base.split,
            "classes": list(base.classes),
            "shape": list(base.shape),
            "fingerprint": base.fingerprint,
        },
        "selection": {"method": base.method, "balanced": base.balanced, "seed": base.seed},
        "preprocessing": moments.preprocessing.to_dict(),
        "extractors": [spec.to_dict() for spec in moments.pool],
        "versions": versions(),
    }
    return DistilledSet(
        images,
        labels.float(),
        "centred",
        base.indices,
        base.labels,
        manifest,
        {name: values.float() for name, values in baselines.items()},
    )
