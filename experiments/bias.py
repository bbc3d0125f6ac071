"""Whom distillation costs more: accuracy by class and subgroup, against networks trained on everything.

    python experiments/bias.py --quick    # digits, 50 base examples, three base sets: a few minutes
    python experiments/bias.py            # and MNIST and handwritten capitals with 100: about an hour
    python experiments/bias.py --table    # docs/results/bias.md from the recorded runs

Random balanced base sets, labels by the closed form (five random convnets, γ = 0.1, labels × 8, mean squared
error), three trainings of a LeNet on each, beside one-hot labels and teacher scores on the same images and the
same LeNets trained on everything. Subgroups, all known before anything is trained: the classes; how thick the
strokes are (quarters of the test images by mean brightness); for MNIST the writers, since one half of its test
split was written by employees of the Census Bureau and the other by high-school students (LeCun et al., 1998;
which half is whose is told in both ways, so they are called first and second here); for the capitals, whose
classes are of very different sizes, how common the letter is. The gap is
accuracy minus that of the networks trained on everything; the excess is a group's gap minus everyone's. 95 %
intervals by the bootstrap over test images, base sets and trainings; with k base sets they are about √(k/(k−1))
too short, 22 % with three.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure

import convexdistill as cd

SEEDS = (0, 1, 2)
POOL, REPEATS, GAMMA = 5, 3, 0.1
BASELINES = ("one-hot", "one-hot-recipe", "teacher")
LETTERS = "az_letters"


@dataclass(frozen=True)
class Setting:
    """One data set; the base sets of all ``seeds`` together, as their spread is a part of the intervals."""

    target: str
    size: int
    seeds: tuple[int, ...] = SEEDS


QUICK = [Setting("digits", 50)]
FULL = [*QUICK, Setting(LETTERS, 104), Setting("mnist", 100)]


def place(target: str, data_root: str | None) -> str:
    """Where the capitals lie; every other name is its own."""
    root = data_root or os.environ.get("CONVEXDISTILL_DATA", "data")
    return os.path.join(root, "extras", f"{LETTERS}.npz") if target == LETTERS else target


def columns(target: str, train: cd.data.ImageData, test: cd.data.ImageData) -> dict[str, Any]:
    """The subgroups of the test images, but for their classes."""
    found: dict[str, Any] = {"brightness": test.images.double().mean((1, 2, 3)).numpy()}
    if target == "mnist":
        found["writers"] = np.where(np.arange(len(test)) < len(test) // 2, "first half", "second half")
    if target == LETTERS:
        common = np.asarray(train.counts)[test.labels.numpy()]
        low, high = np.quantile(train.counts, (1 / 3, 2 / 3))
        found["letter is"] = np.select([common <= low, common <= high], ["rare", "in between"], "common")
    return found


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    name = place(setting.target, data_root)
    train, validation, test = (
        cd.data.load(name, split=s, root=data_root) for s in ("train", "validation", "test")
    )
    moments = cd.accumulate(cd.features.pool("convnet", POOL, setting.seeds[0]), train)
    sets = [
        cd.distill.closed_form(
            moments, cd.select.choose(train, setting.size, seed=seed), gamma=GAMMA, prior="zero", label_scale=8.0
        )
        for seed in setting.seeds
    ]
    report = cd.evaluate.bias(
        sets,
        columns(setting.target, train, test),
        repeats=REPEATS,
        baselines=BASELINES,
        target=train,
        validation=validation,
        test=test,
        seed=setting.seeds[0],
    )
    return report.to_dicts()


def signed(value: float) -> str:
    return f"{value:+.1f}"


def ends(interval: list[float]) -> str:
    return f"{interval[0]:+.1f} to {interval[1]:+.1f}"


def table(records: list[Record]) -> str:
    lines = [
        "# Whom distillation costs more",
        "",
        "Made by `python experiments/bias.py` from `bias.jsonl`; its `--help` says how figures are measured. Test",
        "accuracy in percent. Gap: distilled labels minus networks trained on everything. Excess: the group's gap",
        "minus that of everyone; **bold** where its 95 % interval leaves zero out; of many groups, one in twenty",
        "does so by chance. With k base sets the intervals are about √(k/(k−1)) too short (22 % with three): a",
        "bootstrap over so few sees too little of their spread, and what is bold by a hair is not sure.",
        "",
        "![Excess gap of every group](bias.svg)",
    ]
    for record in records:
        setting, rows = record["setting"], record["result"]["subgroups"]
        of = {(row["labels"], row["group"], row["value"]): row for row in rows}
        title = f"{setting['target']}, {setting['size']} base examples, {len(setting['seeds'])} base sets"
        lines += ["", f"## {title}", ""]
        body = []
        for row in rows:
            if row["labels"] != "distilled":
                continue
            others = [
                of[labels, row["group"], row["value"]]["accuracy"]
                for labels in ("full-data", "one-hot", "teacher")
            ]
            excess = "–"
            if row["excess"] is not None:
                low, high = row["excess_ci95"]
                excess = f"{signed(row['excess'])} ({ends(row['excess_ci95'])})"
                excess = f"**{excess}**" if low > 0 or high < 0 else excess
            body.append(
                [
                    row["group"],
                    row["value"],
                    f"{row['count']:,}",
                    *(f"{value:.1f}" for value in (others[0], row["accuracy"], *others[1:])),
                    f"{signed(row['gap'])} ({ends(row['gap_ci95'])})",
                    excess,
                ]
            )
        names = [
            "column",
            "group",
            "images:",
            "everything:",
            "distilled:",
            "one-hot:",
            "teacher:",
            "gap:",
            "excess:",
        ]
        lines += [
            *markdown_table(names, body),
            "",
            "Accuracy of the best served group minus that of the worst:",
            "",
        ]
        apart = {(one["group"], one["labels"]): one for one in record["result"]["disparities"]}
        shown = ("full-data", "distilled", *BASELINES)
        lines += markdown_table(
            ["column", *(f"{name}:" for name in shown)],
            [
                [
                    group,
                    *(f"{apart[group, name]['difference']:.1f} ({apart[group, name]['worst']})" for name in shown),
                ]
                for group in dict.fromkeys(group for group, _ in apart)
            ],
        )
    return "\n".join(lines) + "\n"


def plot(records: list[Record]) -> Figure:
    figure = Figure(figsize=(4 * len(records), 6.5), layout="constrained")
    axes = figure.subplots(1, len(records), squeeze=False)[0]
    for ax, record in zip(axes, records, strict=True):
        rows = [r for r in record["result"]["subgroups"] if r["labels"] == "distilled" and r["excess"] is not None]
        rows = rows[::-1]
        for y, row in enumerate(rows):
            low, high = row["excess_ci95"]
            clear = low > 0 or high < 0
            ax.plot([low, high], [y, y], color="#1b5aa6" if clear else "#8a939c", lw=2)
            ax.plot([row["excess"]], [y], "o", color="#1b5aa6" if clear else "#8a939c", ms=5)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_yticks(range(len(rows)), [f"{row['group']}: {row['value']}" for row in rows], fontsize=7)
        ax.set_title(f"{record['setting']['target']}, {record['setting']['size']} base examples", fontsize=9)
        ax.set_xlabel("excess gap, points", fontsize=8)
        ax.grid(axis="x", alpha=0.3)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "bias", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
