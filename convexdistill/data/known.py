"""The data sets that have a name. A new one is one line in ``KNOWN``."""

from __future__ import annotations

import string
from collections.abc import Callable

from convexdistill.data.builtin import read_digits
from convexdistill.data.kuzushiji49 import kuzushiji49_set
from convexdistill.data.official import OfficialSet
from convexdistill.data.raw import RawImages
from convexdistill.data.torchvision_sets import (
    DIGITS,
    cifar_set,
    emnist_letters_set,
    idx_set,
    svhn_set,
    usps_set,
)

# Either official parts in files, or a function that returns everything and leaves the parting to
# us. The validation sizes are the paper's; a data set that the paper does not use holds out 10 %,
# except Fashion-MNIST, which is made to be exchanged with MNIST.
KNOWN: dict[str, OfficialSet | Callable[[], RawImages]] = {
    "digits": read_digits,
    "mnist": idx_set("MNIST", validation=10_000, classes=DIGITS),
    "fashion-mnist": idx_set("FashionMNIST", validation=10_000),
    "kmnist": idx_set("KMNIST", validation=10_000),
    "kuzushiji-49": kuzushiji49_set(validation=23_237),
    "emnist-letters": emnist_letters_set(string.ascii_uppercase),
    "cifar10": cifar_set("CIFAR10", validation=5_000),
    "cifar100": cifar_set("CIFAR100", validation=5_000),
    "svhn": svhn_set(),
    "usps": usps_set(),
}


def names() -> tuple[str, ...]:
    """The names that :func:`convexdistill.data.load` knows.

    Example:
        >>> names()[:3]
        ('digits', 'mnist', 'fashion-mnist')
    """
    return tuple(KNOWN)
