"""An examination: a run's embeddings of records, evaluated whole, in fewer bytes, and beside the raw inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tercet.data.records import Records
from tercet.data.wishes import LABELLED
from tercet.distances import Distance
from tercet.errors import DataError, InputError
from tercet.evaluation.clustering import with_clusters
from tercet.neighbors.quantised import quantised
from tercet.training.assessment.assessment import Asked, Assessment, assess, assess_raw
from tercet.training.assessment.baseline import has_raw
from tercet.training.assessment.dimensions import with_dimensions
from tercet.training.config import Config
from tercet.training.folder.metrics import remove_assessment, write_assessment
from tercet.training.model import Readable


@dataclass(frozen=True, eq=False)
class Examination:
    """What a run is examined on, and how.

    Attributes:
        folder: of the run, where what is found is written.
        config: of the run.
        distance: of the run.
        readable: the items.
        vectors: the run's embeddings of these, (N, D).
        asked: what the evaluation goes by.
        duplicates: how many of the items were trained on.
    """

    folder: Path
    config: Config
    distance: Distance
    readable: Readable
    vectors: np.ndarray
    asked: Asked
    duplicates: int

    @property
    def records(self) -> Records:
        """The items, without those that could not be read."""
        return self.readable.records

    def whole(self, clustering: bool) -> Assessment:
        """The embeddings as they are, with their prefixes and, where asked for, clusters."""
        found = assess(self.vectors, self.records, self.distance, self.asked)
        found = with_dimensions(found, self.vectors, self.records, self.distance, self.config, self.asked)
        if not clustering:
            return found
        clustered = with_clusters(found.evaluation, *_genuine(self.vectors, self.records), self.distance)
        return replace(found, evaluation=clustered)

    def write(self, name: str, found: Assessment) -> None:
        """Keep what was found as an evaluation of this name."""
        write_assessment(self.folder, name, found, self.records, self.duplicates)

    def write_coarse(self, name: str, kind: str) -> None:
        """Evaluate the embeddings in fewer bytes, "int8" or "binary", as `name`-`kind`.

        A threshold between floats holds for int8 and says nothing of bits.
        """
        others = self.asked.searched.gallery_vectors
        coarse = None if others is None else quantised(others, kind).restored()
        asked = replace(
            self.asked,
            threshold=self.asked.threshold if kind == "int8" else None,
            probability=None,
            searched=replace(self.asked.searched, gallery_vectors=coarse),
        )
        fewer = quantised(self.vectors, kind).restored()
        self.write(f"{name}-{kind}", assess(fewer, self.records, self.distance, asked))

    def write_raw(self, name: str, wanted: bool) -> None:
        """Evaluate the raw inputs in the place of earlier ones, which may be of other data; or only remove these."""
        raw_name = "baseline" if name == "test" else f"{name}-baseline"
        remove_assessment(self.folder, raw_name)
        if wanted and has_raw(self.records):
            self.write(raw_name, assess_raw(self.readable, self.asked))


def check_examined(records: Records, clustering: bool, margin: float | None, by_class: bool) -> None:
    """Refuse what is asked for where the data has no such thing.

    Raises:
        DataError: nothing says what is alike; or figures of each class, and there are none.
        InputError: clusters of items without labels, or a margin without triplets.
    """
    if records.form == "items":
        raise DataError(f"{records.source} has no labels, pairs or triplets to evaluate with.")
    if clustering and records.form != "labels":
        raise InputError(f"clustering is for items with labels, one each; {records.source} holds {records.count()}.")
    if margin is not None and records.form != "triplets":
        raise InputError(f"margin is for triplets; {records.source} holds {records.count()}.")
    if by_class and records.form not in LABELLED:
        raise DataError(f"{records.source} holds {records.form.replace('-', ' ')}; by_class is for data with labels.")


def _genuine(vectors: np.ndarray, records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels of the items that are no forgeries: these are in no class."""
    assert records.labels is not None
    kept = np.arange(len(records)) if records.forged is None else np.flatnonzero(~records.forged)
    return vectors[kept], records.labels[kept]
