"""The label solve: the soft labels whose ridge heads do best on the target set, in closed form.

With M_k = (Φ_kᵀΦ_k + λ_kI)⁻¹Φ_kᵀ, the map from labels to head of extractor k, and Q_k, B_k from
:mod:`convexdistill.distill.outer`, the pooled outer problem

    min_Y  1/K Σ_k ‖Q_k M_k Y − B_k‖² + γ ‖Y − Y₀‖²

is a ridge regression of the stacked B_k on the stacked Q_k M_k, so the ridge layer solves it, and checks
the answer. Its normal equations are (Σ_k M_kᵀG_kM_k + γI) Y = Σ_k M_kᵀR_k + γY₀ (Label Solve of Nguyen,
Chen, Lee 2021 is K = 1, γ → 0).

On a CUDA device all of this is done there, in float64, and the labels come back; see :func:`label_system`.

With n > Σ_k d_k base examples the stacked matrix has fewer rows than columns, and the layer solves its dual: by
Woodbury's identity a system of size Σ_k (d_k + 1), in O(n (Σ d_k)²) time and n Σ d_k numbers, whatever n is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexdistill import layers, progress
from convexdistill.distill.outer import OuterTerm
from convexdistill.errors import NotConvergedError, ParameterRangeError, PerformanceWarning

LEAST_MEMORY = 1 << 20  # bytes below which chunks are not halved any more


@dataclass(frozen=True)
class LabelSystem:
    """The pooled outer problem as a least-squares system: ‖design · Y − wanted‖² + constant.

    Attributes:
        design: ``(Σ r_k, n)`` float64, the stacked Q_k M_k / √K.
        wanted: ``(Σ r_k, C)`` float64, the stacked B_k / √K.
        constant: the loss that no labels can avoid.
    """

    design: Tensor
    wanted: Tensor
    constant: float

    def absolute(self, gamma: float) -> float:
        """γ of the objective for γ relative to tr(H)/n, with H = designᵀdesign."""
        return gamma * float(torch.linalg.vector_norm(self.design)) ** 2 / self.design.shape[1]

    def certificate(self, labels: Tensor, gamma: float, prior: Tensor) -> dict[str, float]:
        """How good the labels are, and how nearly optimal: computed from the labels alone."""
        labels, prior = labels.to(self.design.device), prior.to(self.design.device)
        error = self.design @ labels - self.wanted
        penalty = self.absolute(gamma) * (labels - prior)
        # (eᵀA)ᵀ, not Aᵀe: a tall transposed factor is read against its grain, which is slow.
        gradient = (error.T @ self.design).T + penalty
        scale = float((self.wanted.T @ self.design).norm()) or 1.0
        outer = float(error.square().sum()) + self.constant
        return {
            "outer_loss": outer,
            "objective": outer + float((penalty * (labels - prior)).sum()),
            "residual": float(gradient.norm()) / scale,
            "largest_label": float(labels.abs().max()),
        }


def label_system(terms: Sequence[OuterTerm], device: torch.device | None = None) -> LabelSystem:
    """Put the terms of a pool together.

    Args:
        terms: see :func:`convexdistill.distill.outer.outer_terms`.
        device: where to solve, one that has float64; default the CPU. The system takes 8·n·Σ(d_k + 1) bytes there,
            and its solve 8·min(n, Σ(d_k + 1))² more: 1 GB for n = 50,000 and five extractors of 512 features.
            Where that is too much the CPU is taken, with a ``PerformanceWarning``.
    """
    try:
        return _label_system(terms, device)
    except torch.OutOfMemoryError:
        if device is None or device.type == "cpu":
            raise
    warnings.warn(
        f"out of memory on {device}: the label solve goes on on the CPU", PerformanceWarning, stacklevel=2
    )
    return _label_system(terms, None)


def _label_system(terms: Sequence[OuterTerm], device: torch.device | None) -> LabelSystem:
    share = 1 / math.sqrt(len(terms))
    placed = [term if device is None else term.to(device) for term in terms]
    design = torch.cat([_response(term) for term in placed]) * share
    wanted = torch.cat([term.wanted for term in placed]) * share
    return LabelSystem(design, wanted, sum(term.constant for term in terms) / len(terms))


def _response(term: OuterTerm) -> Tensor:
    """Q M, ``(r, n)``: what labels do to the outer residual; that of an image is the sum over its views."""
    single = _view_response(term)
    return single.reshape(len(single), term.count, -1).sum(1)


def _view_response(term: OuterTerm) -> Tensor:
    """Q M for labels of single views, ``(r, V·n)``, from as few solves as there are rows or columns."""
    n, r = len(term.features), len(term.root)
    if n <= r:
        # Q M = Q Φᵀ (ΦΦᵀ + λI)⁻¹: the dual coefficients of kernel ridge with labels ΦQᵀ, half the products that
        # a ridge head for each of n labels takes.
        kernel = term.features @ term.features.T
        return layers.kernel_ridge(kernel, term.features @ term.root.T, term.lam).weight.T
    # Q M = ((ΦᵀΦ + λI)⁻¹Qᵀ)ᵀ Φᵀ. A ridge head pulled towards Qᵀ/λ by labels of zero is (ΦᵀΦ + λI)⁻¹Qᵀ, so the
    # layer solves this as well, and checks it; nothing here is n×n, so n may be 50,000.
    nothing = term.features.new_zeros(n, r)
    pulled = layers.ridge(term.features, nothing, term.lam, prior=term.root.T / term.lam).weight
    return (term.features @ pulled).T


def solve_labels(system: LabelSystem, gamma: float, prior: Tensor | None = None) -> tuple[Tensor, dict[str, Any]]:
    """The exact minimiser ``(n, C)``, and its certificate.

    Args:
        system: see :func:`label_system`.
        gamma: γ relative to tr(H)/n.
        prior: Y₀, ``(n, C)``; ``None`` for zero.
    """
    if prior is None:
        prior = _no_prior(system)
    # A ridge regression of what the prior leaves to explain.
    left = system.wanted - system.design @ prior.to(system.design.device)
    fit = _ridge_that_fits(system.design, left, system.absolute(gamma))
    labels = prior + fit.weight.to(prior.device)
    condition = None if fit.info.condition is None else float(fit.info.condition.max())
    certificate = {**system.certificate(labels, gamma, prior), "condition": condition}
    return labels, {**certificate, "solver": f"{fit.info.backend}/{fit.info.form}/{fit.info.method}"}


def _ridge_that_fits(design: Tensor, wanted: Tensor, lam: float) -> layers.LinearFit:
    """The ridge layer; where its memory does not suffice, in chunks of half as much, and half of that again."""
    try:
        return layers.ridge(design, wanted, lam)
    except torch.OutOfMemoryError as error:
        memory, last = design.nbytes, error
    while memory > LEAST_MEMORY:
        memory //= 2
        warnings.warn(
            f"out of memory on {design.device}: the label solve goes on in chunks of {memory:,} bytes",
            PerformanceWarning,
            stacklevel=3,
        )
        try:
            return layers.ridge_in_chunks(design, wanted, lam, memory=memory)
        except torch.OutOfMemoryError as error:
            last = error
        except ParameterRangeError:  # less than the least that a chunk needs
            break
    raise last


def _no_prior(system: LabelSystem) -> Tensor:
    return torch.zeros(system.design.shape[1], system.wanted.shape[1], dtype=torch.float64)


def descend_labels(
    terms: Sequence[OuterTerm],
    gamma: float,
    prior: Tensor | None = None,
    *,
    backend: str,
    tolerance: float = 1e-6,
    steps: int = 200,
) -> tuple[Tensor, dict[str, Any]]:
    """The same minimiser by gradients through the ridge layer: the method as the paper's first-order idea.

    The soft labels are a parameter, the frozen features go through the ridge layer of ``backend``, the
    outer loss looks at the head, and L-BFGS follows the gradient that comes back through the layer's
    solution. Nothing here knows the closed form, so it works for any layer in its place.

    Args:
        terms: see :func:`convexdistill.distill.outer.outer_terms`.
        gamma: γ relative to tr(H)/n.
        prior: Y₀, where the descent starts; ``None`` for zero.
        backend: which solves the ridge layer.
        tolerance: relative norm of the gradient at which to stop.
        steps: at most so many L-BFGS iterations.

    Raises:
        NotConvergedError: the gradient is not small enough after ``steps`` iterations.
    """
    system = label_system(terms)  # for γ's scale and for the certificate
    weight = system.absolute(gamma)
    start = _no_prior(system) if prior is None else prior
    # Minimise over Z = (Y − Y₀)·√(curvature) so that the first L-BFGS step has about the right length.
    curvature = 2 * (float(torch.linalg.matrix_norm(system.design, 2)) ** 2 + weight)
    Z = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [Z],
        max_iter=1,
        max_eval=26,  # what torch leaves of it is the line search's: the default for one iteration is none
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=0.0,
    )

    def objective() -> Tensor:
        step = Z / math.sqrt(curvature)
        losses = [term.loss(term.head(start + step, backend)) for term in terms]
        return torch.stack(losses).mean() + weight * step.square().sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    residual, iteration = math.inf, 0
    with progress.task(f"descend labels ({backend})", total=steps) as advance:
        while iteration < steps and residual > tolerance:
            optimizer.step(closure)  # type: ignore[no-untyped-call, unused-ignore]
            iteration += 1
            labels = start + Z.detach() / math.sqrt(curvature)
            residual = system.certificate(labels, gamma, start)["residual"]
            advance(1)
        advance(steps - iteration)
    if residual > tolerance:
        raise NotConvergedError(
            f"label descent through {backend!r} stopped after {steps} steps at a relative gradient of "
            f"{residual:.1e}, above {tolerance:.1e}; a larger gamma makes the problem easier"
        )
    facts = {"condition": None, "solver": f"{backend}/l-bfgs", "iterations": iteration}
    return labels, {**system.certificate(labels, gamma, start), **facts}
