"""How much does the number of training steps matter? Test accuracy at T − 50 … T + 100 steps.

    python experiments/training_steps.py --quick     # digits, 50 base examples: minutes
    python experiments/training_steps.py             # MNIST and A–Z capitals → MNIST, 100 base examples
    python experiments/training_steps.py --table     # page and plot from the recorded runs

T is the number of steps that the validation split prefers, for every kind of labels by itself. Then networks with
other initial weights are trained for T + 100 steps, and looked at on the test split at eight numbers of steps, as
the paper does: an analysis, from which nothing is chosen. The capitals (needs extras/az_letters.npz under the data
root) are a stand-in for EMNIST letters, not balanced.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from _learned_labels import Setting, candidates_of, network_of, of
from _learned_tables import grouped, pair
from _panels import panels
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure

from convexdistill.device import resolve_device
from convexdistill.distilled import fresh_network
from convexdistill.seeds import child_seed
from convexdistill.training import SideBySide, Trial, run_trials, train_together

OFFSETS = (-50, -20, -10, 0, 10, 20, 50, 100)
LETTERS = "extras/az_letters.npz"
QUICK = [Setting("digits", 50, "lenet", 1234, rows="few", repeats=10)]
FULL = [
    *QUICK,
    Setting("mnist", 100, "lenet", 1234, rows="few", repeats=10),
    Setting("mnist", 100, "lenet", 1234, source=LETTERS, rows="few", repeats=10),
]


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    known = of(setting, data_root)
    images, candidates, _ = candidates_of(setting, data_root)
    trials = run_trials(
        candidates,
        images,
        known.moments.preprocessing,
        known.validation,
        lambda seed: fresh_network(network_of(setting.network), known.train.shape, known.train.num_classes, seed),
        [child_seed(setting.seed, "find T", r) for r in range(3)],
        device=resolve_device("auto"),
        description="find T",
    )
    return {
        "rows": [_around(setting, data_root, trial, images) for trial in trials],
        "test_images": len(known.test),
    }


def _around(setting: Setting, data_root: str | None, trial: Trial, images: torch.Tensor) -> dict[str, Any]:
    """Test accuracy of every training at T + offset steps."""
    known = of(setting, data_root)
    device = resolve_device("auto")
    seeds = [child_seed(setting.seed, "around T", r) for r in range(setting.repeats)]
    shape, classes = known.train.shape, known.train.num_classes
    networks = [fresh_network(network_of(setting.network), shape, classes, seed) for seed in seeds]
    prepared = known.moments.preprocessing(known.test.images).to(device)
    steps = [trial.steps + offset for offset in OFFSETS if trial.steps + offset > 0]
    found: dict[int, list[float]] = {step: [0.0] * len(seeds) for step in steps}

    def visit(positions: list[int], joint: SideBySide, step: int) -> None:
        right = joint.predict(prepared).argmax(-1).cpu() == known.test.labels
        for k, position in enumerate(positions):
            found[step][position] = float(right[k].double().mean()) * 100

    recipe = trial.candidate.recipe
    train_together(
        networks,
        known.moments.preprocessing(images).to(device),
        (trial.candidate.labels * recipe.label_scale).expand(len(seeds), -1, -1).float().to(device),
        [replace(recipe, steps=steps[-1])] * len(seeds),
        seeds,
        steps=steps[-1],
        checkpoints=steps,
        visit=visit,
        description=f"train around T = {trial.steps}",
    )
    return {"labels": trial.candidate.name, "T": trial.steps, "test": {str(step): found[step] for step in steps}}


def table(records: list[Record]) -> str:
    lines = [
        "# How much the number of training steps matters",
        "",
        "Made by `python experiments/training_steps.py` from `training_steps.jsonl`; its `--help` says what is",
        "measured. Mean test accuracy in percent of LeNets trained from scratch; *range*: largest less smallest",
        "mean.",
        "",
        "![Test accuracy over the number of steps](training_steps.svg)",
    ]
    for (source, target, size, *_), group in grouped(records).items():
        repeats = group[0]["setting"]["repeats"]
        lines += ["", f"## {pair(source, target)}, {size} base examples, {repeats} trainings", ""]
        rows = []
        for row in group[0]["result"]["rows"]:
            means = {int(step) - row["T"]: float(np.mean(runs)) for step, runs in row["test"].items()}
            cells = [f"{means[offset]:.1f}" if offset in means else "–" for offset in OFFSETS]
            rows.append([row["labels"], row["T"], *cells, f"{max(means.values()) - min(means.values()):.1f}"])
        names = [f"T{offset:+d}:" if offset else "at T:" for offset in OFFSETS]
        lines += markdown_table(["labels", "T, steps:", *names, "range:"], rows)
    return "\n".join(lines) + "\n"


def plot(records: list[Record]) -> Figure:
    groups = grouped(records)
    figure, axes = panels(len(groups), "steps − T")
    for ax, ((source, target, size, *_), group) in zip(axes, groups.items(), strict=True):
        for row in group[0]["result"]["rows"]:
            steps = sorted(map(int, row["test"]))
            means = [np.mean(row["test"][str(step)]) for step in steps]
            ax.plot([step - row["T"] for step in steps], means, "o-", ms=3, label=row["labels"])
        ax.set_title(f"{pair(source, target)}, {size}", fontsize=9)
        ax.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "training_steps", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
