"""``cross_entropy``: labels whose ridge heads are best under softmax cross-entropy on the target set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distill.assemble import check_positive, check_validation, distilled_set
from convexdistill.distill.choose import choose_setting, settle
from convexdistill.distill.crosscheck import cross_check
from convexdistill.distill.forms import augmentation_of, check_recipe, forms
from convexdistill.distill.softmax import SoftmaxProblem, solve_softmax
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.distill.views import absolute, views
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.errors import UnknownNameError
from convexdistill.features import ExtractorSpec, ModuleSpec, Shape
from convexdistill.select import BaseExamples
from convexdistill.training import Recipe

PRIORS = ("zero", "teacher")
# γ that is tried for each prior where none is given, the largest first: each solve starts from the one before.
GAMMAS = {"zero": (0.1, 0.01), "teacher": (1.0, 0.1, 0.02)}
DEFAULT_GAMMA = 0.1


def cross_entropy(
    pool: Sequence[ExtractorSpec | ModuleSpec] | TargetFeatures,
    target: ImageData,
    base: BaseExamples,
    validation: ImageData | None = None,
    *,
    lam: float = 1e-3,
    gamma: float | None = None,
    prior: str | None = None,
    label_scale: float | None = None,
    recipe: Recipe | str | None = None,
    augmentation: str = "none",
    network: str | Callable[[Shape, int], nn.Module] = "lenet",
    target_images: int | None = 20_000,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> DistilledSet:
    """Learn the soft labels of the base examples under the loss that classifiers are trained with.

    Minimises over Y, for a pool of K frozen extractors with ridge heads W_k(Y) = M_k Y on the base features::

        1/KN Σ_k Σ_i −log softmax(φ_k(x_i) W_k(Y))[t_i] + γ/2 ‖Y − Y₀‖²

    The logits are linear in Y, so this is convex: L-BFGS goes to the optimum, and a duality gap says how near it
    is (:mod:`convexdistill.distill.softmax`). Bohdal et al. (2020, algorithm 1) descend the same outer loss by
    minibatches. Labels are logits; they are divided by one number, ``manifest["logits_divided_by"]``, that gives
    their rows the mean square of centred one-hot labels, so that label scales mean what they mean elsewhere. The
    paper recipe takes the softmax of these times the label scale.

    Unlike the squared loss this needs the features of every target image, 8·N·(d+1) bytes for each extractor, and
    while it solves 8·N·n more where n ≤ d: 230 and 160 MB for 5 extractors of 288 features, 20,000 images and 200
    base examples.

    Args:
        pool: specifications of the extractors; see :func:`convexdistill.features.pool`. Or what they make of the
            target, :meth:`TargetFeatures.of`, to be shared by several base sets.
        target: the labelled target set.
        base: base examples, from the target's train split or from any other data set.
        validation: the target's validation split; it chooses γ, prior, recipe and steps where they are not
            given. Without it: 0.1, zero, centred with label scale 8, and the longest training.
        lam: λ of the ridge heads, relative to the mean diagonal of ΦΦᵀ.
        gamma: γ relative to tr(H)/n, H the Hessian of the outer loss at equal logits; ``None`` chooses.
        prior: Y₀: ``"zero"``, or ``"teacher"``, the logits of full-data softmax regressions on the same features;
            ``None`` chooses where γ is chosen, and is zero where γ is given.
        label_scale: of the recipe; ``None`` chooses.
        recipe: ``"centred"`` (mean squared error on the logits), ``"paper"`` (soft cross-entropy on their
            softmax), or a :class:`convexdistill.training.Recipe`; ``None`` chooses.
        augmentation: what is done to the base images while networks learn from them, a key of
            :data:`convexdistill.training.AUGMENTATIONS`, part of every recipe but one that is given. The ridge
            heads of the solve learn from the same views (:mod:`convexdistill.distill.views`), which share the
            label of their image. Beside a recipe that is given ``"none"`` means: as that says.
        network: what is trained from scratch to choose.
        target_images: a random part of the target of at most that size is looked at; ``None``: all of it.
        preprocessing: normalisation; default: fitted to ``target``.
        seed: of the part of the target, of views that are drawn, and of the trainings that choose.
        device: where features are computed and networks are trained.

    Raises:
        ParameterRangeError: the pool is empty, or a number is not positive.
        UnknownNameError: no such prior, recipe or augmentation.
        InvalidInputError: target or validation is a test split, or validation has other classes or another image
            shape; the recipe has another augmentation.
        NotConvergedError: the labels may still be more than a relative 1e-6 off.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> base = cd.select.choose(digits, size=20, seed=0)
        >>> distilled = cd.distill.cross_entropy(cd.features.pool(count=1), digits, base, gamma=0.1)
        >>> distilled.label_space, distilled.manifest["certificate"]["duality_gap"] < 1e-6
        ('logit', True)
    """
    check_softmax_settings(lam, gamma, prior, recipe, label_scale, target_images, augmentation)
    augmentation = augmentation_of(recipe, augmentation)
    check_validation(validation, target.classes, target.shape)
    where = resolve_device(device)
    pool = TargetFeatures.given_or_of(
        pool, target, target_images=target_images, preprocessing=preprocessing, seed=seed, device=where
    )
    preprocessing, part = pool.preprocessing, pool.target
    images = base.resized(target.shape).images
    shown = views(preprocessing(images), augmentation, seed)
    features = pool.base(shown.flatten(0, 1), where)
    problem = SoftmaxProblem(pool.responses(features, lam, len(shown)), part.labels, part.num_classes)
    teacher = pool.teacher(features, len(shown))
    if prior is None and (gamma is not None or validation is None):
        prior = "zero"
    starts = {"zero": torch.zeros_like(teacher), "teacher": teacher}
    if gamma is None and validation is None:
        gamma = DEFAULT_GAMMA
    kinds = ("paper", "centred") if recipe is None else (recipe,)
    sizes = len(base), target.num_classes
    ways = [form for kind in kinds for form in forms(kind, label_scale, "none", *sizes, augmentation)]
    solves = {}
    for name in starts if prior is None else (prior,):
        labels = None
        for g in GAMMAS[name] if gamma is None else (gamma,):
            labels, _ = solve_softmax(problem, g, starts[name], labels)  # from the labels of a larger γ
            solves[name, g] = labels / _size(labels)
    judge = None
    if validation is not None:
        judge = partial(
            choose_setting,
            base_images=images,
            preprocessing=preprocessing,
            validation=validation,
            build=lambda s: fresh_network(network, target.shape, target.num_classes, s),
            seed=seed,
            device=where,
        )
    setting, taken, tried = settle(solves, ways, judge, fixed=isinstance(recipe, Recipe))
    labels, certificate = solve_softmax(problem, setting.gamma, starts[setting.prior])
    lam_of_first = absolute(lam, features[0], len(shown))
    certificate["cross_check"] = cross_check(features[0], labels, lam_of_first, len(shown))
    form, size = setting.form, _size(labels)
    facts = {
        "method": "cross-entropy",
        "backend": "torch",
        "recipe": taken.to_dict(),
        "lam": lam,
        "gamma": setting.gamma,
        "prior": setting.prior,
        "constraint": "none",
        "logit_scale": form.logit_scale,
        "logits_divided_by": size,
        "certificate": certificate,
        "chosen_from": tried,
        "seed": seed,
    }
    record = {"name": target.name, "split": target.split, "classes": list(target.classes)}
    return distilled_set(
        {**record, "shape": list(target.shape), "parts": [target.fingerprint], "images": len(part)},
        [spec.to_dict() for spec in pool.pool],
        preprocessing,
        base,
        images,
        form.labels(labels / size),
        "logit" if form.space == "centred" else form.space,
        {"teacher": form.labels(teacher / _size(teacher))},
        facts,
    )


def check_softmax_settings(
    lam: float = 1e-3,
    gamma: float | None = None,
    prior: str | None = None,
    recipe: Recipe | str | None = None,
    label_scale: float | None = None,
    target_images: int | None = None,
    augmentation: str = "none",
) -> None:
    """Raise on a setting of :func:`cross_entropy` that can be known to be wrong without any data."""
    check_positive(lam=lam, gamma=gamma, label_scale=label_scale, target_images=target_images)
    if prior not in (None, *PRIORS):
        raise UnknownNameError(f"unknown prior {prior!r}; known for cross-entropy are {', '.join(PRIORS)}")
    check_recipe(recipe, "none")
    augmentation_of(recipe, augmentation)


def _size(labels: Tensor) -> float:
    """What logits are divided by, so that their rows have the mean square of centred one-hot labels, 1 − 1/C."""
    n, classes = labels.shape
    return math.sqrt(float(labels.square().sum()) / (n * (1 - 1 / classes))) or 1.0
