"""Learn labels or learn images? Both from the same base examples.

    python experiments/image_vs_label.py --quick     # digits, 10 and 50 base examples: minutes
    python experiments/image_vs_label.py             # and MNIST, 10 and 100; CIFAR-10, 10: hours
    python experiments/image_vs_label.py --table     # docs/results/image_vs_label.md from the recorded runs

Four ways with the same images to start from: labels by the convex solve (cross-entropy outer loss); images by
gradients through the ridge layer (learning rate 0.01), with one-hot labels; images and labels both; and one-hot
labels alone. The first three are trained on by the recipe in their own file, from scratch, for the number of steps
that the file says (validation chose it); one-hot labels under soft cross-entropy for as many steps as the learned
labels; then all are tested. The same number of images and labels is kept by all; learned images no longer compress
as real ones do. The image methods run for as many epochs as the setting says: the paper's 400 take hours on a CPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _panels import panels
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure
from torch.nn.functional import one_hot

import convexdistill as cd
from convexdistill.device import resolve_device
from convexdistill.distilled import DistilledSet, fresh_network
from convexdistill.training import Recipe, accuracies, train_together

WAYS = ("labels", "images", "images and labels", "one-hot")


@dataclass(frozen=True)
class Setting:
    """One way from one base set."""

    way: str
    target: str
    size: int
    network: str = "lenet"
    seed: int = 0
    epochs: int = 400
    batch_size: int = 1024
    repeats: int = 10


def settings(target: str, size: int, seeds: int, network: str = "lenet", **options: int) -> list[Setting]:
    return [Setting(way, target, size, network, seed, **options) for seed in range(seeds) for way in WAYS]


QUICK = [
    *settings("digits", 10, 1, epochs=100, batch_size=256),
    *settings("digits", 50, 1, epochs=100, batch_size=256),
]
FULL = [
    *QUICK,
    *settings("mnist", 10, 1, epochs=20),
    *settings("mnist", 100, 1, epochs=20),
    *settings("mnist", 10, 3),
    *settings("mnist", 100, 3),
    *settings("cifar10", 10, 3, "alexnet"),
]


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    target = cd.data.load(setting.target, root=data_root)
    validation = cd.data.load(setting.target, split="validation", root=data_root)
    base = cd.select.choose(target, setting.size, seed=setting.seed)
    common: dict[str, Any] = {"network": setting.network, "seed": setting.seed}
    cpu = time.process_time()
    if setting.way.startswith("images"):
        both = setting.way == "images and labels"
        epochs = {"epochs": setting.epochs, "batch_size": setting.batch_size}
        made = cd.distill.images(target, base, validation, learn_labels=both, rate=0.01, **epochs, **common)
    else:
        pool = cd.features.pool("convnet", 5)
        made = cd.distill.cross_entropy(pool, target, base, validation, target_images=10_000, **common)
    seconds = time.process_time() - cpu
    # The test split is read here, when everything is settled.
    test = cd.data.load(setting.target, split="test", root=data_root)
    labels, recipe = made.labels, made.recipe
    if setting.way == "one-hot":
        labels = one_hot(base.labels, target.num_classes).float()
        recipe = Recipe("soft-cross-entropy", steps=recipe.steps, batch_size=recipe.batch_size)
        seconds = 0.0
    return {
        "test": trained(made, labels, recipe, test, setting),
        "cpu_seconds": round(seconds, 1),
        "steps": recipe.steps,
        "loss": recipe.loss,
        "bytes": made.bytes,
        "test_images": len(test),
    }


def trained(
    made: DistilledSet, labels: torch.Tensor, recipe: Recipe, test: cd.data.ImageData, setting: Setting
) -> list[float]:
    """Test accuracy of networks trained from scratch by the recipe."""
    device, seeds = resolve_device("auto"), list(range(setting.repeats))
    classes = len(made.classes)
    networks = [fresh_network(setting.network, made.shape, classes, seed) for seed in seeds]
    train_together(
        networks,
        made.preprocessing(made.images).to(device),
        (labels * recipe.label_scale).expand(len(seeds), -1, -1).to(device),
        [recipe] * len(seeds),
        seeds,
        steps=recipe.steps,
        description=f"train on {setting.way}",
    )
    return accuracies(networks, test, made.preprocessing, device)


def table(records: list[Record]) -> str:
    lines = [
        "# Learn labels or learn images",
        "",
        "Made by `python experiments/image_vs_label.py` from `image_vs_label.jsonl`; its `--help` says what is",
        "measured. Test accuracy in percent of networks trained from scratch, mean ± standard deviation over",
        "all trainings; CPU seconds of the distillation, choices on the validation split included.",
    ]
    for (target, size, network, epochs), ways in by_way(records).items():
        sets, repeats = len(next(iter(ways.values()))), next(iter(ways.values()))[0]["setting"]["repeats"]
        lines += ["", f"## {target}, {size} base examples, {network}; images for {epochs} epochs", ""]
        lines += [f"{sets} base sets × {repeats} trainings.", ""]
        lines += markdown_table(
            ["learned", "test:", "CPU s:"],
            [
                [
                    way,
                    _spread([value for record in group for value in record["result"]["test"]]),
                    f"{np.mean([record['result']['cpu_seconds'] for record in group]):,.0f}",
                ]
                for way, group in ways.items()
            ],
        )
    return "\n".join(lines) + "\n"


def by_way(records: list[Record]) -> dict[tuple[Any, ...], dict[str, list[Record]]]:
    """Records by target, size, network and epochs, and within these by what is learned."""
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for record in records:
        s = record["setting"]
        ways = groups.setdefault((s["target"], s["size"], s["network"], s["epochs"]), {})
        ways.setdefault(s["way"], []).append(record)
    return groups


def plot(records: list[Record]) -> Figure:
    """Every training, by what is learned."""
    groups = by_way(records)
    figure, axes = panels(len(groups), "learned")
    for ax, ((target, size, network, epochs), ways) in zip(axes, groups.items(), strict=True):
        for way, group in ways.items():
            runs = [value for record in group for value in record["result"]["test"]]
            ax.plot([way] * len(runs), runs, "o", ms=3, alpha=0.6)
        ax.set_title(f"{target}, {size}, {network}; {epochs} epochs", fontsize=9)
        ax.tick_params(axis="x", labelsize=7)
    return figure


def _spread(runs: list[float]) -> str:
    return f"{np.mean(runs):.1f} ± {np.std(runs, ddof=1):.1f}"


EXPERIMENT = Experiment(__doc__ or "", "image_vs_label", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
