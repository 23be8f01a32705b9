"""The compiled CPU kernels equal the loops, whatever the tiles, the strips and the number of threads."""

import functools
import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from numba.core.dispatcher import Dispatcher

from tercet.distances import Chebyshev, Cosine, Euclidean, Jaccard, Manhattan, Minkowski, SquaredEuclidean, resolve
from tercet.errors import InputError
from tercet.kernels import Plan, Rule, compiled, reduce_triplets
from tercet.kernels.compiled import crew, loops, rules
from tercet.kernels.compiled import problem as problem_module
from tercet.testing import (
    PROBLEMS,
    KernelContract,
    Problem,
    assert_close,
    assert_same_result,
    every_rule,
    random_rows,
    rule_name,
    telling_rules,
)

DISTANCES = (Euclidean(), SquaredEuclidean(), Cosine(), Manhattan(), Minkowski(3.0), Chebyshev(), Jaccard())


def compiled_rules(distances, margins=(0.7,), reductions=("mean-active", "mean", "sum")):
    """Every rule that there is a loop for."""
    found = every_rule(distances, margins)
    return [rule for rule in found if rules.family_of(rule) is not None and rule.reduction in reductions]


def few_rules(distances, margins=(0.7,)):
    """Those that visit all loops."""
    return [rule for rule in telling_rules(distances, margins) if rules.family_of(rule) is not None]


def few_classes():
    """So many positives that they are sorted, and negatives put in buckets between them; duplicates among both."""
    x = random_rows(55, 5, 4).abs()
    x[7], x[40] = x[3], x[41]
    labels = torch.arange(55) % 2
    labels[5] = 9
    return Problem(x, labels)


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class TestEveryRule(KernelContract):
    implementation = "numba"

    @pytest.fixture(
        params=compiled_rules([Euclidean()]) + compiled_rules(DISTANCES[1:], (0.7,), ("sum",)), ids=rule_name
    )
    def rule(self, request):
        return request.param

    @pytest.fixture
    def problem(self, rule):
        problem = PROBLEMS["ragged"]()
        return Problem(problem.embeddings.abs(), problem.labels)


class TestEveryProblem(KernelContract):
    """Margin 0 puts a threshold exactly on the duplicates."""

    implementation = "numba"

    @pytest.fixture(params=few_rules([Euclidean()], (0.0,)), ids=rule_name)
    def rule(self, request):
        return request.param

    @pytest.fixture(params=PROBLEMS)
    def problem(self, request):
        return PROBLEMS[request.param]()


class TestManyPositives(KernelContract):
    implementation = "numba"

    @pytest.fixture(
        params=[
            Rule(Euclidean(), "all", 0.0, "hinge"),
            Rule(Euclidean(), "all", 0.5, "hinge"),
            Rule(Jaccard(), "all", 0.1, "squared-hinge"),
            Rule(SquaredEuclidean(), "all", 0.5, "logsumexp", "mean", temperature=0.3),
            Rule(Euclidean(), "semihard", 0.5, "hinge", "mean"),
            Rule(SquaredEuclidean(), "semihard", 0.5, "hinge", "mean", "farthest"),
        ],
        ids=rule_name,
    )
    def rule(self, request):
        return request.param

    @pytest.fixture
    def problem(self):
        problem = few_classes()
        assert problem.labels.bincount().max() > loops.DIRECT + 1, "vacuous: too few positives"
        return problem


class TestDyadicTies(KernelContract):
    implementation = "numba"

    @pytest.fixture(
        params=few_rules([SquaredEuclidean()], (0.0, 0.5)) + few_rules([Manhattan(), Chebyshev()], (0.5,)),
        ids=rule_name,
    )
    def rule(self, request):
        return request.param

    @pytest.fixture
    def problem(self):
        return PROBLEMS["dyadic"]()


def weighed(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(rows, generator=generator, dtype=torch.float64) * 3
    weights[1] = 0
    return weights, torch.rand(rows, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rule", few_rules([Euclidean(), Cosine()]), ids=rule_name)
@pytest.mark.parametrize("name", ["ragged", "bank-with-ids", "few-classes"])
def test_margins_weights_and_groups_of_anchors(rule, name):
    problem = few_classes() if name == "few-classes" else PROBLEMS[name]()
    rows = len(problem.embeddings)
    weights, margins = weighed(rows, 8)
    references = rows if problem.reference is None else len(problem.reference)
    given = {
        "ids": problem.ids, "reference_ids": problem.reference_ids, "weights": weights, "margins": margins,
        "groups": torch.arange(rows) % 5,
        "reference_groups": None if problem.reference is None else torch.arange(references) % 4,
    }  # fmt: skip
    arguments = (problem.embeddings, problem.reference, problem.labels, problem.reference_labels, rule)
    expected = reduce_triplets(*arguments, **given, implementation="torch")
    assert_same_result(reduce_triplets(*arguments, **given, plan=Plan("numba", 7, 7)), expected)
    assert_same_result(reduce_triplets(*arguments, **given, implementation="numba"), expected)


RELATIONS = {
    "asymmetric": lambda a, b: (a[:, None] * 2 + b[None, :]) % 5 - 2,
    "boolean": lambda a, b: (a[:, None] - b[None, :]).abs() < 2,
}


@pytest.mark.parametrize("rule", compiled_rules([Euclidean()], (0.7,), ("mean-active",)), ids=rule_name)
@pytest.mark.parametrize("relation", [*RELATIONS, "several labels"])
def test_relations(rule, relation):
    x, labels = random_rows(31, 4, 2), torch.arange(31) % 7
    if relation == "several labels":
        labels = torch.stack([labels, (torch.arange(31) * 3) % 5 + 20], dim=1)
        labels[4, 1] = -1
    given = {"relation": RELATIONS.get(relation)}
    expected = reduce_triplets(x, None, labels, None, rule, **given, implementation="torch")
    for size in (5, 512):
        assert_same_result(
            reduce_triplets(x, None, labels, None, rule, **given, plan=Plan("numba", size, size)), expected
        )


@pytest.mark.parametrize("rule", few_rules([Euclidean(), Manhattan()]), ids=rule_name)
@pytest.mark.parametrize("name", ["ragged", "bank-with-ids", "repeated-ids"])
def test_strips_do_not_matter(rule, name, monkeypatch):
    problem = PROBLEMS[name]()
    expected = problem.reduce(rule, "numba")
    monkeypatch.setattr(compiled, "MOST_POSITIVES", 30)
    assert len(compiled._strips(_batch(problem))) > 1, "vacuous: one strip"
    assert_same_result(problem.reduce(rule, plan=Plan("numba", 5, 5)), expected)


def _batch(problem):
    own = problem.reference is None
    return compiled.Batch(
        problem.embeddings,
        problem.embeddings if own else problem.reference,
        problem.labels,
        problem.labels if own else problem.reference_labels,
    )


@pytest.mark.parametrize("rule", compiled_rules([Euclidean()], (0.7,), ("mean-active",)), ids=rule_name)
def test_runs_are_equal_to_the_bit_and_threads_change_no_more_than_rounding(rule):
    x, labels = random_rows(300, 19, 1, torch.float32), torch.arange(300) % 80
    torch.set_num_threads(1)
    alone = reduce_triplets(x, None, labels, None, rule, plan=Plan("numba", 70, 70))
    for threads in (2, 3):
        torch.set_num_threads(threads)
        first, second = (reduce_triplets(x, None, labels, None, rule, plan=Plan("numba", 70, 70)) for _ in range(2))
        assert torch.equal(first.value, second.value)
        assert torch.equal(first.gradient_anchors, second.gradient_anchors)
        assert_same_result(first, alone, 1e-5)


@pytest.fixture(params=["of PyTorch", "own"])
def threads(request):
    """A crew of three, of either kind."""
    torch.set_num_threads(3)
    return crew.OwnThreads(3) if request.param == "own" else crew.current_crew()


def test_the_crew_leaves_the_number_of_threads_alone(threads):
    found = []
    threads.lead(lambda: threads.run(lambda worker, item: found.append(threading.get_ident()), list(range(6))))
    assert len(found) == 6
    assert len(set(found)) <= 3
    other = []
    thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert other == [torch.get_num_threads()] == [3]


def test_items_are_shared_by_worker_whichever_threads_come(threads, monkeypatch):
    def share(items):
        shares = {}
        threads.lead(lambda: threads.run(lambda worker, item: shares.setdefault(worker, []).append(item), items))
        return shares

    whole = {0: [0, 3, 6], 1: [1, 4], 2: [2, 5]}
    assert share(list(range(7))) == whole
    assert share([0, 1]) == {0: [0], 1: [1]}
    assert share([]) == {}
    if isinstance(threads, crew.PyTorchThreads):  # a runtime that has fewer threads to give, or none but the caller's
        monkeypatch.setattr(crew, "_gnu_parallel", lambda: lambda job, data, size, flags: job(None))
        assert share(list(range(7))) == whole


def test_no_graph_is_made_in_a_thread_and_inference_mode_reaches_it(threads):
    states = []

    def note(worker, item):
        states.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    with torch.no_grad():
        threads.lead(lambda: threads.run(note, list(range(3))))
    assert states == [(False, False)] * 3
    rows, labels = random_rows(24, 5, 1, torch.float32), torch.arange(24) // 3
    expected = reduce_triplets(rows, None, labels, None, Rule(Euclidean()), plan=Plan("numba", 5, 5))
    with torch.inference_mode():
        found = reduce_triplets(rows.clone(), None, labels, None, Rule(Euclidean()), plan=Plan("numba", 5, 5))
    assert_same_result(found, expected, 1e-6)


def test_an_error_in_a_thread_is_raised(threads):
    def job(worker, item):
        if worker == len(items) - 1:
            raise ValueError(item)

    for items in ([0, 1], [0], [1]):
        with pytest.raises(ValueError, match=str(items[-1])):
            threads.lead(functools.partial(threads.run, job, items))


@pytest.mark.parametrize("kind", [crew.Crew, crew.OwnThreads])
def test_other_threads_give_the_same(kind, monkeypatch):
    torch.set_num_threads(2)
    x, labels = random_rows(120, 9, 1, torch.float32), torch.arange(120) // 4
    call = functools.partial(reduce_triplets, x, None, labels, None, Rule(Euclidean()), plan=Plan("numba", 30, 30))
    expected = call()
    monkeypatch.setattr(crew, "current_crew", lambda: kind(2) if kind is crew.OwnThreads else kind(1))
    monkeypatch.setattr(compiled, "current_crew", crew.current_crew)
    assert_same_result(call(), expected, 1e-5)


@pytest.mark.parametrize("blocks", range(9))
def test_rounds_hold_every_tile_once_and_no_block_twice(blocks):
    rounds = list(crew.tournament(blocks))
    assert sorted(itertools.chain(*rounds)) == list(itertools.combinations_with_replacement(range(blocks), 2))
    for pairs in rounds[1:]:
        assert len(set(itertools.chain(*pairs))) == 2 * len(pairs)
    for columns in range(9):
        rounds = list(crew.rectangle(blocks, columns))
        assert sorted(itertools.chain(*rounds)) == list(itertools.product(range(blocks), range(columns)))
        for pairs in rounds:
            assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)


def test_ties_go_to_the_lowest_index_whatever_the_class():
    """Rows are sorted by class inside: row 2 of class 5 comes before row 3 of class 1, as the user counts."""
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -2.0]])
    labels = torch.tensor([3, 3, 5, 1, 3])
    for mining, fallback in (("hard", "skip"), ("semihard", "skip"), ("semihard", "farthest")):
        rule = Rule(Euclidean(), mining, 3.0, reduction="sum", fallback=fallback)
        given = (x[:1], x, labels[:1], labels, rule)
        ids = {"ids": torch.tensor([0]), "reference_ids": torch.arange(5)}
        for plan in (Plan("numba", 5, 5), Plan("numba", 1, 1), Plan("numba", 2, 2)):
            expected = reduce_triplets(*given, **ids, implementation="reference")
            assert_same_result(reduce_triplets(*given, **ids, plan=plan), expected, 1e-6)


def near_duplicates(seed):
    """Unit rows in classes of four, of which twenty have a near duplicate in another class, at 1e-4 and 1e-6."""
    x = torch.nn.functional.normalize(random_rows(80, 67, seed))
    for start, gap in ((40, 1e-4), (50, 1e-6)):
        rows = slice(start, start + 10)
        x[rows] = torch.nn.functional.normalize(x[start - 40 : start - 30] + gap * random_rows(10, 67, seed + 50))
    return x.float(), torch.arange(80) // 4


@pytest.mark.parametrize("distance", [Euclidean(), Cosine()], ids=lambda d: d.name)
@pytest.mark.parametrize("setting", [("all", "hinge"), ("all", "logsumexp"), ("hard", "hinge"), ("semihard", "hinge")])
def test_float32_is_as_exact_as_direct_differences(distance, setting):
    """Against float64: not above the error of differences in float32, plus a tenth; the median of five batches.

    Where two distances agree in all digits that float32 has, which of the two is the nearer is chance: hence five.
    """
    mining, penalty = setting
    temperature = 0.1 if penalty == "logsumexp" else 1.0
    by_differences = resolve(lambda a, b: distance.pairs(a, b))  # a function of rows: nothing but differences
    errors = torch.zeros(5, 2, 2)
    for seed in range(5):
        x, labels = near_duplicates(seed)
        rule, direct = (
            Rule(d, mining, 0.2, penalty, "mean", temperature=temperature) for d in (distance, by_differences)
        )
        right = reduce_triplets(x.double(), None, labels, None, rule, implementation="numba")
        for row, result in enumerate(
            [
                reduce_triplets(x, None, labels, None, rule, implementation="numba"),
                reduce_triplets(x, None, labels, None, direct, implementation="torch"),
            ]
        ):
            for column, name in enumerate(("value", "gradient_anchors")):
                exact = getattr(right, name)
                errors[seed, row, column] = (getattr(result, name).double() - exact).norm() / exact.norm()
    found, allowed = errors.median(0)[0]
    allowed = 1.1 * allowed + 1e-7
    assert (found <= allowed).all(), f"off by {found.tolist()}, where {allowed.tolist()} is allowed"


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6, 1e12])
def test_scale_is_divided_out(scale):
    """The Euclidean loss of rows and margin times a scale is the loss times the scale."""
    x, labels = random_rows(40, 8, 1, torch.float32), torch.arange(40) // 4
    one = reduce_triplets(x, None, labels, None, Rule(Euclidean(), margin=0.5), implementation="numba")
    other = reduce_triplets(
        x * scale, None, labels, None, Rule(Euclidean(), margin=0.5 * scale), implementation="numba"
    )
    assert_close(other.value / scale, one.value, 1e-5)
    assert_close(other.gradient_anchors, one.gradient_anchors, 1e-5)


def test_what_does_not_fit_is_said():
    x, labels = random_rows(8, 3, 0), torch.arange(8) // 2
    softplus = Rule(Euclidean(), penalty="softplus")
    with pytest.raises(
        InputError, match=r"'numba' cannot do this.*mining 'all' with penalty 'softplus'.*'auto' or 'torch'"
    ):
        reduce_triplets(x, None, labels, None, softplus, implementation="numba")
    with pytest.raises(InputError, match="no loop for the distance"):
        reduce_triplets(x, None, labels, None, Rule(resolve(torch.nn.PairwiseDistance())), implementation="numba")
    assert reduce_triplets(x, None, labels, None, softplus).plan.implementation == "torch"
    assert reduce_triplets(x, None, labels, None, Rule(Euclidean())).plan.implementation == "numba"


def test_compiling_is_said_once_and_a_cached_loop_is_silent(tmp_path):
    """Of a short loop of two types, since those of a whole loss take long; all loops are kept in the same way."""
    code = """
import numpy as np
from tercet.kernels.compiled import loops
for kind in (np.float32, np.float64):
    loops.transpose(np.zeros((4, 4), kind), np.zeros((4, 4), kind))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert told[0].count("compiling the loops of the loss") == 1
    assert told[1] == ""
    compiled_loops = [
        loop
        for module in (loops, rules, problem_module)
        for loop in vars(module).values()
        if isinstance(loop, Dispatcher)
    ]
    assert len(compiled_loops) > 40
    assert all(loop.stats.cache_path for loop in compiled_loops)


@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_rows_under_cosine_are_at_distance_one_exactly(mining, dtype):
    x = random_rows(24, 3, 1, dtype)
    x[3:15:2] = 0
    labels = torch.arange(24) % 5
    rule = Rule(Cosine(), mining, 0.3, reduction="sum")
    expected = reduce_triplets(x, None, labels, None, rule, implementation="torch")
    assert_same_result(reduce_triplets(x, None, labels, None, rule, implementation="numba"), expected, 1e-5)


@pytest.mark.parametrize("distance", [Euclidean(), SquaredEuclidean(), Manhattan()], ids=lambda d: d.name)
@pytest.mark.parametrize("mining", ["all", "semihard"])
def test_an_overflow_gives_nan(distance, mining):
    x = random_rows(20, 5, 1, torch.float32)
    x[19] = 2e38 if isinstance(distance, Manhattan) else 2e19
    result = reduce_triplets(x, None, torch.arange(20) % 4, None, Rule(distance, mining, 0.3), implementation="numba")
    assert result.value.isnan()


def test_thresholds_far_apart_keep_their_digits():
    x = 0.1 * random_rows(120, 8, 1, torch.float32)
    x[7] *= 1e5
    labels = torch.cat([torch.zeros(60), torch.arange(60)]).long()
    weights = torch.zeros(120)
    weights[3] = 1
    rule = Rule(Euclidean(), "all", 0.3, "squared-hinge", "sum")
    right = reduce_triplets(x.double(), None, labels, None, rule, weights=weights, implementation="torch")
    found = reduce_triplets(x, None, labels, None, rule, weights=weights, implementation="numba")
    error = (found.gradient_anchors.double() - right.gradient_anchors).norm(dim=1)
    assert (error <= 1e-5 * right.gradient_anchors.norm(dim=1) + 1e-5).all()


def test_rows_that_are_negated_when_read():
    x, labels = random_rows(12, 4, 1), torch.arange(12) // 3
    lazy = torch.complex(x, -x).conj().imag
    assert lazy.is_neg()
    rule = Rule(Euclidean())
    found = reduce_triplets(lazy, None, labels, None, rule, implementation="numba")
    assert_same_result(found, reduce_triplets(x, None, labels, None, rule, implementation="torch"))


def test_it_works_while_the_interpreter_ends():
    code = """
import atexit, torch
from tercet import TripletLoss
torch.set_num_threads(2)
atexit.register(lambda: print(float(TripletLoss(implementation="numba")(torch.eye(6), torch.arange(6) // 2)) > 0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_it_works_where_nothing_can_be_written(monkeypatch):
    def no_place(cache, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(loops, "njit", no_place)
    assert loops._compiled(False)(len) is len


def test_threads_at_once_leave_the_precision_of_products_as_it_was():
    before = torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    x, labels = random_rows(12, 4, 1), torch.arange(12) // 3

    def call():
        for _ in range(50):
            reduce_triplets(x, None, labels, None, Rule(Euclidean()), implementation="numba")

    try:
        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("most", [1 << 20, 60], ids=["at once", "in strips"])
@pytest.mark.parametrize("distance", [Euclidean(), SquaredEuclidean(), Cosine()], ids=lambda d: d.name)
@pytest.mark.parametrize("penalty", ["hinge", "squared-hinge", "logsumexp", "contrastive"])
def test_positives_taken_by_products_give_the_same(penalty, distance, most, monkeypatch):
    """Of many positives: duplicates among them, and near ones, whose differences products would lose."""
    x = random_rows(48, 6, 4) + 30  # far from the origin, too
    x[7], x[40], x[9] = x[3], x[41], x[4] + 1e-6
    x[44] = 31
    labels = (torch.arange(48) % 2)[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    rule = Rule(distance, margin=0.3, penalty=penalty, reduction="sum")
    weights = torch.linspace(0, 2, 48).double()
    monkeypatch.setattr(compiled, "MOST_POSITIVES", most)
    call = functools.partial(reduce_triplets, x, None, labels, None, rule, weights=weights)
    monkeypatch.setattr(problem_module, "DENSE", 0)
    found = call(implementation="numba")
    monkeypatch.setattr(problem_module, "DENSE", 1000)
    assert_same_result(found, call(implementation="numba"), 1e-9)
    assert_same_result(
        found, reduce_triplets(x, None, labels, None, rule, weights=weights, implementation="torch"), 1e-8
    )


LEVELS = {
    "spread": torch.linspace(0.5, 1.5, 40),
    "one value": torch.full((30,), 0.7),
    "all zero": torch.zeros(30),
    "in clusters": torch.cat([torch.full((20,), 0.5), 0.9 + 1e-6 * torch.arange(20), torch.tensor([1.0, 5.0, 1e4])]),
    "below zero": torch.linspace(-0.3, 0.2, 50),
    "tiny": torch.linspace(1e-30, 2e-30, 33),
}


@pytest.mark.parametrize("or_equal", [True, False])
@pytest.mark.parametrize("reach", [0.0, 1e-5])
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_finds_the_number_of_levels_below_or_says_that_it_is_in_doubt(levels, reach, or_equal, dtype):
    levels = levels.to(dtype)
    between = torch.rand(400, generator=torch.Generator().manual_seed(0)).to(dtype)
    between = levels.min() + (between * 1.2 - 0.1) * (levels.max() - levels.min())
    near = torch.cat([levels, torch.nextafter(levels, levels.new_tensor(-9)), torch.nextafter(levels, levels + 9)])
    row = torch.cat([between, near, levels.new_tensor([torch.inf, 0, 1e30])]).numpy()
    walls, table = levels.numpy(), np.empty(loops.CELLS * len(levels) + 2, np.int32)
    ends, at, cell = (np.empty(length, np.int32) for length in (len(levels), len(row), len(row)))
    kind = walls.dtype.type
    origin, per_unit = loops.lay_grid(walls, reach, table, ends)
    loops.put_cells(row, kind(origin), kind(per_unit), len(table) - 1, cell)
    scratch = np.empty((2, len(row)), walls.dtype)
    doubtful = loops.place_in_grid(row, cell, table, ends, walls, kind(reach), or_equal, at, scratch)
    expected = np.searchsorted(walls, row, side="right" if or_equal else "left")
    assert at.tolist() == expected.tolist()
    finite = np.isfinite(row)
    gaps = np.abs(row[:, None].astype(float) - walls.astype(float)).min(1)
    certain = finite & (gaps <= reach * (1 - 1e-6))
    assert set(certain.nonzero()[0]) <= set(cell[:doubtful].tolist())
    assert not set((~finite | (gaps > reach * (1 + 1e-3) + 1e-6)).nonzero()[0]) & set(cell[:doubtful].tolist())
