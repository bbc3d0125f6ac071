"""The outer problem of label distillation, made small: targets enter through square roots of the moments.

For one extractor, with base features Φ (n×(d+1), scaled, last column ones) and moments G = Φ_TᵀΦ_T,
R = Φ_TᵀT (centred), the ridge head of the soft labels Y is W(Y) = M Y (where base images are augmented, from all
their views: :mod:`convexdistill.distill.views`) and its loss on the target set is::

    L(Y) = ‖Φ_T W(Y) − T‖² / N

Any Q and B with QᵀQ = G/N and QᵀB = R/N give the same loss up to a constant, with as few rows as features::

    L(Y) = ‖Q W(Y) − B‖² + c,      c = tr(TᵀT)/N − ‖B‖²,  the loss of the best head there is

Q = Λ^½Vᵀ and B = Λ^−½Vᵀ R/N from the eigenvectors of G/N. So N is gone, and since W(Y) is linear in Y the
label solve is itself a ridge regression, of B on QM: :mod:`convexdistill.distill.closed_form`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexdistill import layers
from convexdistill.distill.views import absolute, each_view, mean_over_views, views
from convexdistill.features import extract
from convexdistill.moments import Moments
from convexdistill.select import BaseExamples


@dataclass(frozen=True)
class OuterTerm:
    """What one extractor contributes.

    Attributes:
        features: Φ, ``(V·n, d+1)`` float64: base features scaled so that target features have mean squared
            norm 1, and a column of ones; view by view.
        lam: λ of the ridge head, absolute, with all views.
        root: Q, ``(r, d+1)`` with r the rank of G.
        wanted: B, ``(r, C)``.
        constant: c, the loss that no head of this extractor can avoid.
        count: V, how many rows share a label; see :mod:`convexdistill.distill.views`.
    """

    features: Tensor
    lam: float
    root: Tensor
    wanted: Tensor
    constant: float
    count: int = 1

    def to(self, device: torch.device) -> OuterTerm:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("features", "root", "wanted")}
        return replace(self, **moved)

    def head(self, labels: Tensor, backend: str = "auto") -> Tensor:
        """W(Y), ``(d+1, C)``: the ridge layer on the frozen base features, differentiable in the labels.

        The ones are a feature like the others, penalised as in the paper (§RR, the bias column).
        """
        return layers.ridge(self.features, each_view(labels, self.count), self.lam, backend=backend).weight

    def loss(self, head: Tensor) -> Tensor:
        """‖QW − B‖² + c: the mean squared loss of a head on the target set."""
        return (self.root @ head - self.wanted).square().sum() + self.constant


def outer_terms(moments: Moments, base: BaseExamples, lam: float, shown: Tensor | None = None) -> list[OuterTerm]:
    """One term for each extractor of the pool.

    Args:
        moments: of the target set.
        base: base examples; brought to the target's image shape.
        lam: λ relative to the mean diagonal of ΦΦᵀ.
        shown: views of the base images, ``(V, n, c, h, w)`` preprocessed; default: one of each, as it is.
    """
    if shown is None:
        shown = views(moments.preprocessing(base.resized(moments.shape).images))
    C = moments.num_classes
    terms = []
    for k, extractor in enumerate(moments.extractors):
        S, root, wanted = moments.roots[k]
        features = extract(extractor, shown.flatten(0, 1), None)
        features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1) * S
        constant = max(0.0, 1 - 1 / C - float(wanted.square().sum()))  # tr(TᵀT)/N = 1 − 1/C
        terms.append(OuterTerm(features, absolute(lam, features, len(shown)), root, wanted, constant, len(shown)))
    return terms


def teacher_scores(terms: Sequence[OuterTerm], lam: float = 1e-4) -> Tensor:
    """Scores ``(n, C)`` of the full-data ridge head on the base images, mean over the pool.

    The labels that a model of the same kind, trained on everything, would give: the honest baseline for
    learned labels.

    Args:
        terms: see :func:`outer_terms`; their own λ plays no part.
        lam: λ relative to the mean eigenvalue of G.
    """
    scores = []
    for term in terms:
        mean_eigenvalue = float(term.root.square().sum()) / len(term.root)
        head = layers.ridge(term.root, term.wanted, lam * mean_eigenvalue).weight
        scores.append(mean_over_views(term.features @ head, term.count))
    return torch.stack(scores).mean(0)
