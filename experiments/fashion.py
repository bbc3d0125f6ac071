"""Labels learned by convex solves on Fashion-MNIST: as ``within_dataset.py`` on MNIST.

python experiments/fashion.py --quick     # 10 base examples, LeNet: minutes on two cores
python experiments/fashion.py             # hours
python experiments/fashion.py --table     # docs/results/fashion.md from the recorded runs
"""

from __future__ import annotations

from _learned_labels import Setting, measure
from _learned_tables import Goal, Key, gains, overview, plot, sections
from _records import Experiment, Record, run
from within_dataset import SEEDS, SIZES, WAYS, chosen, rows_for

GOALS: dict[Key, Goal] = {
    (None, "fashion-mnist", 10, None, "kmeans"): Goal(65, 61.3),
    (None, "fashion-mnist", 100, None, "kmeans"): Goal(81, 79.9),
    (None, "fashion-mnist", 500, None, "kmeans"): Goal(86, 84.9),
}
QUICK = [Setting("fashion-mnist", 10, "lenet", seed) for seed in range(2)]
FULL = [
    *chosen("fashion-mnist", WAYS),
    *(Setting("fashion-mnist", size, "lenet", seed, rows=rows_for(size)) for size in SIZES for seed in SEEDS),
]


def table(records: list[Record]) -> str:
    lines = [
        "# Labels learned by convex solves, Fashion-MNIST",
        "",
        "Made by `python experiments/fashion.py` from `fashion.jsonl`; see [within data",
        "sets](within_dataset.md) for what the rows mean.",
        "",
        "![Test accuracy over the number of base examples](fashion.svg)",
        "",
        *overview(records, GOALS),
        *gains(records),
    ]
    return "\n".join([*lines, *sections(records)]) + "\n"


EXPERIMENT = Experiment(__doc__ or "", "fashion", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
