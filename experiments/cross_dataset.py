"""Labels learned by convex solves, across data sets: English capitals teach Japanese characters.

    python experiments/cross_dataset.py --quick     # A–Z → KMNIST, 10 base examples, one base set: minutes
    python experiments/cross_dataset.py             # four pairs; 10, 100, 500 base examples; five base sets each
    python experiments/cross_dataset.py --table     # docs/results/cross_dataset.md from the recorded runs

The paper's own pairs come first: EMNIST letters to MNIST, KMNIST and Kuzushiji-49. Where their files are not below
the data root they are left out with a line that says what is missing, and the stand-ins speak. These are files
with `images` and `labels` in extras/: A–Z capitals of NIST SD19 for EMNIST letters, the 10,000 images of KMNIST's
official test split for KMNIST, Kanji-49 for Kuzushiji-49, ten classes of CUB; those without official splits are
divided 70 / 10 / 20 here. Base images are random, not balanced, as in the paper. *transferred* labels are the mean
class of the ten nearest target images, the best constant is the largest class.
"""

from __future__ import annotations

from _learned_labels import Setting, measure
from _learned_tables import WORDS, Goal, Key, gains, grouped, overview, pair, plot, rows_of, sections, spokesman
from _records import Experiment, Record, run

LETTERS, KMNIST, KANJI = "extras/az_letters.npz", "extras/kmnist10k.npz", "extras/kkanji49.npz"
BIRDS = "extras/cub10.npz"
OFFICIAL = tuple(("emnist-letters", target, "lenet") for target in ("mnist", "kmnist", "kuzushiji-49"))
PAIRS = (
    (LETTERS, KMNIST, "lenet"),
    (LETTERS, "mnist", "lenet"),
    (LETTERS, KANJI, "lenet"),
    (BIRDS, "cifar10", "alexnet"),
)
GOALS: dict[Key, Goal] = {
    (LETTERS, KMNIST, 10, "lenet", "random"): Goal(40),
    (LETTERS, KMNIST, 100, "lenet", "random"): Goal(62),
    (LETTERS, KMNIST, 500, "lenet", "random"): Goal(72),
}
FULL = [
    Setting(target, size, network, seed, source=source, rows=rows)
    for source, target, network in (*OFFICIAL, *PAIRS)
    for size in (10, 100, 500)
    for rows in (("all", "alternate", "unrolled") if size <= 100 else ("some", "alternate"))
    for seed in range(5)
]
QUICK = [next(setting for setting in FULL if setting.source == LETTERS)]


def table(records: list[Record]) -> str:
    lines = [
        "# Labels learned by convex solves, across data sets",
        "",
        "Made by `python experiments/cross_dataset.py` from `cross_dataset.jsonl`; see [within data",
        "sets](within_dataset.md) for what the rows mean. The data are stand-ins: *az_letters* are 5,934",
        "handwritten capitals (for EMNIST letters), *kmnist10k* the 10,000 images of KMNIST's official test",
        "split and *kkanji49* 49 classes of Kuzushiji-Kanji, each divided 70 / 10 / 20, *cub10* ten classes of",
        "CUB-200. No figure can be compared with published ones.",
        "",
        "![Test accuracy over the number of base examples](cross_dataset.svg)",
        "",
        *overview(records, GOALS),
        "",
        *verdict(records),
        *gains(records),
    ]
    return "\n".join([*lines, *sections(records)]) + "\n"


def verdict(records: list[Record]) -> list[str]:
    """Whether learned labels beat the best constant and transferred labels, on every pair and size measured."""
    worse = []
    for (source, target, size, *_, more), group in grouped(records).items():
        rows = rows_of(group)
        best = spokesman(rows)
        rivals = {row.labels: row.mean for row in rows if row.labels.startswith("transferred")}
        rivals["best constant"] = max(record["result"]["constant"] for record in group)
        worse += [
            f"- {pair(source, target)}, {size}{WORDS.get(more, '')}: {name} {value:.1f} against {best.mean:.1f}"
            for name, value in rivals.items()
            if value >= best.mean
        ]
    measured = {(record["setting"]["source"], record["setting"]["target"]) for record in records}
    missing = [
        pair(source, target) for source, target, _ in (*OFFICIAL, *PAIRS) if (source, target) not in measured
    ]
    lines = []
    if records and not worse:
        lines = ["Learned labels beat the best constant and the transferred labels in every line above."]
    elif worse:
        lines = ["Learned labels do not beat:", "", *worse]
    return [*lines, "", f"Not measured yet: {', '.join(missing)}."] if missing else lines


EXPERIMENT = Experiment(__doc__ or "", "cross_dataset", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
