"""Assessment: a model, or the raw inputs, measured on records; with what the report shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tercet.data.labels import NONE
from tercet.data.records import Records
from tercet.data.sides import SIDES
from tercet.data.wishes import ALIKE
from tercet.distances import resolve
from tercet.errors import DataError, InputError
from tercet.evaluation import (
    Evaluation,
    Pairs,
    Probability,
    all_pairs,
    evaluate_across,
    evaluate_embeddings,
    evaluate_scores,
    evaluate_tuples,
    given_pairs,
    pairs_across,
)
from tercet.evaluation.forgeries import evaluate_forgeries
from tercet.evaluation.pairs import MOST_LISTED
from tercet.training.assessment.baseline import described_raw, raw_vectors
from tercet.training.assessment.map import Map, make_map
from tercet.training.assessment.neighbours import Neighbours, mistaken_queries, suspects
from tercet.training.assessment.searched import USUAL_KS, Searched, written_labels
from tercet.training.assessment.shown import Shown, show, show_all
from tercet.training.batches.supervision import labels_of
from tercet.training.model import Readable

MOST_PAIRS_WHILE_TRAINING = 200_000  # an evaluation every so many steps must not cost more than the steps


@dataclass(frozen=True)
class Assessment:
    """An evaluation, the sentence that says of what, and what the report shows of it.

    Attributes:
        evaluation: the figures.
        data: how much there was.
        source: where it was read from, as the user gave it.
        items: those that occur in mistakes and suspects, by position.
        mistaken: see `neighbours.mistaken_queries`.
        suspects: see `neighbours.suspects`.
        map: of the embeddings; None for the raw inputs.
    """

    evaluation: Evaluation
    data: str
    source: str
    items: dict[str, Shown]
    mistaken: list[dict[str, Any]]
    suspects: dict[str, Any]
    map: Map | None = None

    def to_json(self, name: str, duplicates: int, skipped: list[dict[str, str]]) -> dict[str, Any]:
        """The contents of evaluations/`name`.json."""
        return {
            "name": name,
            "data": self.data,
            "source": self.source,
            "evaluation": self.evaluation.to_json(),
            "items": self.items,
            "mistaken": self.mistaken,
            "suspects": self.suspects,
            "duplicates": duplicates,
            "skipped": skipped,
        }


def class_sizes(records: Records) -> dict[str, int]:
    """How many items each class, or each of several labels, has; nothing for records without labels."""
    if records.codes is None:
        return {}
    counts = np.bincount(records.codes[records.codes != NONE], minlength=len(records.classes))
    return {name: int(count) for name, count in zip(records.classes, counts, strict=True)}


@dataclass(frozen=True, eq=False)
class Asked:
    """What an evaluation goes by beside embeddings, items and distance.

    Attributes:
        threshold: up to which a pair is the same, calibrated on other data.
        probability: of being the same by the distance, fitted on other data.
        trained: the `class_sizes` of the training data, by which figures by size of class go where it holds them all.
        folds: of marked pairs, the fold of each, (T,).
        margin: of triplets, by which the negative has to be farther.
        searched: how to search.
        pairs: the `pairs_of` the records, where they are known already.
    """

    threshold: float | None = None
    probability: Probability | None = None
    trained: Mapping[str, int] | None = None
    folds: Any = None
    margin: float | None = None
    searched: Searched = field(default_factory=Searched)
    pairs: Pairs | None = None

    def of_raw(self, gallery: np.ndarray | None) -> Asked:
        """The same of the raw inputs, whose distances are of another scale, and their gallery."""
        searched = replace(self.searched, gallery_vectors=gallery, progress=None)
        return replace(self, threshold=None, probability=None, margin=None, searched=searched, pairs=None)


USUAL = Asked()


def evaluate_vectors(
    vectors: np.ndarray, records: Records, distance: Any, asked: Asked = USUAL, *, intervals: bool = True,
    max_pairs: int | None = None,
) -> Evaluation:  # fmt: skip
    """The evaluation that the records' form asks for, of embeddings of shape (N, D); of more pairs, of a sample."""
    if asked.folds is not None and records.form != "marked-pairs":
        raise InputError(
            f"folds belong to pairs that are marked as the same or not; {records.source} holds "
            f"{records.form.replace('-', ' ')}."
        )
    settings: dict[str, Any] = {"threshold": asked.threshold, "distance": distance, "intervals": intervals,
                                "probability": asked.probability}  # fmt: skip
    searched, trained = asked.searched, asked.trained
    if records.kind == SIDES:
        _check_no_search(records, searched)
        settings["ks"] = searched.ks
        sides = records.items.sides
        pairs = asked.pairs or pairs_across(vectors, labels_of(records), sides, distance, max_pairs or MOST_LISTED)
        left, right = records.columns
        return evaluate_across(vectors, labels_of(records), sides, pairs, (left, right), **settings)
    if records.form in ALIKE:
        if records.labels is not None and records.forged is None and trained and set(records.classes) <= set(trained):
            settings["class_sizes"] = np.array([trained[name] for name in records.classes])[records.labels]
        if records.form == "pairs":
            _check_no_gallery(records, searched)
        labels = labels_of(records) if records.form == "pairs" else written_labels(records)
        known = asked.pairs
        if records.forged is not None and known is None and searched.gallery is None:
            known = _labelled_pairs(vectors, records, distance, max_pairs)
        found = evaluate_embeddings(
            vectors, labels, max_pairs=max_pairs, pairs=known, **settings, **searched.settings()
        )
        if records.forged is not None and intervals:
            found = _with_forgeries(found, vectors, records, settings)
        return replace(found, classes=[]) if records.form == "pairs" else found  # the pairs' numbers name nothing
    _check_no_search(records, searched)
    if searched.ks != USUAL_KS:
        raise DataError(f"{records.source} holds {records.form}; ks are for data with labels, which is searched.")
    assert records.tuples is not None
    if records.scores is not None:
        return evaluate_scores(vectors, records.tuples, records.scores, distance=distance, intervals=intervals)
    return evaluate_tuples(vectors, records.tuples, records.similar, margin=asked.margin, folds=asked.folds, **settings)


def _check_no_gallery(records: Records, searched: Searched) -> None:
    if searched.gallery is not None:
        raise DataError(f"{records.source} holds {records.form}; to search in a gallery, its items need labels.")


def _check_no_search(records: Records, searched: Searched) -> None:
    if not searched.is_default:
        what = "pairs of two sides" if records.kind == SIDES else records.form.replace("-", " ")
        raise DataError(
            f"{records.source} holds {what}; a gallery, groups, exclude and approximate are for data with labels."
        )


def _with_forgeries(
    found: Evaluation, vectors: np.ndarray, records: Records, settings: Mapping[str, Any]
) -> Evaluation:
    """The evaluation with skilled and random forgeries apart."""
    assert records.labels is not None
    assert records.forged is not None
    metrics, missing = evaluate_forgeries(
        vectors, records.labels, records.forged, settings["distance"], settings["threshold"]
    )
    metrics["n_classes"] = metrics["n_writers"]  # not also each forgery, which is alone in a class of its own
    classes = [row for row in found.classes if row["class"] in records.classes]
    return replace(found, metrics={**found.metrics, **metrics}, missing={**found.missing, **missing}, classes=classes)


def pairs_of(vectors: np.ndarray, records: Records, distance: Any) -> Pairs:
    """The pairs that the threshold for same or different is calibrated on."""
    if records.kind == SIDES:
        return pairs_across(vectors, labels_of(records), records.items.sides, distance)
    if records.form in ALIKE:
        return _labelled_pairs(vectors, records, distance, None)
    assert records.tuples is not None
    return given_pairs(vectors, records.tuples, records.similar, distance)


def _labelled_pairs(vectors: np.ndarray, records: Records, distance: Any, max_pairs: int | None) -> Pairs:
    """All pairs; intervals are over writers, to whom their forgeries belong, though these are the same as nothing."""
    if records.sets is not None:
        return all_pairs(vectors, records.label_lists(), distance, max_pairs)
    found = all_pairs(vectors, labels_of(records), distance, max_pairs)
    if records.labels is None or records.forged is None:
        return found
    return replace(found, left_unit=records.labels[found.left], right_unit=records.labels[found.right])


def assess(vectors: np.ndarray, records: Records, distance: Any, asked: Asked = USUAL) -> Assessment:
    """Evaluate the records' embeddings of shape (N, D), with intervals, pictures of the mistakes, and a map."""
    evaluation = evaluate_vectors(vectors, records, distance, asked)
    found = Neighbours.of(vectors, records, resolve(distance))
    mistaken = mistaken_queries(found) if asked.searched.is_default else []  # of others it may not search like this
    suspected = suspects(found, records)
    shown = _shown(_positions(evaluation, mistaken, suspected), records, asked)
    drawn = make_map(vectors, records, resolve(distance), found)
    return Assessment(evaluation, _counted(records, asked), records.source, shown, mistaken, suspected, drawn)


def _counted(records: Records, asked: Asked) -> str:
    """How much was evaluated, in words."""
    gallery = asked.searched.gallery
    return records.count() if gallery is None else f"{records.count()}, searched for in {gallery.records.count()}"


def _shown(positions: list[int], records: Records, asked: Asked) -> dict[str, Shown]:
    """What is shown of these items; those of a gallery come after the records."""
    gallery, own = asked.searched.gallery, [position for position in positions if position < len(records)]
    beyond = {} if gallery is None else {
        str(position): show(gallery.records, position - len(records)) for position in set(positions) - set(own)
    }  # fmt: skip
    return show_all(records, own) | beyond


def assess_raw(data: Readable, asked: Asked = USUAL) -> Assessment:
    """The baseline: the same evaluation of the inputs themselves (see `baseline.py`), without any learning."""
    words, distance = described_raw(data.records)
    gallery, n_own = asked.searched.gallery, len(data.records)
    vectors = raw_vectors([data] if gallery is None else [data, gallery])
    asked = asked.of_raw(None if gallery is None else vectors[n_own:])
    evaluation = evaluate_vectors(vectors[:n_own], data.records, distance, asked)
    shown = _shown(_positions(evaluation, [], {}), data.records, asked)
    said = f"{words}, {distance} distance, on {_counted(data.records, asked)}"
    return Assessment(evaluation, said, data.records.source, shown, [], {})


def _positions(evaluation: Evaluation, mistaken: list[dict[str, Any]], suspected: dict[str, Any]) -> list[int]:
    """The items that a reader of mistakes and suspects sees."""
    pairs = [pair for found in evaluation.mistakes.values() for pair in found]
    found = [pair[side] for pair in pairs for side in ("left", "right")]
    found += [one["query"] for one in mistaken] + [near["item"] for one in mistaken for near in one["neighbours"]]
    listed = [*suspected.get("label_errors", []), *suspected.get("near_duplicates", [])]
    return found + [one[which] for one in listed for which in ("item", "other")]
