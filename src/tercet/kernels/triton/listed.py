"""Listed pairs of two sides, by direct differences."""
# ruff: noqa: ANN001, ANN201, C901  Triton compiles these functions for the types and constants they are called with
# mypy: disable-error-code="no-untyped-def, import-untyped"

from __future__ import annotations

import triton
import triton.language as tl

from tercet.kernels.triton.device import (
    ACTIVE,
    BELOW,
    DISTANCES,
    EXPONENTS,
    INFINITE,
    NEAREST,
    NOWHERE,
    OF_LEVELS,
    SHARES,
    SMALLEST,
    VALUE,
    level_of,
    look,
)


@triton.jit(do_not_specialize=["length"])
def measure(
    rows, others, extra, extra_of_others, i, j, d, length, dim, factor,
    ROOT: tl.constexpr, N: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """d[n] = the distance of rows[i[n]] and others[j[n]] by direct differences: for equal rows the same bits.

    A row with something extra has no direction under cosine, and is at distance 1 from every row.
    """
    n = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    here = n < length
    own, other = tl.load(i + n, mask=here, other=0), tl.load(j + n, mask=here, other=0)
    without = tl.load(extra + own, mask=here, other=0.0) + tl.load(extra_of_others + other, mask=here, other=0.0) > 0
    squared = tl.full((N,), 0.0, tl.float64)
    for first in range(0, dim, STEP):
        features = (first + tl.arange(0, STEP))[None, :]
        real = here[:, None] & (features < dim)
        x = tl.load(rows + own[:, None] * dim + features, mask=real, other=0.0)
        y = tl.load(others + other[:, None] * dim + features, mask=real, other=0.0)
        gap = (x - y).to(tl.float64)
        squared += tl.sum(gap * gap, 1)
    found = tl.sqrt(squared) if ROOT else factor * squared
    found = tl.where(without, 1.0, found)  # which the lengths of unit rows, rounded, would not give
    tl.store(d + n, found.to(tl.float32), mask=here)


@triton.jit(do_not_specialize=["length"])
def visit_listed(
    chosen, begin, other, distance, force, facts, facts_of_others, sums, length, n_rows, n_others, levels, factor, rate,
    KIND: tl.constexpr, COST: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, GRADIENT: tl.constexpr,
    FARTHEST: tl.constexpr, ROOT: tl.constexpr, K: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add to the sums of row chosen[n] what its pairs in the list, from begin[n] to begin[n + 1], add.

    The pairs of a row are in ascending order of the others. The `force` of a pair becomes what its difference is
    multiplied by in the gradient of the row.
    """
    n = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    n_rows, n_others = tl.cast(n_rows, tl.int64), tl.cast(n_others, tl.int64)
    here = n < length
    i = tl.load(chosen + n, mask=here, other=0)
    start, stop = tl.load(begin + n, mask=here, other=0), tl.load(begin + n + 1, mask=here, other=0)
    k = tl.arange(0, K)[None, :]
    total = tl.full((R, 1), 0.0, tl.float64)
    value, active, slopes = total, total, tl.full((R, K), 0.0, tl.float64)
    smallest, nearest = tl.full((R, 1), INFINITE, tl.float32), tl.full((R, K), INFINITE, tl.float32)
    index, farthest_index = tl.full((R, K), -1, tl.int64), tl.full((R, 1), -1, tl.int64)
    farthest = tl.full((R, 1), -INFINITE, tl.float32)
    if KIND == EXPONENTS:  # the only sum that must go on from where it was
        value = tl.load(sums + VALUE * n_rows + i, mask=here, other=0.0)
        smallest = tl.load(sums + SMALLEST * n_rows + i, mask=here, other=INFINITE).to(tl.float32)
    for first in range(0, tl.max(tl.max(stop - start, 1), 0), C):
        place = start + first + tl.arange(0, C)[None, :]
        counted = place < stop
        j = tl.load(other + place, mask=counted, other=0)
        d = tl.load(distance + place, mask=counted, other=INFINITE)
        if OWN and KIND != SHARES:
            total += tl.sum(tl.where(counted, d, 0.0), 1)[:, None].to(tl.float64)
        if KIND == NEAREST:
            for at in range(levels):
                beyond = counted & (d > level_of(facts, i, here, at, n_rows))
                least = tl.min(tl.where(beyond, d, INFINITE), 1)[:, None]
                where = tl.min(tl.where(beyond & (d == least), j, NOWHERE), 1)[:, None]
                better = (k == at) & (least < nearest)
                nearest, index = tl.where(better, least, nearest), tl.where(better, where, index)
            if FARTHEST:
                most = tl.max(tl.where(counted, d, -INFINITE), 1)[:, None]
                where = tl.min(tl.where(counted & (d == most), j, NOWHERE), 1)[:, None]
                better = most > farthest
                farthest, farthest_index = tl.where(better, most, farthest), tl.where(better, where, farthest_index)
        else:
            weights, value, active, smallest, slopes = look(
                d, facts, i, here, n_rows, facts_of_others, j, counted, n_others, levels, rate,
                value, active, smallest, slopes, KIND, COST, OWN, OTHER, K,
            )  # fmt: skip
            if GRADIENT:
                pull = weights / d if ROOT else 2 * factor * weights
                tl.store(force + place, tl.where(d > 0, -pull, 0.0), mask=counted)
    if OWN:
        total += tl.load(sums + DISTANCES * n_rows + i, mask=here, other=0.0)
        active += tl.load(sums + ACTIVE * n_rows + i, mask=here, other=0.0)
        if KIND != EXPONENTS:
            value += tl.load(sums + VALUE * n_rows + i, mask=here, other=0.0)
        tl.store(sums + DISTANCES * n_rows + i, total, mask=here)
        tl.store(sums + ACTIVE * n_rows + i, active, mask=here)
        tl.store(sums + VALUE * n_rows + i, value, mask=here)
        tl.store(sums + SMALLEST * n_rows + i, smallest.to(tl.float64), mask=here)
    real = here & (k < levels)
    if KIND == BELOW and OWN:
        slopes += tl.load(sums + (OF_LEVELS + k) * n_rows + i, mask=real, other=0.0)
        tl.store(sums + (OF_LEVELS + k) * n_rows + i, slopes, mask=real)
    if KIND == NEAREST:
        tl.store(sums + (OF_LEVELS + k) * n_rows + i, nearest.to(tl.float64), mask=real)
        tl.store(sums + (OF_LEVELS + levels + k) * n_rows + i, index.to(tl.float64), mask=real)
        if FARTHEST:
            last = OF_LEVELS + 2 * levels
            tl.store(sums + last * n_rows + i, farthest.to(tl.float64), mask=here)
            tl.store(sums + (last + 1) * n_rows + i, farthest_index.to(tl.float64), mask=here)


@triton.jit(do_not_specialize=["length"])
def pull_listed(chosen, begin, other, force, rows, others, gradient, length, dim, R: tl.constexpr, STEP: tl.constexpr):
    """gradient[i] += the sum of force * (rows[i] - others[j]) over the pairs of each chosen row i, in order."""
    n = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    features = tl.program_id(1) * STEP + tl.arange(0, STEP)[None, :]
    here = n < length
    i = tl.load(chosen + n, mask=here, other=0)
    start, stop = tl.load(begin + n, mask=here, other=0), tl.load(begin + n + 1, mask=here, other=0)
    real = here & (features < dim)
    x = tl.load(rows + i * dim + features, mask=real, other=0.0)
    pulled = tl.load(gradient + i * dim + features, mask=real, other=0.0)
    for step in range(0, tl.max(tl.max(stop - start, 1), 0)):
        place = start + step
        now = place < stop
        j = tl.load(other + place, mask=now, other=0)
        weight = tl.load(force + place, mask=now, other=0.0)
        y = tl.load(others + j * dim + features, mask=real & now, other=0.0)
        pulled += weight * (x - y)
    tl.store(gradient + i * dim + features, pulled, mask=real)
