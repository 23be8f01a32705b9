"""One evaluation: every figure, its interval, and what a report shows of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from tercet.distances import resolve
from tercet.errors import InputError
from tercet.evaluation.breakdown import by_class, by_group
from tercet.evaluation.curve import Roc
from tercet.evaluation.folds import by_folds
from tercet.evaluation.gallery_pairs import gallery_pairs
from tercet.evaluation.geometry import Geometry, geometry
from tercet.evaluation.intervals import FEW_UNITS, FEWEST_UNITS, MOST_PAIRS, mean_intervals, verification_intervals
from tercet.evaluation.mistakes import hardest
from tercet.evaluation.pairs import MOST_LISTED, Pairs, all_pairs, given_pairs
from tercet.evaluation.probability import Probability, brier_score, calibration_error, reliability
from tercet.evaluation.ranks import AT_K
from tercet.evaluation.relevance import NONE
from tercet.evaluation.retrieval import QUERIES_SEARCHED_AGAIN, Progress, Retrieval, retrieval
from tercet.evaluation.rivals import Rivals, rivals_of
from tercet.evaluation.thirds import Thirds, by_thirds
from tercet.evaluation.verification import FARS, resolves, tar_name, verification

HISTOGRAM_BINS = 60
ROC_POINTS_PER_AXIS = 130

EXCLUDED = {
    None: "",
    "group": " outside of the group",
    "group-and-label": " but what shares the group, too",
}
"""What is said of queries to which nothing is relevant, by what is left out."""

NO_CLASSES = (
    "Items have several labels, so that no class is drawn without parts of others: intervals are over items and of "
    "verification alone, and no thirds are told apart."
)

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation, in plain Python values that go to JSON and back unchanged.

    Attributes:
        metrics: eer, auc, tar_at_far_0.1, …, d_prime, threshold, accuracy, far, frr, f1, brier, calibration_error,
            accuracy_folds, …, recall_at_1, …, r_precision, map_at_r, triplet_accuracy and the counts n_items,
            n_classes, …; None where the data cannot tell. Where classes are of unlike sizes also recall_at_1_rare,
            map_at_r_common, …: see `thirds.by_thirds`.
        missing: the reason for each metric that is None.
        intervals: 95 % intervals of the metrics that have one.
        notes: what was sampled, left out or dropped, in sentences.
        roc: at most 400 operating points: lists far, tar, threshold (None for the first: accept none).
        histogram: edges, and the counts of same and of different pairs between them.
        mistakes: the hardest pairs, see `mistakes.hardest`.
        settings: what the evaluation was asked for.
        thirds: of the classes by size, see `thirds.Thirds.parts`.
        reliability: how often pairs were the same that were said to be so likely, see `probability.reliability`.
        classes: retrieval of each class, see `breakdown.by_class`.
        groups: retrieval of each group, see `breakdown.by_group`.
        spectrum: the share of each singular value of the centred embeddings, the largest first.
    """

    metrics: Metrics
    missing: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    roc: dict[str, list[Any]] = field(default_factory=dict)
    histogram: dict[str, list[Any]] = field(default_factory=dict)
    mistakes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    thirds: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, float]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    spectrum: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps(..., allow_nan=False)`."""
        return asdict(self) | {"intervals": {name: list(ends) for name, ends in self.intervals.items()}}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote."""
        intervals = {name: (ends[0], ends[1]) for name, ends in content.get("intervals", {}).items()}
        return cls(**content | {"intervals": intervals})


def evaluate_embeddings(
    embeddings: Any,
    labels: Any,
    *,
    threshold: float | None = None,
    distance: Any = "euclidean",
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
    intervals: bool = True,
    max_pairs: int | None = None,
    class_sizes: np.ndarray | None = None,
    probability: Probability | None = None,
    gallery: Any = None,
    gallery_labels: Any = None,
    groups: Any = None,
    gallery_groups: Any = None,
    exclude: str | None = None,
    approximate: bool = False,
    pairs: Pairs | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Retrieval and verification of labelled items among themselves, or of queries and a gallery.

    Time O(N²D) and memory O(ND + P), with P pairs listed or kept; see `all_pairs`. With a gallery of G items time
    O(NGD), pairs are listed (see `gallery_pairs`), and rows from N on in `mistakes` are its items.

    Args:
        embeddings: of shape (N, D), an array or a tensor.
        labels: whole numbers of any width or strings, (N,), or several an item; see `retrieval`.
        threshold: from `calibrate` on other data; without it accuracy, far and frr are None.
        distance: any distance of `tercet.distances`.
        ks: the k of recall@k.
        seed: of what is sampled.
        intervals: whether to have intervals over classes, which look for neighbours once more, to tell rare classes
            from common ones, and to measure the geometry (`geometry.geometry`). Of items with several labels there are
            intervals of verification alone, over items.
        max_pairs: more pairs than that are sampled, which a note says; up to it all count, see `all_pairs`.
        class_sizes: how many items of each item's class were trained on, (N,), to make the thirds by; by default, how
            many are here.
        probability: fitted on other data, to be judged here.
        gallery: see `retrieval`, as the others below.
        gallery_labels: see there.
        groups: see there.
        gallery_groups: see there.
        exclude: see there.
        approximate: see there.
        pairs: what `all_pairs` makes of these embeddings and labels, where it is known already.
        progress: see `retrieval`.

    Raises:
        InputError: shapes that do not fit, float labels, values that are not finite.
    """
    found = retrieval(
        embeddings, labels, ks, distance, gallery=gallery, gallery_labels=gallery_labels, groups=groups,
        gallery_groups=gallery_groups, exclude=exclude, approximate=approximate, seed=seed, progress=progress,
    )  # fmt: skip
    metrics, missing = _retrieval_metrics(found)
    known = found.relevance
    of_classes = intervals and known.has_one_label
    rivals = rivals_of(found, embeddings, gallery, distance, seed=seed) if of_classes else None
    thirds = _thirds(found, class_sizes, rivals) if of_classes else Thirds()
    ends = mean_intervals(found.figures(), found.query_classes, rivals=rivals) if of_classes else {}
    shape = geometry(embeddings, known.classes, seed) if intervals and known.is_partition else Geometry({})
    of_queries = Evaluation(
        metrics=metrics | thirds.metrics | shape.metrics | _retrieval_counts(found),
        missing=missing | shape.missing,
        intervals=ends | thirds.intervals,
        notes=_retrieval_notes(found)
        + [note for note in (thirds.note, shape.note) if note]
        + ([NO_CLASSES] if intervals and not known.has_one_label else []),
        spectrum=shape.spectrum,
        thirds=thirds.parts,
        classes=by_class(found),
        groups=by_group(found),
        settings={"distance": resolve(distance).name, "ks": list(ks), "max_pairs": max_pairs, "seed": seed}
        | ({"exclude": exclude} if exclude else {})
        | ({"approximate": True} if approximate else {})
        | ({"several_labels": True} if not known.has_one_label else {}),
    )
    if pairs is None and known.is_partition:
        pairs = all_pairs(embeddings, known.classes, distance, max_pairs, seed)
    elif pairs is None:
        pairs = gallery_pairs(embeddings, gallery, known, distance, max_pairs or MOST_LISTED, seed)
    return with_verification(of_queries, pairs, threshold, seed, intervals, probability)


def evaluate_tuples(
    embeddings: Any,
    tuples: Any,
    similar: Any = None,
    *,
    threshold: float | None = None,
    distance: Any = "euclidean",
    margin: float | None = None,
    seed: int = 0,
    intervals: bool = True,
    folds: Any = None,
    probability: Probability | None = None,
) -> Evaluation:
    """Verification on pairs that came with the data, or on the two pairs of each triplet.

    Of triplets also the accuracy: the share with d(a, p) < d(a, n); a tie is wrong. With a margin m, also
    triplet_accuracy_margin, the share with d(a, p) + m < d(a, n). Intervals are over rows.

    Args:
        embeddings: of shape (N, D).
        tuples: rows of the embeddings, (T, 2) pairs or (T, 3) triplets (anchor, positive, negative).
        similar: with pairs, whether each is the same, (T,).
        threshold: from `calibrate` on other data.
        distance: any distance of `tercet.distances`.
        margin: of triplets, by which the negative has to be farther, at least 0.
        seed: of what the intervals draw.
        intervals: whether to have any.
        folds: with pairs, the fold of each, (T,): adds accuracy_folds and the like, see `folds.by_folds`.
        probability: fitted on other data, to be judged here.

    Raises:
        InputError: shapes that do not fit, rows outside the embeddings, pairs without `similar`, folds of triplets.
    """
    pairs = given_pairs(embeddings, tuples, similar, distance)
    _check_margin(margin, pairs)
    figures: dict[str, np.ndarray] = {}
    counts: Metrics = {"n_items": len(np.unique(np.concatenate([pairs.left, pairs.right])))}
    if pairs.unit == "triplet":
        positive, negative = pairs.distance.reshape(2, -1)
        figures["triplet_accuracy"] = (positive < negative).astype(np.float64)
        if margin is not None:
            figures["triplet_accuracy_margin"] = (positive.astype(np.float64) + margin < negative).astype(np.float64)
        counts["n_triplets"] = len(positive)
    if folds is not None and pairs.unit == "triplet":
        raise InputError("folds belong to pairs that are marked as the same or not; these are triplets.")
    of_folds, untold = by_folds(pairs, folds) if folds is not None else ({}, {})
    rows = np.arange(len(tuples))
    metrics = {name: float(values.mean()) if len(values) else None for name, values in figures.items()}
    of_rows = Evaluation(
        metrics=metrics | counts | of_folds,
        missing={name: "there are no triplets" for name, value in metrics.items() if value is None} | untold,
        intervals=mean_intervals(figures, rows) if intervals else {},
        settings={"distance": resolve(distance).name, "seed": seed} | ({} if margin is None else {"margin": margin}),
    )
    return with_verification(of_rows, pairs, threshold, seed, intervals, probability)


def _check_margin(margin: float | None, pairs: Pairs) -> None:
    if margin is None:
        return
    if pairs.unit != "triplet":
        raise InputError("margin is for triplets, and these are pairs; leave it out.")
    if not (math.isfinite(margin) and margin >= 0):
        raise InputError(f"margin is {margin}; allowed is a number of at least 0.")


def with_verification(
    found: Evaluation, pairs: Pairs, threshold: float | None, seed: int, intervals: bool,
    probability: Probability | None = None,
) -> Evaluation:  # fmt: skip
    """Add what pairs tell to what was found from queries or triplets."""
    verified = verification(pairs, threshold)
    intervals = intervals and verified.roc is not None
    ends = verification_intervals(pairs, threshold, estimates=verified.metrics, seed=seed) if intervals else {}
    n_same, n_different = pairs.curve.n_same, pairs.curve.n_different
    counts = {"n_pairs": n_same + n_different, "n_same_pairs": n_same, "n_different_pairs": n_different}
    judged, table = _judged(pairs, probability) if verified.roc is not None else ({}, [])
    metrics = verified.metrics | judged | found.metrics | counts
    extremes = None if pairs.counted is None else pairs.counted.extremes()
    return replace(
        found,
        metrics=metrics,
        missing=verified.missing | found.missing,
        intervals={
            name: pair for name, pair in (_told(ends, pairs) | found.intervals).items() if metrics[name] is not None
        },
        notes=[*found.notes, *_pair_notes(pairs, intervals)],
        roc=_thinned(verified.roc),
        histogram=_histogram(pairs),
        mistakes=hardest(pairs if extremes is None else extremes, threshold),
        reliability=table,
    )


def _judged(pairs: Pairs, probability: Probability | None) -> tuple[Metrics, list[dict[str, float]]]:
    """How good a probability is on these pairs, as far as they are listed, and the table that shows it."""
    if probability is None:
        return {}, []
    distance, same = pairs.distance.astype(np.float64), pairs.same
    table = reliability(probability, distance, same)
    return {"brier": brier_score(probability, distance, same), "calibration_error": calibration_error(table)}, table


def _told(ends: dict[str, tuple[float, float]], pairs: Pairs) -> dict[str, tuple[float, float]]:
    """The intervals but for a FAR that is too small for the part of the pairs that was looked at."""
    n_different = int((~pairs.same).sum())
    looked_at = n_different if len(pairs.same) <= MOST_PAIRS else min(n_different, MOST_PAIRS // 2)
    too_small = {tar_name(rate) for rate in FARS if not resolves(looked_at, rate)}
    return {name: pair for name, pair in ends.items() if name not in too_small}


def _thirds(found: Retrieval, class_sizes: np.ndarray | None, rivals: Rivals | None) -> Thirds:
    if class_sizes is not None:
        return by_thirds(found, class_sizes[found.query_rows], "the training data", rivals)
    counted = np.bincount(found.relevance.classes, minlength=1)
    return by_thirds(found, counted[found.query_classes], "the evaluated data", rivals)


def _retrieval_metrics(found: Retrieval) -> tuple[Metrics, dict[str, str]]:
    metrics: Metrics = {name: float(values.mean()) if len(values) else None for name, values in found.figures().items()}
    missing = {name: _why_no_queries(found) for name, value in metrics.items() if value is None}
    other = "" if found.relevance.has_gallery else "other "
    too_large = {
        f"{name}_{k}": f"there are only {found.n_candidates} {other}items" for name in AT_K for k in found.ks_left_out
    }
    missing |= too_large | found.missing
    metrics |= dict.fromkeys([*too_large, *found.missing])
    if found.search_recall is not None:
        metrics["search_recall"] = found.search_recall
    return metrics, missing


def _retrieval_counts(found: Retrieval) -> Metrics:
    known = found.relevance
    counts: Metrics = {
        "n_items": len(known.classes),
        "n_classes": len(np.unique(known.labels[known.labels != NONE])),
        "n_queries": len(found.query_rows),
    }
    return counts | ({"n_gallery_items": found.n_candidates} if known.has_gallery else {})


def _why_no_queries(found: Retrieval) -> str:
    known = found.relevance
    return "no class has two members" if known.is_plain else "nothing is relevant to any query"


def _retrieval_notes(found: Retrieval) -> list[str]:
    notes, known, dropped = [], found.relevance, found.n_dropped
    if dropped and known.is_plain:
        alone = "1 item is" if dropped == 1 else f"{dropped:,} items are"
        notes.append(f"{alone} alone in a class: searched among like all others, but no query.")
    elif dropped:
        without = "1 item is no query: nothing is" if dropped == 1 else f"{dropped:,} items are no queries: nothing is"
        notes.append(f"{without} relevant to {'it' if dropped == 1 else 'them'}{EXCLUDED[known.exclude]}.")
    if known.kept is not None:
        notes.append(f"{known.n_junk:,} items labelled -1 are junk, as in Market-1501: left out of the search.")
    if found.search_recall is not None:
        notes.append(
            f"The search was approximate: it finds {found.search_recall:.1%} of the nearest {found.ks[-1]}, measured "
            f"on up to {QUERIES_SEARCHED_AGAIN} queries."
        )
    return notes


def _pair_notes(pairs: Pairs, intervals: bool) -> list[str]:
    notes = []
    if pairs.counted is not None:
        notes.append(
            f"Verification counts all {pairs.n_same_total + pairs.n_different_total:,} pairs; the histogram, the "
            f"reliability and the intervals are of {len(pairs.same):,} of them, drawn at random."
        )
    elif pairs.sampled:
        notes.append(
            f"Verification is on {len(pairs.same):,} "
            f"of {pairs.n_same_total + pairs.n_different_total:,} pairs: "
            f"{int(pairs.same.sum()):,} of {pairs.n_same_total:,} same and {int((~pairs.same).sum()):,} of "
            f"{pairs.n_different_total:,} different ones, drawn at random; the hardest pairs are among these."
        )
    if intervals and len(np.unique(np.stack([pairs.left_unit, pairs.right_unit]))) < FEWEST_UNITS:
        notes.append(f"No intervals: they are over each {pairs.unit} and need at least {FEWEST_UNITS} of them.")
    elif intervals:
        notes += _interval_notes(pairs)
    return notes


def _interval_notes(pairs: Pairs) -> list[str]:
    notes = []
    n_units = len(np.unique(np.stack([pairs.left_unit, pairs.right_unit])))
    if n_units < FEW_UNITS:
        notes.append(
            f"Intervals are over {n_units} {pairs.unit.replace('class', 'classe')}s; of fewer than {FEW_UNITS}, and of "
            "rates near 0 or 1, they hold the truth less often than 95 times in 100."
        )
    if len(pairs.same) > MOST_PAIRS:
        notes.append(f"Intervals of verification are from {MOST_PAIRS:,} of the pairs.")
    return notes


def _thinned(roc: Roc | None) -> dict[str, list[Any]]:
    """Points evenly spread over FAR, over log FAR and over TAR, so that any plot of it is faithful."""
    if roc is None:
        return {}
    steps = np.linspace(0, 1, ROC_POINTS_PER_AXIS)
    logarithmic = np.logspace(-6, 0, ROC_POINTS_PER_AXIS)
    last = len(roc.far) - 1
    points = np.unique(
        np.concatenate(
            [
                [0, last],
                np.searchsorted(roc.far, steps),
                np.searchsorted(roc.far, logarithmic),
                np.searchsorted(roc.tar, steps),
            ]
        ).clip(0, last)
    )
    thresholds = [float(value) if np.isfinite(value) else None for value in roc.threshold[points]]
    return {"far": roc.far[points].tolist(), "tar": roc.tar[points].tolist(), "threshold": thresholds}


def _histogram(pairs: Pairs) -> dict[str, list[Any]]:
    if not len(pairs.distance):
        return {}
    edges = _edges(pairs.distance.astype(np.float64))
    same, different = (
        np.histogram(pairs.distance[kind].astype(np.float64), edges)[0].tolist() for kind in (pairs.same, ~pairs.same)
    )
    return {"edges": edges.tolist(), "same": same, "different": different}


def _edges(values: np.ndarray) -> np.ndarray:
    """Equal bins from the least value to the greatest; of values that are all but equal, a little beyond them."""
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    if (np.diff(edges) > 0).all():
        return edges
    reach = max(0.5, HISTOGRAM_BINS * float(np.spacing(high)))
    return np.linspace(low - reach, high + reach, HISTOGRAM_BINS + 1)
