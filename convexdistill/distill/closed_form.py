"""``closed_form``: from moments and base examples to a distilled set, by the exact pooled label solve."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from convexdistill.data import ImageData
from convexdistill.device import resolve_device
from convexdistill.distill.assemble import check_positive, check_validation, distilled_set
from convexdistill.distill.choose import choose_setting, settle
from convexdistill.distill.constrained import projection, solve_constrained
from convexdistill.distill.crosscheck import LARGEST, cross_check
from convexdistill.distill.forms import augmentation_of, check_recipe, forms
from convexdistill.distill.outer import outer_terms, teacher_scores
from convexdistill.distill.preview import shortlist
from convexdistill.distill.solve import descend_labels, label_system
from convexdistill.distill.views import views
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.errors import InvalidInputError, UnknownNameError, UnsupportedError
from convexdistill.features import Shape
from convexdistill.moments import Moments
from convexdistill.select import BaseExamples
from convexdistill.training import Recipe

BACKENDS = ("auto", "torch", "cvxpylayers")
PRIORS = ("zero", "one-hot", "teacher")
# γ for each prior that is tried where none is given: the more examples there are, the more the teacher's scores
# have to say.
GAMMAS = {"zero": (0.01, 0.1, 1.0), "one-hot": (0.1,), "teacher": (0.1, 1.0)}
DEFAULT_GAMMA = 0.1


def closed_form(
    moments: Moments,
    base: BaseExamples,
    validation: ImageData | None = None,
    *,
    lam: float = 1e-3,
    gamma: float | None = None,
    prior: str | None = None,
    constraint: str = "none",
    bounds: tuple[float, float] = (0.0, 1.0),
    label_scale: float | None = None,
    recipe: Recipe | str | None = None,
    augmentation: str = "none",
    network: str | Callable[[Shape, int], nn.Module] = "lenet",
    backend: str = "auto",
    seed: int = 0,
    device: str | torch.device = "auto",
) -> DistilledSet:
    """Learn the soft labels of the base examples by one exact solve.

    Minimises over Y, for a pool of K frozen extractors with ridge heads W_k(Y) on the base features::

        1/K Σ_k ‖Φ_T,k W_k(Y) − T‖² / N + γ‖Y − Y₀‖²        rows of Y + 1/C within the constraint

    where T is the centred one-hot target (Bohdal et al. 2020, §RR, with the loop over minibatches replaced by
    the solution it walks towards; Nguyen, Chen and Lee 2021 solve K = 1, γ → 0). Labels come out centred, or
    as probabilities under the paper recipe.

    Args:
        moments: of the target set under the pool; see :func:`convexdistill.accumulate`.
        base: base examples, from the target's train split or from any other data set.
        validation: the target's validation split; it chooses γ, prior, label scale and steps where they are
            not given: a ridge head under an extractor that is not in the pool picks two γ and priors, networks
            trained from scratch the rest. Without it the defaults 0.1, zero, 8 and the longest training are taken.
        lam: λ of the ridge heads, relative to the mean diagonal of ΦΦᵀ.
        gamma: γ relative to tr(H)/n, H the Hessian of the outer loss; ``None`` chooses.
        prior: Y₀: ``"zero"``; ``"one-hot"``, the base images' own classes, within a data set only; or
            ``"teacher"``, the full-data ridge scores. ``None`` chooses where γ is chosen, and is zero where γ
            is given.
        constraint: on every row of labels, in the coordinates where a one-hot label is 0 and 1: ``"none"``,
            ``"simplex"`` (probabilities), ``"nonnegative"``, ``"row-sum"`` (sum 1; the other solutions with a
            centred prior have it anyway) or ``"box"``. Solved exactly, with a duality gap in the certificate.
        bounds: of ``constraint="box"``.
        label_scale: of the recipe; ``None`` chooses.
        recipe: ``"centred"``: mean squared error on labels times the label scale; ``"paper"``: soft cross-entropy
            on probabilities, which are labels on the simplex as they are, or the softmax of unconstrained labels
            times the label scale. A :class:`convexdistill.training.Recipe` fixes label scale and steps together.
            ``None``: paper under ``constraint="simplex"``, else centred.
        augmentation: what is done to the base images while networks learn from them, a key of
            :data:`convexdistill.training.AUGMENTATIONS`, part of every recipe but one that is given. The ridge
            heads of the solve learn from the same views (:mod:`convexdistill.distill.views`), which share the
            label of their image. Beside a recipe that is given ``"none"`` means: as that says.
        network: what is trained from scratch to choose.
        backend: ``"auto"`` and ``"torch"`` solve in closed form; ``"cvxpylayers"`` (small base sets) descends
            the labels by gradients through the cvxpylayers ridge layer, to the same labels.
        seed: of views that are drawn, and of the trainings that choose.
        device: where networks are trained and, on CUDA, labels without a constraint are solved for.

    Raises:
        ParameterRangeError: λ, γ or the label scale is not positive, or bounds are not in order.
        UnknownNameError: no such backend, prior, constraint, recipe or augmentation.
        UnsupportedError: ``backend="cvxpylayers"`` with more than 20,000 entries of Φ, or with a constraint.
        InvalidInputError: validation is a test split, or has other classes or another image shape than the
            target; one-hot labels across data sets; soft cross-entropy on labels without a sum; a recipe of
            another augmentation.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool(count=1), digits)
        >>> base = cd.select.choose(digits, size=20, seed=0)
        >>> cd.distill.closed_form(moments, base, gamma=0.1).manifest["certificate"]["residual"] < 1e-10
        True
        >>> cd.distill.closed_form(moments, base, gamma=0.1, constraint="simplex").label_space
        'probability'
    """
    check_settings(lam, gamma, prior, constraint, bounds, recipe, label_scale, backend, augmentation)
    augmentation = augmentation_of(recipe, augmentation)
    check_validation(validation, moments.target["classes"], moments.shape)
    images = base.resized(moments.shape).images
    shown = views(moments.preprocessing(images), augmentation, seed)
    terms = outer_terms(moments, base, lam, shown)
    if backend == "cvxpylayers" and terms[0].features.numel() > LARGEST:
        raise UnsupportedError(
            f"backend 'cvxpylayers' descends the labels of small base sets only: Φ has "
            f"{terms[0].features.numel():,} entries, more than {LARGEST:,}; take backend='torch', or fewer base "
            "examples or views of them"
        )
    where = resolve_device(device)
    # MPS has no float64, and only the plain solve knows devices.
    on_device = where.type == "cuda" and constraint == "none" and backend != "cvxpylayers"
    system = label_system(terms, where if on_device else None)
    teacher = teacher_scores(terms)
    if prior is None and (gamma is not None or validation is None):
        prior = "zero"
    names = [name for name in PRIORS if name != "one-hot" or _same_classes(moments, base)]
    starts = {name: prior_labels(name, teacher, moments, base) for name in (names if prior is None else [prior])}
    ways = forms(recipe, label_scale, constraint, len(base), moments.num_classes, augmentation)
    if gamma is None and validation is None:
        gamma = DEFAULT_GAMMA
    solves = {
        (name, g): solve_constrained(system, g, start, constraint, bounds)[0]
        for name, start in starts.items()
        for g in (GAMMAS[name] if gamma is None else (gamma,))
    }
    judge = None
    previewed: list[dict[str, float | str]] = []
    if validation is not None:
        solves, previewed = shortlist(
            solves, moments.pool, shown, moments.preprocessing, validation, lam=lam, seed=seed
        )
        judge = partial(
            choose_setting,
            base_images=images,
            preprocessing=moments.preprocessing,
            validation=validation,
            build=lambda s: fresh_network(network, moments.shape, moments.num_classes, s),
            seed=seed,
            device=where,
        )
    setting, taken, tried = settle(solves, ways, judge, fixed=isinstance(recipe, Recipe))
    start = starts[setting.prior]
    if backend == "cvxpylayers":
        labels, certificate = descend_labels(terms, setting.gamma, start, backend=backend)
    else:
        labels, certificate = solve_constrained(system, setting.gamma, start, constraint, bounds)
    certificate["cross_check"] = cross_check(terms[0].features, labels, terms[0].lam, len(shown))
    facts = {
        "method": "closed-form",
        "backend": "torch" if backend == "auto" else backend,
        "recipe": taken.to_dict(),
        "lam": lam,
        "gamma": setting.gamma,
        "prior": setting.prior,
        "constraint": constraint,
        "logit_scale": setting.form.logit_scale,
        "certificate": certificate,
        "chosen_from": tried,
        "previewed": previewed,
        "seed": seed,
    }
    if constraint == "simplex":  # scores are no probabilities: the nearest ones are
        teacher = projection("simplex", bounds)(teacher + 1 / moments.num_classes) - 1 / moments.num_classes
    return distilled_set(
        {**moments.target, "images": moments.images},
        [spec.to_dict() for spec in moments.pool],
        moments.preprocessing,
        base,
        images,
        setting.form.labels(labels),
        setting.form.space,
        {"teacher": setting.form.labels(teacher)},
        facts,
    )


def check_settings(
    lam: float = 1e-3,
    gamma: float | None = None,
    prior: str | None = None,
    constraint: str = "none",
    bounds: tuple[float, float] = (0.0, 1.0),
    recipe: Recipe | str | None = None,
    label_scale: float | None = None,
    backend: str = "auto",
    augmentation: str = "none",
) -> None:
    """Raise on a setting of :func:`closed_form` that can be known to be wrong without any data."""
    check_positive(lam=lam, gamma=gamma, label_scale=label_scale)
    if backend not in BACKENDS:
        raise UnknownNameError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}")
    if prior not in (None, *PRIORS):
        raise UnknownNameError(f"unknown prior {prior!r}; known are {', '.join(PRIORS)}")
    projection(constraint, bounds)
    check_recipe(recipe, constraint)
    augmentation_of(recipe, augmentation)
    if backend == "cvxpylayers" and constraint != "none":
        raise UnsupportedError("backend 'cvxpylayers' descends without constraints; take backend='torch'")


def prior_labels(name: str, teacher: Tensor, moments: Moments, base: BaseExamples) -> Tensor:
    """Y₀ ``(n, C)``, centred.

    Raises:
        InvalidInputError: one-hot labels of base examples whose classes are not the target's.
    """
    if name == "zero":
        return torch.zeros_like(teacher)
    if name == "teacher":
        return teacher
    if not _same_classes(moments, base):
        raise InvalidInputError(
            "prior 'one-hot' needs base examples of the target's classes; across data sets take 'zero' or "
            "'teacher'"
        )
    classes = moments.num_classes
    return one_hot(base.labels, classes).double() - 1 / classes


def _same_classes(moments: Moments, base: BaseExamples) -> bool:
    return list(base.classes) == list(moments.target["classes"])
