"""Rules against formulas of papers, written here with matrices and autograd; derivatives against differences; draws."""

import math
from dataclasses import replace

import pytest
import torch

from tercet.distances import Cosine, Euclidean, SquaredEuclidean
from tercet.kernels import PAIR_PENALTIES, PENALTIES, Plan, Rule, reduce_triplets
from tercet.kernels.mining import sampled
from tercet.kernels.mining.sampled import uniforms
from tercet.kernels.reference import uniform
from tercet.testing import Problem, Rough, assert_close, random_rows, rule_name, telling_rules

RULES = telling_rules([Euclidean()], penalties=(*PENALTIES, *PAIR_PENALTIES))
FIXED_RULES = [rule for rule in RULES if rule.mining != "distance-weighted"]  # whose draw hangs on the position
IMPLEMENTATIONS = ("reference", "torch")


def small():
    """Nine anchors against thirteen rows, a margin and a weight each; one anchor without a positive."""
    return Problem(
        random_rows(9, 4, 1) / 2,
        torch.tensor([0, 1, 2, 0, 1, 2, 0, 7, 1]),
        random_rows(13, 4, 2) / 2,
        torch.arange(13) % 3,
        margins=torch.linspace(0.2, 0.9, 9).double(),
        weights=torch.linspace(0.1, 2.0, 9).double(),
    )


# --- derivatives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_gradient_of_margins_and_temperature_is_that_of_differences_of_the_loops(rule):
    problem, step = small(), 1e-5

    def value(margins=problem.margins, temperature=rule.temperature):
        changed = replace(rule, temperature=temperature)
        return float(replace(problem, margins=margins).reduce(changed, "reference", need_gradient=False).value)

    for implementation in IMPLEMENTATIONS:
        result = problem.reduce(rule, implementation)
        for anchor in (0, 4, 7):
            shift = step * torch.eye(9).double()[anchor]
            expected = (value(problem.margins + shift) - value(problem.margins - shift)) / (2 * step)
            assert float(result.gradient_margins[anchor]) == pytest.approx(expected, abs=1e-8)
        if rule.has_temperature:
            above, below = value(temperature=rule.temperature + step), value(temperature=rule.temperature - step)
            assert float(result.gradient_temperature) == pytest.approx((above - below) / (2 * step), abs=1e-8)
            assert abs(above - below) > step / 100, "vacuous: the temperature does not matter"
        else:
            assert result.gradient_temperature is None
    if rule.penalty == "supcon":
        assert not result.gradient_margins.any()
    elif rule.mining != "distance-weighted":
        assert result.gradient_margins.any(), "vacuous: no margin matters"


def test_no_margins_no_gradient_of_margins():
    result = replace(small(), margins=None).reduce(Rule(Euclidean()), "torch")
    assert result.gradient_margins is None


# --- formulas of papers ----------------------------------------------------------------------------------------


def euclidean_matrix(x):
    squared = (x[:, None] - x).square().sum(2)
    return torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)


def masks(labels):
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


def classes():
    """Rows with classes of unequal size, one of them a single item."""
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 1, 3, 2, 0, 1])
    return random_rows(11, 4, 3).requires_grad_(), labels


def check(rule, x, labels, expected):
    (gradient,) = torch.autograd.grad(expected, x, retain_graph=True)
    assert gradient.abs().max() > 1e-3, "vacuous: no gradient"
    for implementation in IMPLEMENTATIONS:
        result = reduce_triplets(x.detach(), None, labels, None, rule, implementation=implementation)
        assert_close(result.value, expected.detach())
        assert_close(result.gradient_anchors, gradient, what="gradient")


def test_supcon_is_the_paper_s():
    """Khosla et al. 2020, eq. 2: unit vectors, inner products, A(i) all other items; the mean over anchors."""
    x, labels = classes()
    positive, _ = masks(labels)
    z = torch.nn.functional.normalize(x)
    logits = (z @ z.T / 0.3).masked_fill(torch.eye(11, dtype=torch.bool), -torch.inf)
    log_share = logits - logits.exp().sum(1, keepdim=True).log()
    has_positive = positive.any(1)
    losses = -torch.where(positive, log_share, 0).sum(1)[has_positive] / positive.sum(1)[has_positive]
    assert len(losses) == 10
    check(Rule(Cosine(), penalty="supcon", reduction="mean", temperature=0.3), x, labels, losses.mean())
    check(Rule(Cosine(), penalty="supcon", reduction="sum", temperature=0.3), x, labels, losses.sum())


def test_supcon_without_negatives():
    """One class: what is left is how evenly the positives lie."""
    x = random_rows(5, 3, 0).requires_grad_()
    d = euclidean_matrix(x)
    other = ~torch.eye(5, dtype=torch.bool)
    losses = (-d[other].view(5, 4) / 0.5).logsumexp(1) + d[other].view(5, 4).mean(1) / 0.5
    check(
        Rule(Euclidean(), penalty="supcon", reduction="mean", temperature=0.5), x, torch.zeros(5).long(), losses.mean()
    )


def test_lifted_is_the_paper_s():
    """Hermans et al. 2017, eq. 7, at temperature 1: as written there, with logarithms of sums of exponentials."""
    x, labels = classes()
    x = (x.detach() / 3).requires_grad_()
    positive, negative = masks(labels)
    d, margin = euclidean_matrix(x), 0.3
    terms = [
        torch.relu(d[a][positive[a]].exp().sum().log() + (margin - d[a][negative[a]]).exp().sum().log())
        for a in range(11)
        if positive[a].any()
    ]
    rule = Rule(Euclidean(), "all", margin, "lifted", "mean")
    check(rule, x, labels, torch.stack(terms).mean())


def test_lifted_counts_anchors_that_cost_something():
    """Two tight classes far apart, and an item of a third within the second: the first is content."""
    x = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [9.15], [20.0]]).double().requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    positive, negative = masks(labels)
    d = euclidean_matrix(x)
    terms = torch.stack(
        [torch.relu(d[a][positive[a]].logsumexp(0) + (0.1 - d[a][negative[a]]).logsumexp(0)) for a in range(8)]
    )
    active = int((terms > 0).sum())
    assert active == 5, "vacuous: all are active, or none"
    check(Rule(Euclidean(), "all", 0.1, "lifted", "mean-active"), x, labels, terms.sum() / active)


@pytest.mark.parametrize("reduction", ["mean", "mean-active", "sum"])
def test_contrastive_is_the_textbook_s(reduction):
    """Hadsell et al. 2006, eq. 4, doubled; `mean-active` averages positive and negative costs above zero apart."""
    x, labels = classes()
    positive, negative = masks(labels)
    d = euclidean_matrix(x)
    of_positives = torch.relu(d - 0.4)[positive] ** 2
    of_negatives = torch.relu(3.0 - d)[negative] ** 2
    expected = of_positives.sum() + of_negatives.sum()
    if reduction == "mean":
        expected = expected / (len(of_positives) + len(of_negatives))
    if reduction == "mean-active":
        assert 0 < (of_positives > 0).sum() != (of_negatives > 0).sum() < len(of_negatives)
        expected = of_positives[of_positives > 0].mean() + of_negatives[of_negatives > 0].mean()
    check(Rule(Euclidean(), "all", 3.0, "contrastive", reduction, positive_margin=0.4), x, labels, expected)


def test_contrastive_mean_over_no_active_pair_of_one_kind_is_zero():
    x = torch.tensor([[0.0], [0.25], [5.0]]).double()
    labels = torch.tensor([0, 0, 1])
    rule = Rule(Euclidean(), "all", 1.0, "contrastive", "mean-active")
    for implementation in IMPLEMENTATIONS:
        result = reduce_triplets(x, None, labels, None, rule, implementation=implementation)
        assert_close(result.value, torch.tensor(0.0625).double())
        assert result.stats.to_dict()["n_mined"] == 6
        assert result.stats.to_dict()["n_active"] == 2


@pytest.mark.parametrize("beyond", [False, True])
def test_easy_positives_are_the_paper_s(beyond):
    """Xuan et al. 2020, EPHN and EPSHN: the nearest positive, and of the negatives (farther than it) the nearest."""
    x, labels = classes()
    positive, negative = masks(labels)
    d, terms = euclidean_matrix(x), []
    for a in range(11):
        if positive[a].any():
            d_ap = d[a][positive[a]].min()
            allowed = d[a][negative[a] & (d[a] > d_ap)] if beyond else d[a][negative[a]]
            terms += [torch.relu(d_ap + 0.7 - allowed.min()) ** 2] if len(allowed) else []
    mining = "easy-positive-semihard" if beyond else "easy-positive"
    check(Rule(Euclidean(), mining, 0.7, "squared-hinge", "mean"), x, labels, torch.stack(terms).mean())


# --- weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", FIXED_RULES, ids=rule_name)
def test_a_weight_of_two_is_the_anchor_twice(rule):
    problem = small()
    times = torch.tensor([1, 2, 0, 3, 1, 1, 2, 1, 0])
    rows = torch.arange(9).repeat_interleave(times)
    repeated = replace(
        problem,
        embeddings=problem.embeddings[rows],
        labels=problem.labels[rows],
        margins=problem.margins[rows],
        weights=None,
    )
    weighted = replace(problem, weights=times.double()).reduce(rule, "torch")
    expected = repeated.reduce(rule, "torch")
    assert_close(weighted.value, expected.value)
    assert_close(weighted.gradient_references, expected.gradient_references)
    assert_close(weighted.per_anchor[rows], expected.per_anchor, what="per_anchor")
    sums = torch.zeros(9, 4).double().index_add_(0, rows, expected.gradient_anchors)
    assert_close(weighted.gradient_anchors, sums)
    assert expected.value > 0, "vacuous: nothing costs"


@pytest.mark.parametrize("rule", FIXED_RULES, ids=rule_name)
def test_per_anchor_is_the_value_of_one_anchor(rule):
    problem = small()
    found = problem.reduce(rule, "torch").per_anchor
    for a in range(9):
        alone = replace(
            problem,
            embeddings=problem.embeddings[a : a + 1],
            labels=problem.labels[a : a + 1],
            margins=problem.margins[a : a + 1],
            weights=None,
        )
        assert_close(found[a], alone.reduce(rule, "torch").value)


# --- drawn by distance -----------------------------------------------------------------------------------------


def drawn_counts(n_positives, references, rule, positives_at=0.3, implementation="torch", **more):
    """How often each of the other references was drawn by one anchor at the origin, whose positives are many.

    The gradient of a triplet's hinge is a unit vector at its negative.
    """
    n = len(references)
    y = torch.cat([references, torch.zeros(n_positives, references.shape[1]).to(references.dtype)])
    y[n:, 0] = positives_at
    labels = torch.cat([torch.arange(1, n + 1), torch.zeros(n_positives).long()])
    result = reduce_triplets(
        torch.zeros_like(y[:1]), y, torch.zeros(1).long(), labels, rule, implementation=implementation, **more
    )
    return result.gradient_references[:n].norm(dim=1).double(), result


@pytest.mark.parametrize("dim", [3, 8])
def test_draws_follow_the_paper_s_distribution(dim):
    """Wu et al. 2017: proportional to 1 / q(max(d, 0.5)), and none from 1.4 on; chi-square of 9 degrees of freedom."""
    distances = torch.tensor([0.2, 0.5, 0.55, 0.61, 0.7, 0.83, 0.9, 1.1, 1.25, 1.39, 1.4, 1.7], dtype=torch.float64)
    references = torch.zeros(12, dim).double()
    references[torch.arange(12), torch.arange(12) % dim] = distances
    n_positives = 20000
    rule = Rule(Euclidean(), "distance-weighted", 9.0, reduction="sum", seed=5)
    counts, result = drawn_counts(n_positives, references, rule)
    assert result.stats.to_dict()["n_mined"] == n_positives
    assert_close(counts.sum(), torch.tensor(float(n_positives)))
    weights = torch.zeros(12).double()
    for n, d in enumerate(distances.tolist()):
        if d < 1.4:
            near = max(d, 0.5)
            weights[n] = 1 / (near ** (dim - 2) * (1 - near**2 / 4) ** ((dim - 3) / 2))
    expected = n_positives * weights / weights.sum()
    assert not counts[10:].any()
    assert expected[:10].min() > 5, "too rare to tell"
    chi_square = float(((counts - expected)[:10] ** 2 / expected[:10]).sum())
    assert chi_square < 28, f"{chi_square:.1f}: a chance of a thousandth"
    again, _ = drawn_counts(n_positives, references, rule, plan=Plan("torch", 1, 6007))
    assert_close(again, counts)
    other, _ = drawn_counts(n_positives, references, replace(rule, seed=6))
    assert (other != counts).any()


def test_uniform_numbers_are_those_of_the_loops():
    """Whatever the 64 bits: negative as int64, seeds and positions large."""
    anchors, positives = torch.tensor([0, 1, 0, 7, 2**40, 123]), torch.tensor([0, 0, 1, 2**33, 5, 123])
    for seed in (0, 1, 2**63 - 1, 0x9E3779B97F4A7C15 >> 1):
        expected = [uniform(seed, a, p) for a, p in zip(anchors.tolist(), positives.tolist(), strict=True)]
        assert uniforms(seed, anchors, positives).tolist() == expected
        assert len(set(expected)) == 6
        assert all(0 <= number < 1 for number in expected)


def test_draws_take_the_euclidean_distance_where_it_is_known():
    """On the sphere squares and cosines say the same by other numbers, so the same negatives are drawn."""
    y = torch.nn.functional.normalize(random_rows(41, 7, 2) - 0.3)
    labels = torch.tensor([0] * 6 + list(range(1, 36)))
    seen = set()
    for seed in range(5):
        drawn = []
        for distance in (Euclidean(), SquaredEuclidean(), Cosine()):
            rule = Rule(distance, "distance-weighted", 9.0, reduction="sum", seed=seed)
            result = reduce_triplets(y[:1], y[1:], labels[:1], labels[1:], rule, implementation="torch")
            assert result.stats.to_dict()["n_mined"] == 5
            drawn.append(result.gradient_references[5:].any(1).nonzero()[:, 0].tolist())
        assert drawn[0] == drawn[1] == drawn[2]
        seen |= set(drawn[0])
    assert len(seen) > 5, "vacuous: always the same"


def test_draws_in_float32_are_those_in_float64():
    """Nothing hangs on the digits that tiles and implementations lose; off centre, and where density is steep."""
    references = 0.8 * torch.nn.functional.normalize(random_rows(200, 256, 0) - 0.3).float()
    rule = Rule(Euclidean(), "distance-weighted", 9.0, reduction="sum", seed=4)
    expected, _ = drawn_counts(2000, references.double(), rule, positives_at=-8)
    for plan in (None, Plan("torch", 1, 317)):
        counts, result = drawn_counts(2000, references, rule, positives_at=-8, plan=plan)
        assert result.value.dtype == result.gradient_anchors.dtype == result.per_anchor.dtype == torch.float32
        assert_close(counts, expected, 1e-6)
    assert expected.sum() == pytest.approx(2000)


def test_the_limit_is_that_of_direct_differences():
    """1.395 may be drawn and 1.405 not, though the tile is off by 0.01 either way."""
    for order in ([1.395, 1.405, 1.405], [1.405, 1.395, 1.405], [1.405, 1.405, 1.395]):
        counts, _ = drawn_counts(
            7, torch.tensor(order)[:, None], Rule(Rough(), "distance-weighted", 9.0, reduction="sum")
        )
        assert_close(counts, 7.0 * (torch.tensor(order) < 1.4))


def test_weights_beyond_the_range_of_numbers():
    """In 4096 dimensions 1 / q(0.5) is e^2900, and 1 / q(1.3) less than one."""
    dim = 4096
    for distances in ([1.3, 1.3, 1.3, 1.5], [0.5, 1.3, 1.35, 1.39]):
        references = torch.zeros(4, dim).double()
        references[torch.arange(4), torch.arange(4)] = torch.tensor(distances).double()
        counts, _ = drawn_counts(60, references, Rule(Euclidean(), "distance-weighted", 9.0, reduction="sum"))
        if distances[0] == 0.5:
            assert_close(counts, torch.tensor([60.0, 0, 0, 0]))
        else:
            assert counts[:3].min() > 5
            assert counts[3] == 0


def test_pairs_without_a_negative_below_the_limit_are_left_out():
    x = torch.tensor([[0.0], [0.125], [1.5], [3.0]]).double()
    labels = torch.tensor([0, 0, 1, 1])
    for implementation in IMPLEMENTATIONS:
        rule = Rule(Euclidean(), "distance-weighted", 2.0, reduction="sum")
        result = reduce_triplets(x, None, labels, None, rule, implementation=implementation)
        assert result.stats.to_dict()["n_mined"] == 2  # of 0.125 and of 1.5, which lie 1.375 apart
        assert_close(result.value, torch.tensor((0.125 + 2 - 1.375) + (1.5 + 2 - 1.375)).double())


def test_a_target_that_is_never_passed_draws_the_last(monkeypatch):
    """As if the total had been rounded up: the last negative that may be drawn, not the last of all."""
    monkeypatch.setattr(sampled, "uniforms", lambda seed, anchors, positives: torch.ones(anchors.shape).double())
    references = torch.tensor([[0.6], [0.7], [0.9], [1.6]]).double()
    rule = Rule(Euclidean(), "distance-weighted", 9.0, reduction="sum")
    for plan in (Plan("torch", 1, 13), Plan("torch", 1, 2)):
        counts, _ = drawn_counts(9, references, rule, plan=plan)
        assert_close(counts, torch.tensor([0.0, 0, 9, 0]))


# --- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"penalty": "lifted", "mining": "hard"}, "penalty 'lifted' goes with mining 'all'; given is mining 'hard'."),
        (
            {"penalty": "supcon"},
            "penalty is 'supcon'; allowed are 'hinge', 'squared-hinge', 'softplus', 'logsumexp', 'lifted'.",
        ),
        (
            {"fallback": "farthest"},
            "fallback 'farthest' belongs to mining 'semihard' or 'easy-positive-semihard'; "
            "with mining 'all' leave it out.",
        ),
        ({"seed": 3}, "seed belongs to mining 'distance-weighted'; with mining 'all' leave it out."),
        ({"seed": -3, "mining": "distance-weighted"}, "seed is -3; allowed is a whole number from 0 to 2^63 - 1."),
        (
            {"temperature": 0.5},
            "temperature belongs to penalty 'logsumexp' or 'lifted'; with penalty 'hinge' leave it out.",
        ),
        ({"margin": -1}, "margin is -1; allowed is a finite number of at least 0."),
        ({"margin": math.nan}, "margin is nan; allowed is a finite number of at least 0."),
    ],
)
def test_faults_of_a_rule(settings, fault):
    assert Rule(Euclidean(), **settings).faults() == [fault]


def test_faults_of_a_rule_of_pairs():
    assert Rule(Euclidean(), penalty="supcon", temperature=0.2).faults(PAIR_PENALTIES) == []
    assert Rule(SquaredEuclidean(), penalty="contrastive", positive_margin=0.2).faults(PAIR_PENALTIES) == []
    assert Rule(Euclidean(), "hard", -1, "contrastive", temperature=2, positive_margin=-1).faults(PAIR_PENALTIES) == [
        "temperature belongs to penalty 'supcon'; with penalty 'contrastive' leave it out.",
        "penalty 'contrastive' goes with mining 'all'; given is mining 'hard'.",
        "margin is -1; allowed is a finite number of at least 0.",
        "positive_margin is -1; allowed is a finite number of at least 0.",
    ]
    assert Rule(Euclidean(), penalty="supcon", positive_margin=0.1).faults(PAIR_PENALTIES) == [
        "positive_margin belongs to penalty 'contrastive'; with penalty 'supcon' leave it out."
    ]
