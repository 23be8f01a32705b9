"""The gradient for rows, as tiles and lists of pairs add to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import numpy as np
import torch
from torch import Tensor

from tercet.kernels.compiled.loops import Array


class Pulls:
    """The gradient for rows as it is gathered: part of it as a matrix, and part as numbers that rows are multiplied by.

    Attributes:
        dx, dy: of the rows' shapes; one tensor for rows among themselves.
        of_x, of_y: float64, a number for each row; one array likewise.
    """

    def __init__(self, x: Tensor, y: Tensor, two_sided: bool) -> None:
        self.dx, self.of_x = torch.zeros_like(x), np.zeros(len(x))
        self.dy, self.of_y = (self.dx, self.of_x) if two_sided else (torch.zeros_like(y), np.zeros(len(y)))

    @contextmanager
    def part(self, rows: slice) -> Iterator[Pulls]:
        """Within the block, those of some of the x.

        Where the y are the x, and not all of them are asked for, theirs are gathered apart and added at the end of the
        block: what is added for the y at the same time may be of the same rows.
        """
        found = copy(self)
        found.dx, found.of_x = self.dx[rows], self.of_x[rows]
        apart = self.dy is self.dx and len(found.dx) < len(self.dx)
        if apart:
            found.dx, found.of_x = torch.zeros_like(found.dx), np.zeros_like(found.of_x)
        yield found
        if apart:
            self.dx[rows] += found.dx
            self.of_x[rows] += found.of_x

    def whole(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient for x and y."""
        _add_pulled(self.dx, self.of_x, x)
        if self.dy is not self.dx:
            _add_pulled(self.dy, self.of_y, y)
        return self.dx, self.dy


def _add_pulled(gradient: Tensor, pulls: Array, rows: Tensor) -> None:
    """Add diag(pulls) rows."""
    gradient.addcmul_(torch.from_numpy(pulls).to(rows.dtype)[:, None], rows)
