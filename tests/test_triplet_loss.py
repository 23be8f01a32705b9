"""TripletLoss as a user calls it: inputs, graph, figures, messages, dtypes, and what it keeps in memory."""

import copy
import doctest
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tercet
from tercet.distances import Minkowski
from tercet.errors import InputError, TercetWarning, TrainingError
from tercet.kernels import IMPLEMENTATIONS, MININGS, PENALTIES
from tercet.losses import TripletLoss, triplet
from tercet.losses.labels import encode
from tercet.testing import LossContract, assert_close, every_rule, random_rows, rule_name


def loss_of(rule):
    return TripletLoss(
        rule.margin,
        rule.mining,
        rule.distance,
        rule.penalty,
        rule.reduction,
        rule.fallback,
        rule.temperature if rule.has_temperature else None,
        seed=rule.seed if rule.mining == "distance-weighted" else None,
    )


def some_rules():
    """Every penalty with `all` and two with each other mining; distances, reductions and fallbacks along with them.

    The product of them all is for the kernels' own tests.
    """
    ways, found = {}, []
    for rule in every_rule(margins=(0.7,)):
        if rule.mining == "all" or rule.penalty in ("hinge", "logsumexp"):
            ways.setdefault((rule.mining, rule.penalty), []).append(rule)
    for number, rules in enumerate(ways.values()):
        found.append(rules[number * 7 % len(rules)])
    assert {rule.mining for rule in found} == set(MININGS)
    assert {rule.penalty for rule in found} == set(PENALTIES)
    return found


class TestEveryLoss(LossContract):
    """Every mining and penalty."""

    @pytest.fixture(params=some_rules(), ids=rule_name)
    def loss(self, request):
        loss, drawn = loss_of(request.param), request.param.mining == "distance-weighted"

        def call(x, labels):
            if drawn:
                loss.step = 0
            return loss(x.abs() if loss.rule.distance.non_negative else x, labels)

        call.drawn = drawn
        return call

    def test_order_and_names_of_labels_do_not_matter(self, loss):
        if not loss.drawn:
            super().test_order_and_names_of_labels_do_not_matter(loss)
            return
        x, labels = batch()  # a draw is for a position in the batch, so that only the names may change
        assert_close(loss(x, labels * -7 + 2**40).detach(), loss(x, labels).detach())


def batch(rows=23, dim=5, classes=5):
    return random_rows(rows, dim, 1).requires_grad_(), torch.arange(rows) * 7 % classes


def value_and_gradient(loss, x, labels, **more):
    value = loss(x, labels, **more)
    return value.detach(), torch.autograd.grad(value, x)[0]


# --- labels and ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda labels: labels.to(torch.uint8),
        lambda labels: labels.to(torch.int16),
        lambda labels: labels + 2**24,
        lambda labels: labels.numpy(),
        lambda labels: labels.numpy().astype(np.uint64) + np.uint64(2**63),
        lambda labels: labels.numpy().astype("U3"),
        lambda labels: labels.numpy().astype(object),
        lambda labels: labels.tolist(),
        lambda labels: tuple(labels.tolist()),
        lambda labels: [np.int32(label) for label in labels.tolist()],
        lambda labels: [f"class {label}" for label in labels.tolist()],
        lambda labels: list(labels),
    ],
)
def test_labels_of_every_kind(convert):
    x, labels = batch()
    expected = value_and_gradient(TripletLoss(), x, labels)
    actual = value_and_gradient(TripletLoss(), x, convert(labels))
    assert expected[0] > 0
    assert_close(actual[0], expected[0], 1e-13)  # other codes may be added up in another order
    assert_close(actual[1], expected[1], 1e-13)


def test_uint8_labels_with_more_than_256_rows():
    x, labels = batch(307, 5, 7)
    expected = value_and_gradient(TripletLoss(), x, labels)
    actual = value_and_gradient(TripletLoss(), x, labels.to(torch.uint8))
    assert torch.equal(actual[1], expected[1])


def test_labels_of_two_classes_that_float32_would_merge():
    x, _ = batch(4)
    loss = TripletLoss()
    loss(x, [2**24, 2**24, 2**24 + 1, 2**24 + 1])
    assert loss.stats.to_dict()["n_valid"] == 8


def test_booleans_are_two_classes():
    x, labels = batch(23, 5, 2)
    assert torch.equal(TripletLoss()(x, labels.bool()), TripletLoss()(x, labels))


def test_strings_are_shared_with_the_reference():
    x, labels = batch()
    bank, bank_labels = random_rows(17, 5, 2), torch.arange(17) % 4
    words = [["a", "b", "c", "d", "e"][label] for label in labels]
    bank_words = np.array([["a", "b", "c", "d", "e"][label] for label in bank_labels])
    expected = TripletLoss()(x, labels, reference=bank, reference_labels=bank_labels)
    found = TripletLoss()(x, words, reference=bank, reference_labels=bank_words)
    assert_close(found.detach(), expected.detach(), 1e-13)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "labels has 3 entries for 4 rows of embeddings; give one for each row."),
        (torch.zeros(4, 1).long(), r"labels has shape \(4, 1\); .* one entry a row: labels.flatten\(\)\."),
        (
            torch.zeros(4),
            "labels has dtype torch.float32; allowed is a sequence, array or tensor of integers",
        ),
        (np.array([0.0, 1, 2, 3]), "labels has dtype float64; .* torch.as_tensor"),
        (
            torch.tensor([0, 1, torch.nan, 1]),
            r"labels is missing \(None or NaN\) at row 2; leave those rows out",
        ),
        ([0, 1, float("nan"), 1], r"labels is missing \(None or NaN\) at row 2; leave those rows out"),
        (np.array(["a", None, "b", None], object), r"labels is missing \(None or NaN\) at row 1, 3;"),
        ([0, 1, "a", 1], "labels holds entries of type int, str; .* all of one kind."),
        ([0.5, 1.5, 0.5, 1.5], "labels holds entries of type float; allowed is"),
        ([2**70, 1, 2, 3], "labels holds integers beyond 64 bits; give them as strings"),
        ("abab", "labels is 'abab'; allowed is a sequence, array or tensor of integers or strings."),
        (
            None,
            "labels is None; then row i of the embeddings and row i of the reference belong together, and no reference "
            "is given: give labels, or a reference with a row for each of the embeddings.",
        ),
    ],
)
def test_labels_that_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        TripletLoss()(torch.zeros(4, 2), labels)


def test_words_here_and_numbers_there_are_refused():
    x = torch.zeros(2, 2)
    with pytest.raises(InputError, match="reference_labels are strings and labels are integers"):
        TripletLoss()(x, [0, 1], reference=x, reference_labels=["0", "1"])
    with pytest.raises(InputError, match="labels are strings and reference_labels are integers"):
        TripletLoss()(x, ["0", "1"], reference=x, reference_labels=[0, 1])
    codes, others = encode("labels", [], 0, "reference_labels", ["a"], 1)
    assert codes.shape == (0,)
    assert others.shape == (1,)


# --- a reference --------------------------------------------------------------------------------------------


def test_the_batch_as_its_own_reference_with_ids():
    x, labels = batch()
    expected = value_and_gradient(TripletLoss(), x, labels)
    names = [f"item {row}" for row in range(23)]
    bank = x.detach().clone().requires_grad_()
    loss = TripletLoss()
    value = loss(x, labels, reference=bank, reference_labels=labels, ids=names, reference_ids=names)
    gradients = torch.autograd.grad(value, (x, bank))
    assert_close(value.detach(), expected[0])
    assert all(part.abs().max() > 0 for part in gradients)
    assert_close(gradients[0] + gradients[1], expected[1])
    loss(x, labels, reference=bank, reference_labels=labels)
    sizes = torch.bincount(labels)[labels]  # without ids an anchor is a positive of itself
    assert loss.stats.to_dict()["n_valid"] == int((sizes * (23 - sizes)).sum())


def test_ids_join_rows_of_the_batch():
    """Two views of an item are no pair, whatever their labels."""
    x, _ = batch(6)
    loss = TripletLoss()
    loss(x, [0, 0, 0, 1, 1, 1], ids=["a", "a", "b", "b", "c", "d"])
    assert loss.stats.to_dict()["n_valid"] == 1 * 3 + 1 * 3 + 2 * 2 + 2 * 2 + 2 * 3 + 2 * 3


def test_a_reference_without_gradient():
    x, labels = batch()
    bank = random_rows(17, 5, 2)
    loss = TripletLoss()
    loss(x, labels, reference=bank, reference_labels=torch.arange(17) % 4).backward()
    assert x.grad.abs().max() > 0
    assert bank.grad is None
    x.requires_grad_(False)
    bank.requires_grad_()
    loss(x, labels, reference=bank, reference_labels=torch.arange(17) % 4).backward()
    assert bank.grad.abs().max() > 0


def test_a_reference_of_another_precision():
    x, labels = batch()
    x = x.detach().float().requires_grad_()
    bank = random_rows(17, 5, 2)
    for dtype in (torch.float16, torch.float64):
        value = TripletLoss()(x, labels, reference=bank.to(dtype), reference_labels=torch.arange(17) % 4)
        assert value.dtype == torch.float32
        value.backward()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"reference": torch.zeros(3, 2)},
            "reference is given without reference_labels; give both, or neither.",
        ),
        ({"reference_labels": [0]}, "reference_labels is given without reference; give both, or neither."),
        (
            {"reference_ids": [0]},
            "reference_ids is given without reference; the batch's own ids are called ids.",
        ),
        (
            {"reference": torch.zeros(1, 2), "reference_labels": [0], "ids": [0, 1, 2, 3]},
            "with a reference, ids is given without reference_ids; give both, or neither",
        ),
        (
            {"reference": torch.zeros(1, 2), "reference_labels": [0], "reference_ids": [0]},
            "with a reference, reference_ids is given without ids; give both, or neither",
        ),
        (
            {"reference": torch.zeros(1, 3), "reference_labels": [0]},
            r"reference has shape \(1, 3\) and embeddings \(4, 2\); they must have the same D.",
        ),
        (
            {"reference": torch.zeros(2, 2), "reference_labels": [0]},
            "reference_labels has 1 entries for 2 rows of the reference",
        ),
        ({"ids": [0]}, "ids has 1 entries for 4 rows of embeddings; give one for each row."),
    ],
)
def test_references_that_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        TripletLoss()(torch.zeros(4, 2), [0, 0, 1, 1], **given)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.zeros(4), r"embeddings has shape \(4,\); allowed is \(rows, D\) with D at least 1."),
        (torch.zeros(4, 0), r"embeddings has shape \(4, 0\); allowed is"),
        (torch.zeros(4, 2).long(), r"embeddings has dtype torch.int64; .* call embeddings.float\(\)."),
        (np.zeros((4, 2)), r"embeddings is a ndarray; allowed is a torch tensor of shape \(rows, D\)."),
        (torch.eye(4).to_sparse(), r"embeddings has layout torch.sparse_coo; .* call embeddings.to_dense\(\)."),
        (torch.empty(4, 2, device="meta"), "embeddings is on the device 'meta', which holds no numbers"),
    ],
)
def test_embeddings_that_are_refused(embeddings, message):
    with pytest.raises(InputError, match=message):
        TripletLoss()(embeddings, [0, 0, 1, 1])


# --- settings -----------------------------------------------------------------------------------------------


def test_defaults():
    assert TripletLoss().settings == {
        "margin": 0.2,
        "mining": "all",
        "distance": "euclidean",
        "penalty": "hinge",
        "reduction": "mean-active",
        "fallback": "skip",
        "temperature": None,
        "implementation": "auto",
    }
    assert TripletLoss(penalty="logsumexp").settings["temperature"] == 0.1
    assert TripletLoss(mining="hard").settings["reduction"] == "mean"
    assert TripletLoss(mining="semihard").settings["reduction"] == "mean"


@pytest.mark.parametrize("rule", some_rules(), ids=rule_name)
def test_settings_and_repr_rebuild_the_loss(rule):
    loss = loss_of(rule)
    assert TripletLoss(**loss.settings).rule == rule
    assert eval(repr(loss)).rule == rule
    assert copy.deepcopy(loss).rule == rule


def test_all_faults_are_named_together():
    with pytest.raises(InputError) as caught:
        TripletLoss(
            margin=-1, mining="semi-hard", distance="euclid", penalty="hing", reduction="avg",
            fallback="far", implementation="cuda",
        )  # fmt: skip
    assert str(caught.value).splitlines() == [
        "distance is 'euclid'; allowed are 'euclidean', 'squared-euclidean', 'cosine', 'manhattan', "
        "'minkowski', 'chebyshev', 'jaccard', a distance object such as Minkowski(p=3), or a function of rows, "
        "(N, D), (N, D) -> (N,). Did you mean 'euclidean'?",
        "mining is 'semi-hard'; allowed are 'all', 'hard', 'semihard', 'easy-positive', 'easy-positive-semihard', "
        "'distance-weighted'. Did you mean 'semihard'?",
        "penalty is 'hing'; allowed are 'hinge', 'squared-hinge', 'softplus', 'logsumexp', 'lifted'. "
        "Did you mean 'hinge'?",
        "reduction is 'avg'; allowed are 'mean-active', 'mean', 'sum'.",
        "fallback is 'far'; allowed are 'skip', 'farthest'.",
        "margin is -1; allowed is a finite number of at least 0.",
        f"implementation is 'cuda'; allowed are {', '.join(map(repr, IMPLEMENTATIONS))}.",
    ]


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), -0.1, "0.2", True])
def test_margins_that_are_refused(margin):
    with pytest.raises(InputError, match=r"margin is .*; allowed is a finite number of at least 0"):
        TripletLoss(margin=margin)


@pytest.mark.parametrize("margin", [{}, []])
def test_no_margins_are_refused(margin):
    with pytest.raises(InputError, match=r"^margin is empty; allowed is a number, or a margin for each class\.$"):
        TripletLoss(margin=margin)


def test_temperatures_that_are_refused():
    with pytest.raises(
        InputError, match="temperature belongs to penalty 'logsumexp' or 'lifted'; with penalty 'hinge' leave it out"
    ):
        TripletLoss(temperature=0.2)
    for temperature in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"temperature is .*; allowed is a finite number above 0\."):
            TripletLoss(penalty="logsumexp", temperature=temperature)


def test_logsumexp_in_closed_form():
    """n equal negatives at distance 2, positives at 1: tau log(1 + n exp((1 - 2 + m) / tau)) for each pair."""
    anchor, positive, negative = (torch.tensor([[first, 0.0, 0.0]]).double() for first in (0, 1, -2))
    loss = TripletLoss(0.25, penalty="logsumexp", temperature=0.4)
    for n in (1, 5, 40):
        bank = torch.cat([positive, negative.repeat(n, 1)])
        value = loss(anchor, [0], reference=bank, reference_labels=[0] + [1] * n)
        assert value.item() == pytest.approx(0.4 * math.log(1 + n * math.exp((1 - 2 + 0.25) / 0.4)), rel=1e-12)


def test_a_low_temperature_is_the_hinge_of_the_nearest_negative():
    x, labels = random_rows(19, 4, 0), torch.arange(19) % 4
    smooth = TripletLoss(0.7, penalty="logsumexp", temperature=1e-4, reduction="sum")(x, labels).item()
    d = torch.cdist(x, x)
    expected = sum(
        max(0.0, float(d[a, p] + 0.7 - d[a][labels != labels[a]].min()))
        for a in range(19) for p in range(19) if a != p and labels[a] == labels[p]
    )  # fmt: skip
    assert smooth == pytest.approx(expected, rel=1e-3)


def test_logsumexp_does_not_overflow():
    x = (torch.randn(9, 3, generator=torch.Generator().manual_seed(0)) * 1e4).requires_grad_()
    value = TripletLoss(0.2, penalty="logsumexp", temperature=0.01)(x, torch.arange(9) % 3)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


def test_a_fallback_without_its_mining_is_refused():
    with pytest.raises(InputError) as caught:
        TripletLoss(fallback="farthest")
    assert str(caught.value) == (
        "fallback 'farthest' belongs to mining 'semihard' or 'easy-positive-semihard'; with mining 'all' leave it out."
    )


def test_a_margin_beyond_the_cosine_is_warned_of():
    with pytest.warns(TercetWarning, match="a margin of 2 can never be satisfied: the cosine distance is at most 2"):
        TripletLoss(margin=2.0, distance="cosine")
    TripletLoss(margin=1.9, distance="cosine")
    TripletLoss(margin=5.0)  # embeddings may be long


def test_the_example_runs():
    assert doctest.testmod(triplet).attempted > 0
    assert doctest.testmod(triplet).failed == 0


# --- the graph, figures, dtypes -----------------------------------------------------------------------------


def test_figures_of_a_batch():
    x = torch.tensor([[0.0], [1.0], [3.0], [9.0]], requires_grad=True)
    loss = TripletLoss(margin=1.5)
    assert loss.stats is None
    assert loss.plan is None
    loss(x, ["a", "a", "b", "c"])
    assert loss.plan.implementation in IMPLEMENTATIONS[1:]
    figures = loss.stats.to_dict()
    assert figures == {
        "n_valid": 4,
        "n_mined": 4,
        "n_active": 1,  # from 1: 1 + 1.5 > 2
        "mean_positive": 1.0,
        "mean_negative": pytest.approx((3 + 9 + 2 + 8 + 3 + 2 + 6 + 9 + 8 + 6) / 10),
        "anchors_without_positive": 2,
        "anchors_without_negative": 0,
        "active_share": 0.25,
    }
    assert not any(value.requires_grad for value in vars(loss.stats).values() if value is not None)
    loss(x, ["a", "b", "c", "d"])
    assert loss.stats.to_dict()["active_share"] == 0
    assert loss.stats.to_dict()["mean_positive"] == 0
    loss(x, ["a", "a", "a", "a"])
    assert loss.stats.to_dict()["anchors_without_negative"] == 4


def test_a_named_implementation_is_recorded():
    x, labels = batch(7)
    loss = TripletLoss(implementation="reference")
    expected = TripletLoss()(x, labels)
    assert_close(loss(x, labels).detach(), expected.detach())
    assert loss.plan.implementation == "reference"


def test_the_upstream_gradient_scales():
    x, labels = batch()
    (once,) = torch.autograd.grad(TripletLoss()(x, labels), x)
    (thrice,) = torch.autograd.grad(3 * TripletLoss()(x * 2, labels) + x.sum() * 0, x)
    (twice,) = torch.autograd.grad(TripletLoss()(x * 2, labels), x)
    assert_close(thrice, 3 * twice)
    assert not torch.equal(once, twice)


def test_differentiating_twice_says_why_not():
    x, labels = batch()
    (gradient,) = torch.autograd.grad(TripletLoss()(x, labels), x, create_graph=True)
    with pytest.raises(TrainingError) as caught:
        gradient.square().sum().backward()
    assert str(caught.value) == (
        "this loss forms its gradient in the forward pass and cannot be differentiated twice; leave it "
        "out of what is differentiated with create_graph=True, or use triplet_margin_loss on given triplets."
    )
    assert not torch.autograd.grad(TripletLoss()(x, labels), x)[0].requires_grad


def test_without_a_graph():
    x, labels = batch()
    with torch.no_grad():
        value = TripletLoss()(x, labels)
    assert not value.requires_grad
    assert_close(value, TripletLoss()(x, labels).detach(), 1e-13)


def test_autocast_does_not_reach_inside():
    x, labels = batch()
    x = x.detach().float().requires_grad_()
    expected = value_and_gradient(TripletLoss(), x, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16, "vacuous: autocast is off"
        actual = value_and_gradient(TripletLoss(), x, labels)
    assert actual[0].dtype == torch.float32
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("distance", ["euclidean", "cosine", Minkowski(3)])
def test_a_few_steps_go_down(distance):
    x, labels = batch(37, 8, 6)
    loss = TripletLoss(0.5, distance=distance, penalty="softplus")
    weight = torch.eye(8).double().requires_grad_()
    optimizer = torch.optim.SGD([weight], 0.01)
    values = []
    for _ in range(3):
        optimizer.zero_grad()
        values.append(loss(x.detach() @ weight, labels))
        values[-1].backward()
        optimizer.step()
    assert values[0] > values[1] > values[2]


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
def test_nothing_of_the_size_of_the_distances_is_saved(mining):
    x, labels = batch(211, 3, 30)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        TripletLoss(mining=mining)(x, labels).backward()
    assert saved, "vacuous: nothing was saved"
    assert max(saved) <= 211 * 3


PEAK = """
import resource, sys, torch
from tercet.losses import TripletLoss
torch.set_num_threads(1)
mining, rows = sys.argv[1], int(sys.argv[2])
def call(rows):
    x = torch.nn.functional.normalize(torch.randn(rows, 128)).requires_grad_()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    TripletLoss(mining=mining)(x, torch.arange(rows) // 4).backward()
    assert x.grad.abs().max() > 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
torch.manual_seed(0)
call(8)
print(call(rows))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
def test_peak_memory_of_a_large_batch(mining):
    """The distances alone would be 64 MB, and plain autograd keeps several of their size."""
    command = [sys.executable, "-c", PEAK, mining, "4096"]
    environment = {**os.environ, "PYTHONPATH": str(Path(tercet.__file__).parents[1])}
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    grown_kib = int(ran.stdout)
    assert grown_kib < 100 * 1024, f"{grown_kib} KiB"
