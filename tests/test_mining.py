"""Offline mining against its definition in plain loops; then the files, the cache and the command line."""

import csv
import json
import math
import shutil
from statistics import median

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
from conftest import QUICK_FLAGS
from tercet.data.randomness import keyed
from tercet.distances import resolve
from tercet.errors import DataError, InputError, MissingDependency, TercetWarning
from tercet.mining import MiningOptions, mine_triplets, search
from tercet.mining.search import Search, first_pass, nearest_eligible


def world(n_items, n_classes, seed=0, dimensions=3, spread=1.0):
    """Rows about the centres of their classes, unevenly many of each; the last class has one."""
    generator = np.random.default_rng([7, seed])
    labels = np.concatenate([[n_classes - 1], generator.integers(0, n_classes - 1, n_items - 1)])
    centres = generator.normal(0, 1, (n_classes, dimensions))
    return centres[labels] + generator.normal(0, spread, (n_items, dimensions)), labels


class Definition:
    """Mining as docs/mining.md says it, one pair at a time."""

    def __init__(self, vectors, labels, options, distance="euclidean", groups=None, contents=None):
        metric, rows = resolve(distance), torch.as_tensor(vectors)
        n = self.n = len(rows)
        self.labels, self.options = list(labels), options
        self.groups = [None] * n if groups is None else list(groups)
        self.contents = list(range(n)) if contents is None else list(contents)
        self.d = [metric.pairs(rows[i : i + 1].expand(n, -1), rows).float().tolist() for i in range(n)]
        self.order = [sorted((self.d[i][j], j) for j in range(n) if j != i) for i in range(n)]
        nearest = [next((far for far, j in self.order[i] if self.apart(i, j)), None) for i in range(n)]
        known = [far for far in nearest if far is not None]
        self.limit = options.duplicate_ratio * median(known) if known else 0.0
        self.suspect = {i: found for i in range(n) if (found := self.accuse(i)) is not None}

    def apart(self, i, j):
        same_group = self.groups[i] is not None and self.groups[i] == self.groups[j]
        return i != j and not same_group and self.contents[i] != self.contents[j]

    def accuse(self, i):
        """("copies" or "neighbours", the other label, the share), or None."""
        copies = [j for j in range(self.n) if j != i and self.contents[j] == self.contents[i]]
        others = [self.labels[j] for j in copies if self.labels[j] != self.labels[i]]
        if others:
            label = max(others, key=others.count)
            return "copies", label, others.count(label) / len(copies)
        if not self.options.suspect_neighbors or self.labels.count(self.labels[i]) == 1:
            return None
        near = [j for _, j in self.order[i] if self.apart(i, j)]
        near = near[: self.options.suspect_neighbors]
        best = None
        for j in near:
            label = self.labels[j]
            n_label, k = self.labels.count(label), min(self.options.suspect_neighbors, self.n - 1)
            reach = min(k, max(3, n_label - 1))
            if label == self.labels[i] or min(k, n_label) < 3:
                continue
            share = sum(self.labels[other] == label for other in near[:reach]) / reach
            if best is None or share > best[2]:
                best = ("neighbours", label, share)
        return best if best is not None and best[2] >= self.options.suspect_share else None

    def positives(self, i):
        options = self.options
        mates = [
            j for j in range(self.n) if self.labels[j] == self.labels[i] and self.apart(i, j) and j not in self.suspect
        ]
        if options.positives == "easy":
            return sorted(mates, key=lambda j: (self.d[i][j], j))[: options.positives_per_anchor]
        if options.positives == "hard":
            return sorted(mates, key=lambda j: (-self.d[i][j], j))[: options.positives_per_anchor]
        mates.sort(key=lambda j: (self.contents[j], j))
        generator = keyed(options.seed, "mine", item=int(self.contents[i]) % 2**64)
        return (
            generator.choice(mates, size=min(options.positives_per_anchor, len(mates)), replace=False).tolist()
            if mates
            else []
        )

    def negatives(self, i):
        return [
            j for far, j in self.order[i]
            if self.labels[j] != self.labels[i] and self.apart(i, j) and j not in self.suspect and far > self.limit
        ]  # fmt: skip

    def triplets(self):
        options, offers = self.options, []
        self.without_positive = self.without_negative = 0
        anchors = [i for i in range(self.n) if i not in self.suspect]
        for i in anchors:
            positives, found = self.positives(i), 0
            for place, p in enumerate(positives):
                near = self.d[i][p]
                for rank, j in enumerate(self.negatives(i)[: options.rank_to], start=1):
                    far = self.d[i][j]
                    good = [
                        rank >= options.rank_from,
                        options.absolute_from is None or far - near >= options.absolute_from,
                        options.absolute_to is None or far - near <= options.absolute_to,
                        options.relative_from is None or far >= near * (1 + options.relative_from),
                        options.relative_to is None or far <= near * (1 + options.relative_to),
                        self.d[p][j] > self.limit,
                    ]
                    if all(good):
                        found += 1
                        offers.append((far, i, place, rank, p, j))
            self.without_positive += not positives
            self.without_negative += bool(positives) and not found
        taken = []
        for offer in sorted(offers):
            _, i, place, _, _, j = offer
            of_pair = [one for one in taken if one[1:3] == (i, place)]
            of_class = [one for one in of_pair if self.labels[one[5]] == self.labels[j]]
            of_item = [one for one in taken if one[5] == j]
            limits = (
                (of_pair, options.negatives_per_anchor),
                (of_class, options.per_class),
                (of_item, options.per_negative),
            )
            if all(limit is None or len(chosen) < limit for chosen, limit in limits):
                taken.append(offer)
        taken.sort(key=lambda one: one[1:4])
        self.crowded_out = len(anchors) - self.without_positive - self.without_negative - len({one[1] for one in taken})
        return [(i, p, j, rank) for _, i, _, rank, p, j in taken]


def listed(mined):
    return list(
        zip(*(part.tolist() for part in (mined.anchors, mined.positives, mined.negatives, mined.ranks)), strict=True)
    )


def check(vectors, labels, options, distance="euclidean", groups=None, contents=None):
    """The mined triplets are those of the definition; gives what was mined."""
    mined = mine_triplets(vectors, labels, options, distance=distance, groups=groups, contents=contents)
    expected = Definition(vectors, labels, options, distance, groups, contents)
    triplets = expected.triplets()
    assert mined.duplicate_distance == pytest.approx(expected.limit, rel=1e-6)
    assert {
        one.item: (one.reason, one.other_label, pytest.approx(one.share)) for one in mined.label_errors
    } == expected.suspect
    assert listed(mined) == triplets
    assert mined.left_out.label_errors == len(expected.suspect)
    assert mined.left_out.without_positive == expected.without_positive
    assert mined.left_out.without_negative == expected.without_negative
    assert mined.left_out.crowded_out == expected.crowded_out
    assert mined.d_ap.tolist() == pytest.approx([expected.d[i][p] for i, p, _, _ in triplets], abs=1e-6)
    assert mined.d_an.tolist() == pytest.approx([expected.d[i][j] for i, _, j, _ in triplets], abs=1e-6)
    return mined


RULES = {
    "defaults": {},
    "easy": {"positives": "easy", "positives_per_anchor": 2, "negatives_per_anchor": 1},
    "hard": {"positives": "hard", "positives_per_anchor": 3, "negatives_per_anchor": 2},
    "random": {"positives": "random", "positives_per_anchor": 4, "seed": 3},
    "ranks": {"rank_from": 4, "rank_to": 7, "negatives_per_anchor": 3},
    "all ranks": {"rank_to": 1000, "negatives_per_anchor": 1000},
    "absolute": {"absolute_from": -0.4, "absolute_to": 0.7, "positives": "easy"},
    "relative": {"relative_from": -0.2, "relative_to": 0.35, "positives": "hard"},
    "at least": {"absolute_from": 0.3, "relative_from": 0.1},
    "classes": {"per_class": 1, "negatives_per_anchor": 4},
    "hubs": {"per_negative": 2, "negatives_per_anchor": 2, "positives_per_anchor": 2},
    "both caps": {"per_negative": 3, "per_class": 2, "negatives_per_anchor": 5, "rank_from": 2},
    "duplicates": {"duplicate_ratio": 1.4},
    "no duplicates": {"duplicate_ratio": 0.0, "suspect_neighbors": 0},
    "suspicious": {"suspect_neighbors": 5, "suspect_share": 0.6},
    "upper margins": {"relative_to": 0.3, "positives": "easy", "positives_per_anchor": 2, "negatives_per_anchor": 99},
    "upper gap": {"absolute_to": 0.2, "positives": "easy", "positives_per_anchor": 2, "negatives_per_anchor": 99},
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_every_rule_is_its_definition(name, distance):
    vectors, labels = world(61, 7)
    mined = check(vectors, labels, MiningOptions(**RULES[name]), distance)
    assert len(mined) > 20, "a comparison of nothing"


@pytest.mark.parametrize("positives", ["easy", "random", "hard"])
def test_numbers_beyond_what_there_is_mean_all_and_cost_no_memory(positives):
    vectors, labels = world(61, 7)
    counts = ("positives_per_anchor", "negatives_per_anchor", "rank_to", "per_class", "per_negative")
    all_of_them, more = (
        MiningOptions(positives=positives, **dict.fromkeys(counts, number)) for number in (4000, 10**30)
    )
    expected = listed(mine_triplets(vectors, labels, all_of_them))
    assert len(expected) > 1000
    assert listed(mine_triplets(vectors, labels, more)) == expected


@pytest.mark.parametrize("name", ["easy", "hard", "random", "hubs", "duplicates", "suspicious"])
def test_groups_copies_and_ties(name):
    """Rows on a coarse grid tie; some are copies, of one label or of two; groups cut through the classes."""
    vectors, labels = world(53, 6, seed=2)
    vectors = np.round(vectors)
    contents = np.arange(53) * 11 - 300
    for copy, of in ((40, 4), (41, 4), (42, 9), (50, 23)):
        vectors[copy], contents[copy] = vectors[of], contents[of]
    labels[[40, 41]] = labels[4]
    labels[42] = (labels[9] + 1) % 5
    groups = [None if i % 3 else f"group {i % 4}" for i in range(53)]
    mined = check(vectors, labels, MiningOptions(**RULES[name]), groups=groups, contents=contents)
    assert len(mined) > 5
    assert {"copies"} <= {one.reason for one in mined.label_errors}


def test_classes_so_large_that_an_anchors_neighbours_are_all_its_own():
    """Far parts of a class's own come first by the hundred: the search goes on, with and without the class."""
    generator = np.random.default_rng(5)
    labels = np.repeat([0, 1, 2], [97, 20, 11])
    vectors = generator.normal(0, 0.1, (128, 4)) + 10 * labels[:, None]
    options = MiningOptions(rank_to=3, suspect_neighbors=3, positives="hard")
    mined = check(vectors, labels, options)
    assert len(mined) == 3 * 128
    groups = ["one" if i < 110 else i for i in range(128)]  # and past a group that spans classes
    check(vectors, labels, options, groups=groups)


def test_chunks_and_tiles_do_not_matter(monkeypatch):
    vectors, labels = world(83, 5, seed=4)
    options = MiningOptions(positives="easy", rank_to=9)
    expected = listed(mine_triplets(vectors, labels, options))
    monkeypatch.setattr(search, "CHUNK_ENTRIES", 200)
    monkeypatch.setattr("tercet.mining.positives.TILE_ENTRIES", 50)
    monkeypatch.setattr("tercet.mining.triplets.ANCHORS_AT_A_TIME", 7)
    monkeypatch.setattr("tercet.mining.selection.BLOCK", 13)
    monkeypatch.setattr(search, "LARGE_CLASS", 3)
    assert listed(mine_triplets(vectors, labels, options)) == expected


@pytest.mark.parametrize("name", ["random", "hard", "both caps", "duplicates", "suspicious"])
def test_the_order_of_the_rows_does_not_matter(name):
    vectors, labels = world(71, 6, seed=6)
    contents = np.random.default_rng(1).integers(-(2**62), 2**62, 71)
    groups = np.arange(71) // 4
    options = MiningOptions(**RULES[name])
    mined = mine_triplets(vectors, labels, options, groups=groups, contents=contents)
    order = np.random.default_rng(2).permutation(71)
    other = mine_triplets(vectors[order], labels[order], options, groups=groups[order], contents=contents[order])
    there = [(order[a], order[p], order[n], rank) for a, p, n, rank in listed(other)]
    assert len(there) > 5
    assert sorted(there) == sorted(listed(mined))
    assert {order[one.item] for one in other.label_errors} == {one.item for one in mined.label_errors}
    assert {frozenset((order[one.item], order[one.other])) for one in other.near_duplicates} == {
        frozenset((one.item, one.other)) for one in mined.near_duplicates
    }


def test_names_of_labels_do_not_matter():
    vectors, labels = world(47, 5, seed=8)
    expected = listed(mine_triplets(vectors, labels))
    huge = [2**24 + int(label) for label in labels]  # in float32 these collide
    assert listed(mine_triplets(vectors, huge)) == expected
    assert listed(mine_triplets(torch.from_numpy(vectors), torch.tensor(huge))) == expected
    assert listed(mine_triplets(vectors, [f"class {label}" for label in labels])) == expected


def test_seeds_draw_other_positives():
    vectors, labels = world(47, 4)
    drawn = [mine_triplets(vectors, labels, MiningOptions(seed=seed)).positives.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


# Likely label errors, and what is near under another label.


def flipped(seed, n_classes=12, per_class=20, share=0.05, spread=0.25):
    """Classes apart from each other, of which some items carry the name of another."""
    generator = np.random.default_rng([9, seed])
    labels = np.repeat(np.arange(n_classes), per_class)
    centres = generator.normal(0, 1, (n_classes, 8))
    vectors = centres[labels] + generator.normal(0, spread, (len(labels), 8))
    wrong = generator.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + generator.integers(1, n_classes, len(wrong))) % n_classes
    return vectors, given, labels, set(wrong.tolist())


def test_flipped_labels_are_found_with_their_evidence():
    vectors, given, true, wrong = flipped(0)
    mined = mine_triplets(vectors, given)
    found = {one.item for one in mined.label_errors}
    assert len(found & wrong) >= 0.9 * len(wrong)
    assert len(found & wrong) >= 0.9 * len(found)
    for one in mined.label_errors:
        assert one.label == given[one.item]
        if one.item in wrong:
            assert one.other_label == true[one.item]
        assert one.share >= 0.8
        assert one.n_neighbors == 10
        assert given[one.other] == one.other_label
        distances = np.linalg.norm(vectors - vectors[one.item], axis=1)
        of_label = [j for j in np.argsort(distances)[1:11] if given[j] == one.other_label]
        assert one.distance == pytest.approx(distances[of_label].mean(), rel=1e-5)
        assert one.other == of_label[0]
    assert not found & set(np.concatenate([mined.anchors, mined.positives, mined.negatives]).tolist())


def test_an_item_alone_in_its_class_is_not_accused_and_is_a_negative():
    vectors = np.array([[0.0], [0.1], [0.2], [0.3], [0.15], [9.0], [9.1], [9.2]])
    labels = ["a", "a", "a", "a", "alone", "b", "b", "b"]
    mined = mine_triplets(vectors, labels, MiningOptions(suspect_neighbors=3))
    assert not mined.label_errors
    assert mined.left_out.without_positive == 1
    assert 4 in mined.negatives
    assert 4 not in mined.anchors
    labels[5] = "alone"  # not alone any more: both are outvoted
    mined = mine_triplets(vectors, labels, MiningOptions(suspect_neighbors=3))
    assert [(one.item, one.other_label) for one in mined.label_errors] == [(4, "a")]  # of b only two are left


def accused_at_zero(others, share, k=10):
    """Who accuses an item of class "a" at 0, its mate far away, of these others: places by their labels."""
    rows = [("a", 0.0), ("a", -9e4), *((label, float(place)) for label, places in others.items() for place in places)]
    options = MiningOptions(suspect_share=share, suspect_neighbors=k)
    mined = mine_triplets([[place] for _, place in rows], [label for label, _ in rows], options)
    return {one.item: (one.other_label, one.n_neighbors, rows[one.other][1]) for one in mined.label_errors}.get(0)


def test_how_many_neighbours_decide():
    """One less than the other label's class has, for one of that may itself lie elsewhere by mistake."""
    far = [5e4, 6e4, 7e4, 8e4]
    assert accused_at_zero({"b": [1, 2, 3, 4, 5, -8e4], "c": far}, 1.0) == ("b", 5, 1.0)
    assert accused_at_zero({"b": [1, 2, 3, 4, 5, -8e4], "c": [4.5, *far]}, 0.9) is None
    assert accused_at_zero({"b": [1, 2, 3, 4, 5, -8e4], "c": [4.5, *far]}, 0.8) == ("b", 5, 1.0)
    assert accused_at_zero({"b": [1, 2, 3], "c": far}, 1.0) == ("b", 3, 1.0)
    assert accused_at_zero({"b": [1, 2], "c": [3, *far]}, 0.6) is None  # two accuse nobody
    assert accused_at_zero({"b": [1, 2], "c": [3, 4, 5, *far]}, 0.6, k=3) is None


def test_of_two_accusers_the_nearer_one_counts():
    others = {"b": [1, 2, 4e4, 5e4], "c": [3, 4, 5, 6, 7, 8, 6e4, 7e4, 8e4, 9e4], "d": [9, -4e4]}
    assert accused_at_zero(others, 0.6, k=9) == ("b", 3, 1.0)  # two of three, as six of nine


def test_near_duplicates_are_listed_once_and_kept_apart():
    vectors, labels = world(40, 4, seed=11)
    one, other = 5, next(j for j in range(6, 40) if labels[j] != labels[5])
    vectors[other] = vectors[one] + 1e-6
    mined = mine_triplets(vectors, labels, MiningOptions(rank_to=40, negatives_per_anchor=40, suspect_neighbors=0))
    assert [(pair.item, pair.other) for pair in mined.near_duplicates] == [(one, other)]
    assert mined.near_duplicates[0].label == labels[one]
    for a, p, n, _ in listed(mined):
        assert {one, other} != {a, n}
        assert {one, other} != {p, n}
    assert any(one == a for a, *_ in listed(mined))


# Degenerate worlds and bad input.


def test_nothing_to_mine_is_no_error_and_is_explained():
    mined = mine_triplets([[0.0], [1.0], [2.0]], ["a", "b", "c"])
    assert len(mined) == 0
    assert mined.left_out.without_positive == 3
    assert mined.hardness(0.2) == {"hard": 0, "semihard": 0, "easy": 0}
    assert mined.busiest_negative() == (-1, 0)
    mined = mine_triplets([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1], MiningOptions(absolute_to=-100.0))
    assert (len(mined), mined.left_out.without_negative) == (0, 4)
    assert len(mine_triplets([[0.0], [1.0]], ["a", "b"])) == 0
    assert len(mine_triplets(np.ones((6, 2)), [0, 0, 0, 1, 1, 1])) == 0  # all are near-duplicates


def test_hardness_is_by_the_margin():
    vectors = [[0.0], [1.0], [0.5], [1.2], [9.0]]
    labels = ["a", "a", "b", "c", "d"]
    mined = mine_triplets(vectors, labels, MiningOptions(rank_to=3))
    gaps = [n - p for p, n in zip(mined.d_ap.tolist(), mined.d_an.tolist(), strict=True)]
    for margin in (0.0, 0.2, 0.3, 100.0):
        hard, easy = sum(gap <= 0 for gap in gaps), sum(gap > 0 and gap >= margin for gap in gaps)
        assert mined.hardness(margin) == {"hard": hard, "semihard": len(gaps) - hard - easy, "easy": easy}
    assert mined.hardness(0.3) == {"hard": 3, "semihard": 1, "easy": 2}
    with pytest.raises(InputError, match=r"margin is -0\.1; it must be a finite number, 0 or more"):
        mined.hardness(-0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_from": 5, "rank_to": 4}, "rank_from is 5 and rank_to is 4; the first must not be the larger."),
        ({"absolute_from": 0.2, "absolute_to": 0.1}, "absolute_from is 0.2 and absolute_to is 0.1; the first must"),
        ({"relative_from": 0.2, "relative_to": 0.1}, "relative_from is 0.2 and relative_to is 0.1; the first must"),
        ({"relative_to": -1.0}, "relative_to is -1.0, it must be a finite number above -1, or left open."),
        ({"absolute_from": math.nan}, "absolute_from is nan, it must be a finite number, or left open."),
        ({"rank_from": 0, "seed": -1}, "rank_from is 0, it must be 1 or more; seed is -1, it must be 0 or more"),
        ({"per_class": 0}, "per_class is 0, it must be 1 or more, or left open."),
        ({"per_negative": 0}, "per_negative is 0, it must be 1 or more, or left open."),
        ({"negatives_per_anchor": 0}, "negatives_per_anchor is 0, it must be 1 or more."),
        ({"positives_per_anchor": 0}, "positives_per_anchor is 0, it must be 1 or more."),
        ({"duplicate_ratio": -0.1}, "duplicate_ratio is -0.1, it must be a finite number, 0 or more."),
        ({"suspect_neighbors": 2}, "suspect_neighbors is 2, it must be 3 or more, or 0 to suspect none."),
        ({"suspect_share": 0.5}, "suspect_share is 0.5, it must be above 0.5 and at most 1."),
        ({"positives": "esay"}, "positives is 'esay'; allowed are 'easy', 'random', 'hard'. Did you mean 'easy'?"),
        ({"search": "aproximate"}, "search is 'aproximate'; allowed are 'auto', 'exact', 'approximate'. Did you mean"),
    ],
)
def test_rules_that_make_no_sense(settings, message):
    with pytest.raises(InputError) as raised:
        MiningOptions(**settings)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "vectors must have shape"),
        ((np.zeros((0, 3)), []), "there are no items to mine from."),
        ((np.eye(3), ["a", "a", "a"]), "all 3 items have the label 'a'; negatives are of another class, so at least"),
        ((np.eye(3), ["a", None, "b"]), "label 1 is None; mining needs a label for every item."),
        ((np.eye(3), [1.0, math.nan, 2.0]), "label 1 is nan; mining needs a label for every item."),
        ((np.eye(3), ["a", "b"]), "there are 3 vectors and 2 labels; each item needs one."),
        ((np.eye(3), [["a"], ["b"], ["c"]]), "labels must be plain, one for each item; given ['a']."),
        ((np.full((3, 2), np.nan), [0, 0, 1]), "vectors must be finite and below 1e15"),
    ],
)
def test_vectors_and_labels_that_cannot_be_mined(arguments, message):
    with pytest.raises(InputError) as raised:
        mine_triplets(*arguments)
    assert str(raised.value).startswith(message)


def test_groups_contents_and_distances_that_do_not_fit():
    with pytest.raises(InputError, match="there are 3 vectors and 2 groups; each item needs one"):
        mine_triplets(np.eye(3), [0, 0, 1], groups=["a", "b"])
    with pytest.raises(InputError, match="contents must be 3 integers; given float64"):
        mine_triplets(np.eye(3), [0, 0, 1], contents=[0.0, 1.0, 2.0])
    with pytest.raises(InputError, match="the jaccard distance compares features of 0 or more"):
        mine_triplets(-np.eye(3), [0, 0, 1], distance="jaccard")


# Search: exact, or through faiss.


def test_approximate_search_says_its_recall_and_finds_what_exact_search_does():
    pytest.importorskip("faiss")
    vectors, labels = world(300, 7, seed=12)
    groups = [i // 2 for i in range(300)]
    options = {"rank_to": 6, "positives": "easy"}
    exact = mine_triplets(vectors.astype(np.float32), labels, MiningOptions(search="exact", **options), groups=groups)
    found = mine_triplets(
        vectors.astype(np.float32), labels, MiningOptions(search="approximate", **options), groups=groups
    )
    assert exact.recall is None
    assert exact.search == "exact search over 300 items"
    assert found.recall == 1.0  # so few cells are all looked into
    assert found.search == (
        "approximate search over 300 items through faiss, which finds 100.0% of the 10 nearest (measured)"
    )
    assert listed(found) == listed(exact)


def test_approximate_search_measures_by_differences_and_leaves_out_the_item_itself():
    pytest.importorskip("faiss")
    rows = torch.from_numpy(world(90, 4)[0]).float()
    rows[30:60] = rows[:30]  # an item's copies may push it out of what is found
    everyone, metric = np.arange(90), resolve("euclidean")
    near = Search.over(rows, metric, "approximate").nearest(everyone, 5)
    exact = Search.over(rows, metric, "exact").nearest(everyone, 5)
    assert not (near.indices == everyone[:, None]).any()
    assert np.allclose(near.distances, exact.distances, rtol=1e-6, atol=0)  # the last digit is that of float32
    assert np.array_equal(near.indices, exact.indices)


def test_auto_chooses_by_size_and_says_why_not(monkeypatch):
    pytest.importorskip("faiss")
    vectors, labels = world(60, 4)
    monkeypatch.setattr(search, "EXACT_ITEMS", 59)
    assert mine_triplets(vectors, labels).search.startswith("approximate search over 60 items through faiss")
    said = mine_triplets(vectors, labels, distance="manhattan").search
    assert said == "exact search over 60 items (faiss cannot search manhattan distances)"
    with pytest.raises(InputError, match="distance of an approximate search is 'manhattan'"):
        mine_triplets(vectors, labels, MiningOptions(search="approximate"), distance="manhattan")

    def gone(module, extra):
        raise MissingDependency(module)

    monkeypatch.setattr(search, "require", gone)
    said = mine_triplets(vectors, labels).search
    assert said == "exact search over 60 items (approximate search is faster and needs: pip install 'tercet[faiss]')"
    monkeypatch.setattr(search, "EXACT_ITEMS", 60)
    assert mine_triplets(vectors, labels).search == "exact search over 60 items"


def test_the_search_goes_on_until_enough_are_eligible():
    """Only the farthest few are eligible: every anchor is searched again and again."""
    rows = torch.arange(500, dtype=torch.float64)[:, None]
    searched = Search.over(rows, resolve("euclidean"), "exact")
    first = first_pass(searched, 4)
    near = nearest_eligible(searched, first, lambda rows, others, _: abs(rows - others) >= 240, np.arange(500), 3)
    assert near.indices[0].tolist() == [240, 241, 242]
    assert near.indices[250].tolist() == [10, 490, 9]
    assert near.indices[499].tolist() == [259, 258, 257]
    none = nearest_eligible(searched, first, lambda rows, others, _: rows - others >= 498, np.arange(500), 3)
    assert none.indices[498].tolist() == [0, -1, -1]
    assert none.distances[498].tolist() == [498, math.inf, math.inf]
    assert (none.indices[:498] == -1).all()


def test_memory_grows_with_the_items_and_not_with_their_square():
    """The largest array ever made is far below N² entries, in classes small and large."""
    largest = 0
    original = np.argsort

    def spy(array, *arguments, **keywords):
        nonlocal largest
        largest = max(largest, np.size(array))
        return original(array, *arguments, **keywords)

    n_items = 3000
    vectors, labels = np.random.default_rng(0).normal(size=(n_items, 4)), np.arange(n_items) % 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "argsort", spy)
        mine_triplets(vectors, labels, MiningOptions(rank_to=10, positives="easy"))
    assert 0 < largest <= n_items * (10 + 32)


# A run: files, cache, command line.


@pytest.mark.slow
def test_mined_images_are_trained_on(command, image_run, images, tmp_path):
    run, out = shutil.copytree(image_run, tmp_path / "run"), tmp_path / "out" / "hard.parquet"
    done = command("mine", run, images, "--out", out)
    assert done.code == 0, done.err
    assert f"next      tercet train {out} --out RUN" in done.out
    assert "exact search over 48 items" in done.err
    table = pq.read_table(out)
    assert table.column_names == [
        "anchor", "positive", "negative", "anchor_label", "negative_label", "d_ap", "d_an", "rank",
    ]  # fmt: skip
    vectors = tercet.load(run).embed
    for row in table.slice(0, 20).to_pylist():
        files = [out.parent / row[side] for side in ("anchor", "positive", "negative")]
        assert [path.resolve().parent.name for path in files] == [
            row["anchor_label"], row["anchor_label"], row["negative_label"],
        ]  # fmt: skip
        a, p, n = vectors(files)
        assert row["d_ap"] == pytest.approx(np.linalg.norm(a - p), abs=1e-5)
        assert row["d_an"] == pytest.approx(np.linalg.norm(a - n), abs=1e-5)
    trained = command("train", out, "--out", tmp_path / "harder", "--steps", 4, "--rows-per-batch", 8)
    assert trained.code == 0, trained.err
    assert f"{table.num_rows} triplets of" in trained.err
    assert "skipped" not in trained.err
    assert "are at hand" in command("mine", run, images, "--out", tmp_path / "again.parquet").err
    assert (tmp_path / "again.parquet").read_bytes() != out.read_bytes()  # its paths start from another folder
    done = command("mine", run, images, "--out", tmp_path / "out" / "b.parquet", "--no-cache")
    assert "are at hand" not in done.err
    assert (tmp_path / "out" / "b.parquet").read_bytes() == out.read_bytes()


@pytest.mark.slow
def test_mined_texts_are_trained_on(command, texts, tmp_path):
    run, out = tmp_path / "run", tmp_path / "mined.parquet"
    assert command("train", texts, "--out", run, "--columns", "sentence", *QUICK_FLAGS).code == 0
    words = ("mine", run, texts, "--columns", "sentence", "--out", out)
    done = command(*words, "--json", "--positives", "easy", "--negatives-per-anchor", 2, "--margin", 0.5)
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    rows = pq.read_table(out).to_pylist()
    assert figures["triplets"] == len(rows) == figures["hard"] + figures["semihard"] + figures["easy"]
    assert figures["margin"] == 0.5
    assert figures["out"] == str(out)
    label_of = {row["sentence"]: row["label"] for row in csv.DictReader(texts.open())}
    for row in rows:
        assert label_of[row["anchor"]] == label_of[row["positive"]] == row["anchor_label"]
        assert label_of[row["negative"]] == row["negative_label"] != row["anchor_label"]
    listed_suspects = list(csv.DictReader((tmp_path / "mined-suspects.csv").open()))
    assert len(listed_suspects) == figures["label_errors"] + figures["near_duplicates"]
    trained = command("train", out, "--out", tmp_path / "harder", "--steps", 3, "--rows-per-batch", 8, "--json")
    assert trained.code == 0, trained.err


def test_groups_come_from_a_column_or_a_list(command, texts, tmp_path):
    run = tercet.train(str(texts), out=tmp_path / "run", columns=("sentence",), steps=2, progress=False)
    rows = list(csv.DictReader(texts.open()))
    with (tmp_path / "grouped.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sentence", "label", "film"])
        writer.writeheader()
        writer.writerows(
            {"sentence": row["sentence"], "label": row["label"], "film": "" if i % 5 == 0 else f"film {i % 5}"}
            for i, row in enumerate(rows)
        )
    settings = {"columns": ("sentence",), "rank_to": 60, "negatives_per_anchor": 60, "positives_per_anchor": 9}
    groups = [None if i % 5 == 0 else i % 5 for i in range(len(rows))]
    free = run.mine(str(texts), **settings)
    by_list = run.mine(str(texts), groups=groups, **settings)
    by_column = run.mine(str(tmp_path / "grouped.csv"), group="film", **settings)
    assert listed(by_column.mined) == listed(by_list.mined)
    assert 0 < len(by_list) < len(free)
    for a, p, n, _ in listed(by_list.mined):
        assert groups[a] is None or groups[a] not in (groups[p], groups[n])
    with pytest.raises(DataError, match=r"has no column 'flim' \(--group\).*Did you mean 'film'"):
        run.mine(str(tmp_path / "grouped.csv"), group="flim", **settings)
    with pytest.raises(InputError, match="give one of them"):
        run.mine(str(texts), group="film", groups=groups, **settings)
    with pytest.raises(InputError, match="there are 42 items and 1 groups"):
        run.mine(str(texts), groups=["a"], **settings)


def test_groups_of_a_table_with_missing_images(image_run, images, tmp_path):
    run = tercet.load(shutil.copytree(image_run, tmp_path / "run"))
    paths = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))[:20]
    lines = [f"{path},{path.split('/')[0]},{i % 3}" for i, path in enumerate(paths)]
    lines.insert(4, "gone.png,class00,7")
    (tmp_path / "list.csv").write_text("\n".join(["path,label,camera", *lines]) + "\n")
    found = run.mine(str(tmp_path / "list.csv"), root=str(images), group="camera", columns=("path",), rank_to=20)
    assert [one.name for one in found.records.skipped] == ["gone.png"]
    assert len(found) > 0
    for a, p, n, _ in listed(found.mined):
        assert a % 3 not in (p % 3, n % 3)


@pytest.mark.slow
def test_embeddings_are_kept_by_weights_and_contents(command, image_run, images, tmp_path):
    run, data = shutil.copytree(image_run, tmp_path / "run"), shutil.copytree(images, tmp_path / "data")

    def mine():
        done = command("mine", run, data, "--out", tmp_path / "m.parquet", "--overwrite")
        assert done.code == 0, done.err
        return "are at hand" in done.err, "damaged" in done.err, (tmp_path / "m.parquet").read_bytes()

    first = mine()
    assert mine() == (True, False, first[2])
    (kept,) = (run / "cache").rglob("*.safetensors")

    content = bytearray(kept.read_bytes())
    content[-5] ^= 1  # a flipped bit in a vector, which the format itself does not see
    kept.write_bytes(content)
    assert mine() == (False, True, first[2])
    assert mine() == (True, False, first[2])
    kept.write_bytes(kept.read_bytes()[:100])
    assert mine() == (False, True, first[2])
    assert mine() == (True, False, first[2])

    shutil.copy(data / "class01" / "0.png", data / "class00" / "3.png")  # of the same name, with other contents
    hit, _, changed = mine()
    assert not hit
    assert changed != first[2]
    assert len(list((run / "cache").rglob("*.safetensors"))) == 2

    weights = load_file(run / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, run / "model.safetensors")
    hit, _, other = mine()
    assert not hit
    assert other != changed
    assert len(list((run / "cache").rglob("*.safetensors"))) == 1  # those of the former weights are gone

    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('fit = "crop"', 'fit = "stretch"'))
    assert config != (run / "config.toml").read_text()
    assert not mine()[0]
    assert mine()[0]
    moved = run.rename(tmp_path / "elsewhere")
    done = command("mine", moved, data, "--out", tmp_path / "m.parquet", "--overwrite")
    assert "are at hand" in done.err


def test_what_cannot_be_read_is_skipped_with_and_without_the_cache(image_run, images, tmp_path):
    run, data = tercet.load(shutil.copytree(image_run, tmp_path / "run")), shutil.copytree(images, tmp_path / "data")
    (data / "class00" / "2.png").write_bytes(b"no image")
    found = []
    for _ in range(2):
        with pytest.warns(TercetWarning, match="1 of 48 items"):
            found.append(run.mine(str(data)))
    assert [len(one.records) for one in found] == [47, 47]
    assert [one.records.skipped[0].name for one in found] == ["class00/2.png"] * 2
    assert listed(found[0].mined) == listed(found[1].mined)
    assert len(found[0].mined.items) == 47
    groups = {path.relative_to(data).as_posix(): i % 3 for i, path in enumerate(sorted(data.rglob("*.png")))}
    with pytest.warns(TercetWarning, match="1 of 48 items"):  # the groups of the items left are those they had
        grouped = run.mine(str(data), groups=list(groups.values()), rank_to=40, negatives_per_anchor=9)
    names = grouped.records.names
    assert len(grouped) > 0
    for a, p, n, _ in listed(grouped.mined):
        assert groups[names[a]] not in (groups[names[p]], groups[names[n]])


def test_copies_with_two_labels_are_listed_and_not_trained_on(image_run, images, tmp_path):
    run, data = tercet.load(shutil.copytree(image_run, tmp_path / "run")), shutil.copytree(images, tmp_path / "data")
    shutil.copy(data / "class01" / "0.png", data / "class00" / "copy.png")
    found = run.mine(str(data), tmp_path / "m.parquet", suspect_neighbors=0)
    rows = list(csv.DictReader(found.suspects.open()))
    assert [(row["item"], row["reason"], row["other_label"], row["other"], row["left_out"]) for row in rows] == [
        ("class00/copy.png", "copies", "class01", "class01/0.png", "yes"),
        ("class01/0.png", "copies", "class00", "class00/copy.png", "yes"),
    ]
    used = pq.read_table(found.out)
    for side in ("anchor", "positive", "negative"):
        assert not [path for path in used[side].to_pylist() if path.endswith(("copy.png", "class01/0.png"))]


def test_nothing_is_overwritten_unasked(command, image_run, images, tmp_path):
    run = shutil.copytree(image_run, tmp_path / "run")
    for taken in ("m.parquet", "m-suspects.csv"):
        (tmp_path / taken).write_text("mine")
        done = command("mine", run, images, "--out", tmp_path / "m.parquet")
        assert done.code == 2
        assert done.err == (
            f"error: {tmp_path / taken} exists already; choose another name, or replace it with --overwrite (from "
            "Python: overwrite=True).\n"
        )
        assert (tmp_path / taken).read_text() == "mine"
        (tmp_path / taken).unlink()


def test_bad_words_on_the_command_line(command, image_run, images, numbers, tmp_path):
    run, out = shutil.copytree(image_run, tmp_path / "run"), tmp_path / "m.parquet"
    for words, message in (
        ((tmp_path / "nowhere", images, "--out", out), f"there is no run at {tmp_path / 'nowhere'}."),
        ((run, tmp_path / "nothing", "--out", out), f"{tmp_path / 'nothing'} does not exist."),
        ((run, images, "--out", tmp_path / "m.csv"), f"{tmp_path / 'm.csv'} must end in .parquet."),
        ((run, images, "--out", out, "--rank-from", 9, "--rank-to", 3), "rank_from is 9 and rank_to is 3"),
        ((run, images, "--out", out, "--margin", "-0.5"), "margin is -0.5; it must be a finite number, 0 or more."),
        ((run, images, "--out", out, "--group", "camera"), "--group names a column of a table, and"),
        ((run, images / "class00", "--out", out), f"{images / 'class00'} holds 6 images but no subfolders"),
        ((run, images, "--out", out, "--absolute-to", "-5"), f"no triplet was mined from {images}: of 48 items"),
    ):
        done = command("mine", *words, "--json")
        assert done.code == 2, done.out
        assert message in " ".join(done.err.split()), done.err
        assert not out.exists()
        assert not (tmp_path / "m-suspects.csv").exists()


def test_rows_of_numbers_are_mined_in_python_alone(command, numbers, tmp_path):
    run = tercet.train(str(numbers), out=tmp_path / "run", steps=3, progress=False)
    done = command("mine", run.path, numbers, "--out", tmp_path / "m.parquet")
    assert done.code == 2
    assert "holds rows of numbers, and a table of triplets holds paths or texts" in done.err
    found = tercet.mine(run, str(numbers), rank_from=2)
    assert found.out is found.suspects is None
    assert len(found) > 0
    assert found.mined.ranks.min() == 2
    assert found.figures()["triplets"] == len(found)
    expected = mine_triplets(
        run.embed(found.records.items), found.records.labels, MiningOptions(rank_from=2),
        contents=found.records.fingerprints(),
    )  # fmt: skip
    assert listed(expected) == listed(found.mined)
    with pytest.raises(InputError, match=r"option is 'rank_form'; allowed are .* Did you mean 'rank_from'"):
        tercet.mine(run, str(numbers), rank_form=2)
    with pytest.raises(DataError, match="no labels"):
        run.mine(run.embed(found.records.items))


def test_a_runs_own_encoder_is_embedded_anew(numbers, tmp_path, monkeypatch):
    """Code has no hash: nothing of it is kept."""
    torch.manual_seed(0)
    run = tercet.train(str(numbers), out=tmp_path / "run", encoder=torch.nn.Linear(4, 3), steps=2, progress=False)
    assert len(run.mine(str(numbers))) > 0
    assert not (run.path / "cache").exists()
