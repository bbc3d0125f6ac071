"""Accuracy against bytes: learned labels in 1 to 16 bits, and the values of each label that tell most.

    python experiments/compression.py --quick    # digits, 50 base examples, three base sets: a few minutes
    python experiments/compression.py            # and MNIST with 10 and 100
    python experiments/compression.py --table    # docs/results/compression.md from the recorded runs

Random balanced base sets, labels by the closed form (five random convnets, γ = 0.1, labels × 8, mean squared
error). The labels are compressed in every way below, and LeNets are trained from scratch on what a reader of the
file would get: three trainings a base set, with the same initial weights and order for every code. The
validation split picks the number of steps of each row; then the test split is looked at, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure
from scipy import stats

import convexdistill as cd
from convexdistill.device import resolve_device
from convexdistill.distilled import fresh_network
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, accuracies, run_trials

SEEDS = (0, 1, 2)
POOL, REPEATS, GAMMA = 5, 3, 0.1
# bits, values kept; (None, None) are the labels as they are
CODES: tuple[tuple[int | None, int | None], ...] = (
    (None, None),
    (8, None),
    (6, None),
    (4, None),
    (3, None),
    (2, None),
    (1, None),
    (None, 5),
    (None, 3),
    (None, 1),
    (4, 5),
    (4, 3),
    (2, 3),
)


@dataclass(frozen=True)
class Setting:
    """One base set."""

    target: str
    size: int
    seed: int


QUICK = [Setting("digits", 50, seed) for seed in SEEDS]
FULL = [*QUICK, *(Setting("mnist", size, seed) for seed in SEEDS for size in (10, 100))]


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    train, validation, test = (
        cd.data.load(setting.target, split=s, root=data_root) for s in ("train", "validation", "test")
    )
    moments = cd.accumulate(cd.features.pool("convnet", POOL, setting.seed), train)
    base = cd.select.choose(train, setting.size, seed=setting.seed)
    plain = cd.distill.closed_form(moments, base, gamma=GAMMA, prior="zero", label_scale=8.0)
    sets = [plain if code == (None, None) else plain.compress(*code) for code in CODES]
    trials = run_trials(
        [Candidate(str(code), one.labels, one.recipe) for code, one in zip(CODES, sets, strict=True)],
        base.images,
        moments.preprocessing,
        validation,
        lambda seed: fresh_network("lenet", train.shape, train.num_classes, seed),
        [child_seed(setting.seed, "compression", k) for k in range(REPEATS)],
        device=(device := resolve_device("auto")),
        description="train on every code",
    )
    scores = accuracies([n for t in trials for n in t.networks], test, moments.preprocessing, device)
    return {
        "codes": [
            {
                "bits": bits,
                "top_k": top_k,
                "bytes": one.bytes,
                "rms_error": one.manifest.get("label_code", {}).get("rms_error", 0.0),
                "validation": trial.validation,
                "test": scores[i * REPEATS : (i + 1) * REPEATS],
            }
            for i, ((bits, top_k), one, trial) in enumerate(zip(CODES, sets, trials, strict=True))
        ],
        "rms_label": float(plain.labels.double().square().mean().sqrt()),
    }


def cells(records: list[Record]) -> dict[tuple[str, int], list[Record]]:
    """Records of one data set and size."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        found.setdefault((record["setting"]["target"], record["setting"]["size"]), []).append(record)
    return found


def name(bits: int | None, top_k: int | None) -> str:
    kept = "all values" if top_k is None else f"{top_k} values"
    return f"{kept}, {'float32' if bits is None else f'{bits} bits'}"


def table(records: list[Record]) -> str:
    lines = [
        "# Labels in few bytes",
        "",
        "Made by `python experiments/compression.py` from `compression.jsonl`; its `--help` says how figures are",
        "measured. Error: rms of what compressing changed, in percent of the rms of the labels. Test accuracy in",
        "percent, mean over base sets and three trainings each; “change”: paired difference to the labels as they",
        "are, with the standard error over base sets.",
        "",
        "![Test accuracy over bytes of the labels](compression.svg)",
    ]
    for (target, size), found in cells(records).items():
        rows = []
        for i, (bits, top_k) in enumerate(CODES):
            codes = [record["result"]["codes"][i] for record in found]
            change = [
                float(np.mean(code["test"]) - np.mean(record["result"]["codes"][0]["test"]))
                for code, record in zip(codes, found, strict=True)
            ]
            spread = f" ± {stats.sem(change):.1f}" if len(change) > 1 else ""
            error = np.mean([c["rms_error"] / r["result"]["rms_label"] for c, r in zip(codes, found, strict=True)])
            rows.append(
                [
                    name(bits, top_k),
                    f"{codes[0]['bytes']['labels']:,}",
                    f"{codes[0]['bytes']['labels'] / size:.0f}",
                    f"{codes[0]['bytes']['total']:,}",
                    f"{100 * error:.1f}",
                    f"{np.mean([code['validation'] for code in codes]):.1f}",
                    f"{np.mean([code['test'] for code in codes]):.1f}",
                    "–" if i == 0 else f"{np.mean(change):+.1f}{spread}",
                ]
            )
        images = found[0]["result"]["codes"][0]["bytes"]["images"]
        lines += ["", f"## {target}, {size} base examples, {len(found)} base sets: images {images:,} bytes", ""]
        columns = ["labels", "bytes:", "a row:", "with images:", "error, %:", "validation:", "test:", "change:"]
        lines += markdown_table(columns, rows)
    return "\n".join(lines) + "\n"


def plot(records: list[Record]) -> Figure:
    found = cells(records)
    figure = Figure(figsize=(4 * len(found), 3.2), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for ax, ((target, size), group) in zip(axes, found.items(), strict=True):
        for kept, marker in ((False, "o-"), (True, "x")):
            points = sorted(
                (
                    group[0]["result"]["codes"][i]["bytes"]["labels"] / size,
                    float(np.mean([record["result"]["codes"][i]["test"] for record in group])),
                )
                for i, (_, top_k) in enumerate(CODES)
                if (top_k is not None) == kept
            )
            label = "a part of the values" if kept else "all values, fewer bits"
            ax.plot(*zip(*points, strict=True), marker, ms=4, label=label)
        ax.set_title(f"{target}, {size} base examples", fontsize=9)
        ax.set_xlabel("bytes of a label", fontsize=8)
        ax.set_ylabel("test accuracy, %", fontsize=8)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "compression", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
