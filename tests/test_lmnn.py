"""LMNN's objective against its definition by plain loops, its impostors, solvers and energies."""
# ruff: noqa: E741  l is the impostor, as in the papers

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from tercet.compilation import Announcer
from tercet.errors import InputError
from tercet.lmnn import impostors as impostors_module
from tercet.lmnn import loops
from tercet.lmnn.energy import energies
from tercet.lmnn.impostors import Impostors, Screen
from tercet.lmnn.objective import Objective
from tercet.lmnn.solver import lbfgs
from tercet.lmnn.start import starting_map
from tercet.lmnn.stochastic import Sampled, stochastic
from tercet.lmnn.targets import target_neighbours
from tercet.lmnn.workers import Workers, workers

ALONE = Workers(None)


def hinge(excess):
    return max(excess, 0.0)


def squared_hinge(excess):
    return max(excess, 0.0) ** 2


PENALTIES = {"hinge": hinge, "squared-hinge": squared_hinge}


def by_definition(X, classes, targets, components, mu, penalty):
    """The objective and the number of active triplets, one triplet after another."""
    Z = X @ components.T
    total, active = 0.0, 0
    for i in range(len(targets)):
        for j in targets[i]:
            near = ((Z[i] - Z[j]) ** 2).sum()
            total += (1 - mu) * near
            for l in range(len(classes)):
                if classes[l] != classes[i]:
                    excess = 1 + near - ((Z[i] - Z[l]) ** 2).sum()
                    total += mu * PENALTIES[penalty](excess)
                    active += excess > 0
    return total, active


def gradient_by_differences(function, components, step=1e-6):
    found = np.zeros_like(components)
    for at in np.ndindex(*components.shape):
        there = np.zeros_like(components)
        there[at] = step
        found[at] = (function(components + there).total - function(components - there).total) / (2 * step)
    return found


def problem(seed=0, sizes=(23, 11, 4, 31), n_features=5, k=2, scale=0.7):
    """Classes of unequal sizes that overlap, some rows of which are doubled within and across classes."""
    generator = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(sizes)), sizes)
    X = generator.normal(size=(len(classes), n_features)) + 0.5 * classes[:, None]
    X[1], X[2] = X[0], X[0]
    X[sizes[0]] = X[0]
    X -= X.mean(axis=0)
    components = scale * generator.normal(size=(3, n_features))
    return SimpleNamespace(X=X, classes=classes, targets=target_neighbours(X, classes, k, ALONE), components=components)


@pytest.mark.parametrize("penalty", list(PENALTIES))
@pytest.mark.parametrize("mu", [0.3, 1.0, 0.0])
def test_the_objective_is_the_triple_loop(penalty, mu):
    p = problem()
    found = Objective(p.X, p.classes, p.targets, mu=mu, penalty=penalty)(p.components)
    total, active = by_definition(p.X, p.classes, p.targets, p.components, mu, penalty)
    assert active > 500
    assert found.n_active == active
    assert found.total == pytest.approx(total, rel=1e-10)
    assert found.total == pytest.approx((1 - mu) * found.pull + mu * found.push, rel=1e-12)


@pytest.mark.parametrize("penalty", list(PENALTIES))
def test_the_gradient_is_that_of_finite_differences(penalty):
    p = problem(seed=3)
    objective = Objective(p.X, p.classes, p.targets, mu=0.3, penalty=penalty)
    expected = gradient_by_differences(objective, p.components)
    assert np.abs(expected).max() > 1
    assert objective(p.components).gradient == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.abs(expected).max())


def test_a_distance_on_the_threshold_is_no_impostor():
    X = np.array([[0.0], [0.0], [1.0], [1.0]])  # all targets at 0, all others at exactly 1
    targets = np.array([[1], [0], [3], [2]])
    assert Objective(X, np.array([0, 0, 1, 1]), targets)(np.eye(1)).n_active == 0
    assert Objective(X, np.array([0, 0, 1, 1]), targets)(0.999 * np.eye(1)).n_active == 8


def test_the_radius_is_that_of_the_farthest_target_as_it_is_now():
    """Of row 0 the first target is the farther one under this map: a search by the last would miss its impostor."""
    X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.8, 0.0], [50.0, 50.0], [51.0, 50.0]])
    classes = np.array([0, 0, 0, 1, 1, 1])
    targets = np.array([[1, 2], [0, 2], [0, 1], [4, 5], [5, 3], [4, 3]])
    components = np.diag([1.0, 0.1])
    value = Objective(X, classes, targets)(components)
    total, active = by_definition(X, classes, targets, components, 0.5, "hinge")
    assert (value.total, value.n_active) == (pytest.approx(total, rel=1e-12), active)


@pytest.mark.parametrize("components", ["small moves", "large moves"])
def test_candidates_are_kept_only_while_that_is_exact(components):
    p = problem(seed=5, sizes=(180, 150, 90, 7), n_features=9, k=3)
    generator = np.random.default_rng(1)
    size = 2e-4 if components == "small moves" else 0.3
    kept = Objective(p.X, p.classes, p.targets)
    at = 0.5 * np.eye(4, 9)
    for _ in range(12):
        at = at + size * generator.normal(size=at.shape)
        value, fresh = kept(at), Objective(p.X, p.classes, p.targets, keep=False)(at)
        assert value.total == fresh.total
        assert np.array_equal(value.gradient, fresh.gradient)
        assert value.n_active == fresh.n_active > 0
    searched_seldom = kept.impostors.searches <= 6
    assert searched_seldom == (components == "small moves")


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_a_search_finds_every_pair_within_reach(monkeypatch, offset):
    """With an offset single precision errs by more than the distances: rounding has to be allowed for."""
    monkeypatch.setattr(impostors_module, "TILE_COLUMNS", 40)
    monkeypatch.setattr(impostors_module, "BLOCK_ROWS", 53)
    generator = np.random.default_rng(2)
    classes = np.repeat(np.arange(5), (61, 2, 40, 1, 97))
    spread = np.concatenate([np.full(6, 2.0), np.full(30, 0.05)])  # few axes matter: the search is short
    rows = generator.normal(size=(len(classes), 36)) * spread + offset
    radius, slack = generator.uniform(1, 3, len(rows)), generator.uniform(0, 0.3, len(rows))
    start, stop = np.searchsorted(classes, classes, "left"), np.searchsorted(classes, classes, "right")
    screen = Screen(rows, radius, slack, start, stop)
    assert screen._short[0].shape[1] < 36
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    reach = np.maximum(radius[:, None], radius) + slack[:, None] + slack
    wanted = (distances < reach) & (classes[:, None] != classes)
    assert 200 < wanted.sum() < wanted.size / 2
    blocks = Impostors(classes, 0).blocks
    by_half = screen.neighbours_of_all(blocks, ALONE, wanted.size)
    assert screen.neighbours_of_all(blocks, ALONE, int(wanted.sum()) // 2) is None  # there are more
    assert screen.neighbours_of_all([slice(0, len(rows))], ALONE, int(wanted.sum()) // 2) is None
    for block, half in zip(blocks, by_half, strict=True):
        found = screen.neighbours(block)
        assert np.array_equal(half.starts, found.starts)
        assert np.array_equal(half.rows, found.rows)
        for i in range(block.start, block.stop):
            own = found.rows[found.starts[i - block.start] : found.starts[i - block.start + 1]]
            assert own.tolist() == np.flatnonzero(wanted[i]).tolist()


def test_rows_far_apart_and_huge_numbers_lose_no_impostor():
    p = problem(seed=7)
    p.X[-1] += 1e6  # single precision cannot tell the others apart beside this one
    for components in (p.components, 1e14 * p.components):
        value = Objective(p.X, p.classes, p.targets, mu=0.3)(components)
        total, active = by_definition(p.X, p.classes, p.targets, components, 0.3, "hinge")
        assert value.n_active == active > 0
        assert value.total == pytest.approx(total, rel=1e-10)


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(impostors_module, "BLOCK_ROWS", 16)
    p = problem(seed=8, sizes=(60, 70, 80), n_features=7)
    found = []
    for number in (1, 2, 3):
        with workers(number) as threads:
            objective = Objective(p.X, p.classes, p.targets, workers=threads)
            found.append(lbfgs(objective, np.eye(7), 15, 1e-6, lambda *_: None))
    for other in found[1:]:
        assert np.array_equal(found[0].components, other.components)
        assert found[0].objective == other.objective


def test_memory_is_far_below_that_of_all_pairs():
    generator = np.random.default_rng(0)
    classes = np.sort(generator.integers(0, 3, 6000))
    X = generator.normal(size=(6000, 4))
    targets = target_neighbours(X, classes, 3, ALONE)
    objective = Objective(X, classes, targets, keep=False)
    objective(0.5 * np.eye(4))
    tracemalloc.start()
    active = objective(0.5 * np.eye(4)).n_active
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert active > 5_000_000  # which as a list of triplets would take 100 MB and more
    assert peak < 30e6


def test_target_neighbours_are_the_nearest_and_the_first_of_equals():
    p = problem(sizes=(300, 12, 5), k=3)
    distances = ((p.X[:, None] - p.X) ** 2).sum(axis=2)
    for i in range(len(p.X)):
        own = [l for l in range(len(p.X)) if p.classes[l] == p.classes[i] and l != i]
        assert p.targets[i].tolist() == sorted(own, key=lambda l: (distances[i, l], l))[:3]


def test_descent_ends_where_the_gradient_does():
    p = problem(seed=11, sizes=(40, 30, 20))
    objective = Objective(p.X, p.classes, p.targets, penalty="squared-hinge")
    start = np.eye(5)
    found = lbfgs(objective, start, 2000, 1e-12, lambda *_: None)
    assert found.converged
    assert np.abs(objective(found.components).gradient).max() < 1e-3 * np.abs(objective(start).gradient).max()
    assert found.objective == objective(found.components).total


def test_the_convex_problem_has_one_end_whatever_the_start():
    """Convex in M = L'L, and with a full L no other minimum: two starts have to meet, with the hinge, too."""
    p = problem(seed=12, sizes=(40, 30, 20))
    objective = Objective(p.X, p.classes, p.targets)
    starts = (np.eye(5), np.random.default_rng(0).normal(size=(5, 5)))
    ends = [lbfgs(objective, start, 3000, 1e-9, lambda *_: None).objective for start in starts]
    assert ends[0] == pytest.approx(ends[1], rel=2e-3)
    assert ends[0] < 0.9 * objective(np.eye(5)).total


def test_batches_estimate_the_objective_without_bias():
    p = problem(seed=13, sizes=(30, 25, 20))
    exact = Objective(p.X, p.classes, p.targets, mu=0.3)(p.components)
    sampled = Sampled(p.X, p.classes, p.targets, 0.3, "hinge", ALONE)
    whole = sampled.estimate(p.components, np.arange(75))
    assert whole.total == pytest.approx(exact.total, rel=1e-10)
    values = [sampled.estimate(p.components, batch) for seed in range(300) for batch in sampled.epoch(25, seed, 1)]
    assert np.mean([value.total for value in values]) == pytest.approx(exact.total, rel=0.03)
    gradient = np.mean([value.gradient for value in values], axis=0)
    assert np.abs(gradient - exact.gradient).max() < 0.05 * np.abs(exact.gradient).max()


def test_an_epoch_deals_every_row_once():
    p = problem(sizes=(30, 25, 20))
    batches = Sampled(p.X, p.classes, p.targets, 0.5, "hinge", ALONE).epoch(16, 3, 2)
    assert sorted(np.concatenate(batches)) == list(range(75))
    assert {len(batch) for batch in batches} == {15}


def test_the_stochastic_solver_comes_near_the_exact_one():
    p = problem(seed=14, sizes=(200, 150, 100), n_features=6)
    objective = Objective(p.X, p.classes, p.targets)
    start = np.eye(6)
    exact = lbfgs(objective, start, 500, 1e-6, lambda *_: None).objective
    sampled = Sampled(p.X, p.classes, p.targets, 0.5, "hinge", ALONE)
    found = stochastic(sampled, start, 100, 1e-4, lambda *_: None, batch_size=64, learning_rate=0.1, seed=0)
    assert exact <= objective(found.components).total < exact + 0.05 * (objective(start).total - exact)
    again = stochastic(sampled, start, 100, 1e-4, lambda *_: None, batch_size=64, learning_rate=0.1, seed=0)
    assert np.array_equal(found.components, again.components)


@pytest.mark.parametrize("penalty", list(PENALTIES))
def test_energies_are_the_definition(penalty):
    p = problem(seed=15, sizes=(9, 12, 7), k=2)
    rows, queries, mu = p.X @ p.components.T, np.random.default_rng(0).normal(size=(6, 3)), 0.3
    cost, found = PENALTIES[penalty], np.zeros((6, 3))
    for q, x in enumerate(queries):
        d = ((rows - x) ** 2).sum(axis=1)
        for c in range(3):
            near = sorted(d[p.classes == c])[:2]
            found[q, c] = (1 - mu) * sum(near)
            found[q, c] += mu * sum(cost(1 + a - d[l]) for a in near for l in range(len(d)) if p.classes[l] != c)
            for i in np.flatnonzero(p.classes != c):
                for j in p.targets[i]:
                    found[q, c] += mu * cost(1 + ((rows[i] - rows[j]) ** 2).sum() - d[i])
    assert energies(queries, rows, p.classes, p.targets, mu, penalty, ALONE) == pytest.approx(found, rel=1e-10)


def test_starting_maps():
    p = problem(sizes=(20, 20, 20), n_features=6)
    for init, d in (("pca", 4), ("lda", 2), ("identity", 6), ("random", 3), ("auto", 2)):
        assert starting_map(p.X, p.classes, init, d, 0).shape == (d, 6)
    assert np.array_equal(starting_map(p.X, p.classes, "auto", 2, 0), starting_map(p.X, p.classes, "lda", 2, 0))
    assert np.array_equal(starting_map(p.X, p.classes, "auto", 4, 0), starting_map(p.X, p.classes, "pca", 4, 0))
    assert np.array_equal(starting_map(p.X, p.classes, "auto", None, 0), np.eye(6))
    given = np.arange(12.0).reshape(2, 6)
    assert np.array_equal(starting_map(p.X, p.classes, given, None, 0), given)
    directions = starting_map(p.X, p.classes, "pca", 4, 0)
    assert directions @ directions.T == pytest.approx(np.eye(4), abs=1e-10)


@pytest.mark.parametrize(
    ("init", "d", "message"),
    [
        ("idenity", None, "Did you mean 'identity'"),
        ("identity", 7, "have 6 features"),
        ("lda", 3, "at most 2 components"),
        (np.ones((2, 5)), None, r"allowed is \(n_components, 6\)"),
        (np.ones((2, 6)), 3, r"allowed is \(3, 6\)"),
        (np.zeros((2, 6)), None, "nothing but zeros"),
        (np.full((2, 6), np.nan), None, "not finite"),
        ([["a"]], None, "array of numbers"),
    ],
)
def test_starting_maps_that_cannot_be_had(init, d, message):
    p = problem(sizes=(20, 20, 20), n_features=6)
    with pytest.raises(InputError, match=message):
        starting_map(p.X, p.classes, init, d, 0)


def test_compiling_is_said_once_for_each_package(caplog):
    announcer = Announcer()
    for function in (loops.push.py_func, loops.pull.py_func, test_starting_maps):
        announcer.on_start(SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=function)}))
    assert [record.getMessage().split(" for ")[0] for record in caplog.records] == ["compiling the loops of LMNN"]
