"""Numbers and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from convexdistill.evaluate import Row

DASH = "–"
MINUS = "−"

NETWORKS = {
    "lenet": "LeNet",
    "alexnet": "AlexNet",
    "resnet": "ResNet",
    "convnet": "ConvNet",
    "convnet-none": "ConvNet without normalisation",
}
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
LOSSES = {"mse": "squared error", "soft-cross-entropy": "cross-entropy", "kl": "KL"}
# What a row is called, what it is called within a sentence, and what it is.
LABELS: dict[str, tuple[str, str, str]] = {
    "distilled": ("distilled", "the distilled labels", "The learned soft labels of this file."),
    "one-hot": (
        "one-hot",
        "one-hot labels",
        "The images' own classes as they are, trained with cross-entropy: what everybody tries first.",
    ),
    "smoothed": (
        "smoothed 0.1",
        "smoothed labels",
        "One-hot labels with a tenth of their weight spread evenly over all classes, with cross-entropy.",
    ),
    "one-hot-recipe": (
        "one-hot, same recipe",
        "one-hot labels with the distilled set’s own recipe",
        "One-hot labels under the distilled set’s own loss and label scale: what the loss alone is worth.",
    ),
    "teacher": (
        "teacher scores",
        "teacher scores",
        "Each image is labelled with the scores of a ridge classifier fitted to the whole target set.",
    ),
    "transferred": (
        "transferred",
        "transferred labels",
        "Each image gets the mean label of the ten target images nearest to it in feature space.",
    ),
    "full-data": (
        "full data",
        "networks trained on everything",
        "Networks trained on the whole target set: what there is to be reached.",
    ),
    "trained-teacher": (
        "trained teacher",
        "a trained teacher’s labels",
        "Each image is labelled with the probabilities of one network, the first that was evaluated, trained on "
        "the whole target set.",
    ),
    "random-subset": (
        "more images, one-hot",
        "more images with one-hot labels",
        "As many random images with their own classes as take the bytes of this set.",
    ),
    "nearest-mean": (
        "nearest class mean",
        "a search for the nearest class mean",
        "No network: every test image gets the class whose base images have the nearest mean, in pixels.",
    ),
    "nearest-neighbour": (
        "nearest neighbour",
        "a nearest-neighbour search",
        "No network: every test image gets the class of the base image that is nearest in pixels.",
    ),
}


def percent(value: float | None) -> str:
    """An accuracy with one decimal, or an en dash.

    Example:
        >>> percent(91.27), percent(None)
        ('91.3', '–')
    """
    return DASH if value is None else f"{value:.1f}"


def interval(ends: tuple[float | None, float | None]) -> str:
    """Both ends with one decimal, or an en dash.

    Example:
        >>> interval((72.44, 100.0)), interval((None, None))
        ('72.4 – 100.0', '–')
    """
    low, high = ends
    return DASH if low is None or high is None else f"{low:.1f} – {high:.1f}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a true minus, and no sign where it rounds to zero.

    Example:
        >>> signed(0.934), signed(-0.1), signed(-0.001)
        ('+0.93', '−0.10', '0.00')
    """
    if round(value, digits) == 0:
        return f"{0:.{digits}f}"
    return f"{value:+.{digits}f}".replace("-", MINUS)


def number(value: object) -> str:
    """A number of any size in few characters; anything else as it is.

    Example:
        >>> number(17.858), number(8.7156e-16), number(0.001), number(1234567), number(3.2e7)
        ('17.86', '8.7 × 10⁻¹⁶', '0.001', '1,234,567', '3.2 × 10⁷')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DASH if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}".replace("-", MINUS) if abs(value) < 1e4 else f"{value:,.0f}".replace("-", MINUS)
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", MINUS)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fraction(value: float | None) -> str:
    """A score with three decimals, or an en dash.

    Example:
        >>> fraction(0.04512), fraction(None)
        ('0.045', '–')
    """
    return DASH if value is None else f"{value:.3f}"


def gap(mean: float, low: float | None, high: float | None) -> str:
    """A difference in points with its interval, where it has one.

    Example:
        >>> gap(1.26, -0.5, 3.0), gap(-2.0, None, None)
        ('+1.3 (−0.5 to +3.0)', '−2.0')
    """
    ends = "" if low is None or high is None else f" ({signed(low, 1)} to {signed(high, 1)})"
    return signed(mean, 1) + ends


def energy(kilowatt_hours: float | None) -> str:
    """Energy in the unit that suits it, or an en dash.

    Example:
        >>> energy(0.00042), energy(1.5), energy(None)
        ('0.42 Wh', '1.5 kWh', '–')
    """
    if kilowatt_hours is None:
        return DASH
    return f"{number(kilowatt_hours)} kWh" if kilowatt_hours >= 1 else f"{number(1000 * kilowatt_hours)} Wh"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it.

    Example:
        >>> seconds(0.00136), seconds(8.457), seconds(754), seconds(None)
        ('1.4 ms', '8.5 s', '12 min 34 s', '–')
    """
    if value is None:
        return DASH
    if value < 0.9995:
        return f"{1000 * value:.1f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def last_part(name: str) -> str:
    """The last part of a path, and any other name as it is.

    Example:
        >>> last_part("/data/az_letters.npz"), last_part("digits"), last_part("C:\\\\data\\\\folder")
        ('az_letters.npz', 'digits', 'folder')
    """
    return PureWindowsPath(name).name if "\\" in name else PurePosixPath(name).name or name


def shortened(text: str, length: int = 14) -> str:
    """At most ``length`` characters: an ellipsis for the middle, since names often differ at their ends.

    Example:
        >>> shortened("class number 12", 11), shortened("rose", 11)
        ('class n… 12', 'rose')
    """
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]


def fingerprint(text: str) -> str:
    """The first characters of a fingerprint, and the shard where there is one.

    Example:
        >>> fingerprint("sha256:b15d254874544344#1/4")
        'sha256:b15d25487454… #1/4'
    """
    whole, hash_sign, shard = text.partition("#")
    kind, colon, digits = whole.rpartition(":")
    short = digits if len(digits) <= 12 else digits[:12] + "…"
    return f"{kind}{colon}{short}" + (f" #{shard}" if hash_sign else "")


def network(name: str | None) -> str:
    """A network's name as its authors write it."""
    return DASH if name is None else NETWORKS.get(name, name)


def optimizer(name: str | None) -> str:
    """An optimiser's name as its authors write it."""
    return DASH if name is None else OPTIMIZERS.get(name, name)


def loss(row: Row) -> str:
    """Loss and label scale of a row."""
    if row.loss is None:
        return DASH
    name = LOSSES.get(row.loss, row.loss)
    if row.temperature is not None:
        name = f"{name} at {row.temperature:g}"
    return name if row.label_scale in (None, 1) else f"{name} ×\u00a0{row.label_scale:g}"


def training(row: Row, *, with_loss: bool = True) -> str:
    """How a row was trained, in few words: what was set, and not what follows from it.

    Example:
        >>> from convexdistill.evaluate.table import summarise
        >>> facts = dict(network="lenet", optimizer="sgd", loss="mse", label_scale=1.0, steps=(60,))
        >>> training(summarise([[90.0]], [[0.0]], labels="distilled", learning_rate=0.1, **facts))
        'LeNet, SGD 0.1, squared error'
    """
    if row.network is None:
        return DASH
    rate = "" if row.learning_rate is None else f" {number(row.learning_rate)}"
    extras = [value for value in (row.augmentation, row.order) if value not in (None, "none", "shuffled")]
    losses = [loss(row)] if with_loss else []
    return ", ".join([network(row.network), optimizer(row.optimizer) + rate, *losses, *map(str, extras)])


def worst(record: Mapping[str, Any]) -> str:
    """The class with the lowest accuracy.

    Example:
        >>> worst({"class": "8", "accuracy": 81.26})
        '8: 81.3'
    """
    return f"{shortened(str(record['class']), 14)}: {percent(record['accuracy'])}"


def steps(values: Sequence[int]) -> str:
    """The numbers of steps, each once; a range where there are many.

    Example:
        >>> steps((180, 240)), steps((60, 60)), steps((1, 2, 3, 4, 5)), steps(())
        ('180, 240', '60', '1 – 5', '–')
    """
    distinct = sorted(set(values))
    if not distinct:
        return DASH
    if len(distinct) > 4:
        return f"{distinct[0]} – {distinct[-1]}"
    return ", ".join(map(str, distinct))


def runs(row: Row) -> str:
    """Base sets times trainings of a row.

    Example:
        >>> from convexdistill.evaluate.table import summarise
        >>> facts = dict(network=None, optimizer=None, loss=None, label_scale=None, steps=())
        >>> runs(summarise([[90.0, 92.0, 91.0], [93.0, 95.0, 94.0]], [[0.0]], labels="distilled", **facts))
        '2 × 3'
    """
    return f"{row.base_sets} × {(len(row.runs) + row.diverged) // max(row.base_sets, 1)}"


def options(values: Mapping[str, Any]) -> str:
    """Settings in a row.

    Example:
        >>> options({"norm": "none", "width": 32})
        'norm none, width 32'
    """
    return ", ".join(f"{key} {value}" for key, value in values.items())


def label_name(labels: str) -> str:
    """What the rows call a kind of labels."""
    return LABELS[labels][0] if labels in LABELS else labels


def in_sentence(labels: str) -> str:
    """What a sentence calls a kind of labels."""
    return LABELS[labels][1] if labels in LABELS else labels


def images(count: int) -> str:
    """A number of images."""
    return f"{count:,} image" + ("" if count == 1 else "s")
