"""All pairs of two sides by matrix products, tile by tile; those that rounding leaves open are listed."""
# ruff: noqa: ANN001, ANN201, C901  Triton compiles these functions for the types and constants they are called with
# mypy: disable-error-code="no-untyped-def, import-untyped"

from __future__ import annotations

import triton
import triton.language as tl

from tercet.kernels.triton.device import (
    ACTIVE,
    BELOW,
    DISTANCES,
    INFINITE,
    NEAREST,
    NORM,
    OF_LEVELS,
    RELATIVE,
    SHARES,
    SHIFT,
    SMALLEST,
    VALUE,
    level_of,
    look,
    squared_level,
)


@triton.jit
def inner_products(
    rows, others, i, j, real_i, real_j, dim,
    R: tl.constexpr, C: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """rows[i] · others[j], (R, C); zero where there is no such row."""
    found = tl.full((R, C), 0.0, tl.float32)
    for first in range(0, dim, STEP):
        features = first + tl.arange(0, STEP)
        across, down = features[None, :], features[:, None]
        own = tl.load(rows + i * dim + across, mask=real_i & (across < dim), other=0.0)
        other = tl.load(others + j * dim + down, mask=real_j & (down < dim), other=0.0)
        found = tl.dot(own, other, found, input_precision=PRECISION)
    return found


@triton.jit
def are_negatives(keys, keys_of_others, i, j, real_i, real_j, n_rows, n_others, KEYS: tl.constexpr):
    """Where rows i and others j differ in every key, (R, C)."""
    found = real_i & real_j
    for key in tl.static_range(KEYS):
        own = tl.load(keys + key * n_rows + i, mask=real_i, other=0)
        other = tl.load(keys_of_others + key * n_others + j, mask=real_j, other=0)
        found = found & (own != other)
    return found


@triton.jit
def is_near_a_level(squared, slack, facts, at, real, length, levels, factor, ROOT: tl.constexpr):
    """Where rounding leaves open on which side of a level of rows `at` a squared distance lies, (R, C)."""
    found = squared != squared
    for k in range(levels):
        level = squared_level(level_of(facts, at, real, k, length), factor, ROOT)
        certain = tl.abs(squared - level) > slack + RELATIVE * level
        found = found | (certain == 0)  # so that what is not a number is open
    return found


@triton.jit
def may_be_nearest(
    squared, slack, negative, bounds, facts, i, real_i, n_rows, levels, factor, ROOT: tl.constexpr, K: tl.constexpr
):
    """Which pairs may be the nearest beyond a level, as far as rounding tells, (R, C); and bounds on these, (R, K)."""
    found = squared != squared
    for k in range(levels):
        level = squared_level(level_of(facts, i, real_i, k, n_rows), factor, ROOT)
        doubt = slack + tl.where(level > -INFINITE, RELATIVE * level, 0.0)
        beyond = negative & (squared - doubt > level)
        bound = tl.min(tl.where(beyond, squared + slack, INFINITE), 1)[:, None]
        this = tl.arange(0, K)[None, :] == k
        bounds = tl.where(this, tl.minimum(bounds, bound), bounds)
        bound = tl.min(tl.where(this, bounds, INFINITE), 1)[:, None]
        found = found | ((squared + doubt > level) & (squared - slack - RELATIVE * squared <= bound))
    return found, bounds


@triton.jit
def add_to_list(listed, pairs, found, counter, capacity):
    """Append the pairs to the list while it has room, and count them all."""
    if tl.max(tl.max(listed.to(tl.int32), 1), 0) > 0:
        place = tl.atomic_add(counter + pairs * 0, tl.full(listed.shape, 1, tl.int64), mask=listed)
        tl.store(found + place, pairs, mask=listed & (place < capacity))


@triton.jit
def rounded(x):
    """The nearest number that a TF32 product takes as it is: with ten bits after the first."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["start", "stop", "capacity"])
def visit_tiles(
    rows, others, facts, facts_of_others, keys, keys_of_others, sums, gradient, found, counter,
    capacity, start, stop, n_rows, n_others, dim, levels, factor, near, error, rate,
    KIND: tl.constexpr, COST: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, GRADIENT: tl.constexpr,
    FARTHEST: tl.constexpr, ROOT: tl.constexpr, ROUNDED: tl.constexpr, PRECISION: tl.constexpr, KEYS: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, C: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Visit all pairs of the rows from start to stop; list those that rounding leaves open, and add up the others.

    A squared distance is norm + norm - 2 * product, off by `error` times the norms at most, and by what the
    rounding of the rows moved it. It has lost too many digits where it is below `near` times the norms.

    Writes the sums (if OWN) and the gradient of these rows. A listed pair is row * n_others + other.
    """
    row = tl.cast(start, tl.int64) + tl.program_id(0) * R
    n_rows, n_others, wide = tl.cast(n_rows, tl.int64), tl.cast(n_others, tl.int64), tl.cast(dim, tl.int64)
    rows, gradient = rows + row * wide, gradient + row * wide
    facts, keys, sums = facts + row, keys + row, sums + row
    i = tl.arange(0, R)[:, None]
    real_i = i < stop - row
    norm = tl.load(facts + NORM * n_rows + i, mask=real_i, other=0.0)
    shift = tl.load(facts + SHIFT * n_rows + i, mask=real_i, other=0.0)
    total = tl.full((R, 1), 0.0, tl.float64)
    value, active, slopes = total, total, tl.full((R, K), 0.0, tl.float64)
    smallest, bounds = tl.full((R, 1), INFINITE, tl.float32), tl.full((R, K), INFINITE, tl.float32)
    farthest = tl.full((R, 1), -INFINITE, tl.float32)
    if GRADIENT:
        pulls, pulled = tl.full((R, 1), 0.0, tl.float32), tl.full((R, D), 0.0, tl.float32)
    features = tl.arange(0, D)[None, :]
    if STEP == D:
        x = tl.load(rows + i * dim + features, mask=real_i & (features < dim), other=0.0)
    for first in range(0, n_others, C):
        there, facts_there, keys_there = others + first * wide, facts_of_others + first, keys_of_others + first
        j = tl.arange(0, C)[None, :]
        real_j = j < n_others - first
        if STEP == D or GRADIENT:
            down = tl.arange(0, C)[:, None]
            y = tl.load(there + down * dim + features, mask=(down < n_others - first) & (features < dim), other=0.0)
        if STEP == D:
            products = tl.dot(x, tl.trans(y), input_precision=PRECISION)
        else:
            products = inner_products(rows, there, i, j, real_i, real_j, dim, R, C, STEP, PRECISION)
        negative = are_negatives(keys, keys_there, i, j, real_i, real_j, n_rows, n_others, KEYS)
        norms = norm + tl.load(facts_there + NORM * n_others + j, mask=real_j, other=0.0)
        squared = norms - 2 * products
        slack = error * norms
        positive = tl.where(squared <= 0, 0.0, squared)  # what is not a number stays so
        if ROUNDED:
            shifts = shift + tl.load(facts_there + SHIFT * n_others + j, mask=real_j, other=0.0)
            slack += shifts * (2 * tl.sqrt(positive + slack) + shifts)
        listed = (squared > near * norms) == 0
        if KIND == NEAREST:
            candidates, bounds = may_be_nearest(
                squared, slack, negative, bounds, facts, i, real_i, n_rows, levels, factor, ROOT, K
            )
            listed = listed | candidates
            if FARTHEST:
                least = squared - slack - RELATIVE * squared
                farthest = tl.maximum(farthest, tl.max(tl.where(negative, least, -INFINITE), 1)[:, None])
                listed = listed | (squared + slack >= farthest)
        elif KIND != SHARES:
            if OWN:
                listed = listed | is_near_a_level(squared, slack, facts, i, real_i, n_rows, levels, factor, ROOT)
            if OTHER:
                listed = listed | is_near_a_level(
                    squared, slack, facts_there, j, real_j, n_others, levels, factor, ROOT
                )
        listed = listed & negative
        add_to_list(listed, (row + i) * n_others + (first + j), found, counter, capacity)
        counted = negative & (listed == 0)
        d = tl.sqrt(positive) if ROOT else factor * positive
        if OWN and KIND != SHARES:
            total += tl.sum(tl.where(counted, d, 0.0), 1)[:, None].to(tl.float64)
        if KIND != NEAREST:
            d = tl.where(counted, d, INFINITE)
            weights, value, active, smallest, slopes = look(
                d, facts, i, real_i, n_rows, facts_there, j, real_j, n_others, levels, rate,
                value, active, smallest, slopes, KIND, COST, OWN, OTHER, K,
            )  # fmt: skip
            if GRADIENT:
                pull = tl.where(counted, weights / d if ROOT else 2 * factor * weights, 0.0)
                if ROUNDED:
                    pull = rounded(pull)
                pulled = tl.dot(pull, y, pulled, input_precision=PRECISION)
                pulls += tl.sum(pull, 1)[:, None]
    if OWN:
        tl.store(sums + DISTANCES * n_rows + i, total, mask=real_i)
        tl.store(sums + VALUE * n_rows + i, value, mask=real_i)
        tl.store(sums + ACTIVE * n_rows + i, active, mask=real_i)
        tl.store(sums + SMALLEST * n_rows + i, smallest.to(tl.float64), mask=real_i)
        if KIND == BELOW:
            k = tl.arange(0, K)[None, :]
            tl.store(sums + (OF_LEVELS + k) * n_rows + i, slopes, mask=real_i & (k < levels))
    if GRADIENT:
        real = real_i & (features < dim)
        x = tl.load(rows + i * dim + features, mask=real, other=0.0)
        tl.store(gradient + i * dim + features, pulled - pulls * x, mask=real)
