"""Leads: what makes labels, or the networks that learn from them, better?

    python experiments/leads.py --quick     # digits, 20 base examples: minutes on two cores
    python experiments/leads.py             # CIFAR-10, 100 base examples: hours
    python experiments/leads.py --table     # docs/results/leads.md from the recorded runs

Everything here is looked at on the validation split, and nothing on the test split: trials that lead to settings
of the other experiments, and trials that lead nowhere. Base examples are chosen by k-means; labels come from the
single solve under cross-entropy (γ = 0.1, prior zero); networks are trained from scratch under the centred recipe
with a label scale of 8. Only the number of steps is chosen for each row, on the images shown.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _learned_labels import network_of, part_of, selection_features
from _records import Experiment, Record, defaults, markdown_table, run
from _whole_zca import whole_zca
from torch.nn.functional import one_hot

import convexdistill as cd
from convexdistill.data import ImageData, Preprocessing
from convexdistill.device import resolve_device
from convexdistill.distill import TargetFeatures, trained_pool
from convexdistill.distilled import fresh_network
from convexdistill.seeds import child_seed
from convexdistill.training import Candidate, Recipe, run_trials

GAMMA, SCALE = 0.1, 8.0
TEACHERS = {"count": 2, "steps": (500, 1500, 4000)}  # networks trained on the target, and when they are looked at


@dataclass(frozen=True)
class Setting:
    """The solve and the trainings; the defaults are what each lead changes.

    Attributes:
        target: the data set.
        size: number of base examples.
        network: what learns from the labels; see ``network_of``.
        extractors: ``"random"``: five random ConvNets of width 32; ``"wide"``: three of width 128; ``"trained"``:
            bodies of ConvNets at several moments of a training on the whole target, whose channels are normalised
            there; ``"both"``: random and trained.
        augmentation: of the base images while networks learn.
        foreseen: whether the solve reckons with the augmentation.
        zca: its regularisation; ``None``: channels are normalised only.
        whole: ZCA takes the whole covariance of the pixels, not one frequency at a time.
        learning_rate: of Adam, while networks learn.
        target_images: that the solve sees.
        seed: of base examples and trainings.
        repeats: trainings.
    """

    target: str
    size: int
    network: str
    extractors: str = "random"
    augmentation: str = "none"
    foreseen: bool = False
    zca: float | None = None
    whole: bool = False
    learning_rate: float = 1e-3
    target_images: int = 10_000
    seed: int = 0
    repeats: int = 2


CIFAR10 = functools.partial(Setting, "cifar10", 100)
DIGITS = functools.partial(Setting, "digits", 20)
FULL = [
    CIFAR10("convnet-32-none"),
    CIFAR10("convnet-32"),
    CIFAR10("convnet-32-none", augmentation="flip"),
    CIFAR10("convnet-32-none", zca=0.1, whole=True),
    CIFAR10("convnet-32", zca=0.1, whole=True),
    CIFAR10("convnet-32-none", zca=0.1, whole=True, augmentation="flip"),
    CIFAR10("convnet-64-none", zca=0.1, whole=True, augmentation="flip"),
    CIFAR10("convnet-32-none", zca=0.1),
    CIFAR10("convnet-32-none", zca=0.1, learning_rate=3e-3),
    CIFAR10("convnet-32-none", zca=0.1, target_images=40_000),
    CIFAR10("convnet-32-none", zca=0.1, extractors="wide"),
    CIFAR10("convnet-32-none", zca=0.1, extractors="wide", augmentation="mirror"),
    CIFAR10("convnet-32-none", zca=0.1, extractors="wide", augmentation="mirror", foreseen=True),
    CIFAR10("convnet-64-none", zca=0.1, extractors="wide", augmentation="mirror", foreseen=True),
    CIFAR10("convnet-64-none", zca=0.1),
    CIFAR10("lenet"),
    CIFAR10("lenet", zca=0.1),
    CIFAR10("alexnet", zca=0.1),
    CIFAR10("convnet-32-none", extractors="trained"),
    CIFAR10("convnet-32-none", extractors="both"),
    CIFAR10("alexnet"),
    CIFAR10("alexnet", extractors="trained"),
]
QUICK = [
    DIGITS("lenet"),
    DIGITS("lenet", extractors="wide"),
    DIGITS("lenet", zca=0.1),
    DIGITS("lenet", zca=0.1, whole=True),
]


@functools.lru_cache(maxsize=1)
def teachers(target: str, data_root: str | None, augmentation: str) -> list[Any]:
    """Bodies of networks at several moments of their training on the target."""
    train = cd.data.load(target, root=data_root)
    return list(
        trained_pool(
            train.images,
            one_hot(train.labels, train.num_classes).float(),
            Preprocessing.fit(train),
            Recipe("soft-cross-entropy", steps=max(TEACHERS["steps"]), augmentation=augmentation),
            network=network_of("convnet-32"),
            **TEACHERS,
        )
    )


def pool_of(setting: Setting, train: ImageData, data_root: str | None) -> list[Any]:
    """The extractors of a setting."""
    if setting.extractors == "wide":
        return list(cd.features.pool("convnet", 3, width=128))
    pool = [] if setting.extractors == "trained" else list(cd.features.pool("convnet", 5))
    if setting.extractors != "random":
        colour = train.shape[0] == 3  # photographs may be flipped, digits and letters may not
        pool += teachers(setting.target, data_root, "flip" if colour else "none")
    return pool


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    """Solve, train, look at the validation split."""
    train, validation = (cd.data.load(setting.target, split=s, root=data_root) for s in ("train", "validation"))
    seen = Preprocessing.fit(train, zca=setting.zca)
    if setting.whole:
        seen = whole_zca(train, seen)
    part = part_of(train, setting.target_images)
    features = TargetFeatures.of(pool_of(setting, train, data_root), part, target_images=None, preprocessing=seen)
    chosen_by = selection_features(setting.target, data_root)
    base = cd.select.choose(train, setting.size, method="kmeans", seed=setting.seed, features=chosen_by)
    solved = cd.distill.cross_entropy(
        features,
        part,
        base,
        gamma=GAMMA,
        prior="zero",
        recipe="centred",
        augmentation=setting.augmentation if setting.foreseen else "none",
    )
    hot = one_hot(base.labels, train.num_classes).float() - 1 / train.num_classes
    recipe = Recipe("mse", SCALE, augmentation=setting.augmentation, learning_rate=setting.learning_rate)
    found = run_trials(
        [Candidate("learned", solved.labels, recipe), Candidate("one-hot", hot, recipe)],
        solved.images,
        seen,
        validation,
        lambda seed: fresh_network(network_of(setting.network), train.shape, train.num_classes, seed),
        [child_seed(setting.seed, "leads", r) for r in range(setting.repeats)],
        device=resolve_device("auto"),
        description=f"train {setting.network}",
    )
    return {
        trial.candidate.name: {
            "steps": trial.steps,
            "validation": list(trial.validation),
            "curve": [[step, mean] for step, mean, _ in trial.curve],
        }
        for trial in found
    }


def words(setting: dict[str, Any]) -> str:
    """What a setting changes."""
    setting = defaults(Setting) | setting  # records that are older have not all of it
    changes = [f"{setting['extractors']} extractors"] if setting["extractors"] != "random" else []
    if setting["augmentation"] != "none":
        known = ", which the solve reckons with" if setting["foreseen"] else ""
        changes.append(f"augmentation: {setting['augmentation']}{known}")
    if setting["zca"] is not None:
        changes.append(f"ZCA{' of the whole covariance' if setting['whole'] else ''}, {setting['zca']:g}")
    if setting["learning_rate"] != Setting.learning_rate:
        changes.append(f"learning rate {setting['learning_rate']:g}")
    if setting["target_images"] != Setting.target_images:
        changes.append(f"{setting['target_images']:,} target images")
    if setting["seed"]:
        changes.append(f"base set {setting['seed']}")
    return ", ".join(changes) or "–"


def table(records: list[Record]) -> str:
    """The page."""
    lines = [
        "# Leads, on the validation split",
        "",
        "Made by `python experiments/leads.py` from `leads.jsonl`; its `--help` says what is measured. *Learned*",
        "and *one-hot*: validation accuracy in percent after the best number of steps, mean over the trainings;",
        "*steps*: after how many for learned labels. On one base set, differences below two points may be chance.",
        "Extractors are five random ConvNets of width 32 where nothing else is said; *wide*: three of width 128;",
        f"*trained*: bodies of {TEACHERS['count']} ConvNets after {_listed(TEACHERS['steps'])} steps on the",
        "whole train split of the target (the solve sees a part); *both*: random and trained.",
    ]
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["setting"]["target"], record["setting"]["size"]), []).append(record)
    for (target, size), group in groups.items():
        lines += ["", f"## {target}, {size} base examples", ""]
        lines += markdown_table(
            ("network", "changed", "learned:", "one-hot:", "steps:", "trainings:"),
            [
                (
                    record["setting"]["network"],
                    words(record["setting"]),
                    f"{np.mean(record['result']['learned']['validation']):.1f}",
                    f"{np.mean(record['result']['one-hot']['validation']):.1f}",
                    record["result"]["learned"]["steps"],
                    record["setting"]["repeats"],
                )
                for record in group
            ],
        )
    return "\n".join(lines) + "\n"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(f"{value:,}" for value in values[:-1]) + f" and {values[-1]:,}"


EXPERIMENT = Experiment(__doc__ or "", "leads", FULL, QUICK, measure, table)

if __name__ == "__main__":
    run(EXPERIMENT)
