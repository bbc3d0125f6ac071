"""Matrices that are known by their products only, and one way to ask any of them for a product.

Whatever can multiply may stand where a matrix stands: a dense or sparse tensor, an object of another library
with ``.shape``, ``@`` and a transpose, or two functions in a :class:`LinearOperator`. :func:`products` turns
each into a pair of checked functions on float64 tensors, which autograd can follow into whatever they use.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convexdistill.errors import DtypeError, ShapeError, UnsupportedError

Product = Callable[[Tensor], Tensor]


class LinearOperator:
    """A matrix A (*B, n, d) given by its products.

    Args:
        shape: (*B, n, d).
        matmul: x (*B, d, c) -> A x (*B, n, c), in float64. Gradients reach whatever tensors it uses.
        rmatmul: y (*B, n, c) -> Aᵀ y (*B, d, c). Default: worked out from ``matmul`` by autograd, at the
            price of one more product each time.

    Raises:
        ShapeError: ``shape`` has fewer than two dimensions.

    Example:
        A banded matrix that is never written out; its gradient reaches ``taps``.

        >>> import torch
        >>> from convexdistill.layers import LinearOperator, ridge_matrix_free
        >>> taps = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64, requires_grad=True)
        >>> def blur(x):  # (30, c) -> (30, c)
        ...     return torch.nn.functional.conv1d(x.T[:, None], taps[None, None], padding=1)[:, 0].T
        >>> A = LinearOperator((30, 30), blur)
        >>> labels = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
        >>> fit = ridge_matrix_free(A, labels, lam=0.1)
        >>> fit.weight.sum().backward()
        >>> taps.grad.shape, fit.info.method
        (torch.Size([3]), 'cg')
    """

    def __init__(self, shape: tuple[int, ...], matmul: Product, rmatmul: Product | None = None) -> None:
        if len(shape) < 2:
            raise ShapeError(f"shape is {tuple(shape)}; a LinearOperator needs (*B, n, d).")
        self.shape = torch.Size(shape)
        self.matmul = matmul
        self.rmatmul = rmatmul or self._transposed
        self.transposes_itself = rmatmul is None

    def _transposed(self, y: Tensor) -> Tensor:
        """Aᵀy: the gradient of ⟨A x, y⟩ to x, wherever x is, for A x is linear."""
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            x = torch.zeros(*self.shape[:-2], self.shape[-1], y.shape[-1], dtype=y.dtype, device=y.device)
            x = x.expand(*y.shape[:-2], *x.shape[-2:]).contiguous().requires_grad_()
            image = self.matmul(x)
            (answer,) = torch.autograd.grad(image, x, y, create_graph=again, retain_graph=again)
        return answer


class Products(NamedTuple):
    """The products with a matrix A (*B, n, d).

    Attributes:
        shape: (*B, n, d).
        matmul: x (*S, d, c) -> A x.
        rmatmul: y (*S, n, c) -> Aᵀ y.
        column_squares: () -> (*B, d) squared norms of the columns; None where they are not at hand.
        adjoint: whether rmatmul is known to be the transpose of matmul; the user's own has to show it.
    """

    shape: torch.Size
    matmul: Product
    rmatmul: Product
    column_squares: Callable[[], Tensor] | None = None
    adjoint: bool = True


def products(operator: Any) -> Products:
    """The checked products of anything that can multiply.

    Args:
        operator: a dense or sparse tensor of any floating dtype; or an object with ``shape``, with ``matmul`` or
            ``@``, and with ``mT``, ``T`` or ``rmatmul`` (which then means Aᵀy, as in scipy), whose products
            are float64.

    Raises:
        ShapeError: it has no shape (*B, n, d), or batches of sparse matrices.
        DtypeError: its own dtype is not float64, and it is no tensor.
        UnsupportedError: it has no products, or no transpose.
    """
    A = _of_tensor(operator) if isinstance(operator, Tensor) else _of_object(operator)
    if len(A.shape) > 2:
        return A
    return A._replace(matmul=_folded(A.matmul), rmatmul=_folded(A.rmatmul))


def _folded(product: Product) -> Product:
    """The product with one matrix, for any number of leading dimensions: they become columns and come back."""

    def folded(x: Tensor) -> Tensor:
        if x.ndim == 2:
            return product(x)
        rows = x.movedim(-2, 0)
        y = product(rows.reshape(rows.shape[0], -1))
        return y.reshape(y.shape[0], *rows.shape[1:]).movedim(0, -2)

    return folded


def _of_object(operator: Any) -> Products:
    """The products of what is no tensor."""
    shape = getattr(operator, "shape", None)
    kind = type(operator).__qualname__
    if shape is None or len(shape) < 2:
        raise ShapeError(
            f"operator is a {kind} with shape {shape}; it needs a shape (*B, n, d). "
            "Wrap functions in convexdistill.layers.LinearOperator(shape, matmul)."
        )
    shape = torch.Size(shape)
    dtype = getattr(operator, "dtype", torch.float64)
    if isinstance(dtype, torch.dtype) and dtype != torch.float64:
        raise DtypeError(
            f"operator is a {kind} of {dtype}; matrix-free solves run in float64, so give it a float64 one, "
            "for example operator.double()."
        )
    forward = getattr(operator, "matmul", None) or getattr(operator, "__matmul__", None)
    transpose = next((t for t in (getattr(operator, name, None) for name in ("mT", "T")) if t is not None), None)
    if transpose is not None:
        backward = getattr(transpose, "matmul", None) or getattr(transpose, "__matmul__", None)
    else:
        backward = getattr(operator, "rmatmul", None)
    if forward is None or backward is None:
        missing = "matmul nor @" if forward is None else "mT, T nor rmatmul"
        raise UnsupportedError(
            f"operator is a {kind} with neither {missing}; wrap it in "
            "convexdistill.layers.LinearOperator(shape, matmul, rmatmul), where rmatmul may be left out."
        )
    n, d = shape[-2:]
    return Products(
        shape,
        _checked(forward, n, f"{kind}: A x"),
        _checked(backward, d, f"{kind}: Aᵀ y"),
        adjoint=getattr(operator, "transposes_itself", False) is True,
    )


def _of_tensor(A: Tensor) -> Products:
    """The products of a dense tensor (*B, n, d), or of a sparse one (n, d), in float64."""
    if A.layout == torch.strided:
        X = A.double()

        def squares() -> Tensor:
            return X.detach().square().sum(-2)

        return Products(X.shape, lambda x: X @ x, lambda y: X.mT @ y, squares)
    if A.ndim != 2:
        raise ShapeError(
            f"operator is a sparse tensor of shape {tuple(A.shape)}; torch multiplies sparse matrices without "
            "batch dimensions only, so pass one (n, d) at a time."
        )
    n, d = A.shape
    coo = A.double() if A.layout == torch.sparse_coo else A.double().to_sparse_coo()
    coo = coo.coalesce()  # the layout whose products have gradients to the values, both ways round
    rows, columns = coo.indices()
    values = coo.values()

    def sparse_squares() -> Tensor:
        return values.new_zeros(d).index_add(0, columns, values.detach().square())

    def sum_into(size: int, at: Tensor, start: Tensor, x: Tensor) -> Tensor:
        return x.new_zeros(size, x.shape[-1]).index_add(0, at, values.unsqueeze(-1) * x[start])

    if values.requires_grad:
        return Products(
            A.shape,
            lambda x: sum_into(n, rows, columns, x),
            lambda y: sum_into(d, columns, rows, y),
            sparse_squares,
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        compact, transposed = coo.to_sparse_csr(), coo.mT.to_sparse_csr()  # the layout whose products are fast
    return Products(A.shape, lambda x: compact @ x, lambda y: transposed @ y, sparse_squares)


def _checked(product: Product, rows: int, name: str) -> Product:
    """The product, refused where it is not a float64 tensor of the right size."""

    def checked(x: Tensor) -> Tensor:
        try:
            y = product(x)
        except RuntimeError as error:
            if "dtype" not in str(error):
                raise
            raise DtypeError(f"{name} does not take a float64 tensor ({error}); give it float64 parts.") from error
        if not isinstance(y, Tensor) or y.dtype != torch.float64:
            found = y.dtype if isinstance(y, Tensor) else type(y).__qualname__
            raise DtypeError(f"{name} gave {found} for a float64 tensor; it must give a float64 tensor.")
        if y.shape[-2:] != (rows, x.shape[-1]):
            raise ShapeError(
                f"{name} gave shape {tuple(y.shape)} for {tuple(x.shape)}; its last two dimensions must be "
                f"({rows}, {x.shape[-1]})."
            )
        return y

    return checked
