"""The end of a benchmark: the test set, embedded by each fold's model apart and by all of them joined."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tercet.data.records import Records
from tercet.errors import RunError
from tercet.evaluation import retrieval
from tercet.training.config import read_config
from tercet.training.model import Model, Readable, read_all
from tercet.training.objective.loss import LOSS_FILE, make_distance
from tercet.training.objective.loss_state import read_state
from tercet.training.reporter import Reporter

METRICS = {"map_at_r": "MAP@R", "r_precision": "R-precision", "recall_at_1": "precision@1"}
"""What the test measures, by its key and as it is called; recall@1 is the precision of the nearest."""
KINDS = ("separate", "concatenated")

Figures = dict[str, dict[str, float]]
"""The metrics of each of `KINDS`."""


class TestSet:
    """The test set, which is read when the first model is measured on it.

    Args:
        records: its items and labels.
        device: what embeds them.
        module: the user's own encoder, if it is one.
        reporter: told of items that cannot be read.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, records: Records, device: str, module: nn.Module | None, reporter: Reporter) -> None:
        self.records, self.device, self.module, self.reporter = records, device, module, reporter
        self._read: dict[str, Readable] = {}

    def measure(self, runs: Sequence[Path]) -> Figures:
        """Figures of the models of one method and seed, a run a fold.

        Separate: the mean over the models, each measured alone with its own distance. Concatenated: of one embedding,
        the models' own, each row scaled to length 1, side by side (Musgrave et al. 2020, section 4).
        Time O(folds · N²D) for N test items.
        """
        distance, vectors, labels = None, [], np.zeros(0)
        apart = []
        for run in runs:
            config = read_config(run / "config.toml")
            model = Model.load(config.encoder, run, self.device, copy.deepcopy(self.module))
            readable = self._readable(model)
            distance = make_distance(config.loss, read_state(run / LOSS_FILE))
            vectors.append(readable.encode(model, self.reporter, "testing"))
            labels = np.asarray(readable.records.labels)
            apart.append(figures(vectors[-1], labels, distance))
        if distance is None:
            raise RunError("there is no run to test.")
        joined = np.concatenate([_of_length_one(one) for one in vectors], axis=1)
        means = {name: float(np.mean([one[name] for one in apart])) for name in METRICS}
        return {"separate": means, "concatenated": figures(joined, labels, distance)}

    def _readable(self, model: Model) -> Readable:
        key = repr(model.options)
        if key not in self._read:
            self._read[key] = read_all(model.options, self.records, self.reporter, "test")
        return self._read[key]


def figures(vectors: np.ndarray, labels: np.ndarray, distance: Any) -> dict[str, float]:
    """MAP@R, R-precision and precision@1 of embeddings (N, D), leave one out; see `tercet.evaluation.retrieval`."""
    found = retrieval(vectors, labels, (1,), distance).figures()
    return {name: float(np.mean(found[name])) for name in METRICS}


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)
