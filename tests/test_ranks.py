"""Over several ranks a loss is what it is on one device: value, gradient and figures. Real processes, over gloo.

Every process runs all cases, each of which compares with one device on the spot, and writes down how they went; the
tests below read that. One start of processes serves all cases, since starting is what costs the seconds.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import traceback
import warnings
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import tercet
from tercet.collectives import ALONE, Ranks, current_ranks
from tercet.distances import Chebyshev, Cosine, Euclidean, Jaccard, Manhattan, Minkowski, SquaredEuclidean
from tercet.errors import InputError, TercetWarning
from tercet.kernels import Division, Plan, Rule, compiled
from tercet.kernels.compiled import crew, loops, rules, tiles
from tercet.testing import PROBLEMS, Problem, assert_close, assert_same_result, random_rows, telling_rules

ROWS = 29
CASES = {}
WAIT_SECONDS = 240  # compiling the kernels for the first time is what takes long


def case(function):
    """Enter a function of the ranks among what every process runs."""
    CASES[function.__name__] = function
    return function


def uneven(length, size):
    """How many of so many rows each rank owns: the first the most, the second none if there are three."""
    if size == 1:
        return (length,)
    first = 2 * length // 3
    return (first, length - first) if size == 2 else (first, 0, *[0] * (size - 3), length - first)


# --- collectives ---------------------------------------------------------------------------------------------


@case
def rows_of_any_dtype_and_number_are_gathered(ranks):
    whole = torch.arange(7 * 2 * 3).view(7, 2, 3)
    lengths = uneven(7, ranks.size)
    for dtype in (torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.uint8):
        found = ranks.gather(whole.to(dtype)[ranks.owned(lengths)], lengths)
        assert found.dtype == dtype
        assert torch.equal(found, whole.to(dtype))
    everywhere_none = ranks.gather(torch.zeros(0, 3), [0] * ranks.size)
    assert everywhere_none.shape == (0, 3)


@case
def sums_go_to_the_owners(ranks):
    lengths = uneven(7, ranks.size)
    given = [random_rows(7, 3, seed) for seed in range(ranks.size)]
    assert_close(ranks.sum_to_owners(given[ranks.rank], lengths), sum(given)[ranks.owned(lengths)])
    assert_close(ranks.sum(given[ranks.rank].clone()), sum(given))
    assert torch.equal(ranks.smallest(given[ranks.rank].clone()), torch.stack(given).amin(0))


@case
def messages_of_unequal_lengths_are_exchanged(ranks):
    sent = ["", "naïve ✓", "a" * 1000][: ranks.size]
    assert [found.decode() for found in ranks.exchange(sent[ranks.rank].encode())] == sent
    assert ranks.exchange(b"") == [b""] * ranks.size


@case
def shares_are_all_of_it_once(ranks):
    for length in range(8):
        shares = [Ranks(rank, ranks.size).share(length) for rank in range(ranks.size)]
        assert list(itertools.chain(*(range(share.start, share.stop) for share in shares))) == list(range(length))
        assert max(s.stop - s.start for s in shares) <= min(s.stop - s.start for s in shares) + 1


# --- kernels -------------------------------------------------------------------------------------------------


def check_kernels(ranks, rules, problem, **how):
    """Whole gradients on every rank, or each row's at its owner: both equal those of one device."""
    anchors = uneven(len(problem.embeddings), ranks.size)
    references = None if problem.reference is None else uneven(len(problem.reference), ranks.size)
    for rule in rules:
        expected = problem.reduce(rule, **how)
        found = problem.reduce(rule, **how, division=Division(ranks))
        assert_same_result(found, expected)
        assert found.plan == replace(expected.plan, ranks=ranks.size) or problem.relation or problem.labels.ndim > 1
        owned = problem.reduce(rule, **how, division=Division(ranks, anchors, references))
        check_owned(owned.gradient_anchors, expected.gradient_anchors, ranks.owned(anchors))
        if references is not None:
            check_owned(owned.gradient_references, expected.gradient_references, ranks.owned(references))


def check_owned(found, whole, own):
    expected = torch.zeros_like(whole)
    expected[own] = whole[own]
    assert_close(found, expected)


def few_classes():
    """So many positives that the compiled kernels put negatives in buckets between them."""
    x = random_rows(83, 5, 4)
    x[7], x[40] = x[3], x[41]
    return Problem(x, torch.arange(83) % 3)


TELLING = telling_rules([Euclidean()], (0.5,))
COMPILED = [rule for rule in TELLING if rules.family_of(rule) is not None]
TINY = {"plan": Plan("numba", 5, 5)}  # tiles so small that there are several for each rank


def _register_kernels():
    for name in (
        "ragged", "dyadic", "weighted", "repeated-ids", "one-group", "all-equal", "one-class", "one-row", "two-rows",
        "no-rows", "bank-with-groups", "several-labels", "related-bank", "empty-bank",
    ):  # fmt: skip
        make = PROBLEMS[name]
        CASES[f"kernel-numba-{name}"] = lambda ranks, make=make: check_kernels(ranks, COMPILED, make(), **TINY)
    for name in (
        "weighted", "sphere", "bank-with-groups", "repeated-ids", "several-labels", "related", "related-bank",
        "one-row", "no-rows", "empty-bank",
    ):  # fmt: skip
        CASES[f"kernel-torch-{name}"] = lambda ranks, make=PROBLEMS[name]: check_kernels(
            ranks, TELLING, make(), implementation="torch"
        )
    for name in ("weighted", "bank-with-ids", "two-rows"):
        CASES[f"kernel-reference-{name}"] = lambda ranks, make=PROBLEMS[name]: check_kernels(
            ranks, TELLING[:1], make(), implementation="reference"
        )


_register_kernels()


@case
def kernel_numba_with_many_positives(ranks):
    problem = few_classes()
    assert problem.labels.bincount().max() > loops.DIRECT + 1, "vacuous: too few positives"
    check_kernels(ranks, COMPILED, problem, plan=Plan("numba", 11, 11))


@case
def kernel_numba_of_every_distance(ranks):
    distances = (SquaredEuclidean(), Cosine(), Manhattan(), Chebyshev(), Minkowski(3.0), Jaccard())
    found = [rule for rule in telling_rules(distances) if rule.penalty == "hinge" and rules.family_of(rule)]
    problem = PROBLEMS["ragged"]()
    check_kernels(ranks, found, replace(problem, embeddings=problem.embeddings.abs()), **TINY)


@case
def kernel_numba_in_strips(ranks):
    """Too many positives to list at once: every rank takes some of the anchors, not of the tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "MOST_POSITIVES", 30)
        check_kernels(ranks, COMPILED, PROBLEMS["ragged"](), **TINY)


@case
def kernel_numba_with_unequal_threads(ranks):
    """Ranks must cut the same tiles, whatever the number of their threads."""
    torch.set_num_threads(1 + ranks.rank)
    try:
        check_kernels(ranks, COMPILED, Problem(random_rows(300, 5, 1), torch.arange(300) % 70), implementation="numba")
    finally:
        torch.set_num_threads(1)


@case
def every_tile_is_visited_by_one_rank(ranks):
    """So that each does its part of one and a half products, and no more."""
    visited = []
    visit = tiles.Tiles._visit

    def count(self, number, last, worker, tile):
        visited.append(tile)
        return visit(self, number, last, worker, tile)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles.Tiles, "_visit", count)
        PROBLEMS["ragged"]().reduce(Rule(Euclidean()), **TINY, division=Division(ranks))
    blocks = -(-23 // 5)
    everywhere = [tuple(tile) for sent in ranks.exchange(json.dumps(visited).encode()) for tile in json.loads(sent)]
    assert sorted(everywhere) == list(itertools.combinations_with_replacement(range(blocks), 2))
    assert abs(len(visited) - len(everywhere) / ranks.size) < 1


@case
def draws_do_not_depend_on_the_ranks(ranks):
    """Not vacuous: the same draw with the positions of a rank's own rows would be another."""
    drawing = [rule for rule in telling_rules([Euclidean(), Manhattan()]) if rule.mining == "distance-weighted"]
    problem = PROBLEMS["sphere"]()
    for rule in drawing:
        expected = problem.reduce(rule, "torch")
        assert expected.stats.n_mined > 5
        assert_same_result(problem.reduce(rule, "torch", division=Division(ranks)), expected)


@case
def full_figures_are_those_of_all(ranks):
    rule = telling_rules([Euclidean()])[0]
    for implementation, name in itertools.product(("torch", "reference", "numba"), ("weighted", "bank")):
        problem = PROBLEMS[name]()
        expected = problem.reduce(rule, implementation, full_stats=True).stats
        found = problem.reduce(rule, implementation, full_stats=True, division=Division(ranks)).stats
        assert expected.n_hard > 0
        assert expected.to_dict() == pytest.approx(found.to_dict())
        for histogram in ("histogram_positive", "histogram_negative", "histogram_edges"):
            assert torch.equal(getattr(found, histogram), getattr(expected, histogram))


# --- losses --------------------------------------------------------------------------------------------------


def rows(seed=0, count=ROWS, dim=6):
    return random_rows(count, dim, seed)


def classes(count=ROWS):
    return (torch.arange(count) * 5) % 7


def words(count=ROWS):
    return [f"class {number}" for number in classes(count).tolist()]


def weights(count=ROWS):
    return torch.linspace(0, 2, count, dtype=torch.float64)


def nearer(own, other):
    """An asymmetric relation: above 0 for small gaps upwards, below for large ones, 0 between."""
    gap = (own[:, None] - 2 * other).abs().double()
    return torch.where(gap < 3, 1.0, torch.where(gap > 5, -1.0, 0.0))


def margins():
    return tercet.PerClassMargin(7, [0.1 * (place + 1) for place in range(7)])


def learned_map():
    return tercet.Mahalanobis(components=random_rows(4, 6, 9), learned=True)


TRIPLET, CLIP = tercet.TripletLoss, tercet.ClipLoss
# name: the loss, and what it is called with besides the embeddings, of all ranks
LOSSES = {
    "all": (lambda **a: TRIPLET(0.5, **a), lambda: {"labels": classes()}),
    "hard": (lambda **a: TRIPLET(0.5, "hard", "cosine", **a), lambda: {"labels": classes()}),
    "semihard": (
        lambda **a: TRIPLET(0.5, "semihard", fallback="farthest", penalty="squared-hinge", **a),
        lambda: {"labels": classes().numpy()},
    ),
    "lifted": (
        lambda **a: TRIPLET(0.5, penalty="lifted", learn_temperature=True, **a),
        lambda: {"labels": classes(), "weights": weights()},
    ),
    "distance-weighted": (
        lambda **a: TRIPLET(0.5, "distance-weighted", normalize=True, seed=3, **a),
        lambda: {"labels": classes()},
    ),
    "margins": (lambda **a: TRIPLET(margins(), **a), lambda: {"labels": classes(), "weights": weights()}),
    "margins-of-words": (
        lambda **a: TRIPLET({f"class {number}": 0.1 + number / 7 for number in range(7)}, **a),
        lambda: {"labels": words()},
    ),
    "map": (
        lambda **a: TRIPLET(0.5, distance=learned_map(), penalty="logsumexp", learn_temperature=True, **a),
        lambda: {"labels": classes()},
    ),
    "contrastive": (
        lambda **a: tercet.ContrastiveLoss(0.4, 2.0, reduction="mean-active", statistics="full", **a),
        lambda: {"labels": classes(), "weights": weights(), "groups": torch.arange(ROWS) % 4},
    ),
    "infonce": (lambda **a: tercet.InfoNCE(0.3, learn_temperature=True, **a), lambda: {"labels": words()}),
    "supcon": (
        lambda **a: tercet.SupConLoss(0.3, learn_temperature=True, implementation="torch", **a),
        lambda: {"labels": classes(), "groups": [f"group {row % 5}" for row in range(ROWS)]},
    ),
    "ids": (lambda **a: TRIPLET(0.5, **a), lambda: {"labels": words(), "ids": [f"{row // 2}" for row in range(ROWS)]}),
    "sets": (
        lambda **a: TRIPLET(0.5, **a),
        lambda: {"labels": [{f"tag {row % 5}", f"tag {row % 3}"} if row % 4 else set() for row in range(ROWS)]},
    ),
    "sets-of-numbers": (
        lambda **a: TRIPLET(0.5, **a), lambda: {"labels": [(row % 5, 2**60 + row % 3) for row in range(ROWS)]}
    ),
    "marks": (
        lambda **a: TRIPLET(0.5, "hard", **a),
        lambda: {"labels": (torch.arange(ROWS)[:, None] * torch.tensor([1, 3, 7, 8])) % 5 < 2},
    ),
    "relation": (lambda **a: TRIPLET(0.5, **a), lambda: {"labels": torch.arange(ROWS) % 11, "relation": nearer}),
    "relation-of-rows": (lambda **a: TRIPLET(0.5, "hard", **a), lambda: {"relation": nearer}),
    "bank": (
        lambda **a: TRIPLET(0.5, "semihard", **a),
        lambda: {
            "labels": words(), "reference": rows(5, 23), "reference_labels": words(23),
            "ids": range(ROWS), "reference_ids": range(20, 43),
        },
    ),
    "moco": (
        lambda **a: tercet.InfoNCE(0.3, learn_temperature=True, **a),
        lambda: {"labels": classes(), "reference": rows(5, 23), "reference_labels": classes(23)},
    ),
}  # fmt: skip
PARTS = {
    "clip": (lambda **a: CLIP(0.3, **a), lambda: {"reference": rows(5), "weights": weights()}),
    "clip-of-labels": (
        lambda **a: CLIP(0.3, **a),
        lambda: {"labels": words(), "reference": rows(5, 23), "reference_labels": words(23)},
    ),
    "clip-with-a-map": (lambda **a: CLIP(0.3, distance=learned_map(), **a), lambda: {"reference": rows(5)}),
}


def own_part(given, lengths, reference_lengths, ranks, replicated):
    """A rank's part of what a call is given."""
    found = {}
    for name, value in given.items():
        of_reference = name.startswith("reference")
        if name == "relation" or (of_reference and replicated):
            found[name] = value
        else:
            found[name] = value[ranks.owned(reference_lengths if of_reference else lengths)]
    return found


def check_loss(ranks, make, make_given, replicated=False, lengths=None):
    """Two calls across ranks and two on one device, with gradients for all that learns."""
    lengths = lengths or uneven(ROWS, ranks.size)
    plain, across = make(), make(across_ranks="embeddings" if replicated else True)
    given = make_given()
    reference_lengths = None
    if "reference" in given:  # pairs stay together
        split = lengths if len(given["reference"]) == ROWS else tuple(reversed(uneven(23, ranks.size)))
        reference_lengths = split
        given["reference"].requires_grad_()
    own = own_part(given, lengths, reference_lengths, ranks, replicated)
    own = {name: value.detach().requires_grad_() if name == "reference" else value for name, value in own.items()}
    for step in range(2):
        whole = rows(step).requires_grad_()
        part = whole.detach()[ranks.owned(lengths)].requires_grad_()
        expected, found = plain(whole, **given), across(part, **own)
        assert expected.item() != 0, "vacuous: nothing to learn"
        assert_close(found.detach(), expected.detach())
        assert across.plan.ranks == ranks.size
        check_figures(across.stats, plain.stats)
        expected.backward()
        found.backward()
        assert whole.grad.abs().max() > 0, "vacuous: no gradient"
        assert_close(part.grad, ranks.size * whole.grad[ranks.owned(lengths)], what="gradient of the rows")
        for (name, learned), alone in zip(across.named_parameters(), plain.parameters(), strict=True):
            assert alone.grad.abs().max() > 0, f"vacuous: no gradient of {name}"
            assert_close(learned.grad, alone.grad, what=f"gradient of {name}")
    if "reference" in given and replicated:
        assert_close(own["reference"].grad, given["reference"].grad, what="gradient of the reference")
    elif "reference" in given:
        expected = ranks.size * given["reference"].grad[ranks.owned(reference_lengths)]
        assert_close(own["reference"].grad, expected, what="gradient of the reference")
    values = across.per_anchor(part.detach(), **own)
    assert_close(values, plain.per_anchor(whole.detach(), **given)[ranks.owned(lengths)], what="values of anchors")


def check_figures(found, expected):
    found, expected = found.to_dict(), expected.to_dict()
    for name, number in expected.items():
        assert found[name] == (number if isinstance(number, int) else pytest.approx(number, rel=1e-10)), name


def _register_losses():
    for name, made in (LOSSES | PARTS).items():
        CASES[f"loss-{name}"] = lambda ranks, made=made: check_loss(ranks, *made)
    for name in ("bank", "moco"):
        CASES[f"loss-{name}-on-all"] = lambda ranks, made=LOSSES[name]: check_loss(ranks, *made, replicated=True)
    for name in ("all", "infonce", "sets", "marks", "relation", "margins-of-words"):
        none_at_first = lambda ranks: (*[0] * (ranks.size - 1), ROWS)  # noqa: E731
        CASES[f"loss-{name}-rows-on-the-last-rank-only"] = lambda ranks, made=LOSSES[name], split=none_at_first: (
            check_loss(ranks, *made, lengths=split(ranks))
        )


_register_losses()


@case
def no_rows_anywhere(ranks):
    for labels in ([], torch.zeros(0, dtype=torch.int64)):
        x = torch.zeros(0, 4, requires_grad=True)
        loss = TRIPLET(across_ranks=True)
        loss(x, labels).backward()
        assert x.grad.shape == (0, 4)
        assert loss.stats.to_dict()["n_valid"] == 0


@case
def float32_and_half_precision(ranks):
    lengths = uneven(ROWS, ranks.size)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        whole = rows().to(dtype).requires_grad_()
        part = whole.detach()[ranks.owned(lengths)].requires_grad_()
        expected = TRIPLET(0.5)(whole, classes())
        found = TRIPLET(0.5, across_ranks=True)(part, classes()[ranks.owned(lengths)])
        assert found.dtype == expected.dtype == torch.float32
        assert_close(found.detach(), expected.detach(), 1e-5)
        expected.backward()
        found.backward()
        assert part.grad.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        assert_close(part.grad.float() / ranks.size, whole.grad[ranks.owned(lengths)].float(), tolerance)


@case
def a_rank_that_needs_no_gradient_does_its_share(ranks):
    lengths = uneven(ROWS, ranks.size)
    whole = rows().requires_grad_()
    part = whole.detach()[ranks.owned(lengths)].requires_grad_(ranks.rank == 0)
    loss = TRIPLET(0.5, "distance-weighted", seed=2, normalize=True, across_ranks=True)
    labels = classes()[ranks.owned(lengths)]
    value = loss(part, labels)
    assert value.requires_grad == (ranks.rank == 0)
    assert loss.step == 1
    plain = TRIPLET(0.5, "distance-weighted", seed=2, normalize=True)(whole, classes())
    assert_close(value.detach(), plain.detach())
    if ranks.rank == 0:
        value.backward()
        plain.backward()
        assert_close(part.grad, ranks.size * whole.grad[: lengths[0]])


@case
def a_bank_without_gradient(ranks):
    """Nobody needs the gradient of the reference; that of the embeddings is still right."""
    lengths, bank, whole = uneven(ROWS, ranks.size), rows(5, 23), rows().requires_grad_()
    given = {"reference": bank, "reference_labels": classes(23)}
    TRIPLET(0.5)(whole, classes(), **given).backward()
    for replicated in (True, False):
        loss = TRIPLET(0.5, across_ranks="embeddings" if replicated else True)
        own = own_part({"labels": classes(), **given}, lengths, uneven(23, ranks.size), ranks, replicated)
        part = whole.detach()[ranks.owned(lengths)].requires_grad_()
        loss(part, **own).backward()
        assert_close(part.grad, ranks.size * whole.grad[ranks.owned(lengths)])


class Net(nn.Module):
    """Two layers without statistics of the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6, bias=False)).double()

    def forward(self, x):
        return self.layers(x)


def with_loss_inside(make, **across):
    """A module that gives the loss itself, so that the loss's parameters are under DistributedDataParallel too."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.loss = Net(), make(**across).double()

        def forward(self, x, given):
            return self.loss(self.net(x), **given)

    return Both()


@case
def the_mean_of_data_parallel_gradients_is_that_of_one_device(ranks):
    for name in ("all", "map", "infonce", "margins", "hard"):
        make, make_given = LOSSES[name]
        lengths, given = uneven(ROWS, ranks.size), make_given()
        own = own_part(given, lengths, None, ranks, False)
        alone, together = with_loss_inside(make), with_loss_inside(make, across_ranks=True)
        alone(rows(), given).backward()
        wrapped = nn.parallel.DistributedDataParallel(together)
        for _ in range(2):  # the second step goes by the buckets that the first has ordered
            together.zero_grad()
            wrapped(rows()[ranks.owned(lengths)], own).backward()
            for (learned, found), expected in zip(together.named_parameters(), alone.parameters(), strict=True):
                assert expected.grad.abs().max() > 1e-8, f"vacuous: no gradient of {learned}"
                assert_close(found.grad, expected.grad, what=f"{name}, {learned}")


@case
def the_losss_own_gradients_need_no_wrapping(ranks):
    make, make_given = LOSSES["map"]
    net, loss, given = nn.parallel.DistributedDataParallel(Net()), make(across_ranks=True).double(), make_given()
    lengths = uneven(ROWS, ranks.size)
    x = rows()
    loss(net(x[ranks.owned(lengths)]), **own_part(given, lengths, None, ranks, False)).backward()
    alone = with_loss_inside(make)
    alone(x, given).backward()
    for found, expected in zip([*net.parameters(), *loss.parameters()], alone.parameters(), strict=True):
        assert_close(found.grad, expected.grad)


@case
def a_fault_on_one_rank_is_raised_on_all(ranks):
    labels = [0, 1] if ranks.rank == 0 else [0, 1, 1]
    fault = r"labels has 2 entries for 3 rows of embeddings"
    message = (
        fault if ranks.rank == 0 else r"rank 0 was given what it cannot use, so no rank goes on\. InputError: labels"
    )
    with pytest.raises(InputError, match=message):
        TRIPLET(across_ranks=True)(torch.zeros(3, 2), labels)


@case
def calls_that_differ_are_refused(ranks):
    first, x = ranks.rank == 0, torch.zeros(3, 2)
    labels = [0, 1, 1]

    def call(loss, *arguments, **others):
        return lambda: loss(*arguments, **others)

    for message, make in {
        r"margin: 0\.1 on rank 0, 0\.2 on rank 1; with across_ranks all ranks make the same call": lambda: call(
            TRIPLET(0.1 if first else 0.2, across_ranks=True), x, labels
        ),
        r"ids: 'given' on rank 0, 'none' on rank 1": lambda: call(
            TRIPLET(across_ranks=True), x, labels, ids=[0, 1, 2] if first else None
        ),
        r"the embeddings: 'rows of 2 features in float32' on rank 0, 'rows of 3 features": lambda: call(
            TRIPLET(across_ranks=True), x if first else torch.zeros(3, 3), labels
        ),
        r"labels are strings on rank 0 and int64 on rank 1; give all ranks the same kind": lambda: call(
            TRIPLET(across_ranks=True), x, ["a", "b", "b"] if first else labels
        ),
        r"labels are bool of shape \(rows, 2\) on rank 0 and bool of shape \(rows, 3\)": lambda: call(
            TRIPLET(across_ranks=True), x, torch.ones(3, 2 if first else 3)
        ),
        r"the call: 'TripletLoss\._value' on rank 0, 'TripletLoss\._own_values' on rank 1": lambda: call(
            TRIPLET(across_ranks=True) if first else TRIPLET(across_ranks=True).per_anchor, x, labels
        ),
        r"the reference's length: 3 on rank 0, 2 on rank 1": lambda: call(
            TRIPLET(across_ranks="embeddings"), x, labels,
            reference=x if first else x[:2], reference_labels=labels if first else labels[:2],
        ),
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            make()()


@case
def copies_of_a_reference_are_warned_of(ranks):
    reference = rows(3)
    call = {"reference": reference, "reference_labels": classes()}
    message = rf"the same on all {ranks.size} ranks.*across_ranks='embeddings'"
    with pytest.warns(TercetWarning, match=message):
        TRIPLET(across_ranks=True)(rows(ranks.rank), classes(), **call)
    TRIPLET(across_ranks="embeddings")(rows(ranks.rank), classes(), **call)
    call["reference"] = reference + ranks.rank
    TRIPLET(across_ranks=True)(rows(ranks.rank), classes(), **call)


# --- the processes -------------------------------------------------------------------------------------------


def main(rank, size, folder):
    """Run all cases in one of the processes, and write down how they went."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", TercetWarning)
    warnings.simplefilter("error", FutureWarning)  # names that PyTorch gives up
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=30))
    done = {}
    for name, function in cases_of(size).items():
        try:
            function(current_ranks())
            done[name] = ""
        except Exception:
            done[name] = traceback.format_exc()
        (Path(folder) / f"{rank}.json").write_text(json.dumps(done), encoding="utf-8")
    dist.destroy_process_group()


def compile_loops():
    """Before the ranks start, since each of them would compile all loops for itself, at the same time."""
    for name in ("kernel-numba-ragged", "kernel_numba_of_every_distance", "kernel_numba_with_many_positives"):
        CASES[name](ALONE)


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """For a number of ranks, what each of them wrote down."""
    compile_loops()

    @cache
    def run(size):
        folder = tmp_path_factory.mktemp(f"ranks{size}")
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else dict(os.environ)
        started = [
            subprocess.Popen([sys.executable, __file__, str(rank), str(size), str(folder)], env=environment)
            for rank in range(size)
        ]
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                for process in started:
                    process.wait(WAIT_SECONDS)
        finally:
            for process in started:
                process.kill()  # those that wait for one that has failed
        found = [folder / f"{rank}.json" for rank in range(size)]
        return [json.loads(path.read_text(encoding="utf-8")) if path.exists() else {} for path in found]

    return run


def cases_of(size):
    """With two ranks only what may depend on their number: the cases of the kernels have three."""
    return {name: function for name, function in CASES.items() if size == 3 or not name.startswith("kernel")}


@pytest.mark.parametrize(("size", "name"), [(size, name) for size in (2, 3) for name in cases_of(size)])
def test_case(reports, size, name):
    for rank, done in enumerate(reports(size)):
        assert done.get(name, "was not reached") == "", f"on rank {rank}"


# --- without other processes ---------------------------------------------------------------------------------


def test_without_a_process_group_it_says_what_to_do():
    loss = TRIPLET(across_ranks=True)
    with pytest.raises(InputError, match=r"no process group.*torchrun.*init_process_group\(\).*leave across_ranks out"):
        loss(rows(), classes())


def test_one_rank_is_the_plain_loss(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found, expected = TRIPLET(0.5, across_ranks=True), TRIPLET(0.5)
        x, y = rows().requires_grad_(), rows().requires_grad_()
        assert torch.equal(found(x, classes()), expected(y, classes()))
        (found(x, classes()) + expected(y, classes())).backward()
        assert torch.equal(x.grad, y.grad)
        assert found.plan == expected.plan
        assert found.plan.ranks == 1
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tiles_are_dealt_evenly(size):
    for blocks in range(9):
        whole = list(crew.tournament(blocks))
        shares = [list(crew.dealt(whole, rank, size)) for rank in range(size)]
        for number, expected in enumerate(whole):
            assert sorted(itertools.chain(*(share[number] for share in shares))) == sorted(expected)
        counts = [sum(map(len, share)) for share in shares]
        assert max(counts) - min(counts) <= 1


def test_the_setting_is_checked_and_kept():
    for make in (TRIPLET, tercet.ContrastiveLoss, tercet.InfoNCE, tercet.SupConLoss, CLIP):
        for choice in (True, "embeddings"):
            settings = make(across_ranks=choice).settings
            assert settings["across_ranks"] == choice
            assert make(**settings).across_ranks == choice
        assert "across_ranks" not in make().settings
        for wrong in ("embedings", "all", 1, None):
            with pytest.raises(InputError, match=r"across_ranks is .*; allowed are False, True and 'embeddings'"):
                make(across_ranks=wrong)


def test_alone_everything_is_trivial():
    x = rows().requires_grad_()
    assert ALONE.gather_with_gradient(x, [ROWS]) is x
    assert torch.equal(ALONE.gather(x, [ROWS]), x)
    assert ALONE.exchange(b"a") == [b"a"]
    assert ALONE.sum(x) is ALONE.smallest(x) is ALONE.sum_to_owners(x, [ROWS]) is x


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
