"""A figure means the same wherever it is asked for: of sets and labels, counted and listed, with junk and without."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from tercet.data.records import Records
from tercet.errors import DataError
from tercet.evaluation import (
    all_pairs,
    by_folds,
    calibrate,
    counting,
    errors_at,
    evaluate_across,
    evaluate_embeddings,
    fit_probability,
    given_pairs,
    pairs_across,
    retrieval,
)
from tercet.evaluation import evaluation as whole
from tercet.evaluation import pairs as listed
from tercet.evaluation.comparison import Measured, compare_groups, measure_labelled
from tercet.evaluation.contributions import Contributions
from tercet.evaluation.curve import Curve
from tercet.evaluation.forgeries import evaluate_forgeries
from tercet.evaluation.gallery_pairs import gallery_pairs
from tercet.evaluation.relevance import relevance
from tercet.evaluation.rivals import rivals_of
from tercet.run import Run
from tercet.training.assessment.assessment import Asked, Assessment, evaluate_vectors
from tercet.training.assessment.dimensions import with_dimensions
from tercet.training.assessment.examination import _genuine
from tercet.training.assessment.searched import Searched

COUNTS = ("n_items", "n_classes", "n_queries", "n_pairs", "n_same_pairs", "n_different_pairs")


def points(length, dim=3, seed=0, classes=5):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, length)
    return draw.normal(size=(classes, dim))[labels] + draw.normal(size=(length, dim)), labels


def records_of(labels, forged=None):
    names = [f"item {i}" for i in range(len(labels))]
    classes = tuple(f"class {code}" for code in range(int(labels.max()) + 1))
    return Records(
        "tabular", np.zeros((len(labels), 1), np.float32), names, labels, classes, None, None, ("x",), (), "memory", "",
        forged=forged,
    )  # fmt: skip


def test_sets_of_one_label_each_are_labels():
    x, labels = points(40)
    plain, sets = (evaluate_embeddings(x, one) for one in (labels, [{int(label)} for label in labels]))
    assert sets.metrics == plain.metrics
    assert sets.intervals == plain.intervals


def test_items_of_no_label_are_like_nothing_and_alike_to_nothing():
    x, labels = points(30, seed=1)
    sets = [set() if i % 5 == 0 else {int(label)} for i, label in enumerate(labels)]
    found = evaluate_embeddings(x, sets).metrics
    alone = np.where(np.arange(30) % 5 == 0, 100 + np.arange(30), labels)
    expected = evaluate_embeddings(x, alone).metrics
    for name in ("auc", "eer", "map_at_r", "map", "recall_at_5", "n_queries", "n_pairs", "n_same_pairs"):
        assert found[name] == pytest.approx(expected[name]), name
    assert found["n_classes"] == 5


@pytest.mark.parametrize("several", [False, True])
def test_junk_among_the_items_themselves_is_as_if_it_were_not_there(several):
    x, labels = points(36, seed=2)
    groups = (np.arange(36) % 3).tolist()
    labels[[0, 7, 20, 35]] = -1
    kept = np.flatnonzero(labels != -1)
    rows = [{int(label)} if label < 3 else {int(label), 2} for label in labels] if several else labels
    others = [rows[i] for i in kept]
    found = evaluate_embeddings(x, rows, groups=groups, exclude="group-and-label", threshold=1.0)
    without = evaluate_embeddings(
        x[kept], others, groups=[groups[i] for i in kept], exclude="group-and-label", threshold=1.0
    )
    assert found.metrics["n_items"] == 36
    for name in set(without.metrics) & set(found.metrics) - {"n_items"}:
        assert found.metrics[name] == pytest.approx(without.metrics[name]), name
    assert {row["class"] for row in found.classes} == {row["class"] for row in without.classes}
    for name in ("auc",) if several else ("map_at_r", "auc"):
        assert found.intervals[name] == pytest.approx(without.intervals[name])
    for pair, other in zip(found.mistakes["false_matches"], without.mistakes["false_matches"], strict=True):
        assert (pair["left"], pair["right"]) == (kept[other["left"]], kept[other["right"]])


def test_distances_that_are_all_but_equal_have_a_histogram():
    x = np.array([[0.0], [1.0], [1.0 + 2e-16]])
    for scale in (1e-12, 1.0, 1e12):
        for rows in (x * scale, np.array([[0.0], [1.0], [-1.0]]) * scale):
            found = evaluate_embeddings(rows, [0, 0, 1])
            assert sum(found.histogram["same"]) + sum(found.histogram["different"]) == 3
            assert (np.diff(found.histogram["edges"]) > 0).all()
    nearly = np.eye(3) + np.diag([0, 1e-14, 2e-14])
    found = evaluate_embeddings(nearly, [0, 0, 1])
    assert (sum(found.histogram["same"]), sum(found.histogram["different"])) == (1, 2)


@pytest.fixture
def counts(monkeypatch):
    """Sets of more than 2,000 pairs are counted, and 500 of the pairs listed."""
    monkeypatch.setattr(listed, "MOST_LISTED", 2000)
    monkeypatch.setattr(listed, "LISTED_BESIDE_COUNTS", 500)


@pytest.mark.usefixtures("counts")
def test_what_compare_says_of_many_pairs_is_what_evaluate_says():
    x, labels = points(90, seed=3)
    assert isinstance(all_pairs(x, labels).counted, counting.Counted)
    found, compared = evaluate_embeddings(x, labels), measure_labelled(x, labels, "euclidean")
    for name in ("auc", "eer", "map_at_r", "recall_at_1"):
        assert compared.figures[name][0] == pytest.approx(found.metrics[name], abs=1e-12), name


@pytest.mark.usefixtures("counts")
def test_a_far_that_the_listed_pairs_do_not_show_has_no_interval():
    x, labels = points(90, seed=4)
    found = evaluate_embeddings(x, labels)
    assert found.metrics["tar_at_far_0.001"] is not None
    assert "tar_at_far_0.01" in found.intervals
    assert "tar_at_far_0.001" not in found.intervals
    assert whole.resolves(found.metrics["n_different_pairs"], 0.001)


def test_thirds_go_by_items_where_some_are_no_queries():
    labels = np.repeat([0, 1, 2], [2, 3, 9])
    x, _ = points(17, seed=5)
    found = evaluate_embeddings(
        x[:14], labels, gallery=x[14:], gallery_labels=[0, 1, 2], groups=[0, *[1] * 12, 0], gallery_groups=[1, 0, 1],
        exclude="group",
    )  # fmt: skip
    assert found.metrics["n_queries"] == 1 + 3 + 1
    assert [(part["smallest"], part["largest"]) for part in found.thirds] == [(2, 2), (3, 3), (9, 9)]


def test_pairs_of_two_sides_are_no_more_evidence_than_their_labels():
    draw = np.random.default_rng(6)
    labels, sides = np.tile(np.arange(12), 2), np.repeat([0, 1], 12)
    x = draw.normal(size=(12, 3))[labels] + 0.8 * draw.normal(size=(24, 3))
    pairs = pairs_across(x, labels, sides)
    assert pairs.unit == "class"
    assert (pairs.left_unit == labels[pairs.left]).all()
    assert (pairs.right_unit == labels[pairs.right]).all()
    across = evaluate_across(x, labels, sides, pairs)
    assert any(note.startswith("Intervals are over 12 classes") for note in across.notes)
    low, high = across.intervals["auc"]
    within = evaluate_embeddings(x, labels).intervals["auc"]
    assert (high - low) / (within[1] - within[0]) == pytest.approx(1, abs=0.5)


def test_a_query_that_finds_itself_is_no_success_of_an_approximate_search():
    pytest.importorskip("faiss")
    draw = np.random.default_rng(7)
    x, labels = draw.normal(size=(1500, 24)).astype(np.float32), np.arange(1500) % 30
    found = retrieval(x, labels, (1,), approximate=True)
    exact = retrieval(x, labels, (1,))
    assert exact.search_recall is None
    assert 0 < found.search_recall < 0.95
    gallery = retrieval(x, labels, (1,), gallery=x, gallery_labels=labels, approximate=True)
    assert gallery.search_recall == 1


def test_a_threshold_between_two_neighbouring_numbers_parts_forgeries_as_it_parts_pairs():
    near = np.float32(1)
    far = np.nextafter(near, np.float32(2))
    farther = np.nextafter(far, np.float32(2))
    x = np.array([[0], [far], [farther]], dtype=np.float32)
    threshold = (float(far) + float(farther)) / 2
    found, _ = evaluate_forgeries(x, np.zeros(3, np.int64), np.array([False, True, True]), "euclidean", threshold)
    assert found["skilled_far"] == 0.5
    at, _ = evaluate_forgeries(x, np.zeros(3, np.int64), np.array([False, True, True]), "euclidean", float(farther))
    assert at["skilled_far"] == 1


def signatures():
    x, writers = points(60, seed=8, classes=6)
    return x.astype(np.float32), writers, records_of(writers, np.arange(60) % 3 == 0)


def test_intervals_of_signatures_are_over_writers():
    x, writers, records = signatures()
    found = evaluate_vectors(x, records, "euclidean", Asked(threshold=1.0))
    assert any(note.startswith("Intervals are over 6 classes") for note in found.notes)
    assert {row["class"] for row in found.classes} == {f"class {code}" for code in range(6)}
    units = np.where(np.arange(60) % 3 == 0, 100 + np.arange(60), writers)
    assert found.metrics["auc"] == pytest.approx(evaluate_embeddings(x, units).metrics["auc"])
    compared = measure_labelled(x, units, "euclidean", units=writers)
    assert compared.n_units == 6
    assert compared.figures["auc"][0] == pytest.approx(found.metrics["auc"])
    assert compared.interval("auc") == pytest.approx(found.intervals["auc"])


def test_shorter_embeddings_are_searched_for_where_the_whole_ones_are():
    x, labels = points(30, dim=4, seed=9)
    gallery, others = points(25, dim=4, seed=10)
    groups, of_gallery = (np.arange(30) % 2).tolist(), (np.arange(25) % 2).tolist()
    config = SimpleNamespace(training=SimpleNamespace(matryoshka=(2, 4)), encoder=SimpleNamespace(normalize=False))
    searched = Searched(
        ks=(1,), exclude="group", groups=groups, gallery=SimpleNamespace(records=records_of(others)),
        gallery_groups=of_gallery, gallery_vectors=gallery,
    )  # fmt: skip
    found = evaluate_vectors(x, records_of(labels), "euclidean", Asked(searched=searched))
    shown = with_dimensions(
        Assessment(found, "", "", {}, [], {}), x, records_of(labels), "euclidean", config, Asked(searched=searched)
    )
    expected = evaluate_embeddings(
        x[:, :2], labels, ks=(1,), gallery=gallery[:, :2], gallery_labels=others, groups=groups,
        gallery_groups=of_gallery, exclude="group",
    )  # fmt: skip
    for name in ("recall_at_1", "map_at_r", "auc", "eer"):
        assert shown.evaluation.metrics[f"dim_2.{name}"] == pytest.approx(expected.metrics[name]), name


def by_definition(queries, labels, gallery, gallery_labels, groups, gallery_groups, exclude):
    """MAP@R, MRR and recall@1 of each query, by loops; squared distances of whole numbers are exact."""
    found, alone = [], gallery is None
    others, their_labels, their_groups = (queries, labels, groups) if alone else (
        gallery, gallery_labels, gallery_groups)  # fmt: skip
    for q in range(len(queries)):
        candidates = []
        for i in range(len(others)):
            alike = bool(labels[q] & their_labels[i])
            same_group = groups[q] is not None and groups[q] == their_groups[i]
            out = same_group and (exclude == "group" or (exclude == "group-and-label" and alike))
            if not out and not (alone and q == i):
                candidates.append((sum((a - b) ** 2 for a, b in zip(queries[q], others[i], strict=True)), alike))
        relevant = sorted(far for far, alike in candidates if alike)
        ranks = [i + 1 + sum(not alike and d <= far for d, alike in candidates) for i, far in enumerate(relevant)]
        if ranks:
            within = sum((i + 1) / rank for i, rank in enumerate(ranks) if rank <= len(ranks)) / len(ranks)
            found.append((within, 1 / ranks[0], float(ranks[0] == 1)))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_small_sets_with_many_ties_by_the_definition(seed):
    draw = np.random.default_rng(seed)
    sizes, alone = draw.integers(2, 14, 2), seed % 2 == 0
    sides = [draw.integers(0, 3, (size, 2)).astype(float) for size in sizes]
    most = 1 if seed % 3 else 2
    labels = [[set(draw.integers(0, 5, draw.integers(0, most + 1)).tolist()) for _ in side] for side in sides]
    groups = [[None if draw.random() < 0.2 else int(draw.integers(0, 3)) for _ in side] for side in sides]
    exclude = (None, "group", "group-and-label")[seed % 5 % 3]
    expected = by_definition(
        sides[0].tolist(), labels[0], None if alone else sides[1].tolist(), labels[1], groups[0], groups[1], exclude
    )
    given = {} if alone else {"gallery": sides[1], "gallery_labels": labels[1], "gallery_groups": groups[1]}
    found = evaluate_embeddings(
        sides[0], labels[0], distance="squared-euclidean", ks=(1,), groups=groups[0], exclude=exclude, **given
    ).metrics
    assert found["n_queries"] == len(expected)
    for name, values in zip(("map_at_r", "mrr", "recall_at_1"), zip(*expected, strict=True), strict=False):
        assert found[name] == pytest.approx(np.mean(values)), name
    pairs = [(a, b) for i, a in enumerate(labels[0]) for b in (labels[0][i + 1 :] if alone else labels[1])]
    same = sum(bool(a & b) for a, b in pairs)
    assert (found["n_same_pairs"], found["n_different_pairs"]) == (same, len(pairs) - same)


def test_whole_numbers_with_and_without_sign_stay_whole():
    large = 2**53
    found = retrieval(
        np.zeros((1, 2)), np.array([large + 1], np.int64), (1,), gallery=np.array([[0.0, 0], [1, 0]]),
        gallery_labels=np.array([large, large + 1], np.uint64),
    )  # fmt: skip
    assert found.figures()["recall_at_1"].tolist() == [0]
    assert found.figures()["mrr"].tolist() == [0.5]


def test_an_approximate_search_that_looks_everywhere_is_exact():
    pytest.importorskip("faiss")
    x, labels = points(30, seed=11)  # so few are in one cell
    groups = np.repeat([0, 1, 2, 3], [2, 3, 5, 20]).tolist()
    for exclude in (None, "group"):
        one, other = (
            retrieval(x, labels, (1, 3, 7), groups=groups, exclude=exclude, approximate=approximate).figures()
            for approximate in (False, True)
        )
        assert all(other[name].tolist() == one[name].tolist() for name in other)
    tied = retrieval(np.array([[0.0], [1.0], [1.0]]), [0, 0, 1], (1, 2), approximate=True)
    assert tied.figures()["recall_at_1"].tolist() == [0, 0]
    assert tied.figures()["recall_at_2"].tolist() == [1, 1]


def test_of_many_pairs_with_a_gallery_a_part_is_drawn():
    draw = np.random.default_rng(12)
    x, gallery = draw.normal(size=(30, 2)), draw.normal(size=(20, 2))
    sets, others = ([set(draw.integers(0, 40, draw.integers(0, 3)).tolist()) for _ in range(size)] for size in (30, 20))
    same = sum(bool(a & b) for a in sets for b in others)
    found = evaluate_embeddings(x, sets, gallery=gallery, gallery_labels=others, max_pairs=100)
    assert 0 < same < 50
    assert (found.metrics["n_same_pairs"], found.metrics["n_pairs"]) == (same, 100)
    assert (
        f"{same:,} of {same:,} same and {100 - same:,} of {600 - same:,} different" in found.notes[-1] + found.notes[0]
    )


def test_a_collapsed_embedding_has_the_same_intervals_in_any_order():
    labels = np.repeat(np.arange(6), [2, 3, 4, 2, 3, 4])
    order = np.random.default_rng(13).permutation(18)
    x = np.zeros((18, 2))
    x[:6] = 1
    one, other = evaluate_embeddings(x, labels), evaluate_embeddings(x[order], labels[order])
    assert one.metrics == pytest.approx(other.metrics)
    for name in ("recall_at_1", "mrr", "map_at_r"):
        assert one.intervals[name] == pytest.approx(other.intervals[name]), name


def test_as_many_pairs_as_are_listed_at_most_are_listed(monkeypatch):
    x, labels = points(30, seed=14)
    n_pairs = 30 * 29 // 2
    found = []
    for most in (n_pairs, n_pairs - 1):
        monkeypatch.setattr(listed, "MOST_LISTED", most)
        found.append(all_pairs(x, labels))
    assert [pairs.counted is None for pairs in found] == [True, False]
    assert not found[0].sampled
    for one, other in zip(found[0].curve.roc().far[[0, -1]], found[1].curve.roc().far[[0, -1]], strict=True):
        assert one == other
    assert found[0].curve.eer() == pytest.approx(found[1].curve.eer(), abs=1e-12)


def test_two_items_of_no_label_may_be_drawn_as_different():
    labels, others = [set() for _ in range(40)], [set() for _ in range(40)]
    labels[0], others[0] = {1}, {1}
    known = relevance(labels, 40, others, 40, None, None, None)
    found = gallery_pairs(np.zeros((40, 2)), np.ones((40, 2)), known, "euclidean", 50)
    assert (found.same.sum(), len(found.same)) == (1, 50)
    assert ((found.left > 0) & (found.right > 40)).any()


@pytest.mark.usefixtures("counts")
def test_pairs_that_tie_for_the_hardest_are_shown(monkeypatch):
    monkeypatch.setattr(counting, "MOST_EXTREME", 3)
    x, labels = np.arange(80.0)[:, None], np.arange(80) // 2  # all neighbours are as near as each other
    found = evaluate_embeddings(x, labels, intervals=False)
    assert {pair["distance"] for pair in found.mistakes["false_matches"]} == {1}
    assert len(found.mistakes["false_matches"]) == 12
    assert len(found.mistakes["false_non_matches"]) == 12


def test_of_two_points_as_near_the_eer_the_one_that_accepts_less():
    curve = Curve.of(np.array([1.0, 2, 2, 3]), np.array([True, True, False, False]))
    assert curve.threshold_of(Curve.point_of_eer) == 1.5


def test_a_far_that_is_met_exactly_is_met_however_it_rounds():
    curve = Curve.of(np.arange(101.0), np.arange(101) == 100)
    assert 0.29 * 100 < 29
    assert curve.threshold_of(lambda points: points.point_of_far(0.29)) == 28.5


def test_a_threshold_between_neighbouring_numbers_accepts_the_first():
    near, far = float(np.nextafter(1.0, 0)), 1.0
    curve = Curve.of(np.array([near, far]), np.array([True, False]))
    assert curve.threshold_of(Curve.point_of_eer) == near
    assert curve.accepted(near) == (1, 0)


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_f1_by_its_definition_and_the_first_point_with_the_greatest(monkeypatch, at_once):
    monkeypatch.setattr("tercet.evaluation.curve.POINTS_AT_ONCE", at_once)
    same = np.array([1, 0, 1, 0, 0, 1, 0, 0], bool)
    pairs = given_pairs(np.arange(9.0)[:, None], np.stack([np.zeros(8, np.int64), np.arange(1, 9)], 1), same)

    def f1(threshold):
        accepted = np.arange(1, 9) <= threshold
        hits, wrong, missed = (accepted & same).sum(), (accepted & ~same).sum(), (~accepted & same).sum()
        return 2 * hits / (2 * hits + wrong + missed)

    values = [f1(threshold) for threshold in range(9)]
    for threshold in range(1, 9):
        assert errors_at(pairs, threshold)["f1"] == pytest.approx(values[threshold])
    assert calibrate(pairs, "f1") == int(np.argmax(values)) + 0.5
    tied = given_pairs(np.arange(7.0)[:, None], np.array([[0, 1], [0, 2], [0, 3], [0, 4]]), np.array([1, 0, 0, 1]))
    assert f"{errors_at(tied, 1.5)['f1']:.9f}" == f"{errors_at(tied, 4.5)['f1']:.9f}"  # 2 / 3 both
    assert calibrate(tied, "f1") == 1.5


@pytest.mark.parametrize("seed", range(3))
def test_folds_by_their_definition(seed):
    draw = np.random.default_rng(seed)
    same, folds = draw.random(3300) < 0.1, draw.integers(0, 3, 3300)
    far = np.where(same, draw.normal(1, 0.3, 3300), draw.normal(2, 0.4, 3300)).clip(0).round(2)
    pairs = given_pairs(np.append(0, far)[:, None], np.stack([np.zeros(3300, np.int64), 1 + np.arange(3300)], 1), same)
    parts = []
    for fold in range(3):
        inside = folds == fold
        values = np.append(-1, np.unique(far[~inside]))
        right = [((far[~inside] <= value) == same[~inside]).mean() for value in values]
        allowed = [value for value in values if (far[~inside & ~same] <= value).mean() <= 0.001]
        best, strict = ((values[place] + values[place + 1]) / 2 for place in (int(np.argmax(right)), len(allowed) - 1))
        parts.append((
            ((far[inside] <= best) == same[inside]).mean(), best,
            (far[inside & same] <= strict).mean(), (far[inside & ~same] <= strict).mean(),
        ))  # fmt: skip
    found, _ = by_folds(pairs, folds)
    names = ("accuracy_folds", "threshold_folds", "val_at_far_0.001_folds", "far_at_far_0.001_folds")
    for name, values in zip(names, np.transpose(parts), strict=True):
        assert found[name] == pytest.approx(values.mean()), name
        assert found[f"{name}_error"] == pytest.approx(np.sqrt(np.square(values - values.mean()).sum() / 2 / 3)), name


def test_scores_of_pairs_are_nothing_to_calibrate_with():
    records = replace(
        records_of(np.zeros(4, np.int64)), labels=None, tuples=np.array([[0, 1], [2, 3]]), scores=np.array([1.0, 2])
    )
    given = SimpleNamespace(read=lambda data: records)
    with pytest.raises(DataError, match=r"no labels, pairs or triplets to calibrate with, but scores of pairs"):
        Run._pairs(given, "scores.csv", None, {})


def test_clusters_are_of_genuine_items():
    _, writers, records = signatures()
    kept, labels = _genuine(np.arange(60)[:, None], records)
    assert kept[:, 0].tolist() == [i for i in range(60) if i % 3]
    assert labels.tolist() == writers[kept[:, 0]].tolist()
    assert len(_genuine(np.zeros((60, 1)), records_of(writers))[0]) == 60


def test_what_is_excluded_does_not_hide_who_is_in_the_way():
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.6])[:, None]
    found = retrieval(x, list("ABCDEA"), (1,), groups=[0, 0, 0, 0, 1, 1], exclude="group")
    rivals = rivals_of(found, x)
    ours = rivals.query == 0
    assert [found.relevance.names[code] for code in rivals.rival[ours]] == ["E"]
    assert rivals.gain["recall_at_1"][ours].tolist() == [1]


def test_the_variance_that_drawing_adds_is_taken_off():
    left, right, source = np.array([0, 0, 1, 2, 2]), np.array([1, 2, 2, 0, 2]), np.array([0, 0, 1, 2, 2])
    value = np.array([0.3, -0.1, 0.4, 0.2, -0.5])
    sums = np.zeros(3)
    for a, b, one in zip(left, right, value, strict=True):
        sums[a] += one
        sums[b] += one if a != b else 0
    squares = np.square(sums - sums.mean()).sum()
    noise = 0.75 * sum(one**2 for a, b, one in zip(left, right, value, strict=True) if a != b)
    shared = 0.3**2 + (0.2 - 0.1) ** 2 + 0.4**2
    own = Contributions(left, right, value, source, drawn=0.25)
    assert own.variance(3) == pytest.approx(max(squares - noise, 0) * 3 / 2)
    expected = max(squares - noise - 0.5 * (shared - noise), 0) * 3 / 2
    assert own.variance(3, 0.5) == pytest.approx(expected)
    assert min(expected, squares - noise) > 0


def test_methods_over_seeds_vary_by_classes_and_by_seeds():
    draw = np.random.default_rng(15)
    units = np.arange(8)

    def measured():
        own = draw.normal(size=8)
        return Measured({"auc": (float(draw.random()), Contributions(units, units, own - own.mean()))}, 8, "class")

    groups = {"a": [measured() for _ in range(2)], "b": [measured() for _ in range(3)]}
    (found,) = compare_groups(groups)
    ones, others = ([run.figures["auc"] for run in groups[name]] for name in "ab")
    of_classes = np.mean([own.value for _, own in others], axis=0) - np.mean([own.value for _, own in ones], axis=0)
    parts = [(np.square(of_classes).sum() * 8 / 7, 7)]
    for runs in (ones, others):
        values = [value for value, _ in runs]
        parts.append((np.var(values, ddof=1) / len(values), len(values) - 1))
    total = sum(part for part, _ in parts)
    freedom = total**2 / sum(part**2 / of for part, of in parts)
    difference = np.mean([value for value, _ in others]) - np.mean([value for value, _ in ones])
    half = stats.t.ppf(0.975, freedom) * np.sqrt(total)
    assert found.difference == pytest.approx(difference)
    assert found.interval == pytest.approx((difference - half, difference + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(difference) / np.sqrt(total), freedom))


def test_d_prime_by_its_definition():
    x, labels = points(20, seed=16)
    far = [[np.linalg.norm(x[i] - x[j]) for i in range(20) for j in range(i) if (labels[i] == labels[j]) == kind]
           for kind in (True, False)]  # fmt: skip
    expected = abs(np.mean(far[1]) - np.mean(far[0])) / np.sqrt((np.var(far[0]) + np.var(far[1])) / 2)
    assert evaluate_embeddings(x, labels).metrics["d_prime"] == pytest.approx(expected)


def test_a_part_of_the_pairs_of_two_sides_is_no_larger_than_asked_for():
    x, labels, sides = np.zeros((80, 2)), np.tile(np.arange(40), 2), np.repeat([0, 1], 40)
    pairs = pairs_across(x, labels, sides, max_pairs=200)
    assert (int(pairs.same.sum()), len(pairs.same)) == (40, 200)


def test_kinds_that_never_overlap_leave_a_doubt():
    x = np.append(0, np.append(np.linspace(1, 2, 12), np.linspace(5, 6, 12)))[:, None]
    given = np.stack([np.zeros(24, np.int64), 1 + np.arange(24)], 1)
    fitted = fit_probability(given_pairs(x, given, np.arange(24) < 12))
    assert fitted(1.0) > 0.9 > 0.1 > fitted(6.0)
    assert fitted(1.0) < 0.999
    assert fitted(6.0) > 0.001
