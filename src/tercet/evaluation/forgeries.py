"""Verification against forgeries: of signatures, or whatever else is imitated, writer by writer.

A reference is a genuine item of a writer. Another genuine one of the same writer is the same; a forgery of that writer
is a skilled impostor, and a genuine item of another writer a random one (the terms of offline signature verification;
Hafemann, Sabourin and Oliveira 2017, "Learning features for offline handwritten signature verification using deep
convolutional neural networks", section 4).

Shapes: N items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tercet.evaluation.curve import Curve
from tercet.evaluation.pairs import pair_distances

MOST_OTHERS = 1000  # genuine items of other writers that each is compared with


def evaluate_forgeries(
    embeddings: np.ndarray, writers: np.ndarray, forged: np.ndarray, distance: Any, threshold: float | None
) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """Figures of skilled and of random forgeries apart, and why those are missing that are None.

    `skilled_eer` and `random_eer` are by one threshold for all writers; `skilled_eer_by_writer` and
    `random_eer_by_writer` are means over the writers, each with the threshold that suits it best, which flatters. With
    a threshold also the rates at which it accepts each kind: `skilled_far`, `random_far`. Of more than 1,000 genuine
    items each is compared with 1,000 that are drawn, as random forgeries; so the cost is O(N).

    Args:
        embeddings: of shape (N, D).
        writers: int64 codes (N,); of a forgery, the writer that it imitates.
        forged: bool (N,).
        distance: a name or an object.
        threshold: the run's; distances up to it are accepted.
    """
    same, skilled, unlike = _pairs(writers, forged)
    rows = torch.from_numpy(np.ascontiguousarray(embeddings))
    genuine = pair_distances(rows, *same, distance)
    metrics: dict[str, float | int | None] = {
        "n_writers": len(np.unique(writers[~forged])),
        "n_forged": int(forged.sum()),
    }
    missing: dict[str, str] = {}
    for kind, (left, right) in (("skilled", skilled), ("random", unlike)):
        impostor = pair_distances(rows, left, right, distance)
        figures: dict[str, float | None] = {
            f"{kind}_eer": _eer(genuine, impostor),
            f"{kind}_eer_by_writer": _mean_eer(genuine, writers[same[0]], impostor, writers[left]),
            f"{kind}_far": _accepted(impostor, threshold),
        }
        why = "no threshold was calibrated" if len(impostor) and len(genuine) else f"no {kind} and genuine pairs"
        missing |= {name: why for name, value in figures.items() if value is None}
        metrics |= figures
    return metrics, missing


def _pairs(writers: np.ndarray, forged: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Pairs whose left is genuine: with genuine of the same writer, with its forgeries, with genuine of others."""
    same, skilled = [], []
    for writer in np.unique(writers):
        real, imitated = (np.flatnonzero((writers == writer) & (forged == is_forged)) for is_forged in (False, True))
        one, other = np.triu_indices(len(real), 1)
        same.append((real[one], real[other]))
        skilled.append((np.repeat(real, len(imitated)), np.tile(imitated, len(real))))
    return _joined(same), _joined(skilled), _of_others(writers, np.flatnonzero(~forged))


def _joined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return left, right


def _of_others(writers: np.ndarray, genuine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each genuine item with those of other writers: with all, or with `MOST_OTHERS` that are drawn."""
    if len(genuine) <= MOST_OTHERS:
        left, right = np.repeat(genuine, len(genuine)), np.tile(genuine, len(genuine))
    else:
        left = np.repeat(genuine, MOST_OTHERS)
        right = np.random.default_rng(0).choice(genuine, len(left))
    apart = writers[left] != writers[right]
    return left[apart], right[apart]


def _accepted(impostor: np.ndarray, threshold: float | None) -> float | None:
    """The share of them within the threshold, which lies between two distances as float64 tells them apart."""
    if threshold is None or not len(impostor):
        return None
    return float((impostor.astype(np.float64) <= threshold).mean())


def _eer(genuine: np.ndarray, impostor: np.ndarray) -> float | None:
    if not len(genuine) or not len(impostor):
        return None
    same = np.repeat([True, False], [len(genuine), len(impostor)])
    return Curve.of(np.concatenate([genuine, impostor]), same).eer()


def _mean_eer(genuine: np.ndarray, of: np.ndarray, impostor: np.ndarray, against: np.ndarray) -> float | None:
    found = [_eer(genuine[of == writer], impostor[against == writer]) for writer in np.unique(of)]
    rates = [rate for rate in found if rate is not None]
    return float(np.mean(rates)) if rates else None
