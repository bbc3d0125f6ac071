r"""Ridge regression that reads its features in blocks: a float64 copy of them never exists.

For a chunk of batch elements, with D the features less their mean, or with a column of ones, and weights s:

- the Gram matrix G = MᵀM is summed over blocks, M = √s D over rows in the primal form, M = (√s D)ᵀ over columns
  of features in the dual; where Cholesky of T = G + λI is not good enough, R with RᵀR = T comes from QR of
  [R; block], one block after the other, starting with √λ I, and never sees the squared condition;
- S⁻¹B, with S = DᵀsD + λI, is T⁻¹B in the primal, and (B − Dᵀ√s T⁻¹ √s D B)/λ in the dual (Woodbury);
- where the condition asks, an answer is corrected by S⁻¹ of what is left of its equation, formed from D
  (Björck 1987);
- with U = S⁻¹W̄ and E = Y − DW: ``∂Y = s DU``, ``∂D = s (E Uᵀ − DU Wᵀ)``, ``∂s = Σ_c E DU`` and
  ``∂λ_c = −⟨U_c, W_c⟩``, block by block. Centring adds nothing to these, since Σ s D = 0 and Σ s E = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from convexdistill.layers.backends.torch_backend.ridge.factors import apply, inverse_norm

REFINE_ABOVE = 1e4  # as in solver.py: from this condition on an answer is corrected
CHOLESKY_CONDITION = 1e10
CORRECTIONS = 2

Read = Callable[[slice, slice], Tensor]


class Design(NamedTuple):
    """The features of a chunk as blocks.

    Attributes:
        read: (rows, columns) -> X there, float64, (b, r, w); a copy where the design changes it in place.
        n: examples.
        d: features of X.
        root: √s, (b, n, 1), or None for 1.
        mean: x̄, (b, 1, d), which is subtracted, or None.
        ones: whether a column of ones stands at the end.
        rows: how many rows a block has.
        columns: how many columns of features a block of columns has.
        dual: whether the system is n×n.
    """

    read: Read
    n: int
    d: int
    root: Tensor | None
    mean: Tensor | None
    ones: bool
    rows: int
    columns: int
    dual: bool

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and D there, (b, r, k)."""
        for start in range(0, self.n, self.rows):
            rows = slice(start, min(start + self.rows, self.n))
            block = self.read(rows, slice(None))
            if self.mean is not None:
                block -= self.mean
            if self.ones:
                block = torch.cat([block, block.new_ones(*block.shape[:-1], 1)], -1)
            yield rows, block

    def system_blocks(self) -> Iterator[Tensor]:
        """Rows of M, (b, r, p)."""
        if not self.dual:
            for rows, block in self.blocks():
                yield block if self.root is None else block.mul_(self.root[:, rows])
            return
        for start in range(0, self.d, self.columns):
            columns = slice(start, min(start + self.columns, self.d))
            block = self.read(slice(None), columns)
            if self.mean is not None:
                block -= self.mean[..., columns]
            yield (block if self.root is None else block.mul_(self.root)).mT
        if self.ones:
            shape = (block.shape[0], 1, self.n)
            yield block.new_ones(shape) if self.root is None else self.root.mT.expand(shape)

    def weighted(self, values: Tensor, rows: slice, power: int = 2) -> Tensor:
        """√s to a power times values (b, r, c)."""
        if self.root is None:
            return values
        root = self.root[:, rows]
        return values * (root if power == 1 else root.square())

    def image(self, V: Tensor) -> Tensor:
        """√s D V, (b, n, c)."""
        return torch.cat([self.weighted(block @ V, rows, 1) for rows, block in self.blocks()], -2)

    def adjoint(self, Z: Tensor) -> Tensor:
        """Dᵀ√s Z, (b, k, c)."""
        return total_of(block.mT @ self.weighted(Z[:, rows], rows, 1) for rows, block in self.blocks())


def total_of(values: Iterator[Tensor]) -> Tensor:
    """The sum, in place."""
    total = next(values)
    for value in values:
        total += value
    return total


class Factors(NamedTuple):
    """T = G + λI, factored.

    Attributes:
        method: ``"cholesky"`` or ``"qr"``.
        factor: its tensor, (b, p, p).
        lam: (b,).
        condition: (b,).
        singular: (b,) bool.
        square: (b,) ‖√s D‖².
        corrections: how often an answer is to be corrected.
    """

    method: str
    factor: Tensor
    lam: Tensor
    condition: Tensor
    singular: Tensor
    square: Tensor
    corrections: int


def gram(design: Design) -> Tensor:
    """G = MᵀM, (b, p, p), summed over blocks."""
    G = None
    for block in design.system_blocks():
        if G is None:
            G = block.new_zeros(block.shape[0], block.shape[-1], block.shape[-1])
        G.baddbmm_(block.mT, block)
    assert G is not None
    return G


def factor(design: Design, G: Tensor, lam: Tensor, method: str) -> Factors:
    """Factor T = G + λI for λ (b,); ``"auto"`` takes QR where the condition is above 1e10."""
    square = G.diagonal(dim1=-2, dim2=-1).sum(-1)
    epsilon = torch.finfo(G.dtype).eps * max(design.n, G.shape[-1])
    if method != "qr":
        T = G.clone()
        T.diagonal(dim1=-2, dim2=-1).add_(lam.unsqueeze(-1))
        size = torch.linalg.matrix_norm(T)
        L, info = torch.linalg.cholesky_ex(T)
        del T
        condition = size * inverse_norm("cholesky", (L,))
        good = (info == 0) & (condition <= CHOLESKY_CONDITION)
        if method == "cholesky" or bool((good | ~square.isfinite()).all()):
            singular = (info != 0) | ~(condition * epsilon < 1)
            corrections = CORRECTIONS if bool((condition > REFINE_ABOVE).any()) else 0
            return Factors("cholesky", L, lam, condition, singular, square, corrections)
        del L
    R = torch.diag_embed(lam.sqrt().unsqueeze(-1).expand(G.shape[:-1]))
    for block in design.system_blocks():
        R = torch.linalg.qr(torch.cat([R, block], -2), mode="r").R
    diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
    singular = diagonal.amin(-1) <= epsilon * diagonal.amax(-1)
    condition = torch.linalg.matrix_norm(R) ** 2 * inverse_norm("qr", (R,))
    return Factors("qr", R, lam, condition, singular, square, CORRECTIONS)


def inverse(design: Design, factors: Factors, B: Tensor) -> Tensor:
    """S⁻¹B, (b, k, c), before corrections."""
    if not design.dual:
        return apply(factors.method, (factors.factor,), B)
    inside = apply(factors.method, (factors.factor,), design.image(B))
    return (B - design.adjoint(inside)) / factors.lam[:, None, None]


def fit(design: Design, factors: Factors, labels: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The answer W (b, k, c) for labels, rows -> (b, r, c); ‖gradient‖² and ‖√s Y‖² of every element."""
    lam = factors.lam[:, None, None]

    def left(W: Tensor | None) -> Tensor:
        """Dᵀs(Y − DW) − λW."""

        def rest(rows: slice, block: Tensor) -> Tensor:
            Y = labels(rows)
            return block.mT @ design.weighted(Y if W is None else Y.sub_(block @ W), rows)

        total = total_of(rest(rows, block) for rows, block in design.blocks())
        return total if W is None else total - lam * W

    if design.dual:
        everything = range(0, design.n, design.rows)
        slices = [slice(i, min(i + design.rows, design.n)) for i in everything]
        right = torch.cat([design.weighted(labels(rows), rows, 1) for rows in slices], -2)
        W = design.adjoint(apply(factors.method, (factors.factor,), right))
    else:
        W = inverse(design, factors, left(None))
    for _ in range(factors.corrections):
        W += inverse(design, factors, left(W))
    size = torch.zeros_like(factors.lam)
    for start in range(0, design.n, design.rows):
        rows = slice(start, min(start + design.rows, design.n))
        size += design.weighted(labels(rows), rows, 1).square().sum((-2, -1))
    return W, left(W).square().sum((-2, -1)), size


def adjoint(design: Design, factors: Factors, W_bar: Tensor) -> tuple[Tensor, Tensor]:
    """U = S⁻¹W̄, and ‖SU − W̄‖² of every element."""

    def left(U: Tensor) -> Tensor:
        total = W_bar - factors.lam[:, None, None] * U
        for rows, block in design.blocks():
            total -= block.mT @ design.weighted(block @ U, rows)
        return total

    U = inverse(design, factors, W_bar)
    for _ in range(factors.corrections):
        U += inverse(design, factors, left(U))
    return U, left(U).square().sum((-2, -1))
