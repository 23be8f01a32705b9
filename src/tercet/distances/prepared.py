"""Rows made ready once for a whole call, as plain tensors and numbers, for kernels that visit them in tiles."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prepared:
    """Rows of which the distances follow from matrix products alone, whatever the tiles.

        s[a, m] = norms_x[a] + norms_y[m] - 2 rows_x[a] · rows_y[m]                  by products
                = |direct_x[a] - direct_y[m]|² + extra_x[a] + extra_y[m]             by direct differences
        d[a, m] = sqrt(s[a, m]) if root, else factor * s[a, m]

    The centre taken off rows_x and rows_y saves digits in products, and rounds: differences of near rows are
    to be taken from direct_x and direct_y. With G the gradient for rows_x (or direct_x, which is the same),
    `backward_x(G)` is that for the x given. Where x and y were one tensor, rows_x and rows_y are one
    too, as are direct_x and direct_y; the sum of both gradients then goes through either.

    Attributes:
        rows_x: of shape (A, D), contiguous: direct_x less a centre that it shares with y.
        rows_y: of shape (M, D), the same.
        direct_x: of shape (A, D), contiguous: the rows given; for cosine, divided by their lengths.
        direct_y: of shape (M, D), the same.
        norms_x: |rows_x|² + extra_x, of shape (A,).
        norms_y: |rows_y|² + extra_y, of shape (M,).
        extra_x: of shape (A,): 1 for a zero row under cosine, which is thereby at distance 1 from every row;
            otherwise 0. If any row of either side is one, no centre is taken off.
        extra_y: of shape (M,), the same.
        root: whether a distance is the root of s; then factor is 1.
        factor: of s, where root is False.
        length_x: what the rows were divided by, of shape (A, 1); None if they were not.
        length_y: of shape (M, 1), the same.
    """

    rows_x: Tensor
    rows_y: Tensor
    direct_x: Tensor
    direct_y: Tensor
    norms_x: Tensor
    norms_y: Tensor
    extra_x: Tensor
    extra_y: Tensor
    root: bool
    factor: float
    length_x: Tensor | None = None
    length_y: Tensor | None = None

    def backward_x(self, gradient: Tensor) -> Tensor:
        """The gradient for the x given, of shape (A, D), from that for rows_x; zero for a zero row under cosine."""
        return _backward(gradient, self.direct_x, self.length_x, self.extra_x)

    def backward_y(self, gradient: Tensor) -> Tensor:
        """The gradient for the y given, of shape (M, D), from that for rows_y; zero for a zero row under cosine."""
        return _backward(gradient, self.direct_y, self.length_y, self.extra_y)


def _backward(gradient: Tensor, unit: Tensor, length: Tensor | None, extra: Tensor) -> Tensor:
    if length is None:
        return gradient
    tangent = gradient - (gradient * unit).sum(1, keepdim=True) * unit  # only what turns a row counts
    return (tangent / length).masked_fill_((extra > 0)[:, None], 0)
