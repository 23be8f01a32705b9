"""The Mahalanobis distance: Euclidean after a linear map, which is given or learned."""
# ruff: noqa: D102  the methods of a distance are described once, in the base class

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tercet.distances.base import Distance, blocks, rows_per_chunk
from tercet.distances.euclidean import Differences, Euclidean, centred, product_error, spring_gradient, squared_tile
from tercet.errors import InputError


class LinearMap(torch.nn.Module):
    """Rows x of shape (N, D) to x L', of shape (N, k); L is a parameter if it is learned, and a buffer if not."""

    components: Tensor

    def __init__(self, components: Tensor, learned: bool) -> None:
        super().__init__()
        if learned:
            self.components = torch.nn.Parameter(components)
        else:
            self.register_buffer("components", components)

    def forward(self, x: Tensor) -> Tensor:
        """Differentiable for x and for L; in the dtype of x."""
        return x @ self.components.to(x.dtype).T

    def extra_repr(self) -> str:
        """Shape, and whether it is learned."""
        k, dim = self.components.shape
        return f"{dim} -> {k}, {'learned' if isinstance(self.components, torch.nn.Parameter) else 'given'}"


@dataclass(frozen=True, init=False)
class Mahalanobis(Distance):
    """sqrt((x - y)' M (x - y)) with M = L' L: the Euclidean distance between L x and L y.

    M is the inverse covariance in Mahalanobis's own (1936), and any positive semidefinite matrix in metric
    learning, where large-margin nearest neighbours learn it (Weinberger and Saul 2009). With
    learned=True L is a parameter, which a loss registers (`module`) and an optimiser then trains: it is the
    same as a linear layer without a bias before the Euclidean distance. Two distances are equal only if their
    map is one object.

    Cost of mapping N rows: O(N·D·k) time and O(N·k) memory; the rest is Euclidean's with k dimensions.

    Args:
        matrix: M of shape (D, D), a tensor, an array or lists: symmetric up to rounding, no eigenvalue below
            zero by more than rounding. Factorised once, in float64; eigenvalues within rounding of zero are
            dropped, so that k is its rank.
        components: L of shape (k, D), instead of M.
        learned: whether L is trained, from the L or M given, or from the identity.
        dim: D, where learned=True and neither is given.

    Raises:
        InputError: the arguments are not allowed; all faults are named together.

    Example:
        >>> Mahalanobis(matrix=[[4.0, 0.0], [0.0, 1.0]]).pairs(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([2.])
    """

    linear: LinearMap

    def __init__(
        self, matrix: Any = None, components: Any = None, learned: bool = False, dim: int | None = None
    ) -> None:
        faults = _faults(matrix, components, learned, dim)
        try:
            start = _start(matrix, components, dim)
        except InputError as fault:
            faults.append(str(fault))
        if faults:
            raise InputError("\n".join(faults))
        object.__setattr__(self, "linear", LinearMap(start, learned))

    name = "mahalanobis"
    after_map = Euclidean()

    @property
    def module(self) -> LinearMap:
        return self.linear

    @property
    def components(self) -> Tensor:
        """L as it is now, of shape (k, D), without a graph."""
        return self.linear.components.detach()

    @property
    def matrix(self) -> Tensor:
        """M = L' L as it is now, of shape (D, D)."""
        return self.components.T @ self.components

    @property
    def dim(self) -> int:
        return int(self.linear.components.shape[1])

    def mapped(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found

    def check_rows(self, x: Tensor, name: str = "rows") -> None:
        super().check_rows(x, name)
        if x.device != self.components.device:
            raise InputError(
                f"{name} is on {x.device} and the map of the mahalanobis distance on {self.components.device}; "
                f"move the loss to the device of the embeddings: loss.to({str(x.device)!r})."
            )

    def sphere_range(self, dim: int) -> float:
        return 2.0 * float(torch.linalg.matrix_norm(self.components.double(), 2))

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        matrix = self.linear.components.to(x.dtype).T @ self.linear.components.to(x.dtype)
        return ((x - y) @ matrix @ (x - y)).sqrt()

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        # The map of the difference keeps the digits that the difference of the maps would lose.
        return torch.linalg.vector_norm(self.mapped(x - y), dim=1)

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        components = self.components.to(x.dtype)
        force = ((x - y) @ components.T * torch.where(d > 0, weights / d, 0)[:, None]) @ components
        return force, -force

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        return squared_tile(*self._both_mapped(x, y), self._differences(x, y)).sqrt_()

    def tile_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        components, pull = self.components.to(x.dtype), torch.where(d > 0, weights / d, 0)
        dx, dy = spring_gradient(*self._both_mapped(x, y), d * d, pull, self._differences(x, y))
        return dx @ components, dy @ components

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        # Rounding in a mapped row moves it by up to a share of |x| |L|, besides Euclidean's rounding after it.
        of_map = product_error(x) * torch.linalg.matrix_norm(self.components.to(x.dtype))
        of_distance = self.after_map.rounding(*self._both_mapped(x, y))
        x, y = (torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in centred(x, y))
        return of_distance + of_map * (x + y.amax())

    def _both_mapped(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        components = self.components.to(x.dtype).T
        x, y = centred(x, y)
        return x @ components, y @ components

    def _differences(self, x: Tensor, y: Tensor) -> Differences:
        components = self.components.to(x.dtype).T

        def differences(i: Tensor, j: Tensor) -> Tensor:
            found = x.new_empty(len(i), components.shape[1])
            for part in blocks(len(i), rows_per_chunk(x)):  # the rows may be much longer than the mapped ones
                found[part] = x.index_select(0, i[part]).sub_(y.index_select(0, j[part])) @ components
            return found

        return differences


def _faults(matrix: Any, components: Any, learned: bool, dim: int | None) -> list[str]:
    """What is wrong with the choice of arguments, one sentence each."""
    found = []
    given = matrix is not None or components is not None
    if not isinstance(learned, bool):
        found.append(f"learned is {learned!r}; allowed are True and False.")
    if matrix is not None and components is not None:
        found.append("matrix and components are both given; give one of them, since M = L' L.")
    if given and dim is not None:
        found.append(f"dim is {dim!r}, which the matrix or components given say already; leave it out.")
    if not given and not learned:
        found.append(
            "the Mahalanobis distance needs its map; give Mahalanobis(matrix=M), Mahalanobis(components=L), or "
            "Mahalanobis(learned=True, dim=D)."
        )
    elif not given and (isinstance(dim, bool) or not isinstance(dim, int) or dim < 1):
        found.append(f"dim is {dim!r}; a map learned from the identity needs the number of features, at least 1.")
    return found


def _start(matrix: Any, components: Any, dim: Any) -> Tensor:
    """L of shape (k, D) as it is given, or the identity."""
    if matrix is not None:
        return _factor(_checked("matrix", matrix, "(D, D)"))
    if components is not None:
        return _checked("components", components, "(k, D)").clone()
    return torch.eye(dim if isinstance(dim, int) and dim > 0 else 1)  # another dim is a fault that is named apart


def _checked(name: str, given: Any, shape: str) -> Tensor:
    """What is given as a floating tensor, in its own dtype if that is floating."""
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} is {given!r}; allowed are numbers of shape {shape}.") from None
    square = found.ndim == 2 and found.shape[0] == found.shape[1]
    if found.ndim != 2 or not found.numel() or found.is_complex() or (shape == "(D, D)" and not square):
        raise InputError(
            f"{name} has shape {tuple(found.shape)} and dtype {found.dtype}; allowed are real numbers of shape {shape}."
        )
    if found.requires_grad:
        raise InputError(
            f"{name} requires a gradient, and it is a copy that is kept; give {name}.detach(), with learned=True to "
            f"train the copy."
        )
    if not found.isfinite().all():
        raise InputError(f"{name} holds numbers that are not finite.")
    if not found.any():
        raise InputError(f"{name} holds nothing but zeros, so that every distance would be 0.")
    return found if found.is_floating_point() else found.to(torch.get_default_dtype())


def _factor(matrix: Tensor) -> Tensor:
    """L of shape (rank, D) with L' L = M, in the matrix's dtype."""
    epsilon = torch.finfo(matrix.dtype).eps
    skew = float((matrix - matrix.T).abs().max())
    if skew > math.sqrt(epsilon) * float(matrix.abs().max()):
        raise InputError(f"matrix is not symmetric: M and M' differ by up to {skew:g}.")
    exact = matrix.double()
    values, vectors = torch.linalg.eigh((exact + exact.T) / 2)
    rounding = 10 * len(matrix) * epsilon * float(values.abs().max())  # what is 0 may be this far from it
    if float(values[0]) < -rounding:
        raise InputError(f"matrix is not positive semidefinite: its smallest eigenvalue is {float(values[0]):g}.")
    kept = values > rounding
    return (values[kept].sqrt()[:, None] * vectors.T[kept]).to(matrix.dtype).contiguous()
