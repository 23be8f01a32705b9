"""Who is compared with whom: groups, several labels an item, and relations, against exclusion by hand."""

from dataclasses import replace

import pytest
import torch

from tercet.distances import Euclidean
from tercet.errors import InputError
from tercet.kernels import PAIR_PENALTIES, PENALTIES, Plan, Rule, pairing, reduce_triplets
from tercet.kernels.pairing import Batch, share_a_label
from tercet.testing import PROBLEMS, Problem, assert_close, assert_same_result, random_rows, rule_name, telling_rules

RULES = telling_rules([Euclidean()], penalties=(*PENALTIES, *PAIR_PENALTIES))
NUMBERS = ("n_valid", "anchors_without_positive", "anchors_without_negative")
FEW = [rule for rule in RULES if rule.mining in ("all", "semihard")]


def same_class(own, other):
    return own[:, None] == other


@pytest.mark.parametrize("name", ["ragged", "bank-with-groups", "repeated-ids", "one-class", "singletons"])
@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_classes_by_every_way_are_the_same(rule, name):
    """As labels, as a boolean relation, as a relation in numbers, and as one of several labels."""
    problem = PROBLEMS[name]()
    expected = problem.reduce(rule, "torch")
    padded = [
        None if labels is None else torch.stack([torch.full_like(labels, -1), labels], dim=1)
        for labels in (problem.labels, problem.reference_labels)
    ]
    for other in (
        replace(problem, relation=same_class),
        replace(problem, relation=lambda own, other: torch.where(own[:, None] == other, 0.5, -2.0)),
        replace(problem, labels=padded[0], reference_labels=padded[1]),
    ):
        assert_same_result(other.reduce(rule, "torch"), expected)


@pytest.mark.parametrize("name", ["bank-with-groups", "related-bank"])
@pytest.mark.parametrize("rule", FEW, ids=rule_name)
def test_what_is_excluded_may_as_well_not_be_there(rule, name):
    """Each anchor alone, against the references that are left, has the value that it has among the others."""
    problem = PROBLEMS[name]()
    found = problem.reduce(rule, "torch")
    n_excluded = 0
    for a in range(len(problem.embeddings)):
        left = (problem.reference_ids != problem.ids[a]) & (problem.reference_groups != problem.groups[a])
        n_excluded += int((~left).sum())
        alone = Problem(
            problem.embeddings[a : a + 1],
            problem.labels[a : a + 1],
            problem.reference[left],
            problem.reference_labels[left],
            relation=problem.relation,
            margins=None if problem.margins is None else problem.margins[a : a + 1],
        )
        assert_close(found.per_anchor[a], alone.reduce(rule, "torch").value)
    assert n_excluded > 20, "vacuous: little is excluded"
    assert found.per_anchor.any(), "vacuous: nothing costs"


def test_counts_by_hand():
    """Ids exclude the row itself; groups another of its class, one of another class, and both of both kinds."""
    problem = Problem(
        random_rows(6, 2, 0),
        torch.tensor([0, 0, 0, 1, 1, 2]),
        groups=torch.tensor([5, 5, 6, 5, 7, 6]),
    )
    batch = Batch(
        problem.embeddings, problem.embeddings, problem.labels, problem.labels,
        torch.arange(6), torch.arange(6), problem.groups, problem.groups,
    )  # fmt: skip
    positives, negatives = batch.pairing.counts
    assert positives.tolist() == [1, 1, 2, 1, 1, 0]
    assert negatives.tolist() == [2, 2, 2, 2, 4, 4]
    related = replace(batch, relation=same_class).pairing.counts
    assert [counts.tolist() for counts in related] == [positives.tolist(), negatives.tolist()]


def test_the_anchor_is_the_first_argument():
    """A relation that is not symmetric: each looks up to the next larger one, and down on the smaller ones."""
    x = torch.tensor([[0.0], [1.0], [3.0]]).double()
    ranks = torch.tensor([10.0, 20.0, 30.0])

    def relation(own, other):
        gap = other - own[:, None]
        return torch.where(gap == 10, 1, torch.where(gap < 0, -1, 0))

    for implementation in ("torch", "reference"):
        rule = Rule(Euclidean(), margin=2.0, reduction="sum")
        result = reduce_triplets(x, None, ranks, None, rule, relation=relation, implementation=implementation)
        # The middle one alone has both: 2 + 2 - 1.
        assert result.value.item() == 3
        stats = result.stats.to_dict()
        assert [stats[name] for name in ("n_valid", "anchors_without_positive", "anchors_without_negative")] == [
            1,
            1,
            1,
        ]
        assert stats["mean_negative"] == pytest.approx((1 + 3 + 2) / 3)


def test_share_a_label():
    """Padding is shared with nobody, and labels are told apart beyond 2^24 and 2^53."""
    big = 2**53
    own = torch.tensor([[big, -1, -1], [big + 1, 3, -1], [-1, -1, -1], [4, 3, big]])
    other = torch.tensor([[big + 1, -1], [-1, -1], [big, 4]])
    assert share_a_label(own, other).tolist() == [
        [False, False, True],
        [True, False, False],
        [False, False, False],
        [False, False, True],
    ]
    assert not share_a_label(own[:, :0], other).any()


def test_no_label_is_shared_by_items_without_any():
    x = random_rows(4, 3, 0)
    labels = torch.tensor([[-1, -1], [-1, -1], [1, -1], [2, 1]])
    stats = Problem(x, labels).reduce(Rule(Euclidean()), "torch").stats.to_dict()
    assert [stats[name] for name in NUMBERS] == [4, 2, 0]


@pytest.mark.parametrize(
    ("relation", "without"),
    [(same_class, "positive"), (lambda own, other: own[:, None] != other, "negative")],
)
def test_a_row_is_never_compared_with_itself(relation, without):
    """Even by a relation that says it is its own positive, or negative."""
    x = random_rows(5, 3, 0)
    stats = Problem(x, torch.arange(5), relation=relation).reduce(Rule(Euclidean()), "torch").stats.to_dict()
    assert stats[f"anchors_without_{without}"] == 5
    assert stats["n_valid"] == 0


def test_labels_of_a_relation_may_have_any_shape_and_dtype():
    x, labels = random_rows(7, 3, 0), random_rows(7, 6, 1).view(7, 2, 3)
    shapes = []

    def relation(own, other):
        shapes.append((own.shape[1:], own.dtype))
        return (own[:, None] - other).square().sum((2, 3)) < 6

    result = Problem(x, labels, relation=relation).reduce(Rule(Euclidean()), "torch")
    assert result.stats.to_dict()["n_valid"] > 0
    assert set(shapes) == {(torch.Size([2, 3]), torch.float64)}


def test_a_relation_is_asked_tile_by_tile(monkeypatch):
    monkeypatch.setattr(pairing, "TILE_ENTRIES", 4096)
    sizes = []

    def relation(own, other):
        sizes.append(len(own) * len(other))
        return own[:, None] % 7 == other % 7

    problem = Problem(random_rows(211, 3, 0), torch.arange(211), relation=relation)
    plan = Plan("torch", 32, 64)
    result = problem.reduce(Rule(Euclidean()), plan=plan)
    assert max(sizes) <= 4096
    assert_same_result(
        result, replace(problem, labels=torch.arange(211) % 7, relation=None).reduce(Rule(Euclidean()), "torch")
    )


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        (
            lambda own, other: own == own,
            r"the relation gave \(4,\) of torch.bool for labels of shapes \(4,\) and \(4,\)",
        ),
        (lambda own, other: 1, r"the relation gave int for labels"),
        (lambda own, other: (own[:, None] + other) * 1j, r"the relation gave \(4, 4\) of torch.complex64"),
        (lambda own, other: torch.full((len(own), len(other)), torch.nan), "the relation gave NaN"),
    ],
)
def test_faults_of_a_relation(relation, message):
    with pytest.raises(InputError, match=message):
        Problem(random_rows(4, 3, 0), torch.arange(4), relation=relation).reduce(Rule(Euclidean()), "torch")
