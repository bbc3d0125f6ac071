"""What the page says about the recipe and about where everything came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convexdistill.distilled import DistilledSet
from convexdistill.report import words
from convexdistill.training import find_optimizer

_METHODS = {
    "closed-form": "closed form, one exact solve",
    "cross-entropy": "cross-entropy, convex",
    "alternate": "convex, and trained extractors in turn",
    "unrolled": "derivative of whole trainings",
    "online-ridge": "online, through a ridge layer",
    "second-order": "online, by second derivatives",
    "images": "images learned through a ridge layer",
}
_TIMES = {
    "load": "load",
    "accumulate": "moments",
    "select": "base images",
    "solve": "labels",
    "evaluate": "evaluation",
    "total": "total",
}


@dataclass(frozen=True)
class Fact:
    """A name and its value; ``full`` is what was shortened, ``code`` asks for type of one width."""

    name: str
    value: str
    full: str = ""
    code: bool = False


def snippet() -> str:
    """How to train on the file with convexdistill; runs as it stands, beside ``distilled.safetensors``."""
    return """\
import convexdistill as cd

distilled = cd.load("distilled.safetensors")
model = distilled.train("lenet", seed=0)  # takes images as they are: uint8, or float in [0, 1]
predicted = model(distilled.images).argmax(1)
"""


def torch_snippet(distilled: DistilledSet) -> str:
    """The same with a network and a loop of one's own; runs as it stands."""
    recipe = distilled.recipe
    batch = min(recipe.batch_size, len(distilled))
    loss = "mse_loss" if recipe.loss == "mse" else "cross_entropy"
    optimizer = find_optimizer(recipe.optimizer)[1]
    options = "".join(f", {name}={value!r}" for name, value in optimizer.options.items())
    augmented = recipe.augmentation != "none"
    augmenter = f'augment = cd.training.Augmenter("{recipe.augmentation}", seeds=[0])\n' if augmented else ""
    augment = "    images = augment(images[:, None])[:, 0]\n" if augmented else ""
    scale = "soft labels" if recipe.label_scale == 1 else f"soft labels times {recipe.label_scale:g}"
    return f"""\
from itertools import chain, islice, repeat

import torch
from torch.utils.data import DataLoader

import convexdistill as cd

distilled = cd.load("distilled.safetensors")
pairs = distilled.to_torch_dataset()  # normalised images, {scale}
batches = DataLoader(pairs, batch_size={batch}, shuffle=True, drop_last=True)

network = torch.nn.Sequential(  # or any network of yours with {len(distilled.classes)} outputs
    torch.nn.Flatten(),
    torch.nn.LazyLinear(128),
    torch.nn.ReLU(),
    torch.nn.LazyLinear({len(distilled.classes)}),
)
network(pairs[:1][0])  # gives the lazy layers their sizes
optimizer = torch.optim.{optimizer.kind.__name__}(network.parameters(), \
lr={recipe.learning_rate:g}{options})
{augmenter}
for images, wanted in islice(chain.from_iterable(repeat(batches)), {recipe.steps}):
{augment}    loss = torch.nn.functional.{loss}(network(images), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# Whatever the network is shown later is normalised in the same way.
predicted = network.eval()(distilled.preprocessing(distilled.images)).argmax(1)
"""


def recipe_facts(distilled: DistilledSet) -> list[Fact]:
    """The recipe in the file."""
    recipe = distilled.recipe
    spaces = {
        "centred": "centred: one-hot minus 1/C, of any sign",
        "probability": "probabilities, each row sums to 1",
        "logit": "logits",
    }
    return [
        Fact("labels", spaces[distilled.label_space]),
        Fact("label scale", f"× {recipe.label_scale:g}"),
        Fact("loss", words.LOSSES.get(recipe.loss, recipe.loss)),
        Fact(
            "optimiser",
            f"{words.optimizer(recipe.optimizer)}, learning rate {words.number(recipe.learning_rate)}",
        ),
        Fact("steps", f"{recipe.steps:,}, each on {words.images(min(recipe.batch_size, len(distilled)))}"),
        *([Fact("augmentation", recipe.augmentation)] if recipe.augmentation != "none" else []),
    ]


def origin_facts(distilled: DistilledSet, metrics: Mapping[str, Any]) -> list[Fact]:
    """Data sets, base images and seeds."""
    manifest = distilled.manifest
    target, source, selection = manifest["target"], manifest["source"], manifest["selection"]
    facts = [_place("target", target)]
    facts += [_fingerprint("target fingerprint", part) for part in target.get("parts", ())]
    facts.append(_place("source of the images", source))
    if "fingerprint" in source:
        facts.append(_fingerprint("source fingerprint", source["fingerprint"]))
    seeds = metrics.get("seeds", [manifest["seed"]])
    return [
        *facts,
        Fact("selection rule", _selection(selection)),
        Fact(
            "seeds",
            f"{manifest['seed']}"
            + (f" (evaluated with base sets {', '.join(map(str, seeds))})" if len(seeds) > 1 else ""),
        ),
        Fact("preprocessing", preprocessing(distilled)),
        Fact("bytes", ", ".join(f"{name} {size:,}" for name, size in distilled.bytes.items())),
        Fact("versions", words.options(manifest["versions"])),
    ]


def preprocessing(distilled: DistilledSet) -> str:
    """How images are shown to networks."""
    zca = distilled.preprocessing.zca
    return "channels normalised" + ("" if zca is None else f", ZCA with regularisation {zca.regularisation:g}")


def _place(name: str, record: Mapping[str, Any]) -> Fact:
    shape = " × ".join(map(str, record.get("shape", ())))
    parts = [words.last_part(record["name"])]
    parts += [f"{record['split']} split"] if "split" in record else []
    parts += [f"{len(record['classes'])} classes"] if "classes" in record else []
    parts += [shape] if shape else []
    full = record["name"]
    return Fact(name, ", ".join(parts), full if full != parts[0] else "")


def _fingerprint(name: str, value: str) -> Fact:
    return Fact(name, words.fingerprint(value), value, code=True)


def _selection(selection: Mapping[str, Any]) -> str:
    parts = [str(selection.get("method", words.DASH))]
    if "balanced" in selection:
        parts.append("balanced over the classes" if selection["balanced"] else "not balanced")
    if "seed" in selection:
        parts.append(f"seed {selection['seed']}")
    return ", ".join(parts)


def solve_facts(distilled: DistilledSet, metrics: Mapping[str, Any]) -> list[Fact]:
    """The method, its settings, its certificate and how long it took."""
    manifest = distilled.manifest
    certificate = manifest["certificate"]
    facts = [
        Fact("method", f"{_METHODS.get(manifest['method'], manifest['method'])} ({manifest['backend']})"),
    ]
    settings = {
        "lam": "λ of the ridge heads",
        "gamma": "γ of the label solve",
        "prior": "prior that γ pulls towards",
    }
    facts += [Fact(text, words.number(manifest[key])) for key, text in settings.items() if key in manifest]
    names = {
        "outer_loss": "outer loss",
        "objective": "objective",
        "residual": "relative residual",
        "condition": "condition number",
        "solver": "solver",
        "largest_label": "largest label",
    }
    facts += [Fact(text, words.number(certificate[key])) for key, text in names.items() if key in certificate]
    if "cross_check" in certificate:
        facts.append(Fact("cross-check by cvxpylayers", cross_check(certificate["cross_check"])))
    times = metrics.get("seconds", {})
    if times:
        facts.append(
            Fact("time", ", ".join(f"{_TIMES.get(key, key)} {words.seconds(s)}" for key, s in times.items()))
        )
    return facts


def cross_check(check: Mapping[str, Any] | None) -> str:
    """What the independent solver said.

    Example:
        >>> cross_check(None)
        'not done: Φ has more than 20,000 entries, for which a conic solver takes minutes'
    """
    if check is None:
        return "not done: Φ has more than 20,000 entries, for which a conic solver takes minutes"
    if "error" in check:
        return f"cvxpylayers did not solve it: {check['error']}"
    return (
        f"the ridge head of these labels (Φ of {check['n']} × {check['d']}) differs by "
        f"{words.number(check['relative_difference'])} relative; "
        f"torch {words.seconds(check['torch_seconds'])}, "
        f"cvxpylayers {words.seconds(check['cvxpylayers_seconds'])} "
        f"after {words.seconds(check['cvxpylayers_setup_seconds'])} to set up"
    )


def extractors(distilled: DistilledSet) -> list[tuple[str, str]]:
    """Kinds of extractors of the pool, and the seeds of each kind."""
    kinds: dict[str, list[str]] = {}
    for spec in distilled.manifest["extractors"]:
        settings = words.options(spec.get("options", {}))
        name = words.network(spec["network"]) + (f" ({settings})" if settings else "")
        kinds.setdefault(name, []).append(str(spec.get("seed", words.DASH)))
    return [(f"{len(seeds)} × {name}", ", ".join(seeds)) for name, seeds in kinds.items()]
