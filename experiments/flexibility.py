"""Flexibility: does a distilled set care how networks are trained on it?

    python experiments/flexibility.py --quick    # digits, 50 base examples: minutes
    python experiments/flexibility.py            # and MNIST, 100 base examples: an hour or more
    python experiments/flexibility.py --table    # docs/results/flexibility.md from the recorded runs

One thing is varied at a time, the rest is as the files say (Adam at 1e-3, shuffled, steps chosen on the
validation split): the learning rate over a factor of 30, the optimiser (each at its default rate here), the number
of steps, the order of examples. LeNets are trained from scratch on learned labels (closed form, five random
convnets, γ = 0.1, labels × 8, mean squared error), on the scores of a ridge teacher in the same way, on one-hot
labels (cross-entropy), all on the same base images; and on images that were learned through the ridge layer from
the same base images (one-hot labels, cross-entropy). All share initial weights and orders, training by training.
The validation split picks the number of steps of each row where they are not given; then the test split is looked
at, once. Spread: highest minus lowest mean accuracy along an axis; the interval of a difference of spreads is over
the trainings on one base set, and speaks for that set alone.
"""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from _records import Experiment, Record, markdown_table, plain, run
from matplotlib.figure import Figure

import convexdistill as cd
from convexdistill.data import ImageData
from convexdistill.distilled import DistilledSet
from convexdistill.evaluate.statistics import paired_difference

POOL, GAMMA, SCALE, IMAGE_RATE = 5, 0.1, 8.0, 0.01
RATES = ("x0.183", "x5.48", "x0.428", "x2.34")  # with 1: a factor of 30 from the lowest to the highest
OPTIMIZERS = ("sgd-momentum", "rmsprop", "adagrad", "sgd", "adamw", "lbfgs")
ORDERS = ("by-class", "fixed", "replacement")
STEPS = (50, 100, 200, 400)
WAYS = ("labels", "teacher", "one-hot", "images")
NAMES = {
    "labels": "learned labels",
    "teacher": "teacher scores",
    "one-hot": "one-hot labels",
    "images": "learned images",
}
AXES = {
    "learning rate": "Learning rate of Adam",
    "optimizer": "Optimiser",
    "steps": "Number of steps",
    "order": "Order of examples",
}


@dataclass(frozen=True)
class Setting:
    """One way to train on one base set; also for given numbers of steps where nothing else is varied."""

    target: str
    size: int
    optimizer: str = "adam"
    rate: str = "auto"
    order: str = "shuffled"
    seed: int = 0
    repeats: int = 3
    epochs: int = 100
    batch_size: int = 256


def settings(target: str, size: int, **options: int) -> list[Setting]:
    return [
        Setting(target, size, **options),
        *(Setting(target, size, rate=rate, **options) for rate in RATES[:2]),
        *(Setting(target, size, optimizer=name, **options) for name in OPTIMIZERS[:4]),
        *(Setting(target, size, rate=rate, **options) for rate in RATES[2:]),
        *(Setting(target, size, order=order, **options) for order in ORDERS),
        *(Setting(target, size, optimizer=name, **options) for name in OPTIMIZERS[4:]),
    ]


QUICK = settings("digits", 50)
FULL = [*QUICK, *settings("mnist", 100, epochs=8, batch_size=1024)]


@functools.lru_cache(maxsize=1)
def prepared(
    target: str, size: int, seed: int, epochs: int, batch_size: int, data_root: str | None
) -> tuple[list[ImageData], dict[str, DistilledSet], dict[str, float]]:
    """The three splits, learned labels and learned images of one base set, and the CPU seconds each took."""
    splits = [cd.data.load(target, split=split, root=data_root) for split in ("train", "validation", "test")]
    train, validation, _ = splits
    base = cd.select.choose(train, size, seed=seed)
    start = time.process_time()
    moments = cd.accumulate(cd.features.pool("convnet", POOL, seed), train)
    labels = cd.distill.closed_form(moments, base, gamma=GAMMA, prior="zero", label_scale=SCALE)
    middle = time.process_time()
    images = cd.distill.images(
        train, base, validation, epochs=epochs, batch_size=batch_size, rate=IMAGE_RATE, seed=seed
    )
    seconds = {"labels": middle - start, "images": time.process_time() - middle}
    return splits, {"labels": labels, "images": images}, seconds


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    (_, validation, test), sets, seconds = prepared(
        setting.target, setting.size, setting.seed, setting.epochs, setting.batch_size, data_root
    )
    unchanged = (setting.optimizer, setting.rate, setting.order) == ("adam", "auto", "shuffled")
    rows = []
    for way, baselines in (("labels", ("teacher", "one-hot")), ("images", ())):
        table = cd.evaluate.matrix(
            sets[way],
            ("lenet",),
            (setting.optimizer,),
            (setting.rate,),
            ("auto", *(STEPS if unchanged else ())),
            orders=(setting.order,),
            repeats=setting.repeats,
            baselines=baselines,
            validation=validation,
            test=test,
            seed=setting.seed,
        )
        rows += [
            {
                "way": way if row.labels == "distilled" else row.labels,
                "steps_by": row.steps_by,
                "steps": row.steps[0],
                "learning_rate": row.learning_rate,
                "validation": row.validation_mean,
                "test": list(row.runs),
                "diverged": row.diverged,
            }
            for row in table
        ]
    return {
        "rows": rows,
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "test_images": len(test),
    }


def runs(records: list[Record], axis: str) -> dict[str, dict[str | float, list[float]]]:
    """Test accuracies of the trainings by way, and by value on an axis; what diverged counts as 0, at the end."""
    found: dict[str, dict[str | float, list[float]]] = {way: {} for way in WAYS}
    for record in records:
        setting = record["setting"]
        changed = {
            "learning rate": setting["rate"] != "auto",
            "optimizer": setting["optimizer"] != "adam",
            "order": setting["order"] != "shuffled",
        }
        if any(value for name, value in changed.items() if name != axis):
            continue
        for row in record["result"]["rows"]:
            if (row["steps_by"] == "given") != (axis == "steps"):
                continue
            value = row["steps"] if axis == "steps" else setting.get(axis, row["learning_rate"])
            found[row["way"]][value] = [*row["test"], *[0.0] * row["diverged"]]
    return found


def points(records: list[Record], axis: str) -> dict[str, dict[str | float, float]]:
    """Mean test accuracy by way, and by value on an axis."""
    return {
        way: {key: float(np.mean(values)) for key, values in of.items()} for way, of in runs(records, axis).items()
    }


def spread(values: dict[Any, float]) -> float:
    return max(values.values()) - min(values.values())


def groups(records: list[Record]) -> dict[tuple[str, int], list[Record]]:
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        found.setdefault((record["setting"]["target"], record["setting"]["size"]), []).append(record)
    return found


def table(records: list[Record]) -> str:
    lines = [
        "# Flexibility",
        "",
        "Made by `python experiments/flexibility.py` from `flexibility.jsonl`; its `--help` says how figures are",
        "measured. Test accuracy in percent, mean over trainings with the same initial weights and orders in",
        "every column; a training that diverged counts as 0. Spread: highest minus lowest along the axis.",
        "The intervals are of the mean spread within a training, which holds that training's own noise as well,",
        "and so is larger than the spread of the means.",
        "",
        *([text, ""] if (text := unmeasured(records)) else []),
        "![Test accuracy over learning rate, optimiser, steps and order](flexibility.svg)",
    ]
    for (target, size), found in groups(records).items():
        first = found[0]
        seconds = first["result"]["cpu_seconds"]
        lines += [
            "",
            f"## {target}, {size} base examples",
            "",
            f"{first['setting']['repeats']} LeNets a cell, one base set, {first['result']['test_images']:,} test "
            f"images. Learning the labels took {seconds['labels']:.0f} s of CPU, learning the images ("
            f"{first['setting']['epochs']} epochs, where the paper takes 400) {seconds['images']:.0f} s.",
        ]
        lines += ["", text] if (text := below_one_hot(points(found, "order"))) else []
        for axis, title in AXES.items():
            values = points(found, axis)
            keys = sorted(values["labels"], key=lambda key: (isinstance(key, str), key))
            if len(keys) < 2:
                continue
            rows = [
                [f"{key:g}" if isinstance(key, float) else key, *(f"{values[way][key]:.1f}" for way in WAYS)]
                for key in keys
            ]
            rows.append(["**spread**", *(f"**{spread(values[way]):.1f}**" for way in WAYS)])
            text = f"{verdict(values)} {certainty(runs(found, axis), untrained(values))}"
            lines += ["", f"### {title}", "", text, ""]
            lines += markdown_table([axis, *(f"{NAMES[way]}:" for way in WAYS)], rows)
    return "\n".join(lines) + "\n"


def verdict(values: dict[str, dict[str | float, float]]) -> str:
    """What the spreads of this axis say of the claim that labels are the more flexible."""
    labels, images = spread(values["labels"]), spread(values["images"])
    text = f"Learned labels spread over {labels:.1f} points, {compared(labels, images)} {images:.1f}"
    text += f" of learned images.{calmer(values)}"
    idle = untrained(values)
    if not idle:
        return text
    kept = {way: {k: v for k, v in found.items() if k not in idle} for way, found in values.items()}
    labels, images = spread(kept["labels"]), spread(kept["images"])
    return (
        f"{text} Without {', '.join(map(str, idle))}, where every way stays below half of its best: {labels:.1f}, "
        f"{compared(labels, images)} {images:.1f}.{calmer(kept)}"
    )


def calmer(values: dict[str, dict[str | float, float]]) -> str:
    """Which other ways than learned images spread less than learned labels."""
    others = {way: spread(found) for way, found in values.items() if way not in ("labels", "images")}
    less = [f"{NAMES[way]} ({of:.1f})" for way, of in others.items() if of < spread(values["labels"])]
    return f" Less than learned labels spread: {', '.join(less)}." if less else ""


def below_one_hot(values: dict[str, dict[str | float, float]]) -> str:
    """A sentence where learned images do worse than the real ones that they began as."""
    images, real = (values[way].get("shuffled") for way in ("images", "one-hot"))
    if images is None or real is None or images >= real:
        return ""
    return (
        f"Trained as the files say, learned images reach {images:.1f} %, less than the {real:.1f} % of one-hot "
        "labels on the real images that they began as: here they are learned badly, and how far they spread says "
        "little of images that are learned well."
    )


def certainty(found: dict[str, dict[str | float, list[float]]], idle: list[str | float]) -> str:
    """How sure the difference of the two spreads is, from the spread within each training.

    Trainings pair up by their number: it gives the seed, whatever the labels and the value on the axis. The mean
    spread within trainings is above the spread of means, since each training adds its own noise.
    """
    if any(0.0 in values for of in found.values() for values in of.values()):
        return "A training diverged, so that trainings do not pair up: how sure that is, is not known."
    said = []
    for left_out in ([], idle) if idle else ([],):
        spreads = []
        for way in ("labels", "images"):
            columns = [values for key, values in found[way].items() if key not in left_out]
            spreads.append(np.ptp(np.array(columns), axis=0).tolist())
        gap = paired_difference([spreads[0]], [spreads[1]])
        if gap is None or gap.low is None or gap.high is None:
            continue
        clear = "" if gap.low > 0 or gap.high < 0 else ", too wide to tell them apart"
        beside = f" without {', '.join(map(str, left_out))}" if left_out else ""
        said.append(f"{gap.mean:+.1f} points{beside} (95 % interval {gap.low:+.1f} to {gap.high:+.1f}{clear})")
    if not said:
        return "From so few trainings nothing is known of how sure that is."
    count = len(next(iter(found["labels"].values())))
    return f"Within a training, labels minus images: {'; '.join(said)}, by Student’s t over {count} trainings."


def compared(labels: float, images: float) -> str:
    return "smaller than the" if labels < images else "not smaller than the"


def untrained(values: dict[str, dict[str | float, float]]) -> list[str | float]:
    """Values on an axis at which no way gets to half of its best accuracy: they say nothing of the labels."""
    return [
        key for key in values["labels"] if all(2 * found[key] < max(found.values()) for found in values.values())
    ]


def unmeasured(records: list[Record]) -> str:
    """Which of the settings of a full run have no record yet."""
    done = [record["setting"] for record in records]
    missing = [setting for setting in FULL if plain(asdict(setting)) not in done]
    named = list(dict.fromkeys((setting.target, setting.size) for setting in missing))
    parts = [
        f"{target} with {size} base examples ({sum(key == (s.target, s.size) for s in missing)} settings)"
        for key in named
        for target, size in [key]
    ]
    return f"Not measured yet: {'; '.join(parts)}." if parts else ""


def plot(records: list[Record]) -> Figure:
    found = groups(records)
    figure = Figure(figsize=(12, 3.0 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(AXES), squeeze=False, sharey="row")
    for row, ((target, size), group) in zip(axes, found.items(), strict=True):
        for ax, (axis, title) in zip(row, AXES.items(), strict=True):
            values = points(group, axis)
            keys = sorted(values["labels"], key=lambda key: (isinstance(key, str), key))
            for way, marker in zip(WAYS, "os^x", strict=True):
                heights = [values[way][key] for key in keys]
                names = isinstance(keys[0], str) if keys else False
                ax.plot(keys, heights, marker=marker, ls="" if names else "-", ms=5, label=NAMES[way])
            if axis == "learning rate":
                ax.set_xscale("log")
            ax.set_title(f"{target}, {size}: {title.lower()}", fontsize=9)
            ax.tick_params(axis="x", labelsize=7, labelrotation=30 if axis in ("optimizer", "order") else 0)
            ax.grid(alpha=0.3)
        row[0].set_ylabel("test accuracy, %", fontsize=8)
    axes[0, 0].legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "flexibility", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
