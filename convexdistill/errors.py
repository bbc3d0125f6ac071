"""Every exception and warning of convexdistill, in one place.

A message says *what* was wrong, *where* it was found, and *what to do*. Everything that a user's input
can cause derives from :class:`InvalidInputError`; the command line turns those into exit code 2 and one
line of text, everything else into exit code 1.
"""

from __future__ import annotations

from typing import Any


class ConvexDistillError(Exception):
    """Base class of every error that convexdistill raises on purpose."""


# -- wrong input -----------------------------------------------------------------------------------


class InvalidInputError(ConvexDistillError, ValueError):
    """The caller's input cannot be used; the message says which part, and what would do."""


class ShapeError(InvalidInputError):
    """A tensor has the wrong number of dimensions, or sizes that do not fit together."""


class DtypeError(InvalidInputError, TypeError):
    """A value is not a tensor, or tensors have dtypes that do not fit together."""


class DeviceError(InvalidInputError):
    """Tensors lie on different devices, or the device that was asked for is not there."""


class NonFiniteInputError(InvalidInputError):
    """A tensor or an image holds NaN or infinity."""


class ParameterRangeError(InvalidInputError):
    """A number lies outside the range in which the problem has a meaning."""


class UnknownNameError(InvalidInputError):
    """A name is not in a registry; the message lists the names that are."""


class DataError(InvalidInputError):
    """A data set cannot be read, or does not hold what the job needs."""


class MissingDataError(DataError, FileNotFoundError):
    """Files of a data set are not where they should lie."""


class FileFormatError(InvalidInputError):
    """A file written by convexdistill is damaged, foreign, or from a newer version."""


class OutputError(InvalidInputError, OSError):
    """A result cannot be written where it was asked for."""


# -- solves that failed ----------------------------------------------------------------------------


class SolveError(ConvexDistillError, RuntimeError):
    """A convex problem was not solved to the accuracy that the answer promises.

    Attributes:
        info: the :class:`convexdistill.layers.SolveInfo` of the solve, where there is one.
        batch_indices: indices (into the flattened batch) of the elements that failed.
    """

    def __init__(self, message: str, *, info: Any = None, batch_indices: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.info = info
        self.batch_indices = batch_indices


class SingularSystemError(SolveError):
    """The linear system is singular to working precision."""


class NotConvergedError(SolveError):
    """An iterative solver stopped before it reached its tolerance."""


class InfeasibleError(SolveError):
    """No point meets all constraints of the problem."""


class UnboundedError(SolveError):
    """The objective of the problem falls without end."""


# -- what a backend cannot do ----------------------------------------------------------------------


class BackendUnavailableError(ConvexDistillError, ImportError):
    """A backend's library is not installed; the message says how to install it."""


class UnsupportedError(ConvexDistillError, NotImplementedError):
    """A backend cannot do what was asked; the message names one that can."""


# -- warnings --------------------------------------------------------------------------------------


class NumericalWarning(RuntimeWarning):
    """An answer is less accurate than it should be."""


class PerformanceWarning(RuntimeWarning):
    """There is a faster way to get the same answer; the message names it."""
