"""How large must the target set be? Learned labels from 100 up to 50,000 target images.

    python experiments/target_size.py --quick     # digits, 50 base examples, up to all of its images: minutes
    python experiments/target_size.py             # A–Z capitals → MNIST and MNIST, 100 base examples: an hour
    python experiments/target_size.py --table     # docs/results/target_size.md and .svg from the recorded runs

A random part of the target's train split is all that the label solve and the teacher see; settings are chosen for
each size on the validation split, with another base set. The capitals (needs extras/az_letters.npz under the data
root) are a stand-in for EMNIST letters, not balanced. Cross-entropy outer loss, centred recipe; as
``within_dataset.py`` otherwise.
"""

from __future__ import annotations

from _curves import curve, grouped_curves
from _learned_labels import Setting, measure
from _learned_tables import pair, rows_of, spread
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure

IMAGES = (100, 500, 1000, 5000, 10_000, 20_000, 50_000)
LETTERS = "extras/az_letters.npz"


def settings(
    target: str, size: int, images: tuple[int, ...], seeds: int, source: str | None = None
) -> list[Setting]:
    return [
        Setting(target, size, "lenet", seed, source=source, rows="few", target_images=count)
        for count in images
        for seed in range(seeds)
    ]


QUICK = settings("digits", 50, (100, 200, 400, 800, 1258), 3)
FULL = [*QUICK, *settings("mnist", 100, IMAGES, 3), *settings("mnist", 100, IMAGES, 3, LETTERS)]


def table(records: list[Record]) -> str:
    lines = [
        "# How many target images labels need",
        "",
        "Made by `python experiments/target_size.py` from `target_size.jsonl`; its `--help` says what is",
        "measured. Test accuracy in percent of LeNets trained from scratch, mean ± standard deviation over all",
        "trainings.",
        "",
        "![Test accuracy over the number of target images](target_size.svg)",
    ]
    for name, cells in grouped_curves(records, "target_images").items():
        first = rows_of(next(iter(cells.values())))
        lines += ["", f"## {pair(*name[:2])}, {name[2]} base examples", ""]
        lines += markdown_table(
            ["target images:", "base sets:", *(f"{row.labels}:" for row in first)],
            [
                [f"{count:,}", len(group), *(spread(row) for row in rows_of(group))]
                for count, group in sorted(cells.items())
            ],
        )
    return "\n".join(lines) + "\n"


def plot(records: list[Record]) -> Figure:
    return curve(grouped_curves(records, "target_images"), "target images")


EXPERIMENT = Experiment(__doc__ or "", "target_size", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
