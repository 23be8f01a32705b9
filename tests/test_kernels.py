"""The tiled kernels equal the loops: value, gradient and counts, for every rule, whatever the tiles."""

import dataclasses

import pytest
import torch

from tercet.distances import Cosine, Euclidean, Manhattan, Minkowski, SquaredEuclidean, resolve
from tercet.errors import InputError
from tercet.kernels import PAIR_PENALTIES, PENALTIES, Plan, Rule, reduce_triplets
from tercet.kernels.mining import levels
from tercet.kernels.rule import make_plan
from tercet.testing import (
    PROBLEMS,
    KernelContract,
    Problem,
    Rough,
    assert_close,
    assert_same_result,
    every_rule,
    random_rows,
    rule_name,
    telling_rules,
)

COUNTS = ("n_valid", "n_mined", "n_active")


EVERY_PENALTY = (*PENALTIES, *PAIR_PENALTIES)


class TestEveryRule(KernelContract):
    @pytest.fixture(params=every_rule([Euclidean()], penalties=EVERY_PENALTY), ids=rule_name)
    def rule(self, request):
        return request.param

    @pytest.fixture
    def problem(self, rule):
        return PROBLEMS["sphere" if rule.mining == "distance-weighted" else "ragged"]()


class TestEveryDistance(KernelContract):
    """With a margin and a weight for each anchor."""

    @pytest.fixture(
        params=[rule for rule in telling_rules(penalties=EVERY_PENALTY) if rule.distance != Euclidean()],
        ids=rule_name,
    )
    def rule(self, request):
        return request.param

    @pytest.fixture
    def problem(self):
        return PROBLEMS["weighted"]()


class TestEveryProblem(KernelContract):
    @pytest.fixture(params=telling_rules([Euclidean()], [0.5], EVERY_PENALTY), ids=rule_name)
    def rule(self, request):
        return request.param

    @pytest.fixture(params=PROBLEMS)
    def problem(self, request):
        return PROBLEMS[request.param]()


class TestDyadicTies(KernelContract):
    """Every distance that is exact there, or whose square is; margin 0 puts a threshold on the duplicates."""

    @pytest.fixture(
        params=[
            rule
            for rule in telling_rules(
                [Euclidean(), SquaredEuclidean(), Manhattan(), resolve(torch.nn.PairwiseDistance(eps=0))], (0.0, 0.5)
            )
            if rule.penalty in ("hinge", "lifted") or rule.mining != "all"
        ],
        ids=rule_name,
    )
    def rule(self, request):
        return request.param

    @pytest.fixture
    def problem(self):
        return PROBLEMS["dyadic"]()


class TestDuplicatesAtMarginZero(KernelContract):
    @pytest.fixture(params=telling_rules([Euclidean(), Cosine()], [0.0]), ids=rule_name)
    def rule(self, request):
        return request.param

    @pytest.fixture
    def problem(self):
        return PROBLEMS["ragged"]()


def test_the_loops_on_a_batch_done_by_hand():
    """Points 0, 1 of class a and 1.5, 4 of class b on a line, margin 1: see the triplets in the comments."""
    problem = Problem(torch.tensor([[0.0], [1.0], [1.5], [4.0]]).double(), torch.tensor([0, 0, 1, 1]))
    # 0: t = 2: 1.5 costs .5, 4 nothing.       1: t = 2: .5 costs 1.5, 3 nothing.
    # 1.5: t = 3.5: 1.5 costs 2, .5 costs 3.   4: t = 3.5: 4 nothing, 3 costs .5.
    for implementation in ("reference", "torch"):
        result = problem.reduce(Rule(Euclidean(), margin=1.0, reduction="sum"), implementation)
        assert result.value.item() == 7.5
        assert [result.stats.to_dict()[name] for name in COUNTS] == [8, 8, 5]
        assert result.stats.to_dict()["mean_positive"] == pytest.approx(1.75)
        assert result.stats.to_dict()["mean_negative"] == pytest.approx(2.25)
        hard = problem.reduce(Rule(Euclidean(), "hard", margin=1.0, reduction="sum"), implementation)
        assert hard.value.item() == 0.5 + 1.5 + 3 + 0.5
        semihard = problem.reduce(Rule(Euclidean(), "semihard", margin=1.0, reduction="sum"), implementation)
        assert semihard.value.item() == 0.5 + 0 + 0.5  # the third has no negative beyond 2.5
        assert semihard.stats.to_dict()["n_mined"] == 3
        farthest = Rule(Euclidean(), "semihard", 1.0, reduction="sum", fallback="farthest")
        assert problem.reduce(farthest, implementation).value.item() == 3.0


def test_ties_give_the_gradient_to_the_lowest_index():
    """Rows 1 and 4 are the farthest positives of row 0 alike, rows 2 and 3 its nearest negatives."""
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -2.0]])
    labels = torch.tensor([0, 0, 1, 2, 0])
    for name in ("hard", "semihard"):
        rule = Rule(Euclidean(), name, 3.0, reduction="sum", fallback="farthest" if name == "semihard" else "skip")
        for plan in (Plan("torch", 1, 5), Plan("torch", 1, 1), Plan("torch", 1, 2), Plan("reference", 1, 1)):
            result = reduce_triplets(
                x[:1], x, labels[:1], labels, rule,
                ids=torch.tensor([0]), reference_ids=torch.arange(5), plan=plan,
            )  # fmt: skip
            dy = result.gradient_references
            assert dy[2].any()
            assert not dy[3].any()
            if name == "hard":
                assert dy[1].any()
                assert not dy[4].any()


@pytest.mark.parametrize("name", ["ragged", "dyadic", "bank", "all-equal"])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_rounding_of_a_tile_decides_nothing(name, margin):
    problem = PROBLEMS[name]()
    for rule in every_rule([Rough()], [margin]):
        drawn = rule.mining == "distance-weighted"  # by weights of the tile's distances, wrong as they are
        if rule.penalty == "hinge" and rule.reduction == "sum" and not drawn:
            exact = dataclasses.replace(rule, distance=Euclidean())
            expected, actual = problem.reduce(exact), problem.reduce(rule, plan=Plan("torch", 7, 5))
            for count in COUNTS:
                assert actual.stats.to_dict()[count] == expected.stats.to_dict()[count]
            if rule.mining != "all":  # whose value takes the tile's distances, wrong as they are
                assert_close(actual.value, expected.value)
                assert_close(actual.gradient_anchors, expected.gradient_anchors)
            if expected.gradient_references is not None and rule.mining != "all":
                assert_close(actual.gradient_references, expected.gradient_references)


@pytest.mark.parametrize("distance", [Euclidean(), Cosine(), Minkowski(1.5)], ids=lambda d: d.name)
def test_many_positives_go_through_bisection(distance, monkeypatch):
    """More thresholds than are compared one by one."""
    problem = PROBLEMS["ragged"]()
    calls = []
    monkeypatch.setattr(levels, "DIRECT_LEVELS", 2)
    search = torch.searchsorted
    monkeypatch.setattr(torch, "searchsorted", lambda *given, **more: (calls.append(1), search(*given, **more))[1])
    for rule in every_rule([distance]):
        if rule.reduction == "mean" and rule.penalty in ("hinge", "softplus"):
            assert_same_result(problem.reduce(rule, plan=Plan("torch", 17, 11)), problem.reduce(rule, "reference"))
    assert calls, "vacuous: nothing was bisected"


def test_nearly_all_pairs_near():
    """Two far clusters, each tiny: products see nothing of the distances within them."""
    x = random_rows(19, 5, 0) * 1e-6
    x[::2] += 100
    problem = Problem(x, torch.arange(19) % 5)
    for rule in telling_rules([Euclidean(), SquaredEuclidean()], (0.1,)):
        assert_same_result(problem.reduce(rule, "torch"), problem.reduce(rule, "reference"))


@pytest.mark.parametrize("gap", [1e-4, 1e-6])
@pytest.mark.parametrize(
    ("name", "penalty"),
    [
        ("all", "hinge"), ("all", "squared-hinge"), ("all", "softplus"), ("all", "logsumexp"), ("all", "lifted"),
        ("hard", "hinge"), ("hard", "softplus"), ("semihard", "squared-hinge"), ("semihard", "softplus"),
        ("easy-positive", "hinge"), ("easy-positive-semihard", "logsumexp"), ("distance-weighted", "hinge"),
        ("all", "contrastive"), ("all", "supcon"),
    ],
)  # fmt: skip
def test_float32_is_not_much_worse_than_direct_differences(gap, name, penalty):
    """Against the loops in float64; near duplicates of the same and of other classes."""
    x = torch.nn.functional.normalize(random_rows(47, 64, 0))
    for row in range(0, 12, 2):
        x[row + 1] = x[row] + gap * torch.nn.functional.normalize(random_rows(1, 64, row))[0]
    labels = torch.arange(47) % 11
    labels[1] = labels[0]
    x = x.float()
    rule = Rule(Euclidean(), name, 0.2, penalty, "mean-active")
    right = Problem(x.double(), labels).reduce(rule, "reference")
    direct = Problem(x, labels).reduce(Rule(resolve(direct_differences), name, 0.2, penalty, "mean-active"), "torch")
    found = Problem(x, labels).reduce(rule, "torch")
    assert found.value.dtype == torch.float32
    assert [found.stats.to_dict()[key] for key in COUNTS] == [right.stats.to_dict()[key] for key in COUNTS]
    for actual, naive, expected in (
        (found.value, direct.value, right.value),
        (found.gradient_anchors, direct.gradient_anchors, right.gradient_anchors),
    ):
        error, allowed = ((part.double() - expected).abs().max() for part in (actual, naive))
        assert error <= 2 * allowed + 5e-7 * expected.abs().max(), f"{error:.3g}, directly {allowed:.3g}"


def direct_differences(x, y):
    return torch.linalg.vector_norm(x - y, dim=1)


def test_counts_in_float32_do_not_depend_on_the_tiles():
    """Many lie within rounding of a threshold: equal rows under other labels, at margin 0."""
    x = random_rows(34, 33, 0, torch.float32)
    x[17:] = x[:17]
    labels = torch.arange(34) % 7
    for name in ("all", "semihard", "easy-positive-semihard"):
        rule = Rule(Euclidean(), name, 0.0, reduction="sum")
        counts = {
            tuple(
                Problem(x, labels).reduce(rule, plan=plan, need_gradient=False).stats.to_dict()[key] for key in COUNTS
            )
            for plan in (
                Plan("torch", 34, 34),
                Plan("torch", 7, 11),
                Plan("torch", 13, 1),
                Plan("reference", 1, 1),
            )
        }
        assert len(counts) == 1


def test_label_values_do_not_matter():
    """Above 2^24 float32 would merge neighbours; above 2^53 float64 would."""
    x, labels = random_rows(23, 5, 0), torch.arange(23) % 5
    rule = Rule(Euclidean())
    expected = Problem(x, labels).reduce(rule, "torch")
    for start in (2**24, 2**62, -(2**62)):
        assert_same_result(Problem(x, labels + start).reduce(rule, "torch"), expected)


def test_overflow_is_not_silent():
    x = random_rows(7, 3, 0, torch.float32)
    x[3] = 1e30
    for rule in telling_rules([Euclidean()], penalties=EVERY_PENALTY):
        if rule.mining == "distance-weighted":
            continue  # computed in float64, where nothing overflows
        result = Problem(x, torch.arange(7) % 2).reduce(rule, "torch")
        assert result.value.isnan()
        assert result.gradient_anchors.isnan().all()
        assert result.per_anchor.isnan().all()


def test_without_a_gradient_none_is_formed():
    problem = PROBLEMS["bank"]()
    result = reduce_triplets(
        problem.embeddings, problem.reference, problem.labels, problem.reference_labels, Rule(Euclidean()),
        need_gradient=False, implementation="torch",
    )  # fmt: skip
    assert result.gradient_anchors is None
    assert result.gradient_references is None
    assert_close(result.value, problem.reduce(Rule(Euclidean()), "torch").value, 0.0)


def test_matrix_precision_is_put_back_and_not_used(monkeypatch):
    """TF32 or bfloat16 products, which a user may allow for the network, stay out of the distances."""
    seen = []
    tile = Euclidean.tile

    def spy(self, x, y):
        seen.append(torch.get_float32_matmul_precision())
        return tile(self, x, y)

    monkeypatch.setattr(Euclidean, "tile", spy)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        PROBLEMS["ragged"]().reduce(Rule(Euclidean()), "torch")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


def test_plan_keeps_tiles_within_memory():
    for anchors, references, largest in (
        (8192, 8192, 4),
        (64, 10**6, 10**5),
        (1, 1, 1),
        (0, 0, 0),
        (4096, 4096, 4096),
    ):
        plan = make_plan("torch", anchors, references, largest, 1 << 20)
        assert plan.implementation == "torch"
        assert plan.tile_rows == 1 or plan.tile_rows * (plan.tile_columns + largest) * 64 <= 1 << 20
        assert min(plan.tile_rows, plan.tile_columns) >= 1
    assert make_plan("reference", 5, 5, 2) == Plan("reference", 5, 5)
    with pytest.raises(InputError, match="implementation is 'tirton'; allowed are 'auto', "):
        make_plan("tirton", 5, 5, 2)
