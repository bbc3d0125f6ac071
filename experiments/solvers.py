"""The same distillation through the cvxpylayers layer and through the torch layer.

    python experiments/solvers.py --quick    # digits, two sizes: a few minutes
    python experiments/solvers.py            # and larger ridge heads, up to n·d of 13,000
    python experiments/solvers.py --table    # docs/results/solvers.md from the recorded runs

Three roads to the labels of one base set (digits, random, balanced; random convnets; γ = 0.1, prior zero): the
closed form; L-BFGS on the labels with the gradient that comes back through the torch ridge layer; and the same
descent, line for line, through the cvxpylayers ridge layer. Each road runs in a process of its own on one
thread, twice: the first run pays for loading libraries and compiling the program, the second does not. Seconds
are those of the processor, which other work on the machine hardly stretches; memory is what the peak of the
process grows by over both runs, libraries included. LeNets are then trained from scratch on each road's labels,
three times, with the same initial weights and order; the validation split picks the number of steps, then the
test split is looked at, once.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure

import convexdistill as cd
from convexdistill.device import resolve_device
from convexdistill.distill.outer import outer_terms
from convexdistill.distill.solve import descend_labels, label_system, solve_labels
from convexdistill.distilled import fresh_network
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, Recipe, accuracies, run_trials, training_steps

ROADS = ("closed form", "torch layer", "cvxpylayers layer")
COLUMNS = (
    *("road", "labels:", "outer loss:", "residual:", "iterations:", "s, first:", "s, second:", "times:"),
    *("memory, MB:", "validation:", "test:"),
)
LAM, GAMMA, SCALE, REPEATS = 1e-3, 0.1, 8.0, 3


@dataclass(frozen=True)
class Setting:
    """One base set and its pool; a ridge head has n × (4·width + 1) features."""

    size: int
    width: int
    pool: int
    seed: int = 0


QUICK = [Setting(20, 8, 2), Setting(50, 8, 2)]
FULL = [*QUICK, Setting(100, 16, 3), Setting(200, 16, 1), Setting(20, 32, 5)]


def solve(road: str, setting: Setting) -> dict[str, Any]:
    """One road, in the process that calls it."""
    torch.set_num_threads(1)
    digits = cd.data.load("digits")
    moments = cd.accumulate(cd.features.pool("convnet", setting.pool, setting.seed, width=setting.width), digits)
    terms = outer_terms(moments, cd.select.choose(digits, setting.size, seed=setting.seed), LAM)
    label_system(terms)  # what every road needs is loaded before the clock starts
    before, seconds = peak_mb(), []
    for _ in range(2):
        start = time.process_time()
        if road == "closed form":
            labels, facts = solve_labels(label_system(terms), GAMMA)
        else:
            labels, facts = descend_labels(terms, GAMMA, backend=road.removesuffix(" layer"))
        seconds.append(time.process_time() - start)
    return {
        "labels": labels.tolist(),
        "features": terms[0].features.shape[1],
        "seconds": seconds,
        "memory_mb": peak_mb() - before,
        "iterations": facts.get("iterations"),
        **{name: facts[name] for name in ("outer_loss", "objective", "residual")},
    }


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    roads = {}
    for road in ROADS:
        with context.Pool(1) as one:  # a process of its own: its peak of memory is nobody else's
            roads[road] = one.apply(solve, (road, setting))
    labels = {road: torch.tensor(found.pop("labels"), dtype=torch.float64) for road, found in roads.items()}
    reference = labels[ROADS[0]]
    train, validation, test = (cd.data.load("digits", split=s) for s in ("train", "validation", "test"))
    base = cd.select.choose(train, setting.size, seed=setting.seed)
    preprocessing = cd.data.Preprocessing.fit(train)
    recipe = Recipe("mse", label_scale=SCALE, steps=training_steps(setting.size)[-1])
    trials = run_trials(
        [Candidate(road, values, recipe) for road, values in labels.items()],
        base.images,
        preprocessing,
        validation,
        lambda seed: fresh_network("lenet", train.shape, train.num_classes, seed),
        [child_seed(setting.seed, "solvers", k) for k in range(REPEATS)],
        device=(device := resolve_device("auto")),
        description="train on the labels of every road",
    )
    for road, trial in zip(ROADS, trials, strict=True):
        roads[road] |= {
            "difference": float((labels[road] - reference).norm() / reference.norm()),
            "validation": trial.validation,
            "test": accuracies(trial.networks, test, preprocessing, device),
        }
    return roads


def table(records: list[Record]) -> str:
    lines = [
        "# One distillation through two layers",
        "",
        "Made by `python experiments/solvers.py` from `solvers.jsonl`; its `--help` says what is measured.",
        "Labels: relative difference to those of the closed form. Seconds of the processor, first and second run;",
        "“times”: the second run over that of the descent through the torch layer. Accuracy of LeNets in percent,",
        "mean of three trainings.",
        "",
        "![Seconds over the size of the ridge head](solvers.svg)",
    ]
    for record in records:
        setting, roads = record["setting"], record["result"]
        torch_seconds = roads["torch layer"]["seconds"][1]
        rows = []
        for road, found in roads.items():
            rows.append(
                [
                    road,
                    f"{found['difference']:.0e}" if found["difference"] else "–",
                    f"{found['outer_loss']:.6f}",
                    f"{found['residual']:.0e}",
                    found["iterations"] or "–",
                    *(f"{seconds:.3g}" for seconds in found["seconds"]),
                    f"{found['seconds'][1] / torch_seconds:.3g}",
                    f"{found['memory_mb']:.0f}",
                    f"{np.mean(found['validation']):.1f}",
                    f"{np.mean(found['test']):.1f}",
                ]
            )
        features = roads[ROADS[0]]["features"]
        lines += [
            "",
            f"## digits, n = {setting['size']}, d = {features}, pool of {setting['pool']}",
            "",
            *markdown_table(
                COLUMNS,
                rows,
            ),
        ]
    return "\n".join(lines) + "\n"


def plot(records: list[Record]) -> Figure:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    ax = figure.subplots()
    for road, marker in zip(ROADS, "osx", strict=True):
        points = sorted(
            (record["setting"]["size"] * record["result"][road]["features"], record["result"][road]["seconds"][1])
            for record in records
        )
        ax.loglog(*zip(*points, strict=True), marker + "-", ms=4, label=road)
    ax.set_xlabel("entries of Φ, n·d", fontsize=8)
    ax.set_ylabel("processor seconds, second run", fontsize=8)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "solvers", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
