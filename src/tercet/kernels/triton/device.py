"""What runs on the GPU, in Triton: the tables that kernels read, and what a distance adds up to.

Every program of a kernel owns a block of rows, and writes what belongs to them and nothing else (but for a list of
pairs).

    tiles.py     all distances by matrix products, tile by tile; doubtful pairs are left out and listed
    listed.py    listed pairs: distances by direct differences, what they add up to, and their gradient

Tables. A side of the comparison with N rows has `facts`, float32 of shape (F, N), of which the first rows are named
below and the others are the levels of its rows, and `keys`, int64 of shape (E, N): labels, ids, groups. Sums over the
pairs of each row are `sums`, float64 of shape (S, N). A level is a threshold of distances; where there is none, -inf.

Tiles are named by their axes: R rows, C others (or listed pairs of a row), K levels, D features.
"""
# ruff: noqa: ANN001, ANN201  Triton compiles these functions for the types and constants they are called with
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
def level_of(facts, at, real, k, length):
    """The k-th levels of rows `at`; -inf where there is no such row, so that no distance lies below."""
    return tl.load(facts + (LEVELS + k) * length + at, mask=real, other=-INFINITE)


@triton.jit
def squared_level(level, factor, ROOT: tl.constexpr):
    """A level as a squared distance; -inf stays."""
    return level * tl.abs(level) if ROOT else level / factor


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
