"""Distilled with one network, trained with another.

    python experiments/architectures.py --quick     # digits, 50 base examples, every pair: minutes
    python experiments/architectures.py             # and MNIST, CIFAR-10: hours, better on a GPU
    python experiments/architectures.py --table     # docs/results/architectures.md from the recorded runs

The pool of extractors is five random networks of one kind, and that kind also chooses γ, prior and label scale on
the validation split; then LeNet, AlexNet, the ResNet and the ConvNet (32 channels) are trained from scratch on the
labels, beside teacher and one-hot labels. Cross-entropy outer loss, centred recipe; as ``within_dataset.py``
otherwise.
"""

from __future__ import annotations

from _learned_labels import Setting, measure
from _learned_tables import rows_of, spread
from _panels import panels
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure

NETWORKS = ("lenet", "alexnet", "resnet", "convnet-32")


def settings(target: str, size: int, seeds: int, extractors: tuple[str, ...]) -> list[Setting]:
    return [
        Setting(target, size, network, seed, rows="few", extractor=extractor, chooser=chooser)
        for extractor in extractors
        for chooser in ("convnet-32" if extractor == "convnet" else extractor,)
        for network in NETWORKS
        for seed in range(seeds)
    ]


QUICK = settings("digits", 50, 1, ("lenet", "alexnet", "resnet", "convnet"))
FULL = [
    *QUICK,
    *settings("mnist", 10, 3, ("lenet", "convnet")),
    *settings("mnist", 100, 3, ("lenet", "convnet")),
    *settings("cifar10", 100, 3, ("alexnet", "convnet")),
]


def table(records: list[Record]) -> str:
    lines = [
        "# Distilled with one network, trained with another",
        "",
        "Made by `python experiments/architectures.py` from `architectures.jsonl`; its `--help` says what is",
        "measured. Test accuracy in percent, mean ± standard deviation over all trainings; rows by the network",
        "of the extractors.",
    ]
    tables: dict[tuple[str, int], dict[tuple[str, str], list[Record]]] = {}
    for record in records:
        s = record["setting"]
        cells = tables.setdefault((s["target"], s["size"]), {})
        cells.setdefault((s["extractor"], s["network"]), []).append(record)
    for (target, size), cells in tables.items():
        sets = {len(group) for group in cells.values()}
        lines += ["", f"## {target}, {size} base examples, {min(sets)} base sets", ""]
        rows = []
        for extractor in dict.fromkeys(extractor for extractor, _ in cells):
            for i, labels in enumerate(("learned", "teacher", "one-hot")):
                groups = [cells.get((extractor, network)) for network in NETWORKS]
                rows.append([extractor, labels, *("–" if g is None else spread(rows_of(g)[i]) for g in groups)])
        lines += markdown_table(["extractors", "labels", *(f"{name}:" for name in NETWORKS)], rows)
    return "\n".join(lines) + "\n"


def plot(records: list[Record]) -> Figure:
    """Accuracy of learned labels by the network that is trained: one line for each kind of extractors."""
    tables: dict[tuple[str, int], dict[str, dict[str, list[Record]]]] = {}
    for record in records:
        s = record["setting"]
        lines = tables.setdefault((s["target"], s["size"]), {})
        lines.setdefault(s["extractor"], {}).setdefault(s["network"], []).append(record)
    figure, axes = panels(len(tables), "trained network")
    for ax, ((target, size), lines) in zip(axes, tables.items(), strict=True):
        for extractor, cells in lines.items():
            names = [name for name in NETWORKS if name in cells]
            ax.plot(
                names,
                [rows_of(cells[name])[0].mean for name in names],
                "o-",
                ms=4,
                label=f"{extractor} extractors",
            )
        ax.set_title(f"{target}, {size} base examples", fontsize=9)
        ax.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "architectures", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
