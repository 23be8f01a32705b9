"""Margins per class, given and learned: each anchor's triplets take the margin of its class."""

import math

import numpy as np
import pytest
import torch

from tercet.errors import InputError, TercetWarning
from tercet.losses import PerClassMargin, TripletLoss
from tercet.testing import assert_close, random_rows

MARGINS = {"a": 0.3, "b": 0.0, "c": 1.1}


def batch(rows=14):
    return random_rows(rows, 4, 1).requires_grad_(), ["abc"[i * 5 % 3] for i in range(rows)]


def by_loops(x, labels, margins, cost=lambda z: max(z, 0.0)):
    """The mean of the costs, and for each class its number of active triplets over that of all."""
    d = torch.cdist(x, x).tolist()
    total, number, active = 0.0, 0, dict.fromkeys(margins, 0)
    for a, p, n in np.ndindex(len(d), len(d), len(d)):
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
            z = d[a][p] + margins[labels[a]] - d[a][n]
            total, number = total + cost(z), number + 1
            active[labels[a]] += z > 0
    return total / number, {name: count / number for name, count in active.items()}


@pytest.mark.parametrize(
    "margin",
    [
        MARGINS,
        PerClassMargin(["c", "a", "b"], [1.1, 0.3, 0.0], learned=False),
        PerClassMargin(np.array(["c", "a", "b"]), torch.tensor([1.1, 0.3, 0.0], dtype=torch.float64), learned=False),
    ],
)
def test_margins_of_words(margin):
    x, labels = batch()
    value = TripletLoss(margin, reduction="mean")(x, labels)
    assert value.item() == pytest.approx(by_loops(x.detach(), labels, MARGINS)[0], rel=1e-12)
    assert value.item() != pytest.approx(TripletLoss(0.3, reduction="mean")(x, labels).item(), rel=1e-3)


@pytest.mark.parametrize(
    "margin",
    [
        [0.3, 0.0, 1.1],
        (0.3, 0.0, 1.1),
        np.array([0.3, 0.0, 1.1]),
        torch.tensor([0.3, 0.0, 1.1], dtype=torch.float64),
        {2: 1.1, 0: 0.3, 1: 0.0},
        PerClassMargin(3, [0.3, 0.0, 1.1], learned=False),
        PerClassMargin(torch.tensor([2, 0, 1], dtype=torch.uint8), [1.1, 0.3, 0.0], learned=False),
    ],
)
def test_margins_of_numbers(margin):
    x, labels = batch()
    numbers = torch.tensor(["abc".index(label) for label in labels])
    loss = TripletLoss(margin, penalty="squared-hinge", reduction="mean")
    expected = by_loops(x.detach(), labels, MARGINS, lambda z: max(z, 0.0) ** 2)[0]
    for given in (numbers, numbers.to(torch.int16), numbers.tolist(), numbers.numpy()):
        assert loss(x, given).item() == pytest.approx(expected, rel=1e-12)
    built = TripletLoss(**loss.settings)
    assert torch.equal(built(x, numbers), loss(x, numbers))


def test_one_margin_for_all_classes_is_that_margin():
    x, labels = batch()
    for mining in ("all", "hard", "semihard"):
        each = TripletLoss(PerClassMargin(list("abc"), 0.4, learned=False), mining)
        assert_close(each(x, labels).detach(), TripletLoss(0.4, mining)(x, labels).detach())
    assert torch.equal(TripletLoss(torch.tensor(0.5))(x, labels), TripletLoss(0.5)(x, labels))


@pytest.mark.parametrize("nu", [0.0, 0.35])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"penalty": "softplus"},
        {"penalty": "lifted"},
        {"mining": "hard"},
        {"mining": "semihard", "penalty": "logsumexp"},
    ],
)
def test_the_gradient_of_learned_margins(settings, nu):
    x, labels = batch()
    loss = TripletLoss(PerClassMargin(list("abc"), [0.3, 0.1, 1.1], nu=nu), **settings).double()
    weights = torch.arange(14).double() / 9

    def value(raw):
        return torch.func.functional_call(loss, {"margins.raw": raw}, (x.detach(), labels), {"weights": weights})

    raw = loss.margins.raw.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (raw,))
    assert (torch.autograd.grad(value(raw), raw)[0].abs() > 1e-4).all()


def test_learned_margins_are_rewarded():
    """L - nu * (mean of the anchors' margins); the derivative by m_c is (active of c - nu * anchors of c) / all."""
    x, labels = batch()
    learned = PerClassMargin(list(MARGINS), [0.3, 0.1, 1.1], nu=0.35)
    loss = TripletLoss(learned).double()
    values = dict(zip(MARGINS, learned.values().tolist(), strict=True))
    expected, active = by_loops(x.detach(), labels, values)
    share = {name: labels.count(name) / 14 for name in MARGINS}
    found = loss(x, labels)
    assert loss.rule.reduction == "mean"
    reward = sum(0.35 * share[name] * values[name] for name in MARGINS)
    assert found.item() == pytest.approx(expected - reward, rel=1e-12)
    (slope,) = torch.autograd.grad(found, learned.raw)
    of_margins = torch.tensor([active[name] - 0.35 * share[name] for name in MARGINS]).double()
    assert_close(slope, of_margins * torch.sigmoid(learned.raw.detach()), 1e-7)
    plain = TripletLoss(PerClassMargin(list(MARGINS), [0.3, 0.1, 1.1], nu=0)).double()
    assert plain.settings["reduction"] == "mean-active"
    assert plain(x, labels, weights=torch.ones(14)).item() == plain(x, labels).item()
    own = TripletLoss(PerClassMargin(list(MARGINS), [0.3, 0.1, 1.1], nu=0), reduction="mean").double()
    difference = own.per_anchor(x, labels) - loss.per_anchor(x, labels)
    assert_close(difference, 0.35 * learned(labels).detach())


def test_learned_margins_settle_where_nu_of_the_triplets_are_active():
    """Embeddings are held; a class far from the others gets a larger margin."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [1.5, 0.0], [9.0, 0.0]])
    labels = torch.arange(60) % 3
    x = centres[labels] + torch.randn(60, 2, generator=generator)
    loss = TripletLoss(PerClassMargin(3, nu=0.3))
    optimizer = torch.optim.SGD(loss.parameters(), 6.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss(x, labels).backward()
        optimizer.step()
    found = loss.margins.values().tolist()
    _, active = by_loops(x, labels.tolist(), dict(enumerate(found)))
    assert [3 * share for share in active.values()] == pytest.approx([0.3] * 3, abs=0.01)
    assert found[2] > found[0] + 3


def test_learned_margins_are_never_negative():
    margins = PerClassMargin(3, [1e-6, 0.2, 50.0])
    assert margins.values().tolist() == pytest.approx([1e-6, 0.2, 50.0], rel=1e-5)
    margins.raw.data -= 60
    assert (margins.values() >= 0).all()
    assert margins.values().max() < 0.001
    assert margins.values().isfinite().all()


def test_a_class_without_a_margin_is_named():
    x = batch(2)[0]
    for margin, given, message in (
        (
            MARGINS,
            ["a", "z"],
            "labels holds the class 'z', which has no margin; the margins given are for 'a', 'b', 'c'.",
        ),
        ([0.1, 0.2], [1, 2], "labels holds the class 2, which has no margin; the margins given are for 0, 1."),
        (
            [0.1] * 11,
            torch.tensor([3, -1]),
            "labels holds the class -1, which has no margin; the margins given are for 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "
            "....",
        ),
    ):
        with pytest.raises(InputError) as caught:
            TripletLoss(margin)(x, given)
        assert str(caught.value) == f"{message} Give that class a margin too."
    y = random_rows(3, 4, 2)
    TripletLoss(MARGINS)(x, ["a", "b"], reference=y, reference_labels=["z", "a", "a"])  # only anchors need one


@pytest.mark.parametrize(
    "given",
    [
        {"labels": None, "reference": random_rows(2, 4, 3)},
        {"labels": [["a"], ["b"]]},
        {"labels": torch.tensor([0, 1]), "relation": lambda a, b: a[:, None] == b},
    ],
)
def test_margins_need_one_label_an_anchor(given):
    with pytest.raises(InputError, match="margins per class need one label for each anchor, whose class they go by"):
        TripletLoss(MARGINS)(batch(2)[0], **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerClassMargin(0), "classes is 0; allowed is how many there are, at least 1, or their labels."),
        (lambda: PerClassMargin([]), "classes is empty; allowed is how many there are, at least 1, or their labels."),
        (
            lambda: PerClassMargin(["a", "b", "a"], -1, learned=False, nu=0.3),
            "classes names 'a' twice; give each class once.\n"
            "nu belongs to learned margins; with learned=False leave it out.\n"
            "margin is -1; allowed is a finite number of at least 0.",
        ),
        (lambda: PerClassMargin(2, 0.0), "margin is 0.0; allowed is a finite number above 0."),
        (lambda: PerClassMargin(2, [0.1] * 3), "initial has 3 margins for 2 classes; give one for each, or one."),
        (lambda: PerClassMargin(2, math.nan), "margin is nan; allowed is a finite number above 0."),
        (lambda: PerClassMargin(2, nu=1), "nu is 1; allowed is a number from 0 to below 1."),
        (lambda: PerClassMargin(2, learned=1), "learned is 1; allowed are True and False."),
        (
            lambda: TripletLoss({"a": -0.5}, penalty="hing"),
            "margin is -0.5; allowed is a finite number of at least 0.\n"
            "penalty is 'hing'; allowed are 'hinge', 'squared-hinge', 'softplus', 'logsumexp', 'lifted'. "
            "Did you mean 'hinge'?",
        ),
        (
            lambda: TripletLoss(PerClassMargin(2), reduction="mean-active"),
            "margins learned with nu=0.5 go with reduction 'mean'; given is 'mean-active'. Leave the reduction out, or "
            "give PerClassMargin(..., nu=0).",
        ),
        (
            lambda: TripletLoss(torch.ones(3, requires_grad=True)),
            "margin is a tensor that requires a gradient; give PerClassMargin(classes, initial), whose parameter the "
            "loss holds and trains, or margin.detach().",
        ),
    ],
)
def test_margins_that_are_refused(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


def test_a_margin_of_one_class_can_be_too_large():
    with pytest.warns(TercetWarning, match="a margin of 2.5 can never be satisfied: the cosine distance is at most 2"):
        TripletLoss({"a": 0.1, "b": 2.5}, distance="cosine")
