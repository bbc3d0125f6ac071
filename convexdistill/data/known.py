"""The data sets that have a name. A new one is one line in ``KNOWN``."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

from convexdistill.data.builtin import read_digits
from convexdistill.data.kuzushiji49 import kuzushiji49_set
from convexdistill.data.official import OfficialSet
from convexdistill.data.raw import RawImages


def _torchvision(family: str, *args: Any, **options: Any) -> Callable[[], OfficialSet]:
    """A set of :mod:`torchvision_sets`, imported when it is asked for: torchvision takes seconds."""

    def describe() -> OfficialSet:
        from convexdistill.data import torchvision_sets

        described: OfficialSet = getattr(torchvision_sets, family)(*args, **options)
        return described

    return describe


# What a name stands for: either official parts in files, or everything at once, and the parting is
# left to us. The validation sizes are the paper's; a data set that the paper does not use holds out
# 10 %, except Fashion-MNIST, which is made to be exchanged with MNIST.
KNOWN: dict[str, Callable[[], OfficialSet | RawImages]] = {
    "digits": read_digits,
    "mnist": _torchvision("idx_set", "MNIST", validation=10_000, classes=tuple(string.digits)),
    "fashion-mnist": _torchvision("idx_set", "FashionMNIST", validation=10_000),
    "kmnist": _torchvision("idx_set", "KMNIST", validation=10_000),
    "kuzushiji-49": lambda: kuzushiji49_set(validation=23_237),
    "emnist-letters": _torchvision("emnist_letters_set", string.ascii_uppercase),
    "cifar10": _torchvision("cifar_set", "CIFAR10", validation=5_000),
    "cifar100": _torchvision("cifar_set", "CIFAR100", validation=5_000),
    "svhn": _torchvision("svhn_set"),
    "usps": _torchvision("usps_set"),
}


def names() -> tuple[str, ...]:
    """The names that :func:`convexdistill.data.load` knows.

    Example:
        >>> names()[:3]
        ('digits', 'mnist', 'fashion-mnist')
    """
    return tuple(KNOWN)
