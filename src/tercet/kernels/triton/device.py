"""What runs on the GPU: kernels in Triton, each program of which owns a block of rows and writes nothing else.

    visit_tiles     all distances by matrix products, tile by tile; doubtful pairs are left out and listed
    measure         distances of listed pairs by direct differences
    visit_listed    the listed pairs' share of what visit_tiles adds up
    pull_listed     the gradient of listed pairs with given forces

Tables. A side of the comparison with N rows has `facts`, float32 of shape (F, N), of which the first rows are named
below and the others are the levels of its rows, and `keys`, int64 of shape (E, N): labels, ids, groups. Sums over the
pairs of each row are `sums`, float64 of shape (S, N). A level is a threshold of distances; where there is none, -inf.

Tiles are named by their axes: R rows, C others (or listed pairs of a row), K levels, D features.
"""
# ruff: noqa: ANN001, ANN201, C901  Triton compiles these functions for the types and constants they are called with
# mypy: disable-error-code="no-untyped-def, import-untyped"

from __future__ import annotations

import os

import triton
import triton.language as tl

# Decided when a kernel is made: whether Triton's interpreter runs it, on tensors of the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Rows of `facts`.
NORM = tl.constexpr(0)  # |row|², see `Prepared.norms_x`
SHIFT = tl.constexpr(1)  # by how much the row was moved when it was rounded for products
SCALE = tl.constexpr(2)  # the anchor's weight; for SHARES the factor of its exponentials
ORIGIN = tl.constexpr(3)  # for SHARES: the distance that the exponentials are taken about
LEVELS = tl.constexpr(4)  # here levels begin

# Rows of `sums`.
DISTANCES = tl.constexpr(0)  # of the negatives
VALUE = tl.constexpr(1)  # BELOW: costs. EXPONENTS: exponentials. SHARES: exponentials times their exponents
ACTIVE = tl.constexpr(2)  # the number of pairs (level, negative) with the negative below
SMALLEST = tl.constexpr(3)  # EXPONENTS: the distance of the nearest negative
OF_LEVELS = tl.constexpr(4)  # BELOW: K slopes. NEAREST: K distances, K indices; then both of the farthest

# Kinds of visits.
BELOW = tl.constexpr(0)  # costs of levels less distances
EXPONENTS = tl.constexpr(1)  # exp(-d / tau), added up
SHARES = tl.constexpr(2)  # the same as weights of the distances
NEAREST = tl.constexpr(3)  # the nearest distance beyond each level

# Costs of z = level - distance.
SOFTPLUS = tl.constexpr(0)
HINGE = tl.constexpr(1)
SQUARED = tl.constexpr(2)

RELATIVE = tl.constexpr(4 * 2.0**-23)  # what rounding a level, a distance and their squares to float32 may change
INFINITE = tl.constexpr(float("inf"))
NOWHERE = tl.constexpr(2**62)  # above every index


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
def level_of(facts, at, real, k, length):
    """The k-th levels of rows `at`; -inf where there is no such row, so that no distance lies below."""
    return tl.load(facts + (LEVELS + k) * length + at, mask=real, other=-INFINITE)


@triton.jit
def squared_level(level, factor, ROOT: tl.constexpr):
    """A level as a squared distance; -inf stays."""
    return level * tl.abs(level) if ROOT else level / factor


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
def cost_of(z, COST: tl.constexpr):
    """The cost of z = level - distance, and its slope."""
    if COST == HINGE:
        cost, slope = tl.maximum(z, 0.0), tl.where(z > 0, 1.0, 0.0)
    elif COST == SQUARED:
        cost, slope = tl.maximum(z, 0.0) * tl.maximum(z, 0.0), 2 * tl.maximum(z, 0.0)
    else:
        small = tl.exp(-tl.abs(z))  # log(1 + small) would lose a small one
        cost = tl.maximum(z, 0.0) + tl.where(small < 1e-4, small, tl.log(1 + small))
        slope = tl.where(z > 0, 1.0, small) / (1 + small)
    return cost, slope


@triton.jit
def slopes_of(d, facts, at, real, length, levels, COST: tl.constexpr):
    """The sum of the costs' slopes over the levels of rows `at`, for each distance, (R, C)."""
    found = tl.full(d.shape, 0.0, tl.float32)
    for k in range(levels):
        _, slope = cost_of(level_of(facts, at, real, k, length) - d, COST)
        found += slope
    return found


@triton.jit
def share_of(d, facts, at, real, length, rate):
    """exp(e) with e = (origin - d) / tau for rows `at`, and e; nothing for an infinite distance."""
    origin = tl.load(facts + ORIGIN * length + at, mask=real, other=0.0)
    exponent = tl.maximum((origin - d) * rate, -800.0)
    return tl.exp(exponent), exponent


@triton.jit
def scale_of(facts, at, real, length):
    """The factors of rows `at`."""
    return tl.load(facts + SCALE * length + at, mask=real, other=0.0)


@triton.jit
def look(
    d, facts, i, real_i, n_rows, facts_of_others, j, real_j, n_others, levels, rate, value, active, smallest, slopes,
    KIND: tl.constexpr, COST: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """What distances (R, C), infinite where they do not count, add to the rows' state; and their weights.

    The loss falls by weight times change of the distance. OWN and OTHER say whose levels and factors weigh: the
    rows', as anchors of these pairs, or the others', or both.
    """
    weights = tl.full(d.shape, 0.0, tl.float32)
    if KIND == EXPONENTS:
        before, smallest = smallest, tl.minimum(smallest, tl.min(d, 1)[:, None])
        origin = tl.where(smallest < INFINITE, smallest, 0.0)
        value = value * tl.exp(tl.maximum((origin - before) * rate, -800.0)).to(tl.float64)
        value += tl.sum(tl.exp(tl.maximum((origin - d) * rate, -800.0)), 1)[:, None].to(tl.float64)
    if OWN and KIND != SHARES:
        below = tl.full(d.shape, 0.0, tl.float32)
        costs = tl.full(d.shape, 0.0, tl.float32)
        for k in range(levels):
            z = level_of(facts, i, real_i, k, n_rows) - d
            below += tl.where(z > 0, 1.0, 0.0)
            if KIND == BELOW:
                cost, slope = cost_of(z, COST)
                weights += slope
                costs += cost
                of_level = tl.sum(slope, 1)[:, None].to(tl.float64)
                slopes += tl.where(tl.arange(0, K)[None, :] == k, of_level, 0.0)
        active += tl.sum(below, 1)[:, None].to(tl.float64)
        if KIND == BELOW:
            value += tl.sum(costs, 1)[:, None].to(tl.float64)
    if OWN and KIND == SHARES:
        weights, exponent = share_of(d, facts, i, real_i, n_rows, rate)
        value += tl.sum(weights * exponent, 1)[:, None].to(tl.float64)
    if OWN:
        weights = weights * scale_of(facts, i, real_i, n_rows)
    if OTHER:
        if KIND == SHARES:
            by_others, _ = share_of(d, facts_of_others, j, real_j, n_others, rate)
        else:
            by_others = slopes_of(d, facts_of_others, j, real_j, n_others, levels, COST)
        weights += by_others * scale_of(facts_of_others, j, real_j, n_others)
    return weights, value, active, smallest, slopes


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
