"""The numbers of a job as one record: what ``metrics.json``, the terminal and the report all show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convexdistill.distilled import DistilledSet
from convexdistill.evaluate.table import EvaluationTable


def metrics(
    sets: Sequence[DistilledSet],
    table: EvaluationTable | None,
    seconds: Mapping[str, float],
    cost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a job.

    Args:
        sets: the distilled sets, one for each choice of base images.
        table: their evaluation, if there was one.
        seconds: ``accumulate``, ``solve``, ``evaluate`` and ``total``.
        cost: see :func:`convexdistill.evaluate.cost`.

    Returns:
        ``target``, ``source``, ``base_size``, ``method``, ``backend``, ``base_sets`` (what each one chose),
        ``seeds`` (of the base sets), ``seconds``, ``evaluation`` (``seed``, ``repeats`` and ``machine`` of the
        trainings, where there was one), ``results``, and the settings and the certificate of the first set.
    """
    first = sets[0]
    manifest = first.manifest
    return {
        "target": manifest["target"]["name"],
        "source": manifest["source"]["name"],
        "base_size": len(first),
        "method": manifest["method"],
        "backend": manifest["backend"],
        "base_sets": [
            {"seed": one.manifest["seed"]}
            | {name: one.manifest[name] for name in ("gamma", "prior") if name in one.manifest}
            | {"label_scale": one.recipe.label_scale, "steps": one.recipe.steps}
            for one in sets
        ],
        "seeds": [one.manifest["seed"] for one in sets],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        **({} if cost is None else {"cost": dict(cost)}),
        **({} if table is None or not table.how else {"evaluation": dict(table.how)}),
        "results": [] if table is None else table.to_dicts(),
        "selection": manifest["selection"]["method"],
        **{name: manifest[name] for name in ("lam", "gamma", "prior") if name in manifest},
        "recipe": manifest["recipe"],
        "certificate": manifest["certificate"],
        "chosen_from": manifest.get("chosen_from", []),
        "bytes": first.bytes,
        "versions": manifest["versions"],
    }
