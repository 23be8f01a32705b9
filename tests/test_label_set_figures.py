"""Figures of items with several labels, against plain loops: pairs, labels, intervals; and sets of any size."""

import tracemalloc

import numpy as np
import pytest
import torch

from tercet.data.labels import are_alike
from tercet.data.readers import read
from tercet.evaluation import evaluate_embeddings
from tercet.evaluation.comparison import measure_labelled
from tercet.evaluation.gallery_pairs import gallery_pairs
from tercet.evaluation.pairs import all_pairs
from tercet.evaluation.relevance import relevance
from tercet.kernels import pairing
from tercet.losses import ContrastiveLoss
from tercet.training.assessment.assessment import pairs_of
from tercet.training.assessment.neighbours import Neighbours
from tercet.training.batches.supervision import Batch, make_supervision
from tercet.training.config import BatchOptions
from tercet.training.health.vitals import composition


def drawn_sets(count, most, n_labels, seed=0):
    generator = np.random.default_rng(seed)
    return [set(generator.choice(n_labels, generator.integers(0, most + 1), replace=False).tolist())
            for _ in range(count)]  # fmt: skip


def padded(sets, width):
    codes = np.full((len(sets), width), -1)
    for row, own in zip(codes, sets, strict=True):
        row[: len(own)] = sorted(own)
    return codes


@pytest.fixture
def items():
    sets = drawn_sets(40, 3, 7)
    centres = np.random.default_rng(1).normal(size=(7, 4))
    rows = np.stack([centres[list(own)].sum(0) for own in sets]) + np.random.default_rng(2).normal(0, 0.8, (40, 4))
    return rows.astype(np.float32), sets


def nearest_is_right(rows, sets, query):
    far = [(float(np.linalg.norm(rows[query] - rows[other])), not sets[query] & sets[other])
           for other in range(len(rows)) if other != query]  # fmt: skip
    return not min(far)[1]


def test_figures_by_class_are_those_of_each_label(items):
    """An item of two labels is in the rows of both."""
    rows, sets = items
    found = {row["class"]: row for row in evaluate_embeddings(rows, sets).classes}
    answerable = [i for i, own in enumerate(sets) if any(own & other for j, other in enumerate(sets) if j != i)]
    assert set(found) == set().union(*sets)
    for label, row in found.items():
        queries = [i for i in answerable if label in sets[i]]
        assert (row["items"], row["queries"]) == (sum(label in own for own in sets), len(queries))
        assert row["recall_at_1"] == pytest.approx(np.mean([nearest_is_right(rows, sets, i) for i in queries]))


def test_labels_are_counted_and_not_their_sets(items):
    rows, sets = items
    assert evaluate_embeddings(rows, sets).metrics["n_classes"] == len(set().union(*sets))
    some = evaluate_embeddings(rows[:9], sets[:9], gallery=rows[9:], gallery_labels=sets[9:])
    assert some.metrics["n_classes"] == len(set().union(*sets[:9]))


def test_a_label_given_twice_counts_once(items):
    rows, sets = items
    twice = [[*own, *own] for own in sets]
    one, other = (evaluate_embeddings(rows, given, seed=3) for given in ([list(own) for own in sets], twice))
    assert one == other
    known = relevance([["a", "a"], ["a"], ["b", "a", "b"]], 3, None, None, None, None, None)
    assert (known.labels != -1).sum(axis=1).tolist() == [1, 1, 2]
    assert known.classes[0] == known.classes[1]


def test_intervals_are_of_verification_and_over_items(items):
    """Sets that share a label are not drawn apart; and what an item does to the searches of others is not looked at."""
    rows, sets = items
    found = evaluate_embeddings(rows, sets, threshold=2.0)
    assert {"auc", "eer", "far", "frr"} <= set(found.intervals)
    assert not set(found.intervals) & {"map_at_r", "recall_at_1", "mrr", "r_precision"}
    assert any("intervals are over items and of verification alone" in note for note in found.notes)
    assert not found.thirds
    assert not any("rare" in name for name in found.metrics)
    pairs = all_pairs(rows, sets)
    assert pairs.unit == "item"
    assert (pairs.left_unit == pairs.left).all()
    assert (pairs.right_unit == pairs.right).all()
    measured = measure_labelled(rows, sets, "euclidean")
    assert (set(measured.figures), measured.n_units, measured.unit) == ({"auc", "eer"}, 40, "item")
    assert measured.interval("auc") == pytest.approx(found.intervals["auc"])


def test_auc_is_held_by_its_interval_as_often_as_it_says():
    """Of 60 draws of items with these labels; two of them may miss by chance, or three, and rarely six."""
    centres, held, figures = np.random.default_rng(3).normal(size=(8, 6)), 0, []
    ends = []
    for seed in range(60):
        sets = [own or {0} for own in drawn_sets(60, 3, 8, seed)]
        noise = np.random.default_rng(1000 + seed).normal(0, 0.7, (60, 6))
        found = evaluate_embeddings(np.stack([centres[list(own)].sum(0) for own in sets]) + noise, sets)
        figures.append(found.metrics["auc"])
        ends.append(found.intervals["auc"])
    held = sum(low <= np.mean(figures) <= high for low, high in ends)
    assert held >= 54
    assert np.mean([high - low for low, high in ends]) < 1.5 * 2 * 1.96 * np.std(figures)


def test_training_takes_items_as_alike_that_share_any_label(items):
    """The loss is that of a relation which looks the pairs up in the sets as given."""
    rows, sets = items
    records = read((rows, [sorted(own) for own in sets]))
    options = BatchOptions(classes_per_batch=6, samples_per_class=4)
    supervision = make_supervision(records, options, ContrastiveLoss(), 0)
    batch = supervision.next()
    taken = torch.nn.functional.normalize(torch.from_numpy(rows[batch.positions]))
    loss = ContrastiveLoss()
    alike = [[bool(sets[a] & sets[b]) for b in batch.positions] for a in batch.positions]
    expected = loss(taken, batch.positions, relation=lambda a, b: torch.tensor(
        [[alike[i][j] for j in where(batch.positions, b)] for i in where(batch.positions, a)]
    ))  # fmt: skip
    assert float(supervision(taken, batch)[0]) == pytest.approx(float(expected))
    assert any(sorted(sets[a])[:1] != sorted(sets[b])[:1] and sets[a] & sets[b]
               for a in batch.positions for b in batch.positions)  # fmt: skip


def where(positions, some):
    return [positions.tolist().index(one) for one in some.flatten().tolist()]


def test_thresholds_are_calibrated_on_pairs_that_share_a_label(items):
    rows, sets = items
    found = pairs_of(rows, read((rows, [sorted(own) for own in sets])), "euclidean")
    same = {(a, b) for a, b, same in zip(found.left, found.right, found.same, strict=True) if same}
    assert same == {(a, b) for a in range(40) for b in range(a + 1, 40) if sets[a] & sets[b]}
    assert len(found.same) == 40 * 39 // 2


def test_sets_of_one_label_or_none_are_classes(items):
    rows, _ = items
    sets = [set() if i % 7 == 0 else {i % 4} for i in range(40)]
    found = evaluate_embeddings(rows, sets)
    assert "map_at_r" in found.intervals
    assert "map_at_r" in measure_labelled(rows, sets, "euclidean").figures


def test_a_query_whose_labels_no_other_has_is_not_answerable():
    """Nor is one without a label; another item's label of its own is no answer to it."""
    codes = padded([{0}, {1, 2}, {1}, set(), {3, 4}], 2)
    found = Neighbours(np.arange(5), np.zeros((5, 1), np.int64), np.zeros((5, 1)), codes)
    assert found.are_answerable().tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("most", [0, 10**9])
@pytest.mark.parametrize("width", [1, 3, 12])
def test_large_sets_are_alike_as_small_ones(monkeypatch, most, width):
    monkeypatch.setattr("tercet.data.labels.MOST_COMPARED", most)
    monkeypatch.setattr(pairing, "MOST_COMPARED", most)
    monkeypatch.setattr(pairing, "CODES_AT_A_TIME", 4)
    for seed in range(5):
        sets, others = drawn_sets(9, width, 15, seed), drawn_sets(7, width, 15, 100 + seed)
        expected = [[bool(a & b) for b in others] for a in sets]
        one, other = padded(sets, width), padded(others, width + 1)
        assert are_alike(one[:, None], other[None], 2).tolist() == expected
        assert are_alike(one[:7], other, 1).tolist() == [expected[i][i] for i in range(7)]
        assert pairing.share_a_label(torch.from_numpy(one), torch.from_numpy(other)).tolist() == expected
    nothing = torch.full((2, width), -1)
    assert not pairing.share_a_label(nothing, nothing).any()


def test_pairs_of_a_sample_share_a_label_or_not(monkeypatch):
    """Where more are different than are listed, they are drawn until enough share none."""
    monkeypatch.setattr("tercet.evaluation.gallery_pairs.LABELS_AT_A_TIME", 64)
    sets = [{0, *range(10, 60)} if i == 0 else own for i, own in enumerate(drawn_sets(60, 2, 9, seed=4))]
    known = relevance(sets, 60, None, None, None, None, None)
    found = gallery_pairs(np.random.default_rng(0).normal(size=(60, 3)), None, known, "euclidean", 40)
    assert len(found.same) == 40
    assert all(any(sets[a] for a in found.left[found.same == same]) for same in (True, False))
    assert found.same.tolist() == [bool(sets[a] & sets[b]) for a, b in zip(found.left, found.right, strict=True)]


def test_one_item_of_a_thousand_labels_takes_no_room_for_a_million():
    """Every label of one item beside every one of another would take 2.6 GB here, and the tiles a million loops."""
    sets = [set(range(1000)), *({i % 5, i % 7 + 10} for i in range(50))]
    codes = padded(sets, 1000)
    shared = pairing.share_a_label(torch.from_numpy(codes), torch.from_numpy(codes))
    assert shared.tolist() == [[bool(a & b) for b in sets] for a in sets]
    tracemalloc.start()
    assert are_alike(codes[:, None], codes[None], 2).tolist() == shared.tolist()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert composition(Batch(np.arange(51), codes))["n_classes"] == 1000
