"""The softmax loss and its derivatives, in ways that keep their digits where probabilities are near 0 or 1.

With Z = XW, P = softmax(Z) row by row, masses w_i = s_i m_i and targets T_i = s_i y_i, the objective
``Σ_i (w_i logsumexp(z_i) − T_i · z_i) + ½⟨Λ∘W, W⟩`` has

    gradient    Xᵀ R + Λ∘W,                 R = diag(w) P − T
    Hessian     V ↦ Xᵀ K(XV) + Λ∘V,         K(Q)_i = w_i (P_i∘Q_i − P_i Σ_c P_ic Q_ic).

Adding a constant to a row of W changes no probability. On such shifts the Hessian of the data is zero, and on what
is orthogonal to them (rows of sum zero) H acts by itself wherever the penalty is the same for all classes. In rows
where the answer is known to sum to zero (*gauged* rows: of a free intercept, and all rows where λ is shared by the
classes), shifts are therefore left out of every system.
"""

from __future__ import annotations

import torch
from torch import Tensor


def complement(P: Tensor) -> Tensor:
    """1 − P to full relative accuracy: near 1 it is the sum of the other probabilities."""
    largest = P.amax(-1, keepdim=True) <= P
    others = P.masked_fill(largest, 0.0).sum(-1, keepdim=True)
    ties = largest.sum(-1, keepdim=True) - 1
    return torch.where(largest, others + ties * P, 1 - P)


def misfit(P: Tensor, w: Tensor, T: Tensor) -> Tensor:
    """R = diag(w) P − T, (*B, n, C), with rows that sum to zero although P was rounded.

    The sum is zero because Σ_c T_ic = w_i. Putting the rounding error on the likeliest class makes its entry minus
    the sum of the others, which for a confident prediction of a one-hot label are the small numbers that matter.
    """
    R = w.unsqueeze(-1) * P - T
    largest = P.amax(-1, keepdim=True) <= P
    share = largest / largest.sum(-1, keepdim=True)
    return R - share * R.sum(-1, keepdim=True)


def curve(w: Tensor, P: Tensor, Q: Tensor) -> Tensor:
    """K(Q), (*B, n, C): the Hessian of the loss in the logits, applied to Q."""
    return w.unsqueeze(-1) * P * (Q - (P * Q).sum(-1, keepdim=True))


def hessian_apply(X: Tensor, w: Tensor, P: Tensor, penalty: Tensor, V: Tensor) -> Tensor:
    """HV, (*B, D, C).

    Args:
        X: (*B, n, D).
        w: masses, (*B, n).
        P: probabilities, (*B, n, C).
        penalty: Λ, (*B, D, C).
        V: (*B, D, C).
    """
    return X.mT @ curve(w, P, X @ V) + penalty * V


def without_shift(V: Tensor, gauged: Tensor) -> Tensor:
    """V with rows that sum to zero where ``gauged``, (*B, D, 1), is 1."""
    return V - gauged * V.mean(-1, keepdim=True)


def line_minimum(
    Z: Tensor, ZD: Tensor, w: Tensor, T: Tensor, slope: Tensor, bend: Tensor
) -> tuple[Tensor, Tensor]:
    """A step length t along D that surely lowers the objective, and how far t = 1 would move a logit.

    Along a line φ(t) = objective(W + tD), and φ''' is at most M φ'' for M the largest range of a row of XD: the
    third cumulant of a variable is at most its range times its variance. So from any t with φ' ≤ 0 the step
    ``log(1 + Ma)/M``, a = −φ'/φ'', stays left of the minimum (Bach 2010, "Self-concordant analysis for logistic
    regression", section 2; Sun & Tran-Dinh 2019). A few such steps come near the minimum, without a trial that
    could fail; for small M they are Newton's.

    Args:
        Z: logits XW, (*B, n, C).
        ZD: XD, (*B, n, C).
        w: masses, (*B, n).
        T: targets, (*B, n, C).
        slope: ⟨Λ∘W, D⟩, (*B,).
        bend: ⟨Λ∘D, D⟩, (*B,).

    Returns:
        t (*B,), M (*B,).
    """
    ranges = (ZD.amax(-1) - ZD.amin(-1)).masked_fill(w <= 0, 0.0)
    M = ranges.amax(-1)
    t = torch.zeros_like(M)
    for _ in range(LINE_STEPS):
        P = torch.softmax(Z + t[..., None, None] * ZD, -1)
        first = (misfit(P, w, T) * ZD).sum((-2, -1)) + slope + t * bend
        second = (curve(w, P, ZD) * ZD).sum((-2, -1)) + bend
        ahead = (-first / second.clamp_min(TINY)).clamp_min(0.0)
        t = t + torch.where(M * ahead > SMALL, torch.log1p(M * ahead) / M.clamp_min(TINY), ahead)
    return torch.where(SMALL < M, t, 1.0), M


LINE_STEPS = 6
SMALL = 1e-3  # below this many units of logit, the objective is as good as quadratic
TINY = torch.finfo(torch.float64).tiny
