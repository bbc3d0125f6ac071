"""How many labelled base images carry the linear probe of the full data, with a frozen pretrained backbone?

    python experiments/frozen_backbone.py --quick    # EfficientNet-Lite0 (ImageNet) on 2,000 images of CIFAR-10
    python experiments/frozen_backbone.py            # on 40,000, and ResNet-20
    python experiments/frozen_backbone.py --table    # docs/results/frozen_backbone.md from the recorded runs

The backbone is the only extractor, and what is trained on the base images is a ridge head on its features, so the
label solve is exact: there is nothing to over-fit to, and n ≥ d + 1 images carry the probe whatever they are. The
question is how far fewer come. Base sets are balanced and come from the same images; ``solve-aware`` is exact
here too. Labels: one-hot, the scores of the full-data ridge head (teacher), and the closed form. The validation
split picks the head's λ and the solve's γ of every row; then the test split is looked at, once. Of the validation
and the test split as many images are taken as are named, half as many for validation.

ResNet-20 was trained on CIFAR-10 itself, the validation split included: its rows show how few images a backbone
needs that fits the data, not how it would fare on data it has not seen, and its choice of λ and γ is no choice.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from _backbones import backbone
from _records import Experiment, Record, markdown_table, run
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import one_hot

import convexdistill as cd
from convexdistill import layers
from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.outer import OuterTerm, outer_terms, teacher_scores
from convexdistill.distill.solve import label_system, solve_labels
from convexdistill.features import ModuleSpec, extract
from convexdistill.seeds import generator
from convexdistill.select import BaseExamples, choose
from convexdistill.select.forward import forward_selection
from convexdistill.select.target_space import TargetSpace

RULES, LABELS = ("random", "kmeans", "solve-aware"), ("one-hot", "teacher", "closed form")
LAMS, GAMMAS, PROBE_LAMS = (1e-4, 1e-2, 1.0), (1e-4, 1e-2, 1.0), (1e-4, 1e-2, 1.0)
NEAR = 2  # points of accuracy
AS_THEY_ARE = Preprocessing((0.0,) * 3, (1.0,) * 3)  # backbones normalise by themselves


@dataclass(frozen=True)
class Setting:
    """One base set; of ``images`` targets, which are its candidates too."""

    backbone: str
    images: int
    size: int
    rule: str
    seed: int


def settings(name: str, images: int) -> list[Setting]:
    sizes = (10, 20, 50, 100, 200, 500)
    return [Setting(name, images, n, rule, seed) for n in sizes for rule in RULES for seed in range(3)]


QUICK = settings("efficientnet-lite0", 2000)
FULL = [*QUICK, *settings("efficientnet-lite0", 40_000), *settings("resnet20", 40_000)]


@dataclass(frozen=True)
class Probed:
    """Splits, the moments of the target, and everybody's features, scaled and ones-augmented."""

    target: ImageData
    moments: cd.Moments
    space: TargetSpace
    term: OuterTerm
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@functools.lru_cache(maxsize=1)
def probed(name: str, images: int, data_root: str | None) -> Probed:
    splits = [cd.data.load("cifar10", split=s, root=data_root) for s in ("train", "validation", "test")]
    target, validation, test = (
        split.subset(torch.randperm(len(split), generator=generator(0, "part", i))[:count])
        for i, (split, count) in enumerate(zip(splits, (images, images // 2, images), strict=True))
    )
    moments = cd.accumulate([ModuleSpec(backbone(name, data_root))], target, preprocessing=AS_THEY_ARE)
    scale, gram, cross = moments.scaled(0)
    (extractor,) = moments.extractors

    def seen(data: ImageData) -> tuple[Tensor, Tensor]:
        features = extract(extractor, data.images, AS_THEY_ARE)
        return torch.cat([features, torch.ones(len(data), 1, dtype=torch.float64)], 1) * scale, data.labels

    features = (seen(target)[0] / scale)[:, :-1].float().numpy()
    space = TargetSpace(features, scale.numpy(), gram.numpy(), cross.numpy())
    # The root of G is the same for every base set; features and λ of the term are not.
    (term,) = outer_terms(moments, choose(target, 1, balanced=False), 1.0)
    return Probed(target, moments, space, term, seen(validation), seen(test))


def chosen(setting: Setting, data: Probed) -> BaseExamples:
    if setting.rule != "solve-aware":
        return choose(data.target, setting.size, setting.rule, seed=setting.seed, features=data.space.features)
    # The rule itself would let the backbone see all candidates again.
    random = choose(data.target, setting.size, seed=setting.seed)
    quotas = torch.bincount(random.labels, minlength=data.target.num_classes).numpy()
    indices = torch.from_numpy(np.sort(forward_selection([data.space], data.target.labels.numpy(), quotas).chosen))
    images, labels = data.target.images[indices], data.target.labels[indices]
    return replace(random, images=images, labels=labels, indices=indices, method="solve-aware")


def measure(setting: Setting, data_root: str | None) -> dict[str, Any]:
    data = probed(setting.backbone, setting.images, data_root)
    base = chosen(setting, data)
    heads: dict[str, list[Tensor]] = {name: [] for name in LABELS}
    classes = data.target.num_classes
    features = torch.from_numpy(np.concatenate([data.space.rows(slice(i, i + 1)) for i in base.indices.tolist()]))
    for lam in LAMS:
        term = replace(data.term, features=features, lam=lam * float(features.square().sum(1).mean()))
        system = label_system([term])
        heads["one-hot"].append(term.head(one_hot(base.labels, classes).double() - 1 / classes))
        heads["teacher"].append(term.head(teacher_scores([term])))
        heads["closed form"] += [term.head(solve_labels(system, gamma)[0]) for gamma in GAMMAS]
    root, wanted = term.root, term.wanted
    mean = float(root.square().sum()) / len(root)
    heads["full data"] = [layers.ridge(root, wanted, lam * mean).weight for lam in PROBE_LAMS]
    return {
        "features": len(root[0]) - 1,
        "rows": {name: best(tried, data) for name, tried in heads.items()},
    }


def best(heads: list[Tensor], data: Probed) -> dict[str, float]:
    """The head that the validation split picks, on the test split."""
    scores = [accuracy(head, *data.validation) for head in heads]
    winner = int(np.argmax(scores))
    return {"validation": scores[winner], "test": accuracy(heads[winner], *data.test)}


def accuracy(head: Tensor, features: Tensor, labels: Tensor) -> float:
    return float(((features @ head).argmax(1) == labels).double().mean()) * 100


def table(records: list[Record]) -> str:
    lines = [
        "# Base images that carry a linear probe",
        "",
        "Made by `python experiments/frozen_backbone.py` from `frozen_backbone.jsonl`; its `--help` says what is",
        "measured. Test accuracy of the ridge head in percent, mean ± standard deviation over base sets.",
        "",
        "![Test accuracy over the number of base images](frozen_backbone.svg)",
    ]
    for (name, images), found in cells(records).items():
        full = found[0]["result"]["rows"]["full data"]["test"]
        features = found[0]["result"]["features"]
        lines += ["", f"## {name}, {features} features, {images:,} images of CIFAR-10", ""]
        lines += [f"The probe of all {images:,} images: {full:.1f} %.", ""]
        rows = []
        for size, rule in dict.fromkeys((r["setting"]["size"], r["setting"]["rule"]) for r in found):
            group = [r for r in found if (r["setting"]["size"], r["setting"]["rule"]) == (size, rule)]
            rows.append([size, rule, len(group), *(_spread(group, labels) for labels in LABELS)])
        lines += markdown_table(["base images:", "rule", "sets:", *(f"{name}:" for name in LABELS)], rows)
        lines += ["", f"The fewest base images within {NEAR} points of the probe:", ""]
        enough = [[rule, *(_enough(found, rule, labels, full - NEAR) for labels in LABELS)] for rule in RULES]
        lines += markdown_table(["rule", *(f"{name}:" for name in LABELS)], enough)
    return "\n".join(lines) + "\n"


def _enough(found: list[Record], rule: str, labels: str, wanted: float) -> str:
    """The smallest size whose mean over base sets is there."""
    scores: dict[int, list[float]] = {}
    for record in found:
        if record["setting"]["rule"] == rule:
            score = record["result"]["rows"][labels]["test"]
            scores.setdefault(record["setting"]["size"], []).append(score)
    there = [size for size, values in scores.items() if np.mean(values) >= wanted]
    return str(min(there)) if there else f"above {max(scores)}"


def cells(records: list[Record]) -> dict[tuple[str, int], list[Record]]:
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        found.setdefault((record["setting"]["backbone"], record["setting"]["images"]), []).append(record)
    return found


def _spread(group: list[Record], labels: str) -> str:
    values = [record["result"]["rows"][labels]["test"] for record in group]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def plot(records: list[Record]) -> Figure:
    found = cells(records)
    figure = Figure(figsize=(5 * len(found), 3.4), layout="constrained")
    for ax, ((name, images), group) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        for rule, style in zip(RULES, ("-", "--", ":"), strict=True):
            for labels, colour in zip(LABELS, ("C7", "C1", "C0"), strict=True):
                mine = [r for r in group if r["setting"]["rule"] == rule]
                sizes = sorted({r["setting"]["size"] for r in mine})
                means = [
                    np.mean([r["result"]["rows"][labels]["test"] for r in mine if r["setting"]["size"] == size])
                    for size in sizes
                ]
                ax.semilogx(sizes, means, style, color=colour, label=f"{labels}, {rule}")
        ax.axhline(group[0]["result"]["rows"]["full data"]["test"], color="black", lw=0.8)
        ax.set_title(f"{name}, {images:,} images", fontsize=9)
        ax.set_xlabel("base images", fontsize=8)
        ax.set_ylabel("test accuracy, %", fontsize=8)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=6)
    return figure


EXPERIMENT = Experiment(__doc__ or "", "frozen_backbone", FULL, QUICK, measure, table, plot)

if __name__ == "__main__":
    run(EXPERIMENT)
