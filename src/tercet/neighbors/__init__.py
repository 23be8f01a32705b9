"""Nearest neighbours: exact and streamed, or approximate through faiss."""

from tercet.neighbors.approximate import ApproximateNeighbors
from tercet.neighbors.exact import nearest

__all__ = ["nearest", "ApproximateNeighbors"]
