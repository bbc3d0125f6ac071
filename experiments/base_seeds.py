"""How much does the draw of base examples matter? Several base sets, several trainings on each.

    python experiments/base_seeds.py --quick     # digits, 50 base examples: minutes
    python experiments/base_seeds.py             # MNIST and A–Z capitals → MNIST, 100 base examples
    python experiments/base_seeds.py --table     # docs/results/base_seeds.md from the recorded runs

The seeds are the five of the paper's own analysis. With as many trainings on every base set, the spread between
base sets and that of trainings are told apart by one-way analysis of variance: σ² of base sets is (MS between − MS
within) / trainings, 0 where that is negative, and F = MS between / MS within says whether base sets differ at all.
The capitals (needs extras/az_letters.npz under the data root) are a stand-in for EMNIST letters, not balanced.
"""

from __future__ import annotations

import numpy as np
from _learned_labels import Setting, measure
from _learned_tables import grouped, pair
from _panels import panels
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure
from scipy.stats import f_oneway

SEEDS = (0, 465, 1234, 5439, 89432)
LETTERS = "extras/az_letters.npz"


def settings(target: str, size: int, source: str | None = None) -> list[Setting]:
    return [Setting(target, size, "lenet", seed, source=source, rows="few", repeats=5) for seed in SEEDS]


QUICK = settings("digits", 50)
FULL = [*QUICK, *settings("mnist", 100), *settings("mnist", 100, LETTERS)]


def table(records: list[Record]) -> str:
    lines = [
        "# How much the draw of base examples matters",
        "",
        "Made by `python experiments/base_seeds.py` from `base_seeds.jsonl`; its `--help` says what is",
        "measured. Test accuracy in percent of LeNets trained from scratch, mean over the trainings on each",
        "base set.",
    ]
    for (source, target, size, *_), group in grouped(records).items():
        repeats = group[0]["setting"]["repeats"]
        seeds = [record["setting"]["seed"] for record in group]
        lines += ["", f"## {pair(source, target)}, {size} base examples, {repeats} trainings on each base set", ""]
        rows = []
        for i, row in enumerate(group[0]["result"]["rows"]):
            runs = [record["result"]["rows"][i]["test"] for record in group]
            rows.append([row["labels"], *(f"{np.mean(one):.1f}" for one in runs), *_variance(runs)])
        lines += markdown_table(
            ["labels", *(f"seed {seed}:" for seed in seeds), "σ base sets:", "σ trainings:", "p of equal sets:"],
            rows,
        )
    return "\n".join(lines) + "\n"


def _variance(runs: list[list[float]]) -> tuple[str, str, str]:
    """σ of base sets, σ of trainings, and the p-value of no difference between base sets."""
    if len(runs) < 2 or len(runs[0]) < 2:
        return "–", "–", "–"
    within = float(np.mean([np.var(one, ddof=1) for one in runs]))
    between = float(np.var([np.mean(one) for one in runs], ddof=1)) - within / len(runs[0])
    return f"{max(between, 0.0) ** 0.5:.2f}", f"{within**0.5:.2f}", f"{f_oneway(*runs).pvalue:.1e}"


def plot(records: list[Record]) -> Figure:
    """Every training of every base set."""
    groups = grouped(records)
    figure, axes = panels(len(groups), "seed of the base set")
    for ax, ((source, target, size, *_), group) in zip(axes, groups.items(), strict=True):
        for i, row in enumerate(group[0]["result"]["rows"]):
            for k, record in enumerate(group):
                runs = record["result"]["rows"][i]["test"]
                label = row["labels"] if k == 0 else None
                ax.plot([k + 0.12 * i] * len(runs), runs, "o", ms=3, color=f"C{i}", alpha=0.7, label=label)
        ax.set_xticks(range(len(group)), [str(record["setting"]["seed"]) for record in group])
        ax.set_title(f"{pair(source, target)}, {size} base examples", fontsize=9)
        ax.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "base_seeds", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
