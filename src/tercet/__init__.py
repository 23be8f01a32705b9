"""Tercet: embeddings learned with triplets, from a folder of files to a model, the evidence, and an index.

    run = tercet.train("faces/", out="runs/faces")     # a folder with a subfolder for each class
    run.evaluate("faces-test/")                        # classes that the model never saw
    vectors = run.embed(["a.png", "b.png"])            # (2, D) float32

Names are imported when they are first used, so that `import tercet` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "train": "tercet.run",
    "Run": "tercet.run",
    "load": "tercet.run",
    "evaluate": "tercet.run",
    "embed": "tercet.run",
    "compare": "tercet.run",
    "diagnose": "tercet.run",
    "mine": "tercet.run",
    "tune": "tercet.training.tuning.search",
    "benchmark": "tercet.training.benchmark.protocol",
    "TripletLoss": "tercet.losses",
    "PerClassMargin": "tercet.losses",
    "ContrastiveLoss": "tercet.losses",
    "InfoNCE": "tercet.losses",
    "SupConLoss": "tercet.losses",
    "ClipLoss": "tercet.losses",
    "triplet_margin_loss": "tercet.losses",
    "Euclidean": "tercet.distances",
    "SquaredEuclidean": "tercet.distances",
    "Cosine": "tercet.distances",
    "Manhattan": "tercet.distances",
    "Minkowski": "tercet.distances",
    "Chebyshev": "tercet.distances",
    "Jaccard": "tercet.distances",
    "Mahalanobis": "tercet.distances",
    "LMNN": "tercet.estimators.lmnn",
    "LMNNClassifier": "tercet.estimators.lmnn",
    "TripletEmbedder": "tercet.estimators.embedder",
}

__all__ = [
    "train", "Run", "load", "evaluate", "embed", "compare", "diagnose", "mine", "tune", "benchmark",
    "TripletLoss", "PerClassMargin", "ContrastiveLoss", "InfoNCE", "SupConLoss", "ClipLoss", "triplet_margin_loss",
    "Euclidean", "SquaredEuclidean", "Cosine", "Manhattan", "Minkowski", "Chebyshev", "Jaccard", "Mahalanobis",
    "LMNN", "LMNNClassifier", "TripletEmbedder",
]  # fmt: skip

if TYPE_CHECKING:
    from tercet.distances import (
        Chebyshev,
        Cosine,
        Euclidean,
        Jaccard,
        Mahalanobis,
        Manhattan,
        Minkowski,
        SquaredEuclidean,
    )
    from tercet.estimators.embedder import TripletEmbedder
    from tercet.estimators.lmnn import LMNN, LMNNClassifier
    from tercet.losses import (
        ClipLoss,
        ContrastiveLoss,
        InfoNCE,
        PerClassMargin,
        SupConLoss,
        TripletLoss,
        triplet_margin_loss,
    )
    from tercet.run import Run, compare, diagnose, embed, evaluate, load, mine, train
    from tercet.training.benchmark.protocol import benchmark
    from tercet.training.tuning.search import tune


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tercet' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
