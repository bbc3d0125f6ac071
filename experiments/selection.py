"""Which base images to keep: every selection rule, with learned labels and with one-hot labels.

    python experiments/selection.py --quick     # digits: under ten minutes on two cores
    python experiments/selection.py             # digits and MNIST with 10, 50 and 100 base examples
    python experiments/selection.py --table     # docs/results/selection.md from the recorded runs

For each data set and seed: a pool of five random convnets and the moments of the whole train split; candidates
are all of digits, or 5,000 random images of MNIST's train split, drawn by the seed. Every rule chooses a
balanced base set among them; rules by distance see the features of the pool's first extractor (and k-means
also the pixels). Labels are solved in closed form with prior zero and with the teacher's scores (γ = 0.1); LeNets
are trained from scratch on both and on one-hot labels under the same recipe (mean squared error, labels × 8).
The validation split picks the prior and the number of steps; the networks of that choice see the test split once.

Besides, the loss that the label solve can reach over each set (γ → 0) is set against what forward selection
predicts for it: the same number for one extractor, an approximation for the pool.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure
from scipy import stats
from scipy.linalg import block_diag
from torch import Tensor

import convexdistill as cd
from convexdistill.data import ImageData
from convexdistill.device import resolve_device
from convexdistill.distill.outer import OuterTerm, outer_terms, teacher_scores
from convexdistill.distill.solve import LabelSystem, label_system, solve_labels
from convexdistill.distilled import fresh_network
from convexdistill.features import extract
from convexdistill.seeds import child_seed, generator
from convexdistill.select import BaseExamples, choose
from convexdistill.select.forward import forward_selection
from convexdistill.select.target_space import TargetSpace, target_spaces
from convexdistill.training import Candidate, Recipe, accuracies, run_trials, training_steps

RULES = (
    "random",
    "kmeans of pixels",
    "kmeans",
    "kmedoids",
    "herding",
    "kcenter",
    "facility-location",
    "leverage",
    "solve-aware",
)
STACKED = "solve-aware, stacked"  # one least squares on the stacked features of the pool: on digits only
SEEDS = (0, 1, 2)
POOL, CANDIDATES, REPEATS = 5, 5000, 3
LAM, GAMMA, SCALE = 1e-3, 0.1, 8.0


@dataclass(frozen=True)
class Setting:
    """One base set, its labels and the networks trained on them."""

    target: str
    size: int
    seed: int
    rule: str


def settings(target: str, sizes: Sequence[int]) -> list[Setting]:
    # Seed by seed, because a seed's moments are made once.
    rules = (*RULES, STACKED) if target == "digits" else RULES
    return [Setting(target, size, seed, rule) for seed in SEEDS for size in sizes for rule in rules]


QUICK = settings("digits", (10, 50))
FULL = [*QUICK, *settings("digits", (100,)), *settings("mnist", (10, 100)), *settings("mnist", (50,))]


@functools.lru_cache(maxsize=1)
def prepared(target: str, seed: int, data_root: str | None) -> tuple[ImageData, cd.Moments, Tensor]:
    """The candidates, the moments of the whole target, and the candidates' features."""
    train = cd.data.load(target, root=data_root)
    moments = cd.accumulate(cd.features.pool("convnet", POOL, seed), train)
    drawn = torch.randperm(len(train), generator=generator(seed, "candidates"))[:CANDIDATES]
    candidates = train.subset(drawn.sort().values)
    return candidates, moments, extract(moments.extractors[0], candidates.images, moments.preprocessing)


def chosen(setting: Setting, data_root: str | None) -> BaseExamples:
    candidates, moments, features = prepared(setting.target, setting.seed, data_root)
    if setting.rule == STACKED:
        return stacked_choice(candidates, moments, setting)
    rule, pixels = setting.rule.removesuffix(" of pixels"), setting.rule.endswith("pixels")
    seen = None if pixels else features
    return choose(candidates, setting.size, rule, seed=setting.seed, features=seen, moments=moments)


def stacked_choice(candidates: ImageData, moments: cd.Moments, setting: Setting) -> BaseExamples:
    """As ``solve-aware``, with one A for all extractors."""
    random = choose(candidates, setting.size, "random", seed=setting.seed)  # for the same number of each class
    quotas = torch.bincount(random.labels, minlength=candidates.num_classes).numpy()
    steps = forward_selection([stacked(candidates, moments)], candidates.labels.numpy(), quotas)
    indices = torch.from_numpy(np.sort(steps.chosen))
    images, labels = candidates.images[indices], candidates.labels[indices]
    return replace(random, images=images, labels=labels, indices=indices, method=STACKED)


def stacked(data: ImageData, moments: cd.Moments) -> TargetSpace:
    """All extractors as one: G block-diagonal, features and R one below the other, divided by their number."""
    spaces = list(target_spaces(data, moments))
    ones = np.ones((len(data), 1), dtype=np.float32)
    features = np.hstack([part for space in spaces for part in (space.features, ones)])
    scale = np.concatenate([*(space.scale for space in spaces), [0.0]])  # each brings its own ones
    gram = block_diag(*(space.gram / len(spaces) for space in spaces), 0.0)
    cross = np.vstack([*(space.cross / len(spaces) for space in spaces), np.zeros(moments.num_classes)])
    return TargetSpace(features, scale, gram, cross)


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    candidates, moments, _ = prepared(setting.target, setting.seed, data_root)
    base = chosen(setting, data_root)
    terms = outer_terms(moments, base, LAM)
    system = label_system(terms)
    spaces = list(target_spaces(candidates.subset(base.indices), moments))
    return {
        "indices": base.indices.tolist(),
        "loss": loss(system, solve_labels(system, GAMMA)[0]),
        "least_loss": least_loss(system),
        "predicted_loss": predicted_loss(spaces),
        "predicted_loss_stacked": predicted_loss([stacked(candidates.subset(base.indices), moments)]),
        "least_loss_of_one": least_loss(label_system(terms[:1])),
        "predicted_loss_of_one": predicted_loss(spaces[:1]),
        **trained(setting, base, terms, system, moments, data_root),
    }


def loss(system: LabelSystem, labels: Tensor) -> float:
    return float((system.design @ labels - system.wanted).square().sum()) + system.constant


def least_loss(system: LabelSystem) -> float:
    """The outer loss of the best labels of all, γ → 0."""
    return loss(system, torch.linalg.lstsq(system.design, system.wanted, driver="gelsd").solution)


def predicted_loss(spaces: Iterable[TargetSpace]) -> float:
    """What forward selection takes the least loss over these few candidates, all of them chosen, to be."""
    spaces = list(spaces)
    size, classes = len(spaces[0].features), spaces[0].cross.shape[1]
    steps = forward_selection(spaces, np.zeros(size, dtype=np.int64), np.array([size]))
    return 1 - 1 / classes - float(steps.gains.sum())


def trained(
    setting: Setting,
    base: BaseExamples,
    terms: list[OuterTerm],
    system: LabelSystem,
    moments: cd.Moments,
    data_root: str | None,
) -> dict[str, Any]:
    validation, test = (cd.data.load(setting.target, split=s, root=data_root) for s in ("validation", "test"))
    teacher = teacher_scores(terms)
    classes = moments.num_classes
    labels = {
        "zero": solve_labels(system, GAMMA)[0],
        "teacher": solve_labels(system, GAMMA, teacher)[0],
        "one-hot": torch.nn.functional.one_hot(base.labels, classes) - 1 / classes,
    }
    recipe = Recipe("mse", label_scale=SCALE, steps=training_steps(setting.size)[-1])
    device = resolve_device("auto")
    trials = run_trials(
        [Candidate(name, values, recipe) for name, values in labels.items()],
        base.images,
        moments.preprocessing,
        validation,
        lambda seed: fresh_network("lenet", base.shape, classes, seed),
        [child_seed(setting.seed, "selection", k) for k in range(REPEATS)],
        device=device,
        description=f"train on {setting.rule}",
    )
    *learned, one_hot = trials
    best = max(learned, key=lambda trial: sum(trial.validation))
    return {
        "prior": best.candidate.name,
        "steps": best.steps,
        "validation": best.validation,
        "test": accuracies(best.networks, test, moments.preprocessing, device),
        "one_hot_validation": one_hot.validation,
        "one_hot_test": accuracies(one_hot.networks, test, moments.preprocessing, device),
    }


def table(records: list[Record]) -> str:
    lines = [
        "# Which base images to keep",
        "",
        "Made by `python experiments/selection.py` from `selection.jsonl`; its `--help` says how the figures are",
        "measured. LeNets trained from scratch; percent of the test split, mean over base sets and three",
        "trainings each, ± the standard deviation of the base sets' means; “over random” is the paired difference",
        "of base sets with the same seed, with its standard error. The loss is the outer loss of the label solve",
        "at γ = 0.1, mean over base sets: what the solve-aware rule looks at.",
        "",
        "![Test accuracy over the selection rules](selection.svg)",
    ]
    for target, size in dict.fromkeys((r["setting"]["target"], r["setting"]["size"]) for r in records):
        rows = {rule: of(records, target=target, size=size, rule=rule) for rule in (*RULES, STACKED)}
        lines += ["", f"## {target}, {size} base examples", ""]
        lines += markdown_table(
            ["rule", "sets:", "loss:", "validation:", "test:", "over random:", "one-hot:", "over random:"],
            [_row(rule, found, rows["random"]) for rule, found in rows.items() if found],
        )
    return "\n".join([*lines, *_reading(records), *_prediction(records)]) + "\n"


def of(records: list[Record], **wanted: Any) -> list[Record]:
    return [r for r in records if all(r["setting"][name] == value for name, value in wanted.items())]


def means(found: list[Record], key: str) -> dict[int, float]:
    """The mean over trainings, by seed."""
    return {r["setting"]["seed"]: float(np.mean(r["result"][key])) for r in found}


def over(found: list[Record], others: list[Record], key: str) -> tuple[float, float | None] | None:
    """Mean paired difference and its standard error."""
    ours, theirs = means(found, key), means(others, key)
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not differences:
        return None
    return float(np.mean(differences)), float(stats.sem(differences)) if len(differences) > 1 else None


def _row(rule: str, found: list[Record], random: list[Record]) -> list[object]:
    def spread(key: str) -> str:
        values = list(means(found, key).values())
        return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")

    def difference(key: str) -> str:
        pair = over(found, random, key)
        if rule == "random" or pair is None:
            return "–"
        return f"{pair[0]:+.1f}" + ("" if pair[1] is None else f" ± {pair[1]:.1f}")

    loss_mean = np.mean(list(means(found, "loss").values()))
    validation = np.mean(list(means(found, "validation").values()))
    return [
        rule,
        len(found),
        f"{loss_mean:.3f}",
        f"{validation:.1f}",
        spread("test"),
        difference("test"),
        spread("one_hot_test"),
        difference("one_hot_test"),
    ]


def _reading(records: list[Record]) -> list[str]:
    """Where the solve-aware rule is ahead, in words made from the records."""
    lines = ["", "## Where looking ahead pays", ""]
    for target, size in dict.fromkeys((r["setting"]["target"], r["setting"]["size"]) for r in records):
        ahead = of(records, target=target, size=size, rule="solve-aware")
        parts = []
        for rule in ("random", "kmeans"):
            pair = over(ahead, of(records, target=target, size=size, rule=rule), "test")
            if pair is None:
                continue
            clear = pair[1] is not None and abs(pair[0]) > 2 * pair[1]
            word = ("beats" if pair[0] > 0 else "loses to") if clear else "is level with"
            parts.append(f"{word} {rule} ({pair[0]:+.1f}" + ("" if pair[1] is None else f" ± {pair[1]:.1f}") + ")")
        if parts:
            lines.append(f"- {target}, {size}: solve-aware {' and '.join(parts)}.")
    return [*lines, "", "(“Level”: a difference of at most two standard errors.)"]


def _prediction(records: list[Record]) -> list[str]:
    """How well forward selection predicts the least loss of the label solve."""
    rows = []
    for target, size in dict.fromkeys((r["setting"]["target"], r["setting"]["size"]) for r in records):
        results = [r["result"] for r in of(records, target=target, size=size)]

        def column(key: str, results: list[dict[str, Any]] = results) -> Any:
            return np.array([result[key] for result in results])

        truth, accuracy = column("least_loss"), np.array([np.mean(result["test"]) for result in results])
        exact = np.abs(column("predicted_loss_of_one") - column("least_loss_of_one")).max()
        row = [target, size, len(results), f"{exact:.0e}"]
        for key in ("predicted_loss", "predicted_loss_stacked"):
            predicted = column(key)
            row += [f"{(predicted / truth).mean():.3f}", _rank(predicted, truth)]
        rows.append([*row, _rank(column("loss"), accuracy)])
    return [
        "",
        "## How well forward selection predicts the loss",
        "",
        "Over all base sets of a row: the largest difference between the predicted and the true least outer loss",
        "(γ → 0) of the pool's first extractor alone, where they should agree; and for the pool of five, where",
        "the prediction is an approximation, the mean ratio of prediction to truth and their rank correlation:",
        "with coefficients of its own for each extractor (the rule), and with common ones on stacked features.",
        "Last, the rank correlation of the loss at γ = 0.1 with the test accuracy: −1 would mean that the set",
        "with the lowest loss is always the best.",
        "",
        *markdown_table(
            [
                "target",
                "size:",
                "sets:",
                "one: error:",
                "ratio:",
                "rank:",
                "stacked: ratio:",
                "rank:",
                "loss, accuracy:",
            ],
            rows,
        ),
    ]


def _rank(left: Any, right: Any) -> str:
    return f"{stats.spearmanr(left, right).statistic:.2f}" if len(left) > 2 else "–"


def plot(records: list[Record]) -> Figure:
    cells = list(dict.fromkeys((r["setting"]["target"], r["setting"]["size"]) for r in records))
    figure = Figure(figsize=(9, 2.6 * -(-len(cells) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(cells) // 3), 3, squeeze=False).ravel()
    place = {rule: -height for height, rule in enumerate(RULES)}
    for ax, (target, size) in zip(axes, cells, strict=False):
        for key, marker, name in (("test", "o", "learned labels"), ("one_hot_test", "x", "one-hot labels")):
            found = [r for r in of(records, target=target, size=size) if r["setting"]["rule"] in place]
            points = [(np.mean(r["result"][key]), place[r["setting"]["rule"]]) for r in found]
            ax.plot(*zip(*points, strict=True), marker, ms=4, alpha=0.7, label=name)
        ax.set_yticks(list(place.values()), place, fontsize=7)
        ax.set_title(f"{target}, {size}", fontsize=9)
        ax.set_xlabel("test accuracy, %", fontsize=8)
        ax.grid(alpha=0.3)
    for ax in axes[len(cells) :]:
        ax.remove()
    axes[0].legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "selection", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
