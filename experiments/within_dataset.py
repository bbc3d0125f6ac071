"""Labels learned by convex solves, within a data set: both outer losses under both recipes, beside baselines.

    python experiments/within_dataset.py --quick     # digits: a few minutes on two cores
    python experiments/within_dataset.py             # and MNIST and CIFAR-10: hours
    python experiments/within_dataset.py --table     # docs/results/within_dataset.md from the recorded runs

Random balanced base examples with the paper's networks, and base examples chosen by k-means in feature space with
ConvNets and AlexNet. Networks are trained from scratch, five base sets with three trainings each: a record for
each base set. The online methods, on one base set each, have a script and a page of their own,
``online_methods.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _learned_labels import Setting, measure
from _learned_tables import Goal, Key, gains, overview, plot, sections
from _records import Experiment, Record, run

# Test accuracy that was to be reached, and the best published, by source, target, size, network and selection.
GOALS: dict[Key, Goal] = {
    (None, "mnist", 10, "lenet", "random"): Goal(66, 60.9),
    (None, "mnist", 100, "lenet", "random"): Goal(92, 87.3),
    (None, "mnist", 500, "lenet", "random"): Goal(96, 93.3),
    (None, "mnist", 10, None, "kmeans"): Goal(75, 71.3),
    (None, "mnist", 100, None, "kmeans"): Goal(96, 95.3),
    (None, "mnist", 500, None, "kmeans"): Goal(98.2, 98.0),
    (None, "cifar10", 10, "alexnet", "random"): Goal(28, 25.7),
    (None, "cifar10", 100, "alexnet", "random"): Goal(45, 38.3),
    (None, "cifar10", 500, "alexnet", "random"): Goal(53, 42.5),
    (None, "cifar10", 10, None, "kmeans"): Goal(30, 25.7),
    (None, "cifar10", 100, None, "kmeans"): Goal(52, 49.2),
    (None, "cifar10", 500, None, "kmeans"): Goal(64, 62.1),
}
SEEDS = range(5)
SIZES = (10, 100, 500, 50, 20, 200)
# What comes after the single solve, by the number of base examples, where networks of 28×28 images can pay for it.
WAYS = {10: ("unrolled",), 100: ("alternate",), 500: ("few", "alternate")}

# Networks on chosen base examples of CIFAR-10, rows, sizes, and what else is done. Which of them is the best,
# nobody knows beforehand: leads.py looks at them with 100 examples of one base set, and there whitening, wide
# extractors and mirrored base images help.
WHITE: dict[str, Any] = {"zca": 0.1, "extractor": "convnet-128", "pool": 3, "chooser": "convnet-32-none"}
MIRROR: dict[str, Any] = {**WHITE, "augmentation": "mirror"}
CIFAR10: tuple[tuple[str, str, tuple[int, ...], dict[str, Any]], ...] = (
    ("convnet-64-none", "alternate", (100, 500), MIRROR),
    ("convnet-64-none", "few", (500,), MIRROR),
    ("convnet-32-none", "unrolled", (10,), MIRROR),
    ("convnet-32-none", "alternate", (100,), WHITE),
    ("convnet-64-none", "few", (500,), WHITE),
    ("convnet-64-none", "few", (10, 100, 500), {}),
    ("convnet-32", "few", (100, 500), {}),
    ("convnet-32-none", "alternate", (100,), {}),
    ("alexnet", "few", (10,), {}),
    ("alexnet", "unrolled", (10,), {}),
    ("convnet-32", "unrolled", (10,), {}),
)


def chosen(target: str, rows: Mapping[int, tuple[str, ...]]) -> list[Setting]:
    """The ConvNet on base examples chosen with care; ``rows``: the ways to their labels, by size."""
    return [
        Setting(target, size, "convnet-32", seed, select="kmeans", rows=way)
        for size, ways in rows.items()
        for way in ways
        for seed in SEEDS
    ]


def rows_for(size: int, network: str = "lenet") -> str:
    """Fewer rows where each takes long."""
    if network != "lenet":
        return "all" if size <= 20 else "few"
    return "all" if size <= 100 else "some"


QUICK = [Setting("digits", size, "lenet", seed) for size in (10, 50) for seed in range(3)]
FULL = [
    *(Setting("mnist", size, "lenet", seed, rows=rows_for(size)) for size in SIZES for seed in SEEDS),
    *(Setting("mnist", 10, "lenet", seed, rows="unrolled") for seed in SEEDS),
    *chosen("mnist", WAYS),
    *(
        Setting("cifar10", size, "alexnet", seed, rows=rows_for(size, "alexnet"))
        for size in SIZES
        for seed in SEEDS
    ),
    *(Setting("cifar10", 10, "alexnet", seed, rows="unrolled") for seed in SEEDS),
    *(
        Setting("cifar10", size, network, seed, select="kmeans", rows=rows, **more)
        for network, rows, sizes, more in CIFAR10
        for size in sizes
        for seed in SEEDS
    ),
    *QUICK,
]


def table(records: list[Record]) -> str:
    lines = [
        "# Labels learned by convex solves, within a data set",
        "",
        "Made by `python experiments/within_dataset.py` from `within_dataset.jsonl`. Test accuracy in percent:",
        "mean ± standard deviation over all trainings; intervals are those of the mean over base sets.",
        "*squared* is `closed_form`, *cross-entropy* is `cross_entropy`; *centred* trains under mean squared",
        "error on scaled labels, *paper* under soft cross-entropy on the softmax of scaled labels. γ, prior and",
        "scales are chosen on the validation split with another base set; the number of steps of each row, and",
        "which row of learned labels speaks in the overview, on the validation split with the base sets shown.",
        "Published, for random base images: the paper's own second-order method; for chosen ones: the best of",
        "label-only methods, that is Label Solve on a finite network, and for CIFAR-10 with 10 the paper's. The",
        "paper's online methods have [a page of their own](online_methods.md). Chosen base images have one goal a",
        "size, for the best network: it stands beside the labels and network that validation prefers. *Mirror",
        "augmentation*: in every training, those on baselines too, left and right of each base image are",
        "exchanged at random; the solves know both views.",
        "",
        "![Test accuracy over the number of base examples](within_dataset.svg)",
        "",
        *overview(records, GOALS),
        *gains(records),
    ]
    return "\n".join([*lines, *sections(records)]) + "\n"


EXPERIMENT = Experiment(__doc__ or "", "within_dataset", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
