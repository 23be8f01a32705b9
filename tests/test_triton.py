"""The Triton kernels equal the loops: value, gradient and counts. On a GPU if there is one, else interpreted."""

import dataclasses
import itertools
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

import tercet.kernels.triton
from tercet.distances import Cosine, Euclidean, Manhattan, SquaredEuclidean, resolve
from tercet.errors import InputError
from tercet.kernels import PAIR_PENALTIES, PENALTIES, Plan, Rule, implementations
from tercet.kernels.pairing import Batch
from tercet.kernels.triton import MOST_FEATURES, MOST_LEVELS, fits, obstacle, reduce_by_triton
from tercet.testing import (
    PROBLEMS,
    Problem,
    assert_close,
    assert_same_result,
    random_rows,
    rule_name,
    telling_rules,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


if find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install triton)", allow_module_level=True)
if DEVICE == "cpu" and "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("triton was imported for a GPU before: run this file in a process of its own", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:  # only while Triton is imported: the other tests' environment stays
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
    import triton

    from tercet.kernels.triton import reduction, tables, visits

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # the interpreter's, of infinities
LARGE = Plan("triton", 64, 64)
CLOSE = 3e-6  # of sums of float32 numbers
COUNTS = ("n_valid", "n_mined", "n_active")
EVERY_PENALTY = (*PENALTIES, *PAIR_PENALTIES)
RULES = [
    *(rule for rule in telling_rules([Euclidean()], [0.5], EVERY_PENALTY) if rule.mining != "distance-weighted"),
    Rule(Euclidean(), "all", 0.5, "contrastive", "mean-active", positive_margin=0.3),
]  # fmt: skip
FEW = [Rule(Euclidean(), "all", 0.5), Rule(Euclidean(), "all", 0.5, "lifted", "mean", temperature=0.6),
       Rule(Euclidean(), "semihard", 0.5, "squared-hinge", "sum", "farthest")]  # fmt: skip


def changed(problem, to):
    """The problem with every tensor of it changed, and floating ones in `to`, if a dtype."""

    def moved(given):
        if not isinstance(given, torch.Tensor):
            return given
        return given.to(DEVICE if to is torch.float32 else "cpu", to if given.is_floating_point() else given.dtype)

    return Problem(**{name: moved(given) for name, given in vars(problem).items()})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """A plan that names "triton" goes to these kernels."""
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # Triton imports more of itself when it is first used
    tiles = implementations.reduce_by_tiles

    def reduce(batch, rule, plan, need_gradient):
        how = tercet.kernels.triton.reduce_by_triton if plan.implementation == "triton" else tiles
        return how(batch, rule, plan, need_gradient)

    monkeypatch.setattr(implementations, "reduce_by_tiles", reduce)
    totals = reduction.Reduction.totals
    monkeypatch.setattr(reduction.Reduction, "totals", lambda self: (CALLS.append(self), totals(self))[1])


CALLS = []  # of these kernels


def found(problem, rule, plan=LARGE, **more):
    """The result on float32 data, on the CPU."""
    CALLS.clear()
    result = changed(problem, torch.float32).reduce(rule, plan=plan, **more)
    assert len(CALLS) == 1, "vacuous: something else has reduced it"

    def home(given):
        return {name: part.cpu() if isinstance(part, torch.Tensor) else part for name, part in vars(given).items()}

    return dataclasses.replace(
        result, **home(result) | {"stats": dataclasses.replace(result.stats, **home(result.stats))}
    )


def expected(problem, rule):
    """The loops, in float64, on the same numbers."""
    return changed(changed(problem, torch.float32), torch.float64).reduce(rule, "reference")


@pytest.mark.parametrize("name", ["weighted", "bank-with-groups"])
@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_it_equals_the_loops(rule, name):
    """Duplicates, classes of one, ids and groups, a margin and a weight for each anchor."""
    assert_same_result(found(PROBLEMS[name](), rule), expected(PROBLEMS[name](), rule), CLOSE)


@pytest.mark.parametrize("distance", [SquaredEuclidean(), Cosine()], ids=lambda distance: distance.name)
@pytest.mark.parametrize("rule", [RULES[0], RULES[1], RULES[3], RULES[7], RULES[-2]], ids=rule_name)
def test_every_distance_equals_the_loops(rule, distance):
    problem = PROBLEMS["weighted"]()
    problem.embeddings[[5, 7]] = 0  # which are at cosine distance 1 from all, and of each other
    rule = dataclasses.replace(rule, distance=distance)
    assert_same_result(found(problem, rule), expected(problem, rule), CLOSE)


def test_a_softplus_far_below_zero_is_not_lost():
    """Each costs less than float32 sees beside 1; of a million they would still be seen."""
    x = random_rows(24, 3, 0) / 100
    x[::2, 0] += 17.5
    problem, rule = Problem(x, torch.arange(24) % 2), Rule(Euclidean(), "all", 0.0, "softplus", "sum")
    actual, right = found(problem, rule), expected(problem, rule)
    assert 0 < right.value < 1e-4
    assert actual.value == pytest.approx(float(right.value), rel=1e-4)


def test_a_bank_by_cosine_equals_the_loops():
    problem = PROBLEMS["bank-with-groups"]()
    problem.embeddings[5], problem.reference[2], problem.reference[9] = 0, 0, problem.embeddings[1]
    for rule in (Rule(Cosine(), margin=0.3), Rule(Cosine(), "semihard", 0.3, "squared-hinge")):
        assert_same_result(found(problem, rule), expected(problem, rule), CLOSE)


@pytest.mark.parametrize("name", [
    "singletons", "one-class", "one-group", "all-equal", "no-weight", "no-rows", "one-row", "two-rows", "empty-bank",
    "repeated-ids",
])  # fmt: skip
def test_degenerate_problems_equal_the_loops(name):
    for rule in (RULES[0], RULES[4], RULES[5], RULES[6], RULES[7], RULES[-2]):
        assert_same_result(found(PROBLEMS[name](), rule), expected(PROBLEMS[name](), rule), CLOSE)


@pytest.mark.parametrize("distance", [Euclidean(), SquaredEuclidean()], ids=lambda distance: distance.name)
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_ties_are_counted_and_chosen_as_the_loops_do(margin, distance):
    """On a coarse grid; margin 0 puts thresholds on other distances."""
    for rule in telling_rules([distance], [margin]):
        if rule.mining not in ("distance-weighted", "easy-positive") and rule.penalty not in ("softplus", "logsumexp"):
            assert_same_result(found(PROBLEMS["dyadic"](), rule), expected(PROBLEMS["dyadic"](), rule), CLOSE)


def mixed(rows=45, dim=19):
    """More rows than a block, more features than a step; duplicates of the same and of other classes."""
    x = random_rows(rows, dim, 3)
    x[30:37], x[40] = x[3:10], x[41]
    labels = torch.arange(rows) % 11
    labels[41] = labels[40]
    return Problem(x, labels)


@pytest.mark.parametrize("rule", FEW, ids=rule_name)
def test_blocks_do_not_matter(rule):
    rule = dataclasses.replace(rule, margin=0.0)
    right = expected(mixed(), rule)
    for plan in (Plan("triton", 5, 16), Plan("triton", 33, 40)):
        assert_same_result(found(mixed(), rule, plan), right, CLOSE)


def assert_same_bits(actual, right):
    for name in ("value", "per_anchor", "gradient_anchors", "gradient_references", "gradient_temperature"):
        one, other = getattr(actual, name), getattr(right, name)
        assert one is other is None or torch.equal(one, other), name
    assert actual.stats.to_dict() == right.stats.to_dict()


@pytest.mark.parametrize("rule", FEW, ids=rule_name)
@pytest.mark.parametrize("name", ["ragged", "all-equal"])
def test_a_short_list_of_doubtful_pairs_changes_no_bit(name, rule, monkeypatch):
    """Rows are then taken fewer at a time, and for a single block the list grows."""
    plan = Plan("triton", 16, 16)
    right = found(PROBLEMS[name](), rule, plan)
    starts = []
    visit = visits._Strips._visit_tiles
    monkeypatch.setattr(visits, "LISTED", 2)
    monkeypatch.setattr(
        visits._Strips, "_visit_tiles", lambda self, start, stop: (starts.append(start), visit(self, start, stop))[1]
    )
    assert_same_bits(found(PROBLEMS[name](), rule, plan), right)
    assert len(starts) > len(set(starts)), "vacuous: everything fitted at once"


@pytest.mark.parametrize("rule", FEW, ids=rule_name)
def test_the_order_in_which_pairs_are_listed_changes_no_bit(rule, monkeypatch):
    """Programs of a GPU list them in whatever order they run."""
    right = found(mixed(), rule)
    visit, shuffled = visits._Strips._visit_tiles, []

    def shuffle(self, start, stop):
        number = visit(self, start, stop)
        self.found[:number] = self.found[:number].flip(0)
        shuffled.append(number)
        return number

    monkeypatch.setattr(visits._Strips, "_visit_tiles", shuffle)
    assert_same_bits(found(mixed(), rule), right)
    assert max(shuffled) > 1, "vacuous: nothing was listed"


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_pairs_settled_one_by_one_add_up_to_the_same(rule, monkeypatch):
    """All pairs in the list, and none in the tiles' sums."""
    monkeypatch.setitem(tables.PRECISIONS, "ieee", tables.Precision(1e8))
    assert tables.PRECISIONS["ieee"].near > 2  # a squared distance is at most twice the norms
    assert_same_result(found(PROBLEMS["bank-with-ids"](), rule), expected(PROBLEMS["bank-with-ids"](), rule), CLOSE)


def corners(rows, seed):
    """Near the corners of a cube: all norms nearly equal, and many distances."""
    signs = (random_rows(rows, 5, seed) > 0.3).double() * 2 - 1
    return signs + 0.002 * random_rows(rows, 5, seed + 1)


@pytest.fixture
def rough(monkeypatch):
    """Products with a bank near corners as wrong as their bound, half a per cent of both norms: some up, some down."""
    monkeypatch.setitem(tables.PRECISIONS, "ieee", tables.Precision(tables.EPS, error=0.005))
    make = reduction.sides

    def rough(*given):
        x, y = make(*given)
        norms = y.facts[tables.device.NORM.value]
        norms *= 1 + 0.0097 * (torch.arange(len(y), device=norms.device) % 3 - 1)
        return x, y

    monkeypatch.setattr(reduction, "sides", rough)


@pytest.mark.usefixtures("rough")
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_rounding_of_products_decides_nothing(margin):
    labels = (torch.arange(40) % 4 > 0).long()  # few negatives, so that often none is farther than the positive
    problem = Problem(corners(13, 0), labels[:13], corners(23, 4), labels[17:])
    for rule in telling_rules([Euclidean()], [margin]):
        if rule.mining == "distance-weighted" or rule.penalty in ("softplus", "squared-hinge"):
            continue
        actual, right = found(problem, rule), expected(problem, rule)
        for name in COUNTS:
            assert actual.stats.to_dict()[name] == right.stats.to_dict()[name], rule_name(rule)
        if rule.mining != "all":  # of which the values take the products, wrong as they are
            for name in ("value", "gradient_anchors", "gradient_references"):
                assert_close(getattr(actual, name), getattr(right, name), CLOSE, name)


@pytest.mark.usefixtures("rough")
@pytest.mark.parametrize("mining", ["semihard", "easy-positive-semihard"])
def test_rounding_does_not_decide_which_is_the_farthest(mining):
    """All negatives lie nearly as far as each other, and nearer than all positives."""
    flips = [list(found) for size in (2, 4) for found in itertools.combinations(range(5), size)]
    reference = torch.ones(len(flips), 5).double()
    for row, flipped in enumerate(flips):
        reference[row, flipped] = -1
    reference += 0.002 * random_rows(len(flips), 5, 3)
    labels = torch.tensor([1] * 10 + [0] * 5)
    problem = Problem(torch.ones(1, 5).double(), torch.tensor([0]), reference, labels)
    rule = Rule(Euclidean(), mining, 0.5, fallback="farthest")
    actual, right = found(problem, rule), expected(problem, rule)
    assert right.stats.n_mined > 0
    assert problem.reduce(dataclasses.replace(rule, fallback="skip"), "reference").stats.n_mined == 0
    assert_same_result(dataclasses.replace(actual, stats=right.stats), right, CLOSE)


@pytest.mark.parametrize(("precision", "rule"), [
    ("tf32", Rule(Euclidean(), margin=0.0)), ("tf32x3", Rule(Euclidean(), margin=0.0)), ("tf32", FEW[1]),
    ("tf32", FEW[2]), ("tf32", Rule(Cosine(), "hard", 0.1)),
], ids=str)  # fmt: skip
def test_less_precise_products_change_digits_and_no_decision(precision, rule, monkeypatch):
    """Duplicates in other classes put many negatives on a threshold; there TF32 alone would toss a coin."""
    x = torch.nn.functional.normalize(random_rows(38, 24, 0))
    x[19:] = x[:19]
    problem = Problem(x, torch.arange(38) % 7)
    monkeypatch.setattr(
        tercet.kernels.triton, "reduce_by_triton", lambda *given: reduce_by_triton(*given, precision=precision)
    )
    right, actual = expected(problem, rule), found(problem, rule)
    for name in COUNTS:
        assert actual.stats.to_dict()[name] == right.stats.to_dict()[name]
    for one, other in ((actual.value, right.value), (actual.gradient_anchors, right.gradient_anchors)):
        error = float((one.double() - other).abs().max() / other.abs().max())
        assert error < 1e-3
    if precision == "tf32" and rule.mining == "all":
        assert error > 1e-6, "vacuous: no digit of TF32 was lost"


def test_the_bound_holds_for_rows_rounded_to_tf32():
    x = torch.nn.functional.normalize(random_rows(40, 24, 0)).float()
    x[20:] = x[:20] + 1e-3 * random_rows(20, 24, 1).float()
    batch, kind = batch_of(Problem(x, torch.arange(40))), tables.PRECISIONS["tf32"]
    side, _ = tables.sides(batch, Euclidean().prepared(batch.anchors, batch.anchors), kind)
    facts, rows = side.facts.double().cpu(), side.rows.double().cpu()
    norms, shifts = (facts[row.value] for row in (tables.device.NORM, tables.device.SHIFT))
    norms, shifts = norms[:, None] + norms, shifts[:, None] + shifts
    error = (norms - 2 * rows @ rows.T - (x.double()[:, None] - x.double()).square().sum(2)).abs()
    slack = kind.error_of(side.rows) * norms
    squared = (norms - 2 * rows @ rows.T).clamp(min=0)
    assert (error <= slack + shifts * (2 * (squared + slack).sqrt() + shifts)).all()
    assert (error > slack).any(), "vacuous: nothing was moved"


def test_numbers_of_tf32_are_taken_as_they_are():
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -1 - 3 * 2**-12, 0.0, 1e-40, torch.inf, torch.nan])
    found = tables.to_tf32(x)
    assert found[:6].tolist() == [1, 1 + 2**-10, 1 + 2**-10, 1, -1 - 2**-10, 0]
    assert found[7] == torch.inf
    assert found[8].isnan()
    assert torch.equal(tables.to_tf32(found[:8]), found[:8])


@pytest.mark.parametrize(("gap", "rule"), [
    (1e-4, Rule(Euclidean())), (1e-6, Rule(Euclidean())), (1e-6, Rule(SquaredEuclidean(), "hard")),
    (1e-4, Rule(Euclidean(), penalty="logsumexp", temperature=0.3)),
    (1e-4, Rule(Euclidean(), "semihard")),  # at 1e-6 two distances differ by less than float32 tells apart
], ids=str)  # fmt: skip
def test_float32_is_not_much_worse_than_direct_differences(gap, rule):
    """Near duplicates of the same and of other classes."""
    x = torch.nn.functional.normalize(random_rows(31, 64, 0))
    for row in range(0, 12, 2):
        x[row + 1] = x[row] + gap * torch.nn.functional.normalize(random_rows(1, 64, row))[0]
    labels = torch.arange(31) % 9
    labels[1] = labels[0]
    problem = Problem(x.float(), labels)
    actual, right = found(problem, rule), expected(problem, rule)
    naive = dataclasses.replace(rule, distance=resolve(lambda a, b: torch.linalg.vector_norm(a - b, dim=1)))
    if rule.distance == SquaredEuclidean():
        naive = dataclasses.replace(rule, distance=resolve(lambda a, b: (a - b).square().sum(1)))
    direct = problem.reduce(naive, "torch")
    assert [actual.stats.to_dict()[name] for name in COUNTS] == [right.stats.to_dict()[name] for name in COUNTS]
    for name in ("value", "gradient_anchors"):
        truth = getattr(right, name)
        error, allowed = (float((getattr(given, name).double() - truth).abs().max()) for given in (actual, direct))
        assert error <= 2 * allowed + 5e-7 * float(truth.abs().max()), f"{name}: {error:.3g}, directly {allowed:.3g}"


def test_what_is_not_finite_gives_nan():
    for bad in (torch.nan, torch.inf):
        for rule in FEW:
            problem = PROBLEMS["ragged"]()
            problem.embeddings[4, 1] = bad
            result = found(problem, rule)
            assert result.value.isnan()
            assert result.gradient_anchors.isnan().all()


def test_large_numbers_lose_nothing():
    """Squares overflow in float32; distances do not."""
    x = random_rows(7, 3, 0)
    x[3] = 1e25
    problem = Problem(x, torch.arange(7) % 2)
    for rule in FEW[:2]:
        assert_same_result(found(problem, rule), expected(problem, rule), 1e-5)


def test_without_a_gradient_none_is_formed():
    for rule in FEW:
        result, right = found(PROBLEMS["bank"](), rule, need_gradient=False), found(PROBLEMS["bank"](), rule)
        assert result.gradient_anchors is result.gradient_references is result.gradient_temperature is None
        assert_close(result.value, right.value, CLOSE)
        assert result.stats.to_dict() == pytest.approx(right.stats.to_dict())


def batch_of(problem, dtype=torch.float32):
    problem = changed(problem, dtype)
    return Batch(problem.embeddings, problem.embeddings, problem.labels, problem.labels, relation=problem.relation)


@pytest.mark.parametrize(
    ("problem", "dtype", "rule", "words"),
    [
        (PROBLEMS["ragged"], torch.float64, Rule(Euclidean()),
         "it computes in float32, and the embeddings are torch.float64"),
        (PROBLEMS["related"], torch.float32, Rule(Euclidean()),
         "it takes one label an item, not several, and no relation"),
        (PROBLEMS["ragged"], torch.float32, Rule(Manhattan()), "it has no kernel for the distance manhattan"),
        (PROBLEMS["sphere"], torch.float32, Rule(Euclidean(), "distance-weighted"),
         "it has no kernel for mining 'distance-weighted'"),
        (lambda: Problem(random_rows(3, MOST_FEATURES + 1, 0), torch.arange(3)), torch.float32, Rule(Euclidean()),
         f"it takes up to {MOST_FEATURES} features, and the embeddings have {MOST_FEATURES + 1}"),
        (lambda: Problem(random_rows(40, 2, 0), torch.arange(40) // (MOST_LEVELS + 1)), torch.float32,
         Rule(Euclidean(), penalty="lifted"),
         f"it takes classes of up to {MOST_LEVELS}, and the largest here is one of {MOST_LEVELS + 1}"),
    ],
)  # fmt: skip
def test_it_says_what_it_cannot_do(problem, dtype, rule, words):
    batch = dataclasses.replace(batch_of(problem(), torch.float32))
    if dtype == torch.float64:
        rows = batch.anchors.double()
        batch = dataclasses.replace(batch, anchors=rows, references=rows)
    assert obstacle(batch, rule) == words
    assert not fits(batch, rule)
    with pytest.raises(InputError) as error:
        reduce_by_triton(batch, rule, LARGE, True)
    assert str(error.value) == f"implementation 'triton' cannot do this: {words}; use 'auto' or 'torch'."


def test_a_misspelt_precision_suggests_the_right_one():
    with pytest.raises(InputError, match=r"precision is 'tf23'; allowed are 'ieee', .*Did you mean 'tf32'\?"):
        reduce_by_triton(batch_of(PROBLEMS["ragged"]()), Rule(Euclidean()), LARGE, True, "tf23")


def test_large_classes_are_taken_where_one_positive_is_chosen():
    problem = Problem(random_rows(40, 3, 0), torch.arange(40) // (MOST_LEVELS + 1))
    for rule in (Rule(Euclidean(), "hard", 0.5), Rule(Euclidean(), penalty="supcon", temperature=0.4)):
        assert fits(batch_of(problem), rule)
        assert_same_result(found(problem, rule), expected(problem, rule), CLOSE)


def test_nothing_imports_triton_until_it_is_used():
    code = """
import sys, torch, tercet.kernels
from tercet.kernels.pairing import Batch
from tercet.kernels.triton import obstacle
x, labels = torch.randn(6, 3), torch.arange(6) % 2
batch = Batch(x, x, labels, labels)
print(obstacle(batch, tercet.kernels.Rule(__import__("tercet.distances").distances.Euclidean())))
print("triton" in sys.modules)
"""
    setting = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=setting, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["it runs on CUDA devices, and the embeddings are on cpu", "False"]


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tercet.kernels.triton import listed, tiles as kernels

POINTERS = {name: kind for kind, names in {
    "*fp32": "rows others facts facts_of_others gradient extra extra_of_others d distance force",
    "*i64": "keys keys_of_others found counter i j chosen begin other", "*fp64": "sums",
    "i32": "capacity start stop n_rows n_others dim levels length", "fp32": "factor near error rate",
}.items() for name in names.split()}


def build(kernel, **constants):
    signature = {name: "constexpr" if name in constants else POINTERS[name] for name in kernel.arg_names}
    built = compile(ASTSource(kernel, signature, constants), GPUTarget("cuda", int(sys.argv[1]), 32), {"num_warps": 8})
    assert len(built.asm["cubin"]) > 1000


visit = dict(COST=1, OWN=True, OTHER=False, GRADIENT=False, FARTHEST=False, ROOT=True, K=2, R=16, C=16)
tiles = dict(visit, ROUNDED=False, PRECISION="ieee", KEYS=2, STEP=16, D=16)
build(kernels.visit_tiles, **dict(tiles, KIND=0, OTHER=True, GRADIENT=True))
build(kernels.visit_tiles, **dict(tiles, KIND=0, COST=0, OWN=False, OTHER=True, GRADIENT=True, ROUNDED=True,
                                 PRECISION="tf32", ROOT=False))
build(kernels.visit_tiles, **dict(tiles, KIND=1, levels=1, n_rows=1, n_others=1, dim=1))  # as a 1 is compiled
build(kernels.visit_tiles, **dict(tiles, KIND=2, OTHER=True, GRADIENT=True, PRECISION="tf32x3"))
build(kernels.visit_tiles, **dict(tiles, KIND=3, FARTHEST=True))
for kind in range(4):
    gradient = kind in (0, 2)
    build(listed.visit_listed, **dict(visit, KIND=kind, OTHER=gradient, GRADIENT=gradient, FARTHEST=kind == 3))
build(listed.measure, ROOT=True, N=32, STEP=64)
build(listed.pull_listed, R=32, STEP=64)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["90"])
def test_the_kernels_compile_for_a_gpu(capability, tmp_path):
    """Which needs none: the interpreter takes more than the compiler."""
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("before Triton 3.3 it is asked to compile in another way")
    setting = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    setting.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILE, capability], env=setting, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
