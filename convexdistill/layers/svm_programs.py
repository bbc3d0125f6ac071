"""Support vector machines written as quadratic programs; the formulas stand in ``svm.py``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import UnsupportedError
from convexdistill.layers.backends.base import inside_transform
from convexdistill.layers.problems.base import broadcast_shapes
from convexdistill.layers.problems.quadratic import QuadraticProblem
from convexdistill.layers.reduction import Recover

INDEPENDENT = 1e-5  # least ratio of the Cholesky pivots of XXᵀ, so a condition of about 1e10


class Design(NamedTuple):
    """How scores depend on the unknowns of one column: z = D u + b, with the penalty ½ λ uᵀMu.

    Attributes:
        D: (*B, n, k): X, or XXᵀ in the dual form.
        M: (*B, k, k): the identity, or XXᵀ.
        X: (*B, n, d), with a column of ones for a penalized intercept.
        intercept: ``"none"``, ``"free"`` or ``"penalized"``.
        form: ``"primal"`` or ``"dual"``.
    """

    D: Tensor
    M: Tensor
    X: Tensor
    intercept: str
    form: str

    @staticmethod
    def of(X: Tensor, intercept: str, form: str) -> Design:
        """The design of features X (*B, n, d); ``form="auto"`` takes the fewer unknowns.

        Raises:
            UnsupportedError: the dual form has more examples than features.
        """
        if intercept == "penalized":
            X = torch.cat([X, X.new_ones(*X.shape[:-1], 1)], -1)
        n, d = X.shape[-2:]
        if form == "dual" and n > d:
            raise UnsupportedError(
                f'form="dual" has {n} examples for {d} features, so that the coefficients of the examples are not '
                'unique; use form="primal".'
            )
        if form != "primal" and n <= d:
            K = X @ X.mT
            if form == "dual" or (n < d and (inside_transform() or _independent(K))):
                return Design(K, K, X, intercept, "dual")
        return Design(X, torch.eye(d, dtype=X.dtype, device=X.device), X, intercept, "primal")

    @property
    def free(self) -> int:
        """Number of unknowns for the intercept of one column."""
        return int(self.intercept == "free")

    def fit(self, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        """(weight, intercept) of unknowns u (*B, C, k) and b (*B, C)."""
        W = u.mT if self.form == "primal" else self.X.mT @ u.mT
        if self.intercept == "penalized":
            return W[..., :-1, :], W[..., -1, :]
        return W, b if self.free else None

    def unique(self, columns: int, slacks: int) -> Tensor:
        """Which unknowns must be unique: not A of W = XᵀA, which is one of many where examples repeat."""
        u = torch.full((columns * self.D.shape[-1],), self.form == "primal", device=self.D.device)
        b = torch.ones(columns * self.free, dtype=torch.bool, device=self.D.device)
        return torch.cat([u, b, torch.zeros(slacks, dtype=torch.bool, device=self.D.device)])


def crammer_singer(design: Design, Y: Tensor, lam: Tensor, s: Tensor) -> tuple[QuadraticProblem, Recover]:
    """One program in u of all columns, b, and the slacks t.

    Args:
        design: what the scores are made of.
        Y: (*B, n, C).
        lam: (*B, C or 1).
        s: (*B, n).
    """
    D, C, free = design.D, Y.shape[-1], design.free
    n, k = D.shape[-2:]
    wide = C * (k + free)
    columns = torch.eye(C, dtype=D.dtype, device=D.device)
    weighted = s.unsqueeze(-1) * Y

    penalty = (lam[..., None, None] * design.M.unsqueeze(-3)).expand(
        *broadcast_shapes(lam.shape[:-1], design.M.shape[:-2]), C, k, k
    )
    P = (penalty.unsqueeze(-2) * columns[:, None, :, None]).flatten(-4, -3).flatten(-2)
    P = torch.nn.functional.pad(P, (0, free * C + n, 0, free * C + n))

    on_u = -(D.mT @ weighted).mT.flatten(-2)
    q = _join(on_u, *([-weighted.sum(-2)] if free else []), s)

    # Row (i, c): z_ic − t_i ≤ y_ic.
    scores = (D[..., :, None, None, :] * columns[:, :, None]).flatten(-2).flatten(-3, -2)
    parts = [scores, *([columns.repeat(n, 1)] if free else [])]
    eye = torch.eye(n, dtype=D.dtype, device=D.device).repeat_interleave(C, 0)
    rows, bounds = _join(*parts, -eye, core=2), Y.flatten(-2)
    if free:  # Σ_c b_c = 0
        gauge = torch.zeros(1, wide + n, dtype=D.dtype, device=D.device)
        gauge[:, C * k : wide] = 1.0
        rows = torch.cat([gauge.expand(*rows.shape[:-2], 1, -1), rows], -2)
        bounds = torch.nn.functional.pad(bounds, (1, 0))

    problem = QuadraticProblem(
        P.unsqueeze(-3),
        q.unsqueeze(-2),
        rows.unsqueeze(-3),
        bounds.unsqueeze(-2),
        equalities=free,
        slack=_last(wide + n, n, D.device),
        unique=design.unique(C, n),
        form=design.form,
    )

    def recover(x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = x.squeeze(-2)
        return design.fit(x[..., : C * k].unflatten(-1, (C, k)), x[..., C * k : wide])

    return problem, recover


def one_vs_rest(design: Design, Y: Tensor, lam: Tensor, s: Tensor) -> tuple[QuadraticProblem, Recover]:
    """A program for every column in u, b, ξ ≥ max(0, 1 − z) and ζ ≥ max(0, 1 + z).

    Labels of 0 and 1 leave one of the two slacks without a price.

    Args:
        design: what the scores are made of.
        Y: (*B, n, C).
        lam: (*B, C or 1).
        s: (*B, n).
    """
    D, free = design.D, design.free
    n, k = D.shape[-2:]
    P = lam[..., None, None] * design.M.unsqueeze(-3)
    P = torch.nn.functional.pad(P, (0, free + 2 * n, 0, free + 2 * n))
    weighted, rest = (s.unsqueeze(-1) * Y).mT, (s.unsqueeze(-1) * (1 - Y)).mT
    q = _join(Y.new_zeros(k + free), weighted, rest)

    eye = torch.eye(n, dtype=D.dtype, device=D.device)
    none, one = torch.zeros_like(eye), eye.new_ones(n, free)
    above = _join(-D, -one, -eye, none, core=2)
    below = _join(D, one, none, -eye, core=2)
    signs = torch.cat([eye.new_zeros(2 * n, k + free), -torch.eye(2 * n, dtype=D.dtype, device=D.device)], -1)
    rows = torch.cat([above, below, signs.expand(*D.shape[:-2], *signs.shape)], -2)
    bounds = torch.cat([eye.new_full((2 * n,), -1.0), eye.new_zeros(2 * n)])

    problem = QuadraticProblem(
        P,
        q,
        rows.unsqueeze(-3),
        bounds.unsqueeze(-2),
        slack=_last(k + free + 2 * n, 2 * n, D.device),
        unique=design.unique(1, 2 * n),
        form=design.form,
    )

    def recover(x: Tensor) -> tuple[Tensor, Tensor | None]:
        return design.fit(x[..., :k], x[..., k : k + free].squeeze(-1) if free else x[..., 0])

    return problem, recover


def _last(size: int, count: int, device: torch.device) -> Tensor:
    """A mask of the last entries."""
    return torch.arange(size, device=device) >= size - count


def _join(*parts: Tensor, core: int = 1) -> Tensor:
    """Parts side by side, after their leading dimensions are made equal."""
    batch = broadcast_shapes(*(p.shape[:-core] for p in parts))
    return torch.cat([p.expand(*batch, *p.shape[-core:]) for p in parts], -1)


@torch.no_grad()
def _independent(K: Tensor) -> bool:
    """Whether no example of any batch element is, or nearly is, a combination of the others.

    Where one is, A of W = XᵀA is not unique, and has no derivative although W has one.
    """
    L, failed = torch.linalg.cholesky_ex(K.detach())
    pivots = L.diagonal(dim1=-2, dim2=-1)
    return not bool(((pivots.amin(-1) < INDEPENDENT * pivots.amax(-1)) | (failed != 0)).any())
