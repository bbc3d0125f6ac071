"""What distilling costs, what it saves, and after how many trainings it has paid for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from convexdistill import progress
from convexdistill.data import ImageData
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.evaluate.cells import NetworkLike, network_name
from convexdistill.evaluate.energy import Spent, spending, why_no_energy
from convexdistill.evaluate.table import EvaluationTable
from convexdistill.evaluate.whole_target import BATCH, FULL_DATA, full_steps
from convexdistill.training import Recipe, train_together

WARM_UP, TIMED = 3, 40
DISTIL_SECONDS = "distil_seconds"  # where a manifest keeps them


def cost(
    distilled: DistilledSet,
    target: ImageData,
    network: NetworkLike,
    *,
    distil: Spent | None = None,
    table: EvaluationTable | None = None,
    device: torch.device,
) -> dict[str, Any]:
    """Seconds and energy of distilling, of a training on the distilled set, and of one on everything.

    A training is timed over some steps of a single network, as a user would train it, without any look at the
    validation split, and scaled to all of its steps. On everything these are the steps that the validation split
    chose where ``table`` has a row of full data; else half of the schedule in
    :func:`convexdistill.evaluate.whole_target.full_steps` is taken, and ``train_full_is`` says ``"extrapolated"``.

    Args:
        distilled: the set.
        target: the target's train split.
        network: what is trained.
        distil: what distilling has cost; default: the seconds in the file, if it has them.
        table: an evaluation.
        device: where to train.

    Returns:
        ``network``, ``distil_seconds``, ``train_distilled_seconds``, ``train_full_seconds``, ``train_full_steps``,
        ``train_full_is``, ``energy_kwh`` (``distil``, ``train_distilled``, ``train_full``) or ``None`` and
        ``energy_why_not``, ``energy_of``, and ``pays_off_after``: the number of trainings after which distilling
        and training on the distilled set is the quicker way; ``None`` where it never is, or nobody knows what
        distilling took.
    """
    if distil is None:
        distil = _from_manifest(distilled.manifest)
    recipe, prepare = distilled.recipe, distilled.preprocessing
    few = _training(
        network, distilled, prepare(distilled.images), distilled.labels * recipe.label_scale, recipe, device
    )
    chosen = _chosen_steps(table, network_name(network))
    steps = chosen or full_steps(len(target))[-1] // 2
    part = target.subset(range(min(len(target), BATCH * (WARM_UP + TIMED))))
    everything = Recipe("soft-cross-entropy", steps=steps, batch_size=BATCH)
    hot = one_hot(part.labels, target.num_classes).float()
    many = _training(network, distilled, prepare(part.images), hot, everything, device)
    why = why_no_energy()
    spent = {"distil": distil, "train_distilled": few, "train_full": many}
    saved = many.seconds - few.seconds
    pays = None if distil is None or saved <= 0 else max(1, math.ceil(distil.seconds / saved))
    return {
        "network": network_name(network),
        "distil_seconds": None if distil is None else distil.seconds,
        "train_distilled_seconds": few.seconds,
        "train_full_seconds": many.seconds,
        "train_full_steps": steps,
        "train_full_is": "measured" if chosen else "extrapolated",
        "energy_kwh": None if why else {name: one and one.kwh for name, one in spent.items()},
        "energy_of": few.of,
        "energy_why_not": why,
        "pays_off_after": pays,
    }


def _training(
    network: NetworkLike,
    distilled: DistilledSet,
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    device: torch.device,
) -> Spent:
    """What one training by the recipe costs, from some of its steps."""
    net = fresh_network(network, distilled.shape, len(distilled.classes), 0)
    arguments = [net], images.to(device), targets.to(device)[None], [recipe], [0]
    steps = min(TIMED, recipe.steps)
    with progress.reporting(progress.SilentReporter()):
        train_together(*arguments, steps=WARM_UP)
        with spending() as spent:
            train_together(*arguments, steps=steps)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    scale = recipe.steps / steps
    return Spent(spent.seconds * scale, None if spent.kwh is None else spent.kwh * scale, spent.of)


def _chosen_steps(table: EvaluationTable | None, network: str) -> int | None:
    """The steps that the validation split chose for this network on everything, if it was trained on that."""
    for row in table or ():
        if row.labels == FULL_DATA and row.network == network:
            return row.steps[0]
    return None


def _from_manifest(manifest: Mapping[str, Any]) -> Spent | None:
    """The seconds that a file says its distilling took: any method's, or an online method's own record."""
    for name in (DISTIL_SECONDS, "seconds"):
        value = manifest.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            return Spent(float(value))
    return None
