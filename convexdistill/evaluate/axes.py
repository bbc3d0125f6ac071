"""The axes of a matrix, checked before anything is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.evaluate.cells import Cell, NetworkLike, network_name
from convexdistill.evaluate.label_loss import OWN, LabelLoss
from convexdistill.features import NETWORKS
from convexdistill.training import Recipe, find_optimizer
from convexdistill.training.augmentation import AUGMENTATIONS
from convexdistill.training.orders import check_order

T = TypeVar("T")
AUTO = "auto"
# Beside the distilled labels; what takes a training on the whole target is left out unless it is asked for.
BASELINES: dict[str, str] = {
    "one-hot": "the base images' own classes, cross-entropy",
    "smoothed": "the same, smoothed by 0.1",
    "one-hot-recipe": "the same under the distilled labels' own loss and scale",
    "teacher": "scores of a ridge head that was fitted on the whole target",
    "transferred": "across data sets: the mean label of the nearest target images",
    "random-subset": "as many images with hard labels as take the same bytes",
    "nearest-neighbour": "the class of the nearest base image; no network",
    "nearest-mean": "the class with the nearest mean of base images; no network",
    "trained-teacher": "probabilities of the first of the networks, trained on the whole target",
    "full-data": "a network trained on the whole target",
}
SLOW = frozenset(("trained-teacher", "full-data"))


def wanted_baselines(names: Iterable[str] | None, more: Iterable[str]) -> list[str] | None:
    """The named baselines, ``None`` for the quick ones, and more; ``None`` where that is just the quick ones.

    Example:
        >>> "full-data" in wanted_baselines(None, ["full-data"]), wanted_baselines(["one-hot"], [])
        (True, ['one-hot'])
    """
    extra = list(more)
    if names is None:
        return [name for name in BASELINES if name not in SLOW] + extra if extra else None
    return [*names, *extra]


@dataclass(frozen=True)
class Axes:
    """What a matrix varies, and what it compares with."""

    networks: tuple[NetworkLike, ...]
    optimizers: tuple[str, ...]
    rates: tuple[float | str, ...]
    steps: tuple[int | None, ...]
    losses: tuple[LabelLoss, ...]
    augmentations: tuple[str, ...]
    orders: tuple[str, ...]
    baselines: frozenset[str]

    @property
    def trains_on_everything(self) -> bool:
        """Whether a baseline needs a network that was trained on the whole target."""
        return bool(SLOW & self.baselines)

    def needs_target(self, first: DistilledSet) -> bool:
        """Whether a baseline of this set depends on the target's train split."""
        return self.trains_on_everything or "random-subset" in self.baselines or first.is_cross

    @classmethod
    def checked(
        cls,
        networks: Iterable[NetworkLike],
        optimizers: Iterable[str],
        learning_rates: Iterable[float | str],
        steps: Iterable[int | str],
        losses: Iterable[str],
        augmentations: Iterable[str],
        orders: Iterable[str],
        baselines: Iterable[str] | None,
        repeats: int,
        workers: int,
        sets: Sequence[DistilledSet],
    ) -> Axes:
        """The axes as :func:`convexdistill.evaluate.matrix` takes them.

        Raises:
            ParameterRangeError: an empty axis, or a number outside its range.
            UnknownNameError: an unknown name; the message lists the known ones.
            InvalidInputError: two networks of the same name.
        """
        networks, optimizers = tuple(networks), tuple(optimizers)
        if repeats < 1:
            raise ParameterRangeError(
                f"repeats must be at least 1, found {repeats}; name how many trainings to make"
            )
        for what, values in (("distilled set", sets), ("network", networks), ("optimizer", optimizers)):
            if not values:
                raise ParameterRangeError(f"evaluation needs at least one {what}, found none; name one or more")
        if workers < 1:
            raise ParameterRangeError(f"workers must be at least 1, found {workers}")
        for network in networks:
            if isinstance(network, str) and network not in NETWORKS:
                raise UnknownNameError(f"unknown network {network!r}; known are {', '.join(NETWORKS)}")
        networks = tuple(_unique(networks))
        _check_names(networks)
        names = tuple(_unique(find_optimizer(name)[0] for name in optimizers))
        wanted = frozenset(BASELINES) - SLOW if baselines is None else frozenset(baselines)
        # Labels that a file brings are baselines by its own names.
        known = [*BASELINES, *(name for name in sets[0].baselines if name not in BASELINES)]
        if unknown := sorted(wanted - set(known)):
            raise UnknownNameError(f"unknown baseline {unknown[0]!r}; known are {', '.join(known)}")
        if baselines is None:
            wanted |= set(sets[0].baselines)
        axes = cls(
            networks=networks,
            optimizers=names,
            rates=tuple(_unique(map(_rate, learning_rates))),
            steps=tuple(_unique(map(_steps, steps))),
            losses=tuple(_unique(map(LabelLoss.parse, losses))),
            augmentations=tuple(_unique(augmentations)),
            orders=tuple(_unique(orders)),
            baselines=wanted,
        )
        for name in axes.augmentations:
            if name not in (OWN, *AUGMENTATIONS):
                raise UnknownNameError(
                    f"unknown augmentation {name!r}; known are {', '.join((OWN, *AUGMENTATIONS))}"
                )
        if OWN in axes.augmentations and len(own := sorted({one.recipe.augmentation for one in sets})) > 1:
            raise InvalidInputError(
                f"the sets are to be trained with different augmentations, {' and '.join(own)}; evaluate them "
                "apart, or name one for all"
            )
        for name in axes.orders:
            check_order(name)
        rest = (axes.rates, axes.steps, axes.losses, axes.augmentations, axes.orders)
        for what, found in zip(
            ("learning rates", "steps", "losses", "augmentations", "orders"), rest, strict=True
        ):
            if not found:
                raise ParameterRangeError(
                    f"evaluation needs at least one value for the {what}, found none; name some, or leave "
                    "them out for the default"
                )
        return axes

    def cells(self, recipe: Recipe) -> list[Cell]:
        """Every combination but the steps, which one training has all of.

        Args:
            recipe: that of the distilled set; ``"x3"`` is three times its learning rate, ``"own"`` its
                augmentation.
        """
        found = []
        augmentations = [recipe.augmentation if name == OWN else name for name in self.augmentations]
        for network, optimizer, rate, loss, augmentation, order in itertools.product(
            self.networks, self.optimizers, self.rates, self.losses, augmentations, self.orders
        ):
            cell = Cell(network, optimizer, None, loss, augmentation, order)
            if rate != AUTO:
                factor = cell.recipe(recipe).learning_rate if isinstance(rate, str) else 1.0
                number = float(rate.removeprefix("x")) if isinstance(rate, str) else rate
                cell = Cell(network, optimizer, factor * number, loss, augmentation, order)
            found.append(cell)
        return list(_unique(found))


def _check_names(networks: Sequence[NetworkLike]) -> None:
    """Raise where two networks have one name: rows and cells are told apart by it."""
    names = [network_name(network) for network in networks]
    if same := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInputError(
            f"{names.count(same[0])} networks are called {same[0]!r}, and their rows could not be told apart; "
            "give each function a name of its own (its __name__)"
        )


def check_lasting_names(networks: Sequence[NetworkLike]) -> None:
    """Raise where a network has no name that a cache could know it by in a later run.

    Raises:
        InvalidInputError: a network is a lambda.
    """
    for network in networks:
        if "<lambda>" in network_name(network):
            raise InvalidInputError(
                "a cache knows networks by their names, but a lambda has none; define the network with def, or go "
                "without a cache"
            )


def _unique(values: Iterable[T]) -> Iterator[T]:
    """The values in order, each once."""
    seen: list[T] = []
    for value in values:
        if value not in seen:
            seen.append(value)
            yield value


def _rate(value: float | str) -> float | str:
    """A learning rate, ``"auto"``, or a factor as ``"x3"``."""
    text = str(value)
    if text == AUTO:
        return AUTO
    try:
        number = float(text.removeprefix("x"))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ParameterRangeError(
            f"a learning rate must be a positive number, 'auto', or a factor such as 'x3', found {value!r}"
        )
    return f"x{number!r}" if text.startswith("x") else number


def _steps(value: int | str) -> int | None:
    """A number of steps, or ``None`` for ``"auto"``."""
    if value == AUTO:
        return None
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ParameterRangeError(f"steps must be a whole number of at least 1, or 'auto', found {value!r}")
    return number
