"""Full figures: counts of hard, semi-hard and easy triplets, and histograms of the distances."""

from dataclasses import fields, replace

import pytest
import torch

from tercet.distances import Cosine, Euclidean, Manhattan, SquaredEuclidean
from tercet.kernels import Plan, Rule, census
from tercet.kernels.result import BINS, Census
from tercet.testing import PROBLEMS, Problem, Rough, assert_close, random_rows

NAMES = [field.name for field in fields(Census)]
KINDS = ("n_hard", "n_semihard", "n_easy")


def figures(problem, rule, implementation="torch", **more):
    return problem.reduce(rule, implementation, full_stats=True, need_gradient=False, **more).stats


def assert_same_figures(actual, expected):
    for name in NAMES:
        found, right = getattr(actual, name), getattr(expected, name)
        if name == "histogram_edges":
            assert_close(found, right, what=name)
        else:
            assert found.dtype == torch.int64
            assert found.tolist() == right.tolist(), name


@pytest.mark.parametrize("distance", [Euclidean(), SquaredEuclidean(), Cosine(), Manhattan()], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["ragged", "weighted", "bank-with-groups", "several-labels", "related-bank"])
def test_figures_are_those_of_the_loops(name, distance):
    problem = PROBLEMS[name]()
    for margin in (0.0, 0.4):
        rule = Rule(distance, margin=margin)
        expected = figures(problem, rule, implementation="reference")
        for plan in (None, Plan("torch", 5, 7)):
            assert_same_figures(figures(problem, rule, plan=plan), expected)
        assert sum(int(getattr(expected, kind)) for kind in KINDS) == int(expected.n_valid)
        if distance.name == "euclidean" and margin:
            assert all(getattr(expected, kind) > 5 for kind in KINDS), "vacuous: one kind is missing"


@pytest.mark.parametrize("name", PROBLEMS)
def test_figures_of_every_problem(name):
    """Nothing to count is counted too; ties are hard, and lie on edges."""
    problem = PROBLEMS[name]()
    for distance in (Euclidean(), Cosine()):
        if name == "dyadic" and distance == Cosine():
            continue  # whose ties there are not exact
        rule = Rule(distance, margin=0.5)
        expected = figures(problem, rule, implementation="reference")
        assert_same_figures(figures(problem, rule), expected)
        assert expected.histogram_edges.shape == (BINS + 1,)


def test_kinds_by_hand():
    """Anchors 0 and 1 on a line, margin 1: of 0 (d_ap = 1) negatives at 1 (hard), 1.5, and 2 (easy, at the edge)."""
    x = torch.tensor([[0.0], [1.0], [-1.0], [-1.5], [-2.0]]).double()
    problem = Problem(x[:1], torch.zeros(1).long(), x[1:], torch.tensor([0, 1, 1, 1]))
    for implementation in ("torch", "reference"):
        stats = figures(problem, Rule(Euclidean(), margin=1.0), implementation=implementation).to_dict()
        assert [stats[kind] for kind in KINDS] == [1, 1, 1]
        stats = figures(problem, Rule(Euclidean(), margin=0.0), implementation=implementation).to_dict()
        assert [stats[kind] for kind in KINDS] == [1, 0, 2]  # a tie is hard, whatever the margin
        own = replace(problem, margins=torch.tensor([0.6]).double())
        stats = figures(own, Rule(Euclidean(), margin=9.0), implementation=implementation).to_dict()
        assert [stats[kind] for kind in KINDS] == [1, 1, 1]


def test_histograms_by_hand():
    """Distances 0 to 64: each edge belongs to the bin above it, the last one to the last bin."""
    x = torch.arange(65.0)[:, None].double()
    problem = Problem(x[:1], torch.zeros(1).long(), x, torch.tensor([0, 0] + [1] * 63))
    for implementation in ("torch", "reference"):
        stats = figures(problem, Rule(Euclidean()), implementation=implementation)
        assert stats.histogram_edges.tolist() == list(range(65))
        assert stats.histogram_positive.tolist() == [1, 1] + [0] * 62
        assert stats.histogram_negative.tolist() == [0, 0] + [1] * 61 + [2]


def test_bins_of_a_bounded_distance_span_its_range():
    stats = figures(PROBLEMS["ragged"](), Rule(Cosine()))
    assert stats.histogram_edges[0] == 0
    assert stats.histogram_edges[-1] == 2
    stats = figures(PROBLEMS["ragged"](), Rule(Euclidean()))
    assert stats.histogram_edges[-1] < 12


def test_counts_in_float32_do_not_depend_on_the_tiles():
    """Equal rows under other labels, at margin 0."""
    x = random_rows(34, 33, 0, torch.float32)
    x[17:] = x[:17]
    problem, rule = Problem(x, torch.arange(34) % 7), Rule(Euclidean(), margin=0.0)
    expected = figures(problem, rule, plan=Plan("torch", 34, 34))
    for plan in (Plan("torch", 7, 11), Plan("torch", 13, 1)):
        found = figures(problem, rule, plan=plan)
        for name in NAMES:
            assert getattr(found, name).tolist() == getattr(expected, name).tolist()


@pytest.mark.parametrize("name", ["ragged", "dyadic", "bank"])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_rounding_of_a_tile_decides_nothing(name, margin):
    problem = PROBLEMS[name]()
    expected = figures(problem, Rule(Euclidean(), margin=margin), implementation="reference")
    for plan in (None, Plan("torch", 7, 5)):
        assert_same_figures(figures(problem, Rule(Rough(), margin=margin), plan=plan), expected)


def test_nothing_is_counted_unless_asked_for(monkeypatch):
    monkeypatch.setattr(census, "count_levels_below", None)
    result = PROBLEMS["ragged"]().reduce(Rule(Euclidean()), "torch")
    assert all(getattr(result.stats, name) is None for name in NAMES)
    assert not set(NAMES) & set(result.stats.to_dict())


def test_figures_as_numbers():
    """Kinds are among them, histograms are not."""
    numbers = figures(PROBLEMS["ragged"](), Rule(Euclidean())).to_dict()
    assert set(KINDS) <= set(numbers)
    assert not any(name.startswith("histogram") for name in numbers)
    assert "active_share" in numbers


def test_figures_of_what_is_not_finite():
    """No error: the value is NaN, and says so."""
    x = random_rows(6, 3, 0)
    x[2, 1] = torch.inf
    result = Problem(x, torch.arange(6) % 2).reduce(Rule(Euclidean()), "torch", full_stats=True)
    assert result.value.isnan()
