"""Permutations of 0 to n - 1 of which each value is computed by itself, whatever n: nothing is shuffled or kept.

A Feistel network permutes the numbers of an even number of bits; what falls outside of n is put through again until it
is inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", cycle walking), which takes fewer than four
turns on average, as the network's domain is smaller than 4 n.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 7
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31))


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 as other, unlike ones: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection."""
    values = (values ^ (values >> _SHIFTS[0])) * _MIX[0]
    values = (values ^ (values >> _SHIFTS[1])) * _MIX[1]
    return values ^ (values >> _SHIFTS[2])


def keys(seed: int, *parts: np.ndarray) -> np.ndarray:
    """A uint64 key for each row of whole numbers, each of shape (R,): equal rows, equal keys."""
    found = mixed(np.full(len(parts[0]), seed % 2**64, dtype=np.uint64) + _GOLDEN)
    for part in parts:
        found = mixed((found ^ part.astype(np.uint64)) * _GOLDEN + _GOLDEN)
    return found


def permuted(places: np.ndarray, n: np.ndarray, key: np.ndarray) -> np.ndarray:
    """What each permutation holds at a place: int64 of shape (R,).

    Args:
        places: int64 of shape (R,), row r from 0 to n[r] - 1.
        n: int64 of shape (R,), below 2**62.
        key: uint64 of shape (R,); with n it decides the permutation.
    """
    bits = np.maximum(1, (np.frexp((n - 1).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    found = _network(places.astype(np.uint64), bits, key)
    outside = np.flatnonzero(found >= n.astype(np.uint64))
    while len(outside):
        found[outside] = _network(found[outside], bits[outside], key[outside])
        outside = outside[found[outside] >= n[outside].astype(np.uint64)]
    return found.astype(np.int64)


def _network(values: np.ndarray, bits: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Values of 2 * bits bits through the rounds; the upper half of a mixed number decides a round's change."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    left, right = values >> bits, values & mask
    for number in range(ROUNDS):
        turned = mixed(key + right * _GOLDEN + np.uint64(number * 0x5851F42D4C957F2D % 2**64))
        left, right = right, left ^ ((turned >> np.uint64(20)) & mask)
    return (left << bits) | right
