"""Approximate nearest neighbours for larger sets, through faiss: an inverted file over k-means cells.

Chosen over a graph because its contents do not depend on the number of threads: equal vectors and seed, equal
index. Recall is bought with `probes`, the share of the cells that is looked into, and can be measured with
`recall_against_exact`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercet.distances import resolve
from tercet.errors import InputError, check_choice, require
from tercet.neighbors.exact import nearest
from tercet.neighbors.vectors import as_vectors

# Manhattan, Minkowski, Chebyshev, Jaccard and callables have no index in faiss that can be searched faster
# than exactly; Mahalanobis is Euclidean after its own linear map, which belongs to the caller.
DISTANCES = ("euclidean", "squared-euclidean", "cosine")
POINTS_PER_CELL = 39  # faiss asks for as many to place a centre


@dataclass(frozen=True, eq=False)
class ApproximateNeighbors:
    """An index over M vectors of D dimensions: memory 4MD bytes and a little."""

    index: Any
    distance: str
    n_vectors: int
    n_cells: int

    @classmethod
    def build(cls, vectors: Any, distance: Any = "euclidean", *, seed: int = 0) -> ApproximateNeighbors:
        """Index the rows of `vectors` (M, D). Time O(M^1.5 D) for the k-means of about 4 sqrt(M) cells.

        Raises:
            InputError: a distance that faiss cannot search, or no vectors.
            MissingDependency: faiss is not installed.
        """
        faiss = require("faiss", "faiss")
        distance = distance if isinstance(distance, str) else resolve(distance).name
        check_choice("distance of an approximate search", distance, DISTANCES)
        rows = _faiss_rows(vectors, "vectors", distance)
        if not len(rows):
            raise InputError("an approximate index needs at least one vector; given none.")
        n_cells = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // POINTS_PER_CELL))
        metric = faiss.METRIC_INNER_PRODUCT if distance == "cosine" else faiss.METRIC_L2
        index = faiss.index_factory(rows.shape[1], f"IVF{n_cells},Flat", metric)
        index.cp.min_points_per_centroid = 1  # one cell of few points is exact, and no reason to warn
        index.cp.seed = seed
        index.train(rows)
        index.add(rows)
        return cls(index=index, distance=distance, n_vectors=len(rows), n_cells=n_cells)

    @classmethod
    def from_array(cls, array: np.ndarray, distance: str) -> ApproximateNeighbors:
        """The index that `to_array` wrote; the distance is to be kept beside it."""
        check_choice("distance of an approximate search", distance, DISTANCES)
        index = require("faiss", "faiss").deserialize_index(array)
        return cls(index=index, distance=distance, n_vectors=index.ntotal, n_cells=index.nlist)

    def to_array(self) -> np.ndarray:
        """The index as bytes (uint8)."""
        return require("faiss", "faiss").serialize_index(self.index)

    def search(self, queries: Any, k: int, *, probes: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """About the k nearest: distances (Q, k) float32 and indices (Q, k) int64, as `nearest` gives them.

        A query whose cells hold fewer than k vectors is searched again in all the cells, so that every row is
        full. Nothing is left out: a vector that is itself in the index finds itself.

        Args:
            queries: of shape (Q, D).
            k: from 1 to the number of vectors.
            probes: cells to look into; by default a sixteenth of them, at least 8. All of them is exact.
        """
        rows = _faiss_rows(queries, "queries", self.distance)
        if rows.shape[1] != self.index.d:
            raise InputError(f"queries have {rows.shape[1]} dimensions and the index {self.index.d}.")
        if not 1 <= k <= self.n_vectors:
            raise InputError(f"k is {k}; allowed is 1 to {self.n_vectors}, the number of vectors.")
        if probes is not None and not 1 <= probes <= self.n_cells:
            raise InputError(f"probes is {probes}; allowed is 1 to {self.n_cells}, the number of cells.")
        probes = probes if probes is not None else min(self.n_cells, max(8, self.n_cells // 16))
        found, indices = self._probe(rows, k, probes)
        short = np.flatnonzero(indices[:, -1] < 0)
        if len(short):
            found[short], indices[short] = self._probe(rows[short], k, self.n_cells)
        return torch.from_numpy(self._distances(found)), torch.from_numpy(indices)

    def recall_against_exact(
        self, vectors: Any, k: int = 10, *, n_queries: int = 200, seed: int = 0, probes: int | None = None
    ) -> float:
        """Share of the exact k nearest that `search` finds, over a seeded sample of the indexed vectors.

        Args:
            vectors: the (M, D) that were indexed.
            k: neighbours compared.
            n_queries: size of the sample; all vectors when there are fewer.
            seed: of the sample.
            probes: as in `search`.
        """
        rows = as_vectors(vectors, "vectors").cpu()
        if len(rows) != self.n_vectors:
            raise InputError(f"the index holds {self.n_vectors} vectors and {len(rows)} were given.")
        rng = np.random.default_rng(seed)
        sample = np.sort(rng.choice(len(rows), size=min(n_queries, len(rows)), replace=False))
        exact = nearest(rows[sample], rows, k, self.distance)[1]
        found = self.search(rows[sample], k, probes=probes)[1]
        return float((exact[:, :, None] == found[:, None, :]).any(dim=2).double().mean())

    def _probe(self, rows: np.ndarray, k: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
        # Set on the index: faiss's bridge to torch, which other libraries import, has a search without parameters.
        require("faiss", "faiss").extract_index_ivf(self.index).nprobe = probes
        return self.index.search(rows, k)

    def _distances(self, found: np.ndarray) -> np.ndarray:
        if self.distance == "cosine":
            return 1 - found
        return np.sqrt(found) if self.distance == "euclidean" else found


def _faiss_rows(vectors: Any, name: str, distance: str) -> np.ndarray:
    """Rows as faiss takes them: float32, contiguous, and of length one for cosine (zero rows stay zero)."""
    rows = as_vectors(vectors, name).cpu().float()
    return np.ascontiguousarray(torch.nn.functional.normalize(rows) if distance == "cosine" else rows)
