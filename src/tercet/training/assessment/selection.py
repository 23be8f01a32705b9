"""The metrics that choose the best checkpoint, and which of two values is better."""

from __future__ import annotations

LARGER_IS_BETTER = {
    "map_at_r": True,
    "recall_at_1": True,
    "auc": True,
    "eer": False,
    "triplet_accuracy": True,
    "loss": False,
}
SELECTIONS = {
    "labels": ("map_at_r", "recall_at_1", "auc", "eer"),
    "label-sets": ("map_at_r", "recall_at_1", "auc", "eer"),
    "items": ("map_at_r", "recall_at_1", "auc", "eer"),
    "pairs": ("map_at_r", "recall_at_1", "auc", "eer"),
    "triplets": ("triplet_accuracy", "auc", "eer"),
    "marked-pairs": ("auc", "eer"),
}
"""The metrics that validation data of each form has, and may choose the best checkpoint; the first does by default."""


def better(metric: str, value: float | None, than: float | None) -> bool:
    """Whether a value of the selection metric beats the best so far; an undefined one never does."""
    if value is None:
        return False
    if than is None:
        return True
    return value > than if LARGER_IS_BETTER[metric] else value < than
