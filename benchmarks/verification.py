"""Verification over all pairs: time and peak memory in a process of its own, and agreement with scikit-learn.

    python benchmarks/verification.py --items 20000 --per-class 10
    python benchmarks/verification.py --agreement

The first makes unit rows of 128 numbers in classes of equal size, and counts all their pairs: curve, AUC, EER, TAR at
FAR, the threshold of the EER, and the hardest pairs. The loops are compiled before the clock starts. Next to it stands
the time of the distances alone, in the same threads. The second compares AUC and the ROC's points at 3,000 items with
those of scikit-learn on the same float32 distances, all listed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

import tercet.evaluation.pairs as pairs_module
from tercet.evaluation import all_pairs, verification


def world(items: int, per_class: int, dim: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around the centres of their classes, of shape (items, dim), and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(items) // per_class
    rows = rng.normal(size=(labels[-1] + 1, dim))[labels] + 2 * rng.normal(size=(items, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def measure(items: int, per_class: int) -> dict:
    """Seconds and megabytes of one verification over all pairs."""
    all_pairs(*world(2100, 10))  # compiles
    rows, labels = world(items, per_class)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, worked = time.perf_counter(), time.process_time()
    pairs = all_pairs(rows, labels, max_pairs=2**32 - 1)
    counted = time.perf_counter() - start
    metrics = verification(pairs).metrics
    figured = time.perf_counter() - start
    extremes = None if pairs.counted is None else pairs.counted.extremes()
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    start = time.perf_counter()
    if pairs.counted is not None:
        for same in (True, False):
            pairs.counted.population.within(same, [])
    return {
        "items": items,
        "per_class": per_class,
        "pairs": pairs.n_same_total + pairs.n_different_total,
        "exact": pairs.counted is not None or not pairs.sampled,
        "seconds": round(seconds, 1),
        "seconds_of_processors": round(worked, 1),
        "seconds_counting": round(counted, 1),
        "seconds_figures": round(figured - counted, 1),
        "seconds_of_distances_alone": round(time.perf_counter() - start, 1),
        "hardest": 0 if extremes is None else len(extremes.same),
        "megabytes_before": round(before),
        "megabytes_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": torch.get_num_threads(),
        "auc": metrics["auc"],
        "eer": metrics["eer"],
        "tar_at_far_0.000001": metrics["tar_at_far_0.000001"],
    }


def agreement(items: int = 3000) -> dict:
    """The largest difference of AUC, and of a point of the ROC, from scikit-learn's."""
    from sklearn.metrics import roc_auc_score, roc_curve

    rows, labels = world(items, 10)
    pairs = all_pairs(rows, labels)
    assert pairs.counted is not None
    population = pairs.counted.population
    distance = np.concatenate([population.listed(True), population.listed(False)])
    same = np.arange(len(distance)) < pairs.n_same_total
    far, tar, negative = roc_curve(same, -distance, drop_intermediate=False)
    curve = pairs.curve
    places = np.searchsorted(-negative, curve.threshold, side="right") - 1
    apart = max(
        np.abs(curve.different / curve.n_different - far[places]).max(),
        np.abs(curve.same / curve.n_same - tar[places]).max(),
    )
    return {
        "pairs": len(distance),
        "auc": curve.auc(),
        "auc_apart": abs(curve.auc() - roc_auc_score(same, -distance)),
        "points": len(curve.same),
        "points_apart": float(apart),
    }


def main() -> None:
    """Measure in a process of its own, so that its peak of memory is of nothing else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.agreement:
        found = agreement()
    elif given.inside:
        found = measure(given.items, given.per_class)
    else:
        words = [sys.executable, __file__, "--inside", "--items", str(given.items), "--per-class", str(given.per_class)]
        raise SystemExit(subprocess.run(words, check=False).returncode)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    assert pairs_module.MOST_LISTED < 3000 * 2999 / 2
    main()
