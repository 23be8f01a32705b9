"""Losses on given triplets and pairs: they equal plain loops and torch's own losses."""

import math

import pytest
import torch

from tercet.distances import DISTANCES, Mahalanobis, Minkowski, resolve
from tercet.errors import InputError
from tercet.losses import ContrastiveLoss, triplet_margin_loss
from tercet.testing import assert_close, random_rows


def rows(requires_grad=False):
    return [random_rows(13, 5, seed).requires_grad_(requires_grad) for seed in (1, 2, 3)]


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_equals_torch(p, swap, reduction):
    """Up to torch's 1e-6 in every difference."""
    theirs = torch.nn.TripletMarginLoss(0.7, p, swap=swap, reduction=reduction)(*(a := rows(True)))
    ours = triplet_margin_loss(*(b := rows(True)), 0.7, Minkowski(p), swap, reduction=reduction)
    assert theirs.sum() > 0
    assert_close(ours.detach(), theirs.detach(), 1e-5)
    theirs.sum().backward()
    ours.sum().backward()
    for left, right in zip(b, a, strict=True):
        assert_close(left.grad, right.grad, 1e-5)


@pytest.mark.parametrize("swap", [False, True])
def test_it_equals_torch_with_a_distance(swap):
    def between(x, y):
        return 1 - torch.nn.functional.cosine_similarity(x, y)

    theirs = torch.nn.TripletMarginWithDistanceLoss(distance_function=between, margin=0.3, swap=swap)(
        *(a := rows(True))
    )
    for distance in (between, "cosine"):
        ours = triplet_margin_loss(*(b := rows(True)), 0.3, distance, swap)
        assert_close(ours.detach(), theirs.detach())
        gradient = torch.autograd.grad(ours, b)
        for left, right in zip(gradient, torch.autograd.grad(theirs, a, retain_graph=True), strict=True):
            assert_close(left, right)


@pytest.mark.parametrize("penalty", ["hinge", "squared-hinge", "softplus", "logsumexp"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_it_equals_the_loop(penalty, distance):
    a, p, n = (part.abs() for part in rows()) if distance == "jaccard" else rows()
    d, margin = resolve(distance).definition, 0.3 if distance == "jaccard" else 0.7
    arguments = [float(d(a[i], p[i]) + margin - d(a[i], n[i])) for i in range(13)]
    cost = {
        "hinge": lambda z: max(z, 0),
        "squared-hinge": lambda z: max(z, 0) ** 2,
        "softplus": lambda z: math.log(1 + math.exp(z)),
        "logsumexp": lambda z: 0.3 * math.log(1 + math.exp(z / 0.3)),
    }[penalty]
    temperature = 0.3 if penalty == "logsumexp" else None
    costs = [cost(z) for z in arguments]
    active = sum(z > 0 for z in arguments)
    assert 0 < active < 13
    expected = {
        "mean": sum(costs) / 13,
        "sum": sum(costs),
        "mean-active": sum(costs) / (13 if penalty in ("softplus", "logsumexp") else active),
    }
    for reduction, value in expected.items():
        found = triplet_margin_loss(a, p, n, margin, distance, penalty=penalty, reduction=reduction,
                                    temperature=temperature)  # fmt: skip
        assert found.item() == pytest.approx(value, rel=1e-12)
    assert_close(
        triplet_margin_loss(a, p, n, margin, distance, penalty=penalty, reduction="none", temperature=temperature),
        torch.tensor(costs, dtype=torch.float64),
    )


def test_gradcheck_to_second_order():
    given = rows(True)

    def loss(a, p, n):
        return triplet_margin_loss(a, p, n, 0.7, penalty="squared-hinge", swap=True)

    assert torch.autograd.gradcheck(loss, given)
    assert torch.autograd.gradgradcheck(loss, given)


@pytest.mark.parametrize("distance", [*DISTANCES, torch.nn.PairwiseDistance(eps=0.0)])
def test_coincident_points_have_a_finite_gradient(distance):
    a, p, n = (part.abs() for part in rows())
    p[:5], n[3:7] = a[:5], a[3:7]
    a[9] = 0
    given = [part.clone().requires_grad_() for part in (a, p, n)]
    value = triplet_margin_loss(*given, 5.0, distance)
    for gradient in torch.autograd.grad(value, given):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_at_the_kink_there_is_no_gradient():
    a, p, n = (torch.tensor([[value]], requires_grad=True) for value in (0.0, 1.0, 2.0))
    value = triplet_margin_loss(a, p, n, margin=1.0)
    assert value.item() == 0
    assert not torch.autograd.grad(value, a)[0].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_gives_nan(bad, which):
    given = rows()
    given[which][4, 2] = bad
    costs = triplet_margin_loss(*given, reduction="none")
    assert costs.isnan().nonzero().tolist() == [[4]]
    assert triplet_margin_loss(*given).isnan()


def test_half_precision_and_nothing_at_all():
    half = [part.bfloat16().requires_grad_() for part in rows()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = triplet_margin_loss(*half)
    assert value.dtype == torch.float32
    assert_close(value.detach(), triplet_margin_loss(*(part.detach().float() for part in half)), 0.0)
    for reduction in ("mean", "mean-active", "sum"):
        empty = torch.zeros(0, 3, requires_grad=True)
        value = triplet_margin_loss(empty, empty, empty, reduction=reduction)
        assert value.item() == 0
        value.backward()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"margin": -1.0}, "margin is -1.0; allowed is a finite number of at least 0."),
        ({"penalty": "hinged"}, "penalty is 'hinged'; .* Did you mean 'hinge'?"),
        ({"penalty": "lifted"}, "penalty is 'lifted'; allowed are 'hinge', 'squared-hinge', 'softplus', 'logsumexp'."),
        ({"normalize": 1}, "normalize is 1; allowed are True and False."),
        ({"distance": "jaccard"}, "anchor holds .* negative features"),
        ({"margin": -1, "reduction": "average"}, "(?s)margin is -1.*reduction is 'average'"),
        (
            {"reduction": "average"},
            "reduction is 'average'; allowed are 'mean', 'sum', 'none', 'mean-active'.",
        ),
        ({"distance": "cosin"}, "Did you mean 'cosine'?"),
        (
            {"negative": torch.zeros(1, 5)},
            r"negative has shape \(1, 5\) and anchor \(13, 5\); they must have the same shape",
        ),
    ],
)
def test_settings_that_are_refused(given, message):
    a, p, n = rows()
    with pytest.raises(InputError, match=message):
        triplet_margin_loss(**{"anchor": a, "positive": p, "negative": n, **given})


def test_rows_of_unit_length():
    given = rows(True)
    expected = triplet_margin_loss(*(torch.nn.functional.normalize(part) for part in given), 0.3)
    found = triplet_margin_loss(*given, 0.3, normalize=True)
    assert expected > 0
    assert_close(found.detach(), expected.detach())
    for left, right in zip(torch.autograd.grad(found, given), torch.autograd.grad(expected, given), strict=True):
        assert_close(left, right)


def test_a_learned_map_gets_its_gradient():
    start = random_rows(4, 5, 9)
    distance = Mahalanobis(components=start, learned=True)
    expected_map = start.clone().requires_grad_()
    a, p, n = rows()
    z = (((a - p) @ expected_map.T).norm(dim=1) + 0.7 - ((a - n) @ expected_map.T).norm(dim=1)).relu().mean()
    value = triplet_margin_loss(a, p, n, 0.7, distance)
    assert_close(value.detach(), z.detach())
    value.backward()
    z.backward()
    assert_close(distance.module.components.grad, expected_map.grad)


def test_functional_transforms_go_through():
    """It is made of autograd's own operations."""
    a, p, n = rows()
    (expected,) = torch.autograd.grad(triplet_margin_loss(b := a.clone().requires_grad_(), p, n), b)
    assert_close(torch.func.grad(triplet_margin_loss)(a, p, n), expected)
    each = torch.func.vmap(lambda x: triplet_margin_loss(x, p, n))(torch.stack([a, 2 * a]))
    assert_close(each[1], triplet_margin_loss(2 * a, p, n))
    _, slope = torch.func.jvp(lambda x: triplet_margin_loss(x, p, n), (a,), (p,))
    assert_close(slope, (expected * p).sum())


# --- pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_pair_loss_equals_the_loop(distance):
    left, right, _ = (part.abs() for part in rows())
    similar = torch.arange(13) % 3 == 0
    d = [float(resolve(distance).definition(x, y)) for x, y in zip(left, right, strict=True)]
    same, others = sorted(d[::3]), sorted(gap for i, gap in enumerate(d) if i % 3)
    near, far = (same[1] + same[2]) / 2, (others[5] + others[6]) / 2  # between two distances: no pair is on the edge
    costs = [
        max(0, gap - near) ** 2 if marked else max(0, far - gap) ** 2
        for gap, marked in zip(d, similar.tolist(), strict=True)
    ]
    of_similar, of_others = costs[::3], [cost for i, cost in enumerate(costs) if i % 3]
    expected = {"mean": sum(costs) / 13, "sum": sum(costs)}
    active = [sum(cost > 0 for cost in side) for side in (of_similar, of_others)]
    assert active[0] < len(of_similar)
    assert active[1] < len(of_others)
    expected["mean-active"] = sum(of_similar) / active[0] + sum(of_others) / active[1]
    for reduction, value in expected.items():
        loss = ContrastiveLoss(near, far, distance, reduction)
        for marks in (similar, similar.long(), similar.tolist()):
            assert loss.pairs(left, right, marks).item() == pytest.approx(value, rel=1e-12)


def test_pair_loss_is_twice_hadsell():
    """Eq. 4 of Hadsell et al. 2006: (1 - Y) D²/2 + Y max(0, m - D)²/2, with Y = 0 for similar pairs."""
    left = torch.zeros(2, 1)
    right = torch.tensor([[3.0], [1.0]])
    assert ContrastiveLoss(negative_margin=5.0).pairs(left, right, [True, False]).item() == (9 + 16) / 2


def test_pair_loss_gradient():
    left, right, _ = rows(True)
    similar = torch.arange(13) % 3 == 0
    for reduction in ("mean", "mean-active"):
        loss = ContrastiveLoss(0.5, 3.0, reduction=reduction, normalize=reduction == "mean-active")
        assert torch.autograd.gradcheck(lambda x, y, loss=loss: loss.pairs(x, y, similar), (left, right))
    assert torch.autograd.gradgradcheck(lambda x, y: ContrastiveLoss(0.5, 3.0).pairs(x, y, similar), (left, right))
    same = left.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ContrastiveLoss().pairs(left, same, ~similar), same)
    assert not gradient.any()


def test_pair_loss_of_nothing_and_of_what_is_not_finite():
    empty = torch.zeros(0, 3)
    for reduction in ("mean", "mean-active", "sum"):
        assert ContrastiveLoss(reduction=reduction).pairs(empty, empty, torch.zeros(0, dtype=torch.bool)).item() == 0
        left, right, _ = rows()
        right[3, 1] = math.inf
        assert ContrastiveLoss(reduction=reduction).pairs(left, right, torch.zeros(13).bool()).isnan()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"similar": torch.ones(3).bool()},
            r"similar has shape \(3,\); allowed is \(13,\), one mark for each pair.",
        ),
        (
            {"similar": torch.ones(13)},
            "similar has dtype torch.float32; allowed are booleans, or integers 0 and 1.",
        ),
        ({"similar": torch.full((13,), -1)}, "similar holds -1; allowed are booleans, or integers 0 and 1."),
        (
            {"right": torch.zeros(13, 4)},
            r"right has shape \(13, 4\) and left \(13, 5\); they must have the same shape.",
        ),
    ],
)
def test_pair_settings_that_are_refused(given, message):
    left, right, _ = rows()
    with pytest.raises(InputError, match=message):
        ContrastiveLoss().pairs(**{"left": left, "right": right, "similar": torch.ones(13).bool(), **given})
