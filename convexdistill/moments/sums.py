"""The running sums of a pass, in float64."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from threadpoolctl import ThreadpoolController
from torch import Tensor

# SciPy's BLAS has threads of its own, which wait for work by turning in circles on the cores of the networks.
_BLAS = ThreadpoolController().select(user_api="blas")


class _OneBlasThread:
    """One thread for SciPy's BLAS inside the block, whoever else is in it: the limit is the process's."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._limit = _BLAS.limit(limits=1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_ONE_BLAS_THREAD = _OneBlasThread()


class Sums:
    """G_k, R_k and the counts, updated batch by batch.

    G is symmetric: on the CPU only one triangle is summed (BLAS ``dsyrk``, half the work of a product), and
    R = Φᵀ T adds every row of features to the row of its class, so that it costs d additions an image whatever
    the number of classes. On CUDA both are torch's, in float64 on the device; a device without float64 hands its
    features to the CPU.

    Memory, in bytes, for features of sizes d_k, with C classes and batches of b: 8 Σ_k (d_k+1)(d_k+1 + C + b).

    Args:
        sizes: d_k.
        num_classes: C.
        device: where the sums are kept: a CPU or CUDA.
    """

    def __init__(self, sizes: Sequence[int], num_classes: int, device: torch.device) -> None:
        self.device = device
        make = {"dtype": torch.float64, "device": device}
        self._gram = [torch.zeros(d + 1, d + 1, **make) for d in sizes]  # type: ignore[call-overload]
        self._cross = [torch.zeros(num_classes, d + 1, **make) for d in sizes]  # type: ignore[call-overload]
        self._rows = [torch.ones(0, d + 1, **make) for d in sizes]  # type: ignore[call-overload]
        self.counts = torch.zeros(num_classes, dtype=torch.int64)

    def add(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Add a batch: features ``(b, d_k)`` of each extractor, and labels ``(b,)`` on the CPU."""
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        index = labels.to(self.device, non_blocking=True)
        with _ONE_BLAS_THREAD:
            for k, values in enumerate(features):
                rows = self._filled(k, values)
                if self.device.type == "cpu":
                    _add_triangle(self._gram[k].numpy(), rows.numpy())
                else:
                    self._gram[k].addmm_(rows.T, rows)
                self._cross[k].index_add_(0, index, rows)

    def _filled(self, k: int, values: Tensor) -> Tensor:
        """The batch in float64 with its column of ones, in memory that is used again and again."""
        if len(values) > len(self._rows[k]):
            self._rows[k] = torch.ones(
                len(values), self._rows[k].shape[1], dtype=torch.float64, device=self.device
            )
        rows: Tensor = self._rows[k][: len(values)]
        # To the CPU it must wait: what is summed there is read at once. It comes in its own precision, since a
        # device without float64 cannot make it.
        rows[:, :-1].copy_(values.cpu() if self.device.type == "cpu" else values, non_blocking=True)
        return rows

    def not_finite(self) -> int | None:
        """The first extractor whose features were not all finite: the sums of features show it."""
        for k, cross in enumerate(self._cross):
            if not cross.isfinite().all():
                return k
        return None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        named = {"counts": self.counts}
        for k, (gram, cross) in enumerate(zip(self._gram, self._cross, strict=True)):
            named |= {f"gram.{k}": gram, f"cross.{k}": cross}
        return named

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def gram(self) -> tuple[Tensor, ...]:
        """G_k, ``(d_k+1, d_k+1)`` on the CPU, both triangles."""
        return tuple(
            gram.tril() + gram.tril(-1).T if self.device.type == "cpu" else gram.cpu() for gram in self._gram
        )

    def cross(self) -> tuple[Tensor, ...]:
        """R_k, ``(d_k+1, C)`` on the CPU."""
        return tuple(cross.T.contiguous().cpu() for cross in self._cross)


def _add_triangle(gram: NDArray[np.float64], rows: NDArray[np.float64]) -> None:
    # LAPACK counts columns first: its upper triangle of gram.T is our lower one, and rows.T is not copied.
    summed = dsyrk(1.0, rows.T, beta=1.0, c=gram.T, overwrite_c=1)
    assert np.shares_memory(summed, gram)  # it was done in place
