"""The distilled set: a handful of real images, their soft labels, and all it takes to train on them.

The file is safetensors (never pickle) with a JSON manifest. Most failures to use a distilled set come from
files that do not say what their labels mean; this one says it, and loading checks it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from convexdistill.data import Preprocessing
from convexdistill.data.stream import STREAMED
from convexdistill.device import resolve_device
from convexdistill.errors import FileFormatError, InvalidInputError, NonFiniteInputError
from convexdistill.features import Shape, build_network
from convexdistill.files import read_tensors, write_tensors
from convexdistill.label_codes import decode_as_recorded, encode
from convexdistill.manifest import check_manifest
from convexdistill.seeds import child_seed, seeded
from convexdistill.training import ReadyNetwork, Recipe, train_together

KIND = "distilled-set"
# The newest that is read. What a set has decides which is written, so that older programs read what they can:
# 3 with ZCA, 2 with compressed labels, else 1.
FORMAT_VERSION = 3
LABEL_SPACES = ("probability", "centred", "logit")


@dataclass(frozen=True)
class DistilledSet:
    """Base images with learned soft labels.

    Attributes:
        images: ``(n, c, h, w)`` uint8, in the target's shape.
        labels: ``(n, C)`` float32, over the target's classes.
        label_space: ``"probability"`` (rows on the simplex), ``"centred"`` (one-hot minus 1/C, any sign) or
            ``"logit"``.
        indices: ``(n,)`` int64, positions of the images in the source split.
        base_labels: ``(n,)`` int64, the images' own classes in the source.
        manifest: where everything came from; see :data:`convexdistill.manifest.FACTS`.
        baselines: further labels for the same images, by name, to compare with: ``(n, C)`` float32, in the
            same label space.
        codes: the labels in few bytes, ``(n, bytes a row)`` uint8, where they are compressed (see
            :meth:`compress`); ``labels`` are what these stand for.

    Raises:
        FileFormatError: a part is missing or does not fit the others.
        NonFiniteInputError: a label is NaN or infinite.

    Example:
        >>> import convexdistill as cd
        >>> digits = cd.data.load("digits")
        >>> moments = cd.accumulate(cd.features.pool(count=2), digits)
        >>> distilled = cd.distill.closed_form(moments, cd.select.choose(digits, size=20))
        >>> distilled.labels.shape, distilled.label_space
        (torch.Size([20, 10]), 'centred')
        >>> model = distilled.train("lenet", seed=0)
        >>> model(distilled.images).shape
        torch.Size([20, 10])
    """

    images: Tensor
    labels: Tensor
    label_space: str
    indices: Tensor
    base_labels: Tensor
    manifest: Mapping[str, Any]
    baselines: Mapping[str, Tensor] = field(default_factory=dict)
    codes: Tensor | None = None

    def __post_init__(self) -> None:
        _validate(self)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> Shape:
        """Channels, height, width of the images."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the target's classes, in the order of the label columns."""
        return tuple(self.manifest["target"]["classes"])

    @property
    def recipe(self) -> Recipe:
        """How to train on it."""
        return Recipe.from_dict(self.manifest["recipe"])

    @property
    def preprocessing(self) -> Preprocessing:
        """How its images, and any image that a trained network is shown, are normalised."""
        return Preprocessing.from_dict(self.manifest["preprocessing"])

    @property
    def is_cross(self) -> bool:
        """Whether the images come from another data set than the labels' classes.

        What a stream held nobody can compare: there it is whether the classes are others.
        """
        parts = self.manifest["target"]["parts"]
        if all(part.startswith(STREAMED) for part in parts):  # nobody has seen these images as a whole
            return list(self.manifest["source"]["classes"]) != list(self.classes)
        return self.manifest["source"]["fingerprint"] not in {part.partition("#")[0] for part in parts}

    @property
    def bytes(self) -> dict[str, int]:
        """Size of the parts: what somebody who is handed the set must store."""
        images, labels = self.images.nbytes, (self.labels if self.codes is None else self.codes).nbytes
        zca = self.preprocessing.zca
        parts = {"images": images, "labels": labels} | ({} if zca is None else {"zca": zca.nbytes})
        return {**parts, "total": sum(parts.values())}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that a network trained on it sees: images, labels, recipe, preprocessing, baselines."""
        digest = hashlib.sha256(repr([self.label_space, self.recipe.to_dict(), self.preprocessing]).encode())
        if (zca := self.preprocessing.zca) is not None:
            digest.update(repr(zca.to_dict()).encode())
        for name, tensor in (("images", self.images), ("labels", self.labels), *sorted(self.baselines.items())):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def compress(self, bits: int | None = None, top_k: int | None = None) -> DistilledSet:
        """The same set with labels in fewer bytes; its ``labels`` are what a reader of the file will get.

        Args:
            bits: 1 … 16 for each value, spread evenly between the least and the largest of a row: off by at
                most half of (max − min) / (2^bits − 1). ``None`` keeps float32.
            top_k: values kept in each row, those whose loss would cost most; the others are read as their
                mean. ``None`` keeps all.

        Baselines stay as they are. How the bytes are laid out stands in :mod:`convexdistill.label_codes`.

        Raises:
            ParameterRangeError: ``bits`` or ``top_k`` out of range, or neither given.

        Example:
            >>> import convexdistill as cd
            >>> digits = cd.data.load("digits")
            >>> moments = cd.accumulate(cd.features.pool(count=1), digits)
            >>> distilled = cd.distill.closed_form(moments, cd.select.choose(digits, size=20), gamma=0.1)
            >>> distilled.bytes["labels"], distilled.compress(bits=4).bytes["labels"]
            (800, 260)
        """
        codes = encode(self.labels, bits, top_k)
        code = {"bits": bits, "top_k": top_k}
        labels = decode_as_recorded(codes, code, len(self.classes), self.label_space)
        errors = (labels - self.labels).double()
        record = {
            **code,
            "largest_error": float(errors.abs().max()),
            "rms_error": float(errors.square().mean().sqrt()),
        }
        return replace(self, labels=labels, codes=codes, manifest={**self.manifest, "label_code": record})

    def to_torch_dataset(self) -> TensorDataset:
        """``(image, wanted)`` pairs as the recipe's loss takes them.

        Images are normalised float32 ``(c, h, w)``, ``wanted`` is the soft label times the recipe's label
        scale. The recipe's augmentation, if it has one, is left to the loop
        (:class:`convexdistill.training.Augmenter`).
        """
        return TensorDataset(self.preprocessing(self.images), self.labels * self.recipe.label_scale)

    def train(
        self,
        network: str | Callable[[Shape, int], nn.Module] = "lenet",
        seed: int = 0,
        *,
        recipe: Recipe | None = None,
        device: str | torch.device = "auto",
        **options: Any,
    ) -> ReadyNetwork:
        """A network trained from scratch on this set.

        Args:
            network: a name (:data:`convexdistill.features.NETWORKS`) or a function of
                ``(shape, num_classes)`` that returns a fresh ``nn.Module``.
            seed: of the initial weights, of the order of minibatches, and of what augments them.
            recipe: default: the one in the file.
            device: where to train.
            options: parameters of a network given by name.

        Returns:
            A module that takes images as they are (uint8, or float in [0, 1]) and returns logits ``(N, C)``.
        """
        recipe = recipe or self.recipe
        net = fresh_network(network, self.shape, len(self.classes), seed, **options)
        images = self.preprocessing(self.images).to(where := resolve_device(device))
        targets = (self.labels * recipe.label_scale).to(where)
        order = child_seed(seed, "order")
        train_together([net], images, targets[None], [recipe], [order], steps=recipe.steps)
        return ReadyNetwork(self.preprocessing, net).to(where).eval()

    def save(self, path: str | Path) -> None:
        """Write the set to one file, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        tensors = {
            "images": self.images,
            "labels": self.labels if self.codes is None else self.codes,
            "indices": self.indices,
            "base_labels": self.base_labels,
        }
        tensors |= {f"baseline.{name}": labels for name, labels in self.baselines.items()}
        version = 3 if self.preprocessing.zca is not None else 1 if self.codes is None else 2
        facts = {"kind": KIND, "format_version": version, "label_space": self.label_space}
        write_tensors(path, tensors, {**self.manifest, **facts, "bytes": self.bytes})


def fresh_network(
    network: str | Callable[[Shape, int], nn.Module],
    shape: Shape,
    num_classes: int,
    seed: int,
    **options: Any,
) -> nn.Module:
    """A network by name, or from a caller's function, with weights drawn from ``seed``."""
    weights = child_seed(seed, "weights")
    if isinstance(network, str):
        return build_network(network, shape, num_classes, seed=weights, **options)
    with seeded(weights):
        return network(shape, num_classes)


def load(path: str | Path) -> DistilledSet:
    """Read a distilled set; nothing in the file is executed or unpickled.

    Raises:
        FileFormatError: no such file, cut off, not from convexdistill, from a newer format version, or parts
            that do not fit together.
        NonFiniteInputError: a label is NaN or infinite.
    """
    tensors, manifest = read_tensors(path, kind=KIND, version=FORMAT_VERSION)
    prefix = "baseline."
    try:
        labels, codes = tensors["labels"], None
        if "label_code" in manifest:
            check_manifest(manifest)
            labels, codes = (
                decode_as_recorded(
                    labels, manifest["label_code"], len(manifest["target"]["classes"]), manifest["label_space"]
                ),
                labels,
            )
        return DistilledSet(
            tensors["images"],
            labels,
            manifest["label_space"],
            tensors["indices"],
            tensors["base_labels"],
            manifest,
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)},
            codes,
        )
    except KeyError as error:
        raise FileFormatError(f"{path} lacks the part {error}; write it again") from error
    except InvalidInputError as error:
        raise type(error)(f"{path}: {error}") from error


def _validate(d: DistilledSet) -> None:
    """Raise unless every part is there and fits the others."""
    check_manifest(d.manifest)
    if d.label_space not in LABEL_SPACES:
        raise FileFormatError(f"label_space is {d.label_space!r}, known are {', '.join(LABEL_SPACES)}")
    n, classes = len(d.images), len(d.classes)
    expected = {
        "images": (d.images, torch.uint8, (n, *d.manifest["target"]["shape"])),
        "labels": (d.labels, torch.float32, (n, classes)),
        "indices": (d.indices, torch.int64, (n,)),
        "base_labels": (d.base_labels, torch.int64, (n,)),
        **{f"baseline.{name}": (t, torch.float32, (n, classes)) for name, t in d.baselines.items()},
    }
    if n == 0:
        raise FileFormatError("a distilled set needs at least one image")
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            raise FileFormatError(
                f"{name} should be {dtype} of shape {tuple(shape)}, found {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}"
            )
        if bad := int((~tensor.isfinite()).sum()):
            raise NonFiniteInputError(f"{name} holds {bad} NaN or infinite values of {tensor.numel()}")
    if (d.codes is None) != ("label_code" not in d.manifest):
        raise FileFormatError("codes and label_code in the manifest belong together, but one of them is missing")
    if d.codes is not None and not torch.equal(
        decode_as_recorded(d.codes, d.manifest["label_code"], classes, d.label_space), d.labels
    ):
        raise FileFormatError("labels are not what their codes stand for; change labels first, then compress")
    source_classes = len(d.manifest["source"]["classes"])
    if d.base_labels.min() < 0 or d.base_labels.max() >= source_classes:
        raise FileFormatError(f"base_labels lie outside the {source_classes} classes of the source")
    sums = d.labels.sum(1)
    if d.label_space == "probability" and (d.labels.min() < 0 or (sums - 1).abs().max() > 1e-4):
        raise FileFormatError("label_space is 'probability', but rows are not probabilities")
    if Recipe.from_dict(d.manifest["recipe"]).loss == "kl" and d.label_space != "probability":
        raise FileFormatError(f"the recipe's loss 'kl' takes probabilities, but label_space is {d.label_space!r}")
    preprocessing = Preprocessing.from_dict(d.manifest["preprocessing"])
    if len(preprocessing.mean) != d.shape[0]:
        raise FileFormatError(f"preprocessing has another number of channels than the images ({d.shape[0]})")
    if preprocessing.zca is not None and preprocessing.zca.shape != d.shape:
        raise FileFormatError(f"ZCA is of images of shape {preprocessing.zca.shape}, found {d.shape}")
