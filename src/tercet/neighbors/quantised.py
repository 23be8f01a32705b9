"""Vectors in fewer bytes: a byte or a bit for each number, and what that does to them.

int8: x_i = s q_i with q_i = round(x_i / s), s = max_i |x_i| / 127, a scale for each vector; so no entry is off by more
than s / 2, and a vector is D + 4 bytes instead of 4 D. binary: q_i = 1 where x_i > 0, D / 8 bytes. Of two such vectors
with h bits unlike, taken as vectors of ±1 / √D, the squared Euclidean distance is 4 h / D and the cosine distance
2 h / D: they rank as the number of unlike bits (Hamming distance) does. Vectors that are not of length 1 lose theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercet.errors import InputError, check_choice

VECTORS = ("float32", "int8", "binary")
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
_BLOCK = 1 << 22
"""Bytes that a block of a Hamming search compares at a time, about."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """N vectors of D numbers in fewer bytes.

    Attributes:
        kind: one of `VECTORS`.
        codes: float32 (N, D), int8 (N, D), or uint8 (N, ceil(D / 8)), bits of a byte from the highest on.
        scales: float32 (N,) of int8, otherwise None.
        dimensions: D.
    """

    kind: str
    codes: np.ndarray
    scales: np.ndarray | None
    dimensions: int

    def restored(self) -> np.ndarray:
        """The vectors that these stand for, float32 (N, D)."""
        if self.kind == "float32":
            return self.codes
        if self.kind == "int8":
            assert self.scales is not None
            return self.codes.astype(np.float32) * self.scales[:, None]
        bits = np.unpackbits(self.codes, axis=1, count=self.dimensions).astype(np.float32)
        return (2 * bits - 1) / np.float32(np.sqrt(self.dimensions))


def quantised(vectors: np.ndarray, kind: str) -> Quantised:
    """Vectors float32 (N, D) in the kind of bytes named.

    Raises:
        InputError: an unknown kind, or vectors that are not finite.
    """
    check_choice("vectors", kind, VECTORS)
    dimensions = vectors.shape[1]
    if kind == "float32":
        return Quantised(kind, vectors, None, dimensions)
    if not np.isfinite(vectors).all():
        raise InputError("vectors hold values that are not finite, which no byte stands for.")
    if kind == "binary":
        return Quantised(kind, np.packbits(vectors > 0, axis=1), None, dimensions)
    scales = (np.abs(vectors).max(axis=1, initial=0) / 127).astype(np.float32)
    safe = np.where(scales > 0, scales, np.float32(1))
    return Quantised(kind, np.rint(vectors / safe[:, None]).clip(-127, 127).astype(np.int8), scales, dimensions)


def nearest_bits(queries: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the fewest unlike bits of each query, fewest first, the lower row first among equals.

    Time: Q N D / 8 bytes compared; memory: a block of them.

    Args:
        queries: uint8 (Q, bytes).
        codes: uint8 (N, bytes).
        k: from 1 to N.

    Returns:
        How many bits differ, int32 (Q, k), and positions, int64 (Q, k).
    """
    rows = max(1, _BLOCK // max(1, codes.shape[1]))
    found_far, found_at = [], []
    for query in queries:
        blocks = (codes[start : start + rows] for start in range(0, len(codes), rows))
        far = np.concatenate([_ONES[block ^ query].sum(axis=1, dtype=np.int32) for block in blocks])
        at = np.flatnonzero(far <= np.partition(far, k - 1)[k - 1])
        at = at[np.lexsort((at, far[at]))][:k]
        found_far.append(far[at])
        found_at.append(at)
    return np.stack(found_far), np.stack(found_at).astype(np.int64)
