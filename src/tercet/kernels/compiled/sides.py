"""Anchors and references made ready once: sorted by class, and as products and loops take them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tercet.distances import Chebyshev, Distance, Jaccard, Manhattan, Minkowski, Prepared
from tercet.distances.euclidean import product_error
from tercet.kernels.compiled.loops import CHEBYSHEV, JACCARD, MANHATTAN, MINKOWSKI, PRODUCT, Array, Metric, Rows
from tercet.kernels.pairing import Batch, Pairing

ELEMENTWISE: dict[type[Distance], int] = {
    Manhattan: MANHATTAN,
    Chebyshev: CHEBYSHEV,
    Minkowski: MINKOWSKI,
    Jaccard: JACCARD,
}


@dataclass(frozen=True)
class Sides:
    """Both sides of a batch; anchors and references are sorted by class, where items have one.

    Attributes:
        batch: in the user's order. Of a strip it is still the whole batch.
        two_sided: whether a tile (i, j) serves the anchors j as well: rows among themselves, by class.
        order_x, order_y: where the rows were; None if they are in the user's order.
        rows_x, rows_y: the rows of the products.
        x, y: the rows of the differences, for the loops.
        metric: the distance.
        prepared: what the rows were made by; None of a distance without products.
        codes_x, codes_y: the classes; empty if there are none.
        exclusions: codes of both sides; a pair of equal codes is none.
        only_rows_exclude: whether what is excluded is each row itself and no more, which its class excludes already.
        strip: the anchors, of all in this order.
    """

    batch: Batch
    two_sided: bool
    order_x: Tensor | None
    order_y: Tensor | None
    rows_x: Tensor
    rows_y: Tensor
    x: Rows
    y: Rows
    metric: Metric
    prepared: Prepared | None
    codes_x: Array
    codes_y: Array
    exclusions: list[tuple[Array, Array]]
    only_rows_exclude: bool
    strip: slice

    @classmethod
    def of(cls, batch: Batch, distance: Distance) -> Sides:
        """The sides of a batch."""
        order_x = order_y = None
        if batch.is_by_class:
            order_x = batch.labels.sort(stable=True)[1]
            order_y = order_x if batch.is_alone else batch.reference_labels.sort(stable=True)[1]
        anchors = in_order(batch.anchors, order_x)
        references = anchors if batch.is_alone else in_order(batch.references, order_y)
        prepared = distance.prepared(anchors, references)
        if prepared is None:
            x, y, metric = _for_loops(anchors, references, distance, order_x, order_y)
        else:
            x, y, metric = _for_products(prepared, order_x, order_y)
        codes_x = codes_y = np.zeros(0, np.int64)
        exclusions: list[tuple[Array, Array]] = []
        if batch.is_by_class:
            codes_x, codes_y = _both_in_order(batch.labels, batch.reference_labels, order_x, order_y)
            exclusions = [_both_in_order(of_x, of_y, order_x, order_y) for of_x, of_y in batch.exclusions]
        two_sided = batch.is_alone and batch.is_by_class
        return cls(
            batch=batch,
            two_sided=two_sided,
            order_x=order_x,
            order_y=order_y,
            rows_x=anchors if prepared is None else prepared.rows_x,
            rows_y=references if prepared is None else prepared.rows_y,
            x=x,
            y=y,
            metric=metric,
            prepared=prepared,
            codes_x=codes_x,
            codes_y=codes_y,
            exclusions=exclusions,
            only_rows_exclude=two_sided and len(exclusions) == 1 and np.array_equal(exclusions[0][0], x.order),
            strip=slice(0, len(anchors)),
        )

    def part(self, rows: slice) -> Sides:
        """These of the anchors, against all references; one-sided, unless they are all."""
        if rows == self.strip:
            return self
        return replace(
            self,
            two_sided=False,
            order_x=None if self.order_x is None else self.order_x[rows],
            rows_x=self.rows_x[rows],
            x=Rows(*(of_rows[rows] for of_rows in self.x)),
            codes_x=self.codes_x[rows],
            exclusions=[(of_x[rows], of_y) for of_x, of_y in self.exclusions],
            strip=rows,
        )

    @cached_property
    def pairing(self) -> Pairing:
        """Who of the strip is compared with whom, where no classes say it."""
        return self.batch.part(self.strip).pairing

    @cached_property
    def overflows(self) -> bool:
        """Whether a distance may be infinite in truth, where the loops take that for a pair that does not count."""
        both = (self.x, self.y)
        if self.prepared is not None:
            return not all(np.isfinite(2 * side.norms).all() for side in both)
        reach = sum(float(np.abs(side.rows).max(initial=0.0)) for side in both) * max(1, self.x.rows.shape[1])
        return reach > float(np.finfo(self.x.rows.dtype).max)


def in_order(rows: Tensor, order: Tensor | None) -> Tensor:
    """The rows in that order; None leaves them in theirs."""
    return rows.contiguous() if order is None else rows.index_select(0, order)


def _both_in_order(of_x: Tensor, of_y: Tensor, order_x: Tensor | None, order_y: Tensor | None) -> tuple[Array, Array]:
    """Codes of both sides in their orders; one array where both are one."""
    x = in_order(of_x, order_x).numpy()
    return x, x if of_y is of_x and order_y is order_x else in_order(of_y, order_y).numpy()


def _for_products(ready: Prepared, order_x: Tensor | None, order_y: Tensor | None) -> tuple[Rows, Rows, Metric]:
    error, eps = product_error(ready.rows_x), float(torch.finfo(ready.rows_x.dtype).eps)
    scale = error * (1.0 if ready.root else ready.factor)
    slack_x = (ready.norms_x + _largest(ready.norms_y)) * scale
    slack_y = (ready.norms_y + _largest(ready.norms_x)) * scale
    x = _rows(ready.direct_x, ready.norms_x, ready.extra_x, slack_x, order_x)
    alone = ready.direct_y is ready.direct_x
    y = x if alone else _rows(ready.direct_y, ready.norms_y, ready.extra_y, slack_y, order_y)
    return x, y, Metric(PRODUCT, ready.root, ready.factor, 0.0, eps**0.25, 4 * eps)


def _for_loops(
    anchors: Tensor, references: Tensor, distance: Distance, order_x: Tensor | None, order_y: Tensor | None
) -> tuple[Rows, Rows, Metric]:
    error, kind = product_error(anchors), ELEMENTWISE[type(distance)]
    nothing_x, nothing_y = anchors.new_zeros(len(anchors)), references.new_zeros(len(references))
    slack = error if kind == JACCARD else 0.0
    x = _rows(anchors, nothing_x, nothing_x, nothing_x + slack, order_x)
    y = x if references is anchors else _rows(references, nothing_y, nothing_y, nothing_y + slack, order_y)
    return x, y, Metric(kind, False, 1.0, distance.p if isinstance(distance, Minkowski) else 0.0, 0.0, error)


def _largest(norms: Tensor) -> Tensor | float:
    return norms.max() if len(norms) else 0.0


def _rows(rows: Tensor, norms: Tensor, extra: Tensor, slack: Tensor, order: Tensor | None) -> Rows:
    rank = torch.arange(len(rows)) if order is None else order
    return Rows(rows.numpy(), norms.numpy(), extra.numpy(), slack.numpy(), rank.numpy())
