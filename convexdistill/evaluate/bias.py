"""``bias``: does distillation cost some classes and subgroups more than others?

Bohdal, Yang, Hospedales (2020, section 6) name the effect of distillation on bias as the open question of
their method. It is answered for a file by training networks on its labels, on the baselines' labels and on
the whole target, and comparing their accuracies group by group.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from convexdistill import data as data_sets
from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.errors import NotConvergedError, ParameterRangeError, UnknownNameError
from convexdistill.evaluate.baselines import candidates, paper_recipe, transferred_labels
from convexdistill.evaluate.cells import NetworkLike, network_name
from convexdistill.evaluate.disparity import BiasReport, Correct, by_group
from convexdistill.evaluate.groups import group_names
from convexdistill.evaluate.task import check_fits
from convexdistill.features import NETWORKS
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, Trial, predictions, run_trials

# Minibatches of the networks that are trained on everything.
FULL_BATCH = 128


def bias(
    distilled: DistilledSet | Sequence[DistilledSet],
    columns: Mapping[str, Any] | None = None,
    network: NetworkLike = "lenet",
    repeats: int = 5,
    *,
    baselines: Collection[str] | None = None,
    parts: int = 4,
    target: ImageData | None = None,
    validation: ImageData | None = None,
    test: ImageData | None = None,
    root: str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> BiasReport:
    """Accuracy by class and by subgroup of distilled labels, the baselines, and training on everything.

    Networks are trained as in :func:`convexdistill.evaluate.evaluate`; those on everything from the same
    initial weights, with cross-entropy and minibatches of 128. The validation split picks every number of
    steps; then the test split is shown once. What gap and excess are, and how their intervals are made,
    stands in :mod:`convexdistill.evaluate.disparity`.

    Args:
        distilled: one set, or several of one job that differ in their base images.
        columns: by name, one value for each image of the test split, in its order: words, booleans or
            numbers; many different numbers are cut into ``parts`` of equal size. The classes are always
            there, as ``"class"``.
        network: name (:data:`convexdistill.features.NETWORKS`) or function of ``(shape, num_classes)``.
        repeats: trainings of each kind of labels on each base set, and on everything.
        baselines: which of them; default: all.
        parts: of a column of numbers.
        target: the target's train split; loaded by name if not given, like the next two.
        validation: the target's validation split.
        test: the target's test split.
        root: where data sets lie.
        seed: of trainings and bootstrap.
        device: where to train.

    Raises:
        DataError: a column that does not fit the test split.
        ParameterRangeError: no repeats, or no set.
        UnknownNameError: unknown network or baseline.
        InvalidInputError: the sets or splits have different classes or image shapes.
        NotConvergedError: all trainings on one kind of labels diverged.
        BackendUnavailableError: fairlearn is not installed (``pip install 'convexdistill[bias]'``).

    Example:
        >>> import convexdistill as cd
        >>> digits, test = cd.data.load("digits"), cd.data.load("digits", split="test")
        >>> moments = cd.accumulate(cd.features.pool(count=1), digits)
        >>> distilled = cd.distill.closed_form(moments, cd.select.choose(digits, size=20), gamma=0.1)
        >>> ink = test.images.float().mean((1, 2, 3))
        >>> found = cd.evaluate.bias(
        ...     distilled, {"ink": ink}, repeats=1, baselines=[], parts=2, target=digits.subset(range(100))
        ... )
        >>> [row.value for row in found.rows if row.labels == "distilled" and row.group == "ink"]
        ['46 to 77.97', '77.97 to 107.8']
    """
    start = time.perf_counter()
    sets = [distilled] if isinstance(distilled, DistilledSet) else list(distilled)
    if repeats < 1 or not sets:
        raise ParameterRangeError(
            f"a bias report needs a distilled set and at least one repeat, found {len(sets)} and {repeats}"
        )
    if isinstance(network, str) and network not in NETWORKS:
        raise UnknownNameError(f"unknown network {network!r}; known are {', '.join(NETWORKS)}")
    first, where = sets[0], resolve_device(device)
    name = first.manifest["target"]["name"]
    target = target or data_sets.load(name, split="train", root=root)
    validation = validation or data_sets.load(name, split="validation", root=root)
    test = test or data_sets.load(name, split="test", root=root)
    for split in (target, validation):
        split.refuse_test("to train, or to choose the number of steps,")
    for one in sets:
        check_fits(first, one.classes, one.shape)
    for split in (target, validation, test):
        check_fits(first, split.classes, split.shape)
    groups = {"class": np.array(first.classes)[test.labels.numpy()]}
    for column, values in (columns or {}).items():
        values = values.cpu().numpy() if isinstance(values, Tensor) else values
        groups[column] = group_names(values, len(test), column, parts)
    transferred = transferred_labels(sets, target) if first.is_cross else [None] * len(sets)
    offers = [_wanted(candidates(one, one.recipe, t), baselines) for one, t in zip(sets, transferred, strict=True)]

    def build(weights_seed: int) -> nn.Module:
        return fresh_network(network, first.shape, len(first.classes), weights_seed)

    def seeds(k: int) -> list[int]:
        return [child_seed(seed, "evaluate", k, r) for r in range(repeats)]

    correct: dict[str, list[Correct]] = {}
    for k, (one, offered) in enumerate(zip(sets, offers, strict=True)):
        trials = run_trials(
            offered,
            one.images,
            one.preprocessing,
            validation,
            build,
            seeds(k),
            device=where,
            description="train by groups" + (f", base set {k + 1}/{len(sets)}" if len(sets) > 1 else ""),
        )
        for trial in trials:
            correct.setdefault(trial.candidate.name, []).append(_correct(trial, test, one.preprocessing, where))
    recipe = replace(paper_recipe(first.recipe), batch_size=FULL_BATCH, augmentation="none")
    hot = one_hot(target.labels, target.num_classes).float()
    everything = Candidate("full-data", hot, recipe)
    (trial,) = run_trials(
        [everything],
        target.images,
        first.preprocessing,
        validation,
        build,
        seeds(0),
        device=where,
        description="train on everything",
    )
    full = _correct(trial, test, first.preprocessing, where)
    rows, disparities = by_group(correct, full, groups, seed=child_seed(seed, "bootstrap") % 2**32)
    return BiasReport(rows, disparities, network_name(network), time.perf_counter() - start)


def _wanted(offered: list[Candidate], baselines: Collection[str] | None) -> list[Candidate]:
    if baselines is None:
        return offered
    known = [candidate.name for candidate in offered[1:]]
    if unknown := [name for name in baselines if name not in known]:
        raise UnknownNameError(f"unknown baseline {unknown[0]!r}; known here are {', '.join(known)}")
    return [candidate for candidate in offered if candidate.name in {"distilled", *baselines}]


def _correct(trial: Trial, test: ImageData, preprocessing: Preprocessing, device: torch.device) -> Correct:
    """Whether each network that did not diverge is right on each test image, ``(networks, N)``."""
    networks = [net for net, lost in zip(trial.networks, trial.diverged, strict=True) if not lost]
    if not networks:
        raise NotConvergedError(
            f"every training on the labels {trial.candidate.name!r} diverged, so there are no groups to compare; "
            "lower the learning rate of the recipe"
        )
    logits = predictions(networks, test, preprocessing, device)
    return np.asarray((logits.argmax(-1) == test.labels).numpy())
