"""Clustering: do the classes come back when k-means is told only how many there are?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tercet.data.randomness import keyed
from tercet.distances import resolve
from tercet.errors import DataError
from tercet.evaluation.classes import class_codes
from tercet.evaluation.evaluation import Evaluation, Metrics
from tercet.neighbors.vectors import as_vectors

RESTARTS = 5
MOST_ITEMS = 20_000  # of more, k-means by batches


def with_clusters(found: Evaluation, embeddings: Any, labels: Any, distance: Any, seed: int = 0) -> Evaluation:
    """Add nmi, ami, ari and n_clusters of scikit-learn's k-means, with as many clusters as there are classes.

    * nmi: mutual information of clusters and classes over the mean of their entropies. It rises with the number of
      clusters even where they are drawn by lot, so it compares only figures of the same classes.
    * ami: the same corrected for chance: 0 for clusters by lot, 1 for the classes themselves.
    * ari: the Rand index, the share of pairs that clusters and classes agree on, corrected for chance.

    k-means measures by Euclidean distance; for cosine distance the rows have length one. The best of 5 starts counts.
    Time O(5 · iterations · N k D): minutes for thousands of classes; beyond 20,000 items MiniBatchKMeans, which is
    quicker and worse, takes its place.

    Raises:
        DataError: fewer than two classes.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

    rows = as_vectors(embeddings, "embeddings").cpu().numpy().astype(np.float64)
    codes = class_codes(labels, len(rows))
    n_clusters = len(np.unique(codes))
    if n_clusters < 2:
        raise DataError(f"clustering needs at least two classes; there are {n_clusters}.")
    if resolve(distance).name == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    kind = KMeans if len(rows) <= MOST_ITEMS else MiniBatchKMeans
    start = int(keyed(seed, "cluster").integers(2**31))
    clusters = kind(n_clusters, n_init=RESTARTS, random_state=start).fit_predict(rows)
    metrics: Metrics = {
        "nmi": float(normalized_mutual_info_score(codes, clusters)),
        "ami": float(adjusted_mutual_info_score(codes, clusters)),
        "ari": float(adjusted_rand_score(codes, clusters)),
        "n_clusters": n_clusters,
    }
    notes = [] if kind is KMeans else [f"Clusters are by MiniBatchKMeans, there being more than {MOST_ITEMS:,} items."]
    return replace(found, metrics=found.metrics | metrics, notes=[*found.notes, *notes])
