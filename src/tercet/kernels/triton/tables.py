"""A batch as the kernels take it: rows ready for products, and tables of what is known of each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.distances.euclidean import product_error
from tercet.distances.prepared import Prepared
from tercet.kernels.pairing import Batch, ClassPairing
from tercet.kernels.triton import device

EPS = 2.0**-23  # of float32


@dataclass(frozen=True)
class Precision:
    """How matrix products of float32 rows are formed.

    Attributes:
        rounding: of a product of two numbers, relative; which pairs count as near follows from it.
        error: by how much a squared distance may be off beyond the rounding of float32, as a share of the norms.
        error_per_feature: the same for each feature: tensor cores may cut off what they add where float32 rounds.
        rounds_rows: whether the rows are rounded to TF32 beforehand. Products of these are exact, and by how much
            each row was moved is known.
    """

    rounding: float
    error: float = 0.0
    error_per_feature: float = 0.0
    rounds_rows: bool = False

    @property
    def near(self) -> float:
        """Below this share of the norms, a squared distance by products has lost too many digits."""
        return self.rounding**0.25

    def error_of(self, rows: Tensor) -> float:
        """How far a squared distance by products may be off, as a share of the norms."""
        return product_error(rows) + self.error + rows.shape[1] * self.error_per_feature


# The keys are what Triton's `dot` calls them. "tf32x3" makes each number the sum of two of TF32, and leaves out the
# product of the two small ones: three errors of 2^-20 in all.
PRECISIONS = {
    "ieee": Precision(EPS),
    "tf32x3": Precision(3 * 2.0**-20, error=3 * 2.0**-20, error_per_feature=EPS),
    "tf32": Precision(2.0**-10, error_per_feature=EPS, rounds_rows=True),
}


def to_tf32(x: Tensor) -> Tensor:
    """The nearest numbers that a TF32 product takes as they are: with ten bits after the first."""
    bits = x.contiguous().view(torch.int32)
    found = ((bits + 0x1000) & -0x2000).view(torch.float32)
    return torch.where(x.isfinite(), found, x)


@dataclass
class Side:
    """One side of the comparison, of N rows.

    Attributes:
        rows: those of the products, of shape (N, D), contiguous.
        direct: those of the differences, of shape (N, D), contiguous.
        extra: what a row adds to its squared distances beyond the differences, of shape (N,).
        facts: float32 of shape (F, N), see `device`; levels are put there by `set_levels`.
        keys: int64 of shape (E, N), see `device`.
    """

    rows: Tensor
    direct: Tensor
    extra: Tensor
    facts: Tensor
    keys: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def set_levels(self, levels: Tensor) -> None:
        """Put levels of shape (N, K) in the table."""
        first = device.LEVELS.value
        self.facts = torch.cat([self.facts[:first], levels.T.to(torch.float32)])

    def set_fact(self, which: int, values: Tensor) -> None:
        """Put numbers of shape (N,) in a row of the table."""
        self.facts[which] = values.to(torch.float32)


def sides(batch: Batch, ready: Prepared, precision: Precision) -> tuple[Side, Side]:
    """Anchors and references; one and the same where the anchors are compared among themselves."""
    pairing = batch.pairing
    assert isinstance(pairing, ClassPairing)
    keys_x = [pairing.labels, *(of_anchors for of_anchors, _ in pairing.exclusions)]
    x = _side(ready.rows_x, ready.direct_x, ready.norms_x, ready.extra_x, keys_x, precision)
    if batch.weights is not None:
        x.set_fact(device.SCALE.value, batch.weights)
    if batch.is_alone:
        return x, x
    keys_y = [pairing.reference_labels, *(of_references for _, of_references in pairing.exclusions)]
    return x, _side(ready.rows_y, ready.direct_y, ready.norms_y, ready.extra_y, keys_y, precision)


def _side(
    rows: Tensor, direct: Tensor, norms: Tensor, extra: Tensor, keys: Sequence[Tensor], precision: Precision
) -> Side:
    facts = rows.new_zeros(device.LEVELS.value, len(rows))
    facts[device.SCALE.value] = 1
    if precision.rounds_rows:
        given, rows = rows, to_tf32(rows)
        norms = rows.square().sum(1) + extra
        # Itself a float32 number, so a little more than it is.
        facts[device.SHIFT.value] = torch.linalg.vector_norm(rows - given, dim=1) * (1 + 1e-5)
    facts[device.NORM.value] = norms
    return Side(rows, direct, extra, facts, torch.stack([key.to(torch.int64) for key in keys]))


@dataclass(frozen=True)
class Blocks:
    """How much a program takes at a time; powers of two, at least 16, since they go into products.

    Attributes:
        rows: of its own.
        others: of the other side.
        features: of a row, at a time, in the products; `width` if all at once.
        width: features of a row, padded.
    """

    rows: int
    others: int
    features: int
    width: int


def blocks_for(dim: int, precision: str, gradient: bool, most_rows: int, most_others: int) -> Blocks:
    """The blocks for rows of so many features, bounded by what is asked for.

    They are what the compiler for compute capability 9.0 keeps (nearly) in the registers of eight warps, of which the
    gradient of the rows takes the most; a plain float32 product takes more than one of tensor cores.
    """
    width = max(16, 1 << max(0, dim - 1).bit_length())
    numbers, others, features = (8192, 16, 16) if precision == "ieee" else (16384, 32, 32)
    if precision == "tf32" and width <= 128:
        features = width  # rows are read once, and references once for both products
    if not gradient:
        numbers, others = 64 * width, 64
    rows = max(16, min(64, numbers // width))
    return Blocks(min(rows, _power(most_rows)), min(others, _power(most_others)), features, width)


def _power(most: int) -> int:
    """The largest power of two up to `most`, and at least 16."""
    return max(16, 1 << int(math.log2(max(1, most))))
