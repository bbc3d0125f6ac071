"""How long and in what portions the online methods learn: the paper's constants, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from convexdistill.distill.assemble import check_positive
from convexdistill.errors import ParameterRangeError
from convexdistill.layers import Ridge


@dataclass(frozen=True)
class Schedule:
    """Sizes and rates of the loop; ``None`` takes the paper's choice for the base set.

    Attributes:
        epochs: passes over the target; ``None``: 400 up to 100 base examples, 800 above.
        batch_size: target examples in an outer minibatch.
        inner_batch_size: base examples in an inner minibatch; ``None``: half of them, but 10 to 50, or one for
            each class where there are more than 50 classes.
        window: W of the restart rule; ``None``: 50 steps up to 100 base examples, 200 above, and 100 where
            the target has more than 10 classes.
        validate_every: epochs between validations.
        label_rate: Adam's learning rate of what is distilled.

    Example:
        >>> Schedule().filled(base_size=100, classes=10)
        Schedule(epochs=400, batch_size=1024, inner_batch_size=50, window=50, validate_every=5, label_rate=0.001)
    """

    epochs: int | None = None
    batch_size: int = 1024
    inner_batch_size: int | None = None
    window: int | None = None
    validate_every: int = 5
    label_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "inner_batch_size", "window", "validate_every"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ParameterRangeError(f"{name} must be a whole number of at least 1, found {value!r}")
        check_positive(label_rate=self.label_rate)

    def filled(self, base_size: int, classes: int) -> Schedule:
        """With the paper's choices in place of ``None``; an inner minibatch has at most all base examples."""
        most, least = max(50, classes), 10 if classes <= 50 else classes
        inner = self.inner_batch_size or max(least, min(most, base_size // 2))
        return Schedule(
            epochs=self.epochs or (400 if base_size <= 100 else 800),
            batch_size=self.batch_size,
            inner_batch_size=min(base_size, inner),
            window=self.window or (100 if classes > 10 else 50 if base_size <= 100 else 200),
            validate_every=self.validate_every,
            label_rate=self.label_rate,
        )

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return asdict(self)


def check_online_settings(lam: float | None = None, epochs: int | None = None, backend: str = "auto") -> None:
    """Raise on a setting of the online methods that can be known to be wrong without any data.

    Raises:
        ParameterRangeError: λ or the number of epochs is not positive.
        UnknownNameError: no such backend.
        BackendUnavailableError: the backend cannot run here.
    """
    Schedule(epochs)
    Ridge(1.0 if lam is None else lam, backend=backend)
    check_positive(lam=lam)
