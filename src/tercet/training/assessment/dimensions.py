"""Figures of shorter embeddings: what a run that was trained on prefixes is worth at each of their lengths."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tercet.data.records import Records
from tercet.training.assessment.assessment import USUAL, Asked, Assessment, evaluate_vectors
from tercet.training.config import Config
from tercet.training.model import first_numbers

KEPT = ("recall_at_1", "map_at_r", "auc", "eer", "triplet_accuracy")


def with_dimensions(
    assessment: Assessment, vectors: np.ndarray, records: Records, distance: Any, config: Config, asked: Asked = USUAL
) -> Assessment:
    """The assessment with figures of each prefix that is shorter than the vectors, (N, D), as dim_96.recall_at_1.

    All of them are searched for as the whole embeddings were, in the same gallery and without what was left out there.
    """
    lengths = sorted(length for length in config.training.matryoshka if length < vectors.shape[1])
    found: dict[str, Any] = {}
    for length in lengths:
        short = first_numbers(vectors, length, config.encoder.normalize)
        gallery = asked.searched.gallery_vectors
        if gallery is not None:
            gallery = first_numbers(gallery, length, config.encoder.normalize)
        searched = dataclasses.replace(asked.searched, gallery_vectors=gallery, progress=None)
        metrics = evaluate_vectors(short, records, distance, Asked(searched=searched), intervals=False).metrics
        found |= {f"dim_{length}.{name}": metrics[name] for name in KEPT if metrics.get(name) is not None}
    if not found:
        return assessment
    evaluation = dataclasses.replace(assessment.evaluation, metrics=assessment.evaluation.metrics | found)
    return dataclasses.replace(assessment, evaluation=evaluation)
