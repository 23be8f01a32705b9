"""InfoNCE, SupCon and CLIP's loss: they equal the textbook formulas, and so do the gradients of their temperatures."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from tercet.distances import Mahalanobis, resolve
from tercet.errors import InputError
from tercet.losses import ClipLoss, InfoNCE, SupConLoss, TripletLoss
from tercet.testing import assert_close, random_rows


def batch(rows=23, dim=5, classes=5):
    return random_rows(rows, dim, 1).requires_grad_(), torch.arange(rows) * 7 % classes


def logits(x, y, tau, distance="cosine"):
    """-d / tau, or for cosine the usual cos / tau."""
    if distance == "cosine":
        return normalize(x) @ normalize(y).T / tau
    between = resolve(distance).definition

    def similarity(a, b):
        return torch.zeros(()).double() if torch.equal(a, b) else -between(a, b)  # no gradient through a root of 0

    return torch.stack([torch.stack([similarity(a, b) for b in y]) for a in x]) / tau


def info_nce(x, labels, tau, distance="cosine"):
    """Mean over pairs (a, p) of -log(exp(s_ap) / (exp(s_ap) + sum over n of exp(s_an)))."""
    s = logits(x, x, tau, distance)
    terms = [
        -torch.log(torch.exp(s[a, p]) / (torch.exp(s[a, p]) + torch.exp(s[a][labels != labels[a]]).sum()))
        for a in range(len(x))
        for p in range(len(x))
        if a != p and labels[a] == labels[p] and (labels != labels[a]).any()
    ]
    return torch.stack(terms).mean()


def sup_con(x, labels, tau, distance="cosine"):
    """Khosla et al. 2020, eq. 2, as a mean over anchors with a positive."""
    s = logits(x, x, tau, distance)
    terms = []
    for a in range(len(x)):
        others = [j for j in range(len(x)) if j != a]
        positives = [j for j in others if labels[j] == labels[a]]
        if positives:
            whole = torch.exp(s[a, others]).sum()
            terms.append(-sum(torch.log(torch.exp(s[a, p]) / whole) for p in positives) / len(positives))
    return torch.stack(terms).mean()


FORMULAS = [(InfoNCE, info_nce), (SupConLoss, sup_con)]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("kind", "formula"), FORMULAS)
def test_it_equals_the_formula(kind, formula, distance):
    x, labels = batch()
    labels[3] = 9  # a class of one
    loss = kind(0.37, distance, learn_temperature=True).double()
    tau = torch.tensor(loss.temperature, dtype=torch.float64, requires_grad=True)
    expected, value = formula(x, labels, tau, distance), loss(x, labels)
    assert_close(value.detach(), expected.detach())
    of_x, of_tau = torch.autograd.grad(expected, (x, tau))
    found_x, found_scale = torch.autograd.grad(value, (x, loss.log_scale))
    assert_close(found_x, of_x)
    assert_close(found_scale, -loss.temperature * of_tau)  # log_scale is -log(tau)
    assert abs(float(of_tau)) > 1e-3


@pytest.mark.parametrize("kind", [InfoNCE, SupConLoss])
def test_a_fixed_temperature_is_that_of_a_learned_one(kind):
    x, labels = batch()
    assert_close(kind(0.4)(x, labels).detach(), kind(0.4, learn_temperature=True)(x, labels).detach(), 1e-6)
    assert not list(kind(0.4).parameters())


def test_infonce_is_a_triplet_loss():
    x, labels = batch()
    same = TripletLoss(0.0, penalty="logsumexp", reduction="mean", temperature=0.3, distance="cosine")
    assert_close(InfoNCE(0.3)(x, labels).detach(), same(x, labels).detach() / 0.3)
    assert_close(InfoNCE(0.3).per_anchor(x, labels), same.per_anchor(x, labels) / 0.3)


def test_two_views_make_nt_xent():
    """SimCLR's: every row against the 2N - 1 others, one of them its other view."""
    views, tau = random_rows(14, 5, 3), 0.5
    s = logits(views, views, tau).fill_diagonal_(-torch.inf)
    targets = torch.cat([torch.arange(7, 14), torch.arange(7)])
    expected = cross_entropy(s, targets)
    labels = torch.arange(7).repeat(2)
    assert_close(InfoNCE(tau)(views, labels), expected)
    assert_close(SupConLoss(tau)(views, labels), expected)


def test_a_queue_makes_moco():
    """One positive key and a queue of negatives."""
    queries, keys, queue = random_rows(6, 5, 1), random_rows(6, 5, 2), random_rows(11, 5, 3)
    positive = (normalize(queries) * normalize(keys)).sum(1, keepdim=True) / 0.2
    expected = cross_entropy(torch.cat([positive, logits(queries, queue, 0.2)], dim=1), torch.zeros(6).long())
    reference, owner = torch.cat([keys, queue]), torch.cat([torch.arange(6), torch.full((11,), -1)])

    def related(rows, columns):
        own = rows[:, None] == columns
        return own.long() - (columns < 0).long()  # the other queries' keys are neither

    found = InfoNCE(0.2)(
        queries, torch.arange(6), reference=reference, reference_labels=owner, relation=related
    )  # fmt: skip
    assert_close(found, expected)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_closed_forms_of_equidistant_rows(classes):
    """Rows of the unit axes are all equally far: every term is log of the number of terms in its denominator."""
    samples = 3
    x, labels = torch.eye(classes * samples).double(), torch.arange(classes * samples) % classes
    negatives = (classes - 1) * samples
    assert InfoNCE(0.2)(x, labels).item() == pytest.approx(math.log(1 + negatives), abs=1e-12)
    assert SupConLoss(0.2)(x, labels).item() == pytest.approx(math.log(samples - 1 + negatives), rel=1e-12)


def test_temperatures_that_are_refused():
    for kind in (InfoNCE, SupConLoss, ClipLoss):
        with pytest.raises(InputError) as caught:
            kind(temperature=0, learn_temperature=1)
        assert str(caught.value).splitlines() == [
            "temperature is 0; allowed is a finite number above 0.",
            "learn_temperature is 1; allowed are True and False.",
        ]
    with pytest.raises(InputError, match="learn_temperature belongs to penalty 'logsumexp' or 'lifted'; with penalty"):
        TripletLoss(learn_temperature=True)
    with pytest.raises(InputError, match=r"temperature is 0\.005; a learned one is clipped at 0\.01, as in CLIP"):
        ClipLoss(0.005)
    assert ClipLoss(0.005, learn_temperature=False).temperature == 0.005


@pytest.mark.parametrize("penalty", ["logsumexp", "lifted"])
@pytest.mark.parametrize("reduction", ["mean", "mean-active", "sum"])
def test_the_gradient_of_a_triplet_losss_temperature(penalty, reduction):
    x, labels = batch(11, 5, 3)
    loss = TripletLoss(
        0.3, penalty=penalty, reduction=reduction, temperature=0.7, learn_temperature=True, distance="cosine"
    ).double()

    def value(scale):
        return torch.func.functional_call(loss, {"log_scale": scale}, (x.detach(), labels))

    scale = loss.log_scale.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (scale,))
    assert torch.autograd.grad(value(scale), scale)[0].abs() > 1e-3


# --- CLIP ---------------------------------------------------------------------------------------------------


def clip(images, texts, scale):
    s = scale.exp() * normalize(images) @ normalize(texts).T
    targets = torch.arange(len(images))
    return (cross_entropy(s, targets) + cross_entropy(s.T, targets)) / 2


def test_clip_equals_cross_entropy_both_ways():
    images, texts = random_rows(13, 5, 1).requires_grad_(), random_rows(13, 5, 2).requires_grad_()
    loss = ClipLoss(0.3).double()
    scale = loss.log_scale.detach().clone().requires_grad_()
    expected, value = clip(images, texts, scale), loss(images, reference=texts)
    assert_close(value.detach(), expected.detach())
    right = torch.autograd.grad(expected, (images, texts, scale))
    for found, gradient in zip(torch.autograd.grad(value, (images, texts, loss.log_scale)), right, strict=True):
        assert gradient.abs().max() > 1e-3
        assert_close(found, gradient)
    own = loss.per_anchor(images, reference=texts)
    assert_close(own.mean(), expected.detach())
    s = scale.exp() * normalize(images) @ normalize(texts).T
    both = cross_entropy(s, torch.arange(13), reduction="none") + cross_entropy(s.T, torch.arange(13), reduction="none")
    assert_close(own, both.detach() / 2)
    weights = torch.arange(13).double()
    assert_close(loss(images, reference=texts, weights=weights).detach(), (weights * own).sum() / weights.sum())
    assert loss.stats.to_dict()["n_valid"] == 13 * 12


def test_clip_is_trained_as_clip_is():
    """Three steps, the temperature included, with CLIP's clip of the scale after each."""
    images, texts = random_rows(13, 5, 1), random_rows(13, 5, 2)
    loss, layer, ours = ClipLoss(0.0101).double(), torch.eye(5).double().requires_grad_(), []
    scale, theirs_layer, theirs = loss.log_scale.detach().clone().requires_grad_(), layer.detach().clone(), []
    theirs_layer.requires_grad_()
    for values, of, parameters, function in (
        (ours, layer, [layer, loss.log_scale], lambda rows: loss(rows, reference=texts)),
        (theirs, theirs_layer, [theirs_layer, scale], lambda rows: clip(rows, texts, scale)),
    ):
        optimizer = torch.optim.SGD(parameters, 0.01, maximize=True)  # uphill the scale runs into its bound
        for _ in range(3):
            optimizer.zero_grad()
            values.append(function(images @ of))
            values[-1].backward()
            optimizer.step()
            with torch.no_grad():
                scale.clamp_(max=math.log(100))
    assert scale.item() == math.log(100), "vacuous: the scale stayed below its bound"
    for found, right in zip(ours, theirs, strict=True):
        assert_close(found.detach(), right.detach())
    loss(images, reference=texts)
    assert loss.temperature == pytest.approx(0.01, rel=1e-12)


def test_clip_with_labels_takes_the_mean_over_positives():
    images, texts = random_rows(7, 5, 1).requires_grad_(), random_rows(9, 5, 2).requires_grad_()
    of_images, of_texts = torch.tensor([0, 1, 2, 0, 1, 2, 7]), torch.tensor([0, 0, 1, 2, 2, 2, 8, 9, 0])
    s, same = logits(images, texts, 0.3), of_images[:, None] == of_texts

    def one_way(s, same):
        """UniCL: the mean over rows with a positive of the mean over their positives of -log softmax."""
        log_softmax, some = s.log_softmax(1), same.any(1)
        return -((log_softmax * same).sum(1)[some] / same.sum(1)[some])

    loss = ClipLoss(0.3, learn_temperature=False)
    expected = (one_way(s, same).mean() + one_way(s.T, same.T).mean()) / 2
    value = loss(images, of_images, reference=texts, reference_labels=of_texts)
    assert_close(value.detach(), expected.detach())
    for found, right in zip(
        torch.autograd.grad(value, (images, texts)), torch.autograd.grad(expected, (images, texts)), strict=True
    ):
        assert_close(found, right)
    related = {"relation": lambda rows, columns: same[rows][:, columns]}  # of an image, then of a text
    assert_close(loss(images, reference=texts, **related).detach(), expected.detach())
    assert loss.stats.to_dict()["anchors_without_positive"] == 1
    own = loss.per_anchor(images, of_images, reference=texts, reference_labels=of_texts)
    assert_close(own[:-1], one_way(s, same).detach())
    assert own[-1] == 0


def test_clip_leaves_groups_and_same_items_out():
    images, texts, groups = random_rows(7, 5, 1), random_rows(7, 5, 2), torch.tensor([0, 0, 1, 2, 2, 2, 3])
    s = logits(images, texts, 0.3)
    of_texts = torch.tensor([1, 0, 0, 3, 2, 1, 0])  # the last images' own texts are left out with their groups
    s = s.masked_fill(groups[:, None] == of_texts, -torch.inf)
    kept = s.diagonal() > -torch.inf
    assert 0 < kept.sum() < 7
    expected = -(s.log_softmax(1).diagonal()[kept].mean() + s.T.log_softmax(1).diagonal()[kept].mean()) / 2
    loss = ClipLoss(0.3, learn_temperature=False)
    assert_close(loss(images, reference=texts, groups=groups, reference_groups=of_texts), expected)
    assert_close(loss(images, reference=texts, ids=groups, reference_ids=of_texts), expected)


def test_a_map_that_both_sides_share():
    images, texts, start = random_rows(7, 5, 1), random_rows(7, 5, 2), random_rows(3, 5, 3)
    loss = ClipLoss(0.3, False, Mahalanobis(components=start, learned=True))
    s = -torch.cdist(images @ start.T, texts @ start.T) / 0.3
    expected = (cross_entropy(s, torch.arange(7)) + cross_entropy(s.T, torch.arange(7))) / 2
    assert_close(loss(images, reference=texts).detach(), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": [0, 1]}, "ClipLoss compares two sides; call it as loss(images, reference=texts)."),
        (
            {"reference": torch.zeros(2, 3), "labels": [0, 1], "reference_labels": [0, 1], "weights": [1, 2]},
            "the weights of ClipLoss are those of pairs; leave labels and relation out, or the weights.",
        ),
    ],
)
def test_calls_that_clip_refuses(given, message):
    for call in (ClipLoss(), ClipLoss().per_anchor):
        with pytest.raises(InputError) as caught:
            call(torch.zeros(2, 3), **given)
        assert str(caught.value) == message
