"""What all losses over a batch share: what a call may be given, each anchor's value, transforms, saving."""

import copy
import doctest
import io
import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from tercet.distances import Mahalanobis, Minkowski
from tercet.errors import InputError, TercetWarning, TrainingError
from tercet.losses import (
    ClipLoss,
    ContrastiveLoss,
    InfoNCE,
    PerClassMargin,
    SupConLoss,
    TripletLoss,
    contrastive,
    margins,
    softmax,
)
from tercet.losses.label_sets import encode_labels
from tercet.testing import LossContract, assert_close, random_rows

ONE_SIDED = {
    "triplet": lambda: TripletLoss(0.7),
    "lifted": lambda: TripletLoss(0.7, penalty="lifted", temperature=0.6),
    "learned": lambda: TripletLoss(0.7, penalty="logsumexp", temperature=0.3, learn_temperature=True),
    "unit": lambda: TripletLoss(0.3, "semihard", penalty="softplus", fallback="farthest", normalize=True),
    "margins": lambda: TripletLoss(PerClassMargin(5, [0.1, 0.3, 0.2, 0.9, 0.4], nu=0.3), distance="manhattan"),
    "map": lambda: TripletLoss(0.7, distance=Mahalanobis(components=random_rows(4, 5, 8), learned=True)),
    "contrastive": lambda: ContrastiveLoss(0.3, 2.1),
    "contrastive-active": lambda: ContrastiveLoss(0.3, 1.4, "cosine", "mean-active"),
    "infonce": lambda: InfoNCE(0.4, learn_temperature=True),
    "supcon": lambda: SupConLoss(0.4, "euclidean", learn_temperature=True),
}
LOSSES = {**ONE_SIDED, "clip": lambda: ClipLoss(0.4)}


def batch(rows=23, dim=5, classes=5):
    return random_rows(rows, dim, 1).requires_grad_(), torch.arange(rows) * 7 % classes


def bank(rows=17, dim=5, classes=4):
    return {"reference": random_rows(rows, dim, 2), "reference_labels": torch.arange(rows) * 3 % classes}


BANK = bank()


def call(loss, x, labels):
    """The loss, with a reference where it needs one."""
    return loss(x, labels, **(BANK if isinstance(loss, ClipLoss) else {}))


def hinge_by_loops(x, y, positive, negative, margin, weights=None):
    """Weighted mean of max(0, d_ap + m - d_an), and each anchor's own mean; positive(a, j), negative(a, j)."""
    d = [[math.dist(a, b) for b in y.tolist()] for a in x.tolist()]
    sums, numbers = [], []
    for a, row in enumerate(d):
        costs = [
            max(0.0, row[p] + margin[a] - row[n])
            for p, n in itertools.product(range(len(y)), repeat=2)
            if positive(a, p) and negative(a, n)
        ]
        sums.append(sum(costs))
        numbers.append(len(costs))
    weights = [1.0] * len(d) if weights is None else weights
    total = sum(w * v for w, v in zip(weights, sums, strict=True))
    own = [v / max(1, n) for v, n in zip(sums, numbers, strict=True)]
    return total / sum(w * n for w, n in zip(weights, numbers, strict=True)), own


def assert_equals_loops(x, y, positive, negative, **given):
    expected, own = hinge_by_loops(x, y, positive, negative, [0.7] * len(x), given.get("weights"))
    loss = TripletLoss(0.7, reduction="mean")
    assert expected > 0
    assert loss(x, **given).item() == pytest.approx(expected, rel=1e-12)
    assert_close(loss.per_anchor(x, **given), torch.tensor(own, dtype=torch.float64))


# --- contracts ----------------------------------------------------------------------------------------------


class TestInfoNCE(LossContract):
    @pytest.fixture
    def loss(self):
        return LOSSES["infonce"]()


class TestSupCon(LossContract):
    without_terms = ([0, 1, 2, 3, 4], [0], [])  # positives compete with each other

    @pytest.fixture
    def loss(self):
        return LOSSES["supcon"]()


class TestContrastive(LossContract):
    without_terms = ([0], [])  # any two items are a pair

    @pytest.fixture(params=["contrastive", "contrastive-active"])
    def loss(self, request):
        return LOSSES[request.param]()


@pytest.mark.parametrize("name", LOSSES)
def test_no_rows(name):
    loss, x = LOSSES[name](), torch.zeros(0, 5, requires_grad=True)
    empty = {"reference": torch.zeros(0, 5)} if name == "clip" else {}
    value = loss(x, None if name == "clip" else [], **empty)
    value.backward()
    assert value.item() == 0
    assert x.grad.shape == (0, 5)
    assert loss.per_anchor(x, None if name == "clip" else [], **empty).shape == (0,)


@pytest.mark.parametrize("module", [contrastive, margins, softmax])
def test_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


# --- labels -------------------------------------------------------------------------------------------------

SETS = [[1, 2], [2], [], [3, 1], [3], [4], [2, 4, 5], [5, 1], [6]]


@pytest.mark.parametrize(
    "convert",
    [
        lambda sets: sets,
        lambda sets: [set(entry) for entry in sets],
        lambda sets: [tuple(f"label {label}" for label in entry) for entry in sets],
        lambda sets: [np.array(entry, dtype=np.int16) for entry in sets],
        lambda sets: [torch.tensor(entry, dtype=torch.int64) for entry in sets],
        lambda sets: np.array([*sets, None], dtype=object)[:-1],
        lambda sets: [entry + entry[:1] for entry in sets],
        lambda sets: torch.tensor([[label in entry for label in range(8)] for entry in sets]),
        lambda sets: torch.tensor([[float(label in entry) for label in range(8)] for entry in sets]),
        lambda sets: np.array([[label in entry for label in range(8)] for entry in sets], dtype=np.uint8),
    ],
)
def test_several_labels_an_item(convert):
    x = random_rows(9, 5, 3)

    def shared(a, j):
        return a != j and bool(set(SETS[a]) & set(SETS[j]))

    assert_equals_loops(x, x, shared, lambda a, j: a != j and not shared(a, j), labels=convert(SETS))


def test_several_labels_here_and_one_there():
    x, y, of_y = random_rows(9, 5, 3), random_rows(4, 5, 4), ["2", "5", "1", "2"]
    given = {"reference": y, "reference_labels": of_y}
    assert_equals_loops(
        x,
        y,
        lambda a, j: int(of_y[j]) in SETS[a],
        lambda a, j: int(of_y[j]) not in SETS[a],
        labels=[[str(label) for label in entry] for entry in SETS],
        **given,
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [[1], 2],
            "labels holds collections of labels, and 2 at row 1; give each row a collection, such as [2].",
        ),
        (
            [[True, False], [False, True]],
            "labels holds True among the labels of row 0; allowed are integers or strings, all of one kind.",
        ),
        ([["a"], [1]], "labels holds labels of type int, str; allowed are integers or strings, all of one kind."),
        (
            [[1], [1.5]],
            "labels holds 1.5 among the labels of row 1; allowed are integers or strings, all of one kind.",
        ),
        ([[1], [None]], "labels is missing (None or NaN) at row 1; leave those rows out, or give them a label."),
        ([[1]], "labels has 1 entries for 2 rows of embeddings; give one for each row."),
        (torch.zeros(3, 4), "labels has 3 entries for 2 rows of embeddings; give one for each row."),
        (
            torch.full((2, 3), 7),
            "labels has shape (2, 3) and holds 7; allowed in two dimensions are marks 0 and 1, a column for each "
            "label. To give each row its labels, give a list of lists.",
        ),
        (
            [[0, 1, 1], [1, 0, 0]],
            "labels holds lists of 0 and 1, all of one length, which look like marks, a column for each label; give "
            "marks as a tensor, torch.tensor(labels), or the labels of each row once.",
        ),
        (
            torch.zeros(2, 3, 4),
            "labels has shape (2, 3, 4); allowed is (rows,), or (rows, labels) of marks 0 and 1.",
        ),
    ],
)
def test_labels_that_are_refused(labels, message):
    with pytest.raises(InputError) as caught:
        TripletLoss()(torch.zeros(2, 2), labels)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("labels", "reference_labels", "message"),
    [
        (torch.ones(2, 3), [0, 1], "labels is multi-hot and reference_labels is not; give both alike."),
        ([0, 1], torch.ones(2, 3), "reference_labels is multi-hot and labels is not; give both alike."),
        (
            torch.ones(2, 3),
            torch.ones(2, 4),
            "labels has shape (2, 3) and reference_labels (2, 4); they must have the same columns, one for each label.",
        ),
        (
            [[0], [1]],
            [["0"], ["1"]],
            "reference_labels are strings and labels are integers, which are never equal; give both alike.",
        ),
    ],
)
def test_labels_of_two_sides_that_do_not_fit(labels, reference_labels, message):
    x = torch.zeros(2, 2)
    with pytest.raises(InputError) as caught:
        TripletLoss()(x, labels, reference=x, reference_labels=reference_labels)
    assert str(caught.value) == message


def test_codes_of_sets_are_padded():
    codes, others = encode_labels([["b"], [], ["a", "b"]], 3, ["a"], 1)
    assert codes.tolist() == [[0, -1], [-1, -1], [1, 0]]
    assert others.tolist() == [[1, -1]]


def test_rows_that_belong_together():
    x, y = random_rows(7, 5, 3), random_rows(7, 5, 4)
    assert_equals_loops(x, y, lambda a, j: a == j, lambda a, j: a != j, reference=y)
    with pytest.raises(InputError, match="there are 7 rows of embeddings and 6 of the reference"):
        TripletLoss()(x, reference=y[:6])
    with pytest.raises(InputError, match="reference_labels is given without labels; give both, or neither"):
        TripletLoss()(x, reference=y, reference_labels=torch.arange(7))


# --- groups, relations, weights -----------------------------------------------------------------------------


def test_rows_of_a_group_are_not_compared():
    x, labels = batch(13)
    groups = [f"camera {i % 3}" for i in range(13)]
    same = labels[:, None] == labels

    def apart(a, j):
        return a != j and groups[a] != groups[j]

    x = x.detach()
    assert_equals_loops(
        x, x, lambda a, j: apart(a, j) and same[a, j], lambda a, j: apart(a, j) and not same[a, j],
        labels=labels, groups=groups,
    )  # fmt: skip
    y, of_y, groups_of_y = random_rows(8, 5, 4), torch.arange(8) % 5, np.array([f"camera {i % 4}" for i in range(8)])
    assert_equals_loops(
        x, y,
        lambda a, j: groups[a] != groups_of_y[j] and labels[a] == of_y[j],
        lambda a, j: groups[a] != groups_of_y[j] and labels[a] != of_y[j],
        labels=labels, groups=groups, reference=y, reference_labels=of_y, reference_groups=groups_of_y,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": [0, 1]}, "groups has 2 entries for 4 rows of embeddings; give one for each row."),
        (
            {"reference_groups": [0, 1]},
            "reference_groups is given without reference; the batch's own groups are called groups.",
        ),
        (
            {"reference": torch.zeros(1, 2), "reference_labels": [0], "groups": [0, 1, 2, 3]},
            "with a reference, groups is given without reference_groups; give both, or neither (then no group is left "
            "out).",
        ),
        ({"relation": "older"}, "relation is 'older'; allowed is a function of two tensors of labels, of R anchors"),
        ({"weights": [1.0, 2.0]}, "weights has shape (2,); allowed is (4,), one for each anchor."),
        ({"weights": [1.0, -2.0, 0, 0]}, "weights holds -2; allowed are finite numbers of at least 0."),
        ({"weights": torch.full((4,), torch.nan)}, "weights holds nan; allowed are finite numbers of at least 0."),
        (
            {"weights": torch.ones(4, requires_grad=True)},
            "weights require a gradient, and the loss forms none for them; call weights.detach().",
        ),
        ({"weights": "all"}, "weights is 'all'; allowed are 4 numbers, one for each anchor."),
        (
            {"labels": ["a", "b", "c", "d"], "relation": torch.eq},
            "labels cannot become a tensor, which a relation is given slices of; number them, or leave the labels out:",
        ),
        ({"labels": [0.5, 1.5], "relation": torch.eq}, "labels has 2 entries for 4 rows of embeddings"),
        ({"labels": 7, "relation": torch.eq}, "labels has no dimension; allowed with a relation is any tensor"),
    ],
)
def test_arguments_that_are_refused(given, message):
    with pytest.raises(InputError) as caught:
        TripletLoss()(torch.zeros(4, 2), **{"labels": [0, 0, 1, 1], **given})
    assert str(caught.value).startswith(message)


def test_a_relation_of_numbers():
    """An item and those at most 3 years older belong together, those 10 years apart do not, others are neither."""
    x, ages = random_rows(9, 5, 3), [3.0, 5.5, 30.0, 4.0, 28.5, 31.0, 3.0, 60.0, 12.0]

    def older(anchors, references):
        assert anchors.dtype == references.dtype == torch.float64
        gap = references.flatten() - anchors.flatten()[:, None]
        return ((gap >= 0) & (gap <= 3)).double() * 0.5 - (gap.abs() >= 10).double()

    def near(a, j):
        return a != j and 0 <= ages[j] - ages[a] <= 3

    def far(a, j):
        return abs(ages[a] - ages[j]) >= 10

    for labels in (ages, np.array(ages), torch.tensor(ages).double(), torch.tensor(ages)[:, None].double()):
        assert_equals_loops(x, x, near, far, labels=labels, relation=older)
    y, of_y = x[:6], np.array(ages[:6])
    assert_equals_loops(
        x, y, lambda a, j: 0 <= ages[j] - ages[a] <= 3, far,
        labels=ages, reference=y, reference_labels=of_y, relation=older,
    )  # fmt: skip


def test_a_relation_of_row_numbers():
    x, table = random_rows(9, 5, 3), random_rows(9, 9, 5) > 0.2

    def related(rows, columns):
        assert rows.dtype == torch.int64
        return table[rows][:, columns]

    assert_equals_loops(
        x, x, lambda a, j: a != j and table[a, j], lambda a, j: a != j and not table[a, j], relation=related
    )
    y = random_rows(6, 5, 6)
    assert_equals_loops(x, y, lambda a, j: table[a, j], lambda a, j: not table[a, j], relation=related, reference=y)


def test_weights_of_anchors():
    x, labels = batch(13)
    weights = [(i * 5 % 7) / 3 for i in range(13)]
    same = labels[:, None] == labels
    assert_equals_loops(
        x.detach(), x.detach(), lambda a, j: a != j and same[a, j], lambda a, j: not same[a, j],
        labels=labels, weights=weights,
    )  # fmt: skip
    loss = TripletLoss(0.7)
    assert_close(loss(x, labels, weights=torch.ones(13)).detach(), loss(x, labels).detach(), 1e-13)
    assert loss(x, labels, weights=torch.zeros(13)).item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_the_value_follows_from_each_anchors_own(name):
    """With equally many terms an anchor the mean is the anchors' mean; a weight of 0 leaves an anchor out."""
    loss, x = LOSSES[name](), random_rows(20, 5, 1)
    paired = {"reference": random_rows(20, 5, 2)} if name == "clip" else {}
    labels = None if name == "clip" else torch.arange(20) % 5
    own = loss.per_anchor(x, labels, **paired)
    assert own.shape == (20,)
    assert own.dtype == torch.float64
    assert not own.requires_grad
    if "active" not in name and loss.rule.reduction == "mean":
        assert_close(own.mean(), loss(x, labels, **paired).detach())
    only = torch.zeros(20)
    only[7] = 2.5
    assert own[7].abs() > 0
    assert_close(loss(x, labels, weights=only, **paired).detach(), own[7], 1e-9)


# --- rows, maps, domains ------------------------------------------------------------------------------------


def test_rows_of_unit_length():
    x, labels = batch()
    for loss, plain in (
        (TripletLoss(0.3, normalize=True), TripletLoss(0.3)),
        (ContrastiveLoss(0.2, 0.9, normalize=True), ContrastiveLoss(0.2, 0.9)),
    ):
        expected = torch.autograd.grad(plain(torch.nn.functional.normalize(x), labels), x)[0]
        assert_close(torch.autograd.grad(loss(x, labels), x)[0], expected)
        given = bank()
        unit = {**given, "reference": torch.nn.functional.normalize(given["reference"])}
        assert_close(loss(3 * x, labels, **given).detach(), plain(torch.nn.functional.normalize(x), labels, **unit))


def test_rows_of_any_length_become_unit_rows():
    x, labels = batch()
    loss, expected = TripletLoss(0.3, normalize=True), TripletLoss(0.3, normalize=True)(x, labels).detach()
    for scale in (1e-30, 1e30):
        assert_close(loss(x.detach().float() * scale, labels), expected.float(), 1e-5)
    zero = x.detach().clone()
    zero[3] = 0
    zero.requires_grad_()
    value = loss(zero, labels)
    value.backward()
    assert value.isfinite()
    assert not zero.grad[3].any()
    assert zero.grad.isfinite().all()


def test_a_learned_map_is_part_of_the_loss():
    x, labels = batch()
    distance = Mahalanobis(components=random_rows(3, 5, 4), learned=True)
    loss = TripletLoss(0.7, distance=distance)
    assert [name for name, _ in loss.named_parameters()] == ["map.components"]
    start = distance.components.clone().requires_grad_()
    expected = TripletLoss(0.7)(x @ start.T, labels)
    value = loss(x, labels)
    assert_close(value.detach(), expected.detach())
    of_x, of_map = torch.autograd.grad(value, (x, loss.map.components))
    for found, right in zip((of_x, of_map), torch.autograd.grad(expected, (x, start)), strict=True):
        assert right.abs().max() > 0
        assert_close(found, right)
    optimizer = torch.optim.SGD(loss.parameters(), 0.05)
    loss(x, labels).backward()
    optimizer.step()
    assert loss(x.detach(), labels) < value
    assert loss.settings["distance"] is distance
    loss.map.components.data.zero_()
    assert not copy.deepcopy(loss).rule.distance.components.any(), "a copy's distance is not the one of its map"


def test_a_loss_on_another_device_is_named():
    x, labels = batch()
    with pytest.raises(InputError) as caught:
        InfoNCE(learn_temperature=True).to("meta")(x, labels)
    assert str(caught.value) == (
        "embeddings is on cpu and the loss's own log_scale on meta; move the loss to the device of the embeddings: "
        "loss.to('cpu')."
    )


def test_rows_outside_the_distances_domain_are_named():
    x, labels = batch()
    with pytest.raises(InputError, match=r"embeddings holds .* negative features"):
        TripletLoss(distance="jaccard")(x, labels)
    given = bank()
    with pytest.raises(InputError, match=r"reference holds .* negative features"):
        TripletLoss(distance="jaccard")(x.abs(), labels, **given)
    with pytest.raises(InputError, match=r"embeddings has shape \(23, 5\); .* 4 features"):
        ContrastiveLoss(distance=Mahalanobis(learned=True, dim=4))(x, labels)
    with pytest.raises(InputError, match="the distance 'mahalanobis' needs a map"):
        SupConLoss(distance="mahalanobis")


# --- draws --------------------------------------------------------------------------------------------------


def drawing(**more):
    return TripletLoss(mining="distance-weighted", normalize=True, **more)


def test_a_draw_is_keyed_by_seed_and_call():
    x, labels = batch(40)
    loss = drawing(seed=7)
    values = [loss(x, labels).item() for _ in range(4)]
    assert loss.step == 4
    assert len(set(values)) == 4
    again = drawing(seed=7)
    assert [again(x, labels).item() for _ in range(4)] == values
    assert drawing(seed=8)(x, labels).item() not in values
    loss.step = 2
    assert loss(x, labels).item() == values[2]


def test_a_call_without_a_gradient_shows_the_next_draw():
    x, labels = batch(40)
    loss = drawing()
    with torch.no_grad():
        shown = loss(x, labels)
    own = loss.per_anchor(x, labels)
    assert loss.step == 0
    assert loss(x, labels).item() == shown.item()
    loss.step = 0
    assert torch.equal(loss.per_anchor(x, labels), own)


def test_the_count_of_draws_is_saved():
    x, labels = batch(40)
    loss = drawing(seed=7)
    loss(x, labels)
    state = loss.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values()), "safetensors keeps tensors alone"
    resumed = drawing(seed=7)
    resumed.load_state_dict(state)
    assert resumed.step == 1
    assert resumed(x, labels).item() == loss(x, labels).item()
    assert copy.deepcopy(loss).step == 2


def test_draws_belong_to_their_mining():
    with pytest.raises(AttributeError, match="'TripletLoss' object has no attribute 'step'"):
        TripletLoss().step  # noqa: B018
    with pytest.raises(InputError, match="step counts the draws of mining 'distance-weighted'; this mining is 'all'"):
        TripletLoss().step = 3
    for seed in (0, 5):
        with pytest.raises(InputError, match="seed belongs to mining 'distance-weighted'; with mining 'hard'"):
            TripletLoss(mining="hard", seed=seed)
    with pytest.raises(InputError, match="seed is -1; allowed is a whole number from 0"):
        drawing(seed=-1)


# --- figures ------------------------------------------------------------------------------------------------


def test_full_statistics_are_counted_on_request():
    x, labels = batch()
    loss = TripletLoss(0.7, statistics="full")
    assert torch.equal(loss(x, labels), TripletLoss(0.7)(x, labels))
    figures = loss.stats.to_dict()
    assert figures["n_hard"] + figures["n_semihard"] + figures["n_easy"] == figures["n_valid"]
    assert figures["n_hard"] + figures["n_semihard"] == figures["n_active"]
    assert loss.stats.histogram_positive.sum() == sum(n * (n - 1) for n in torch.bincount(labels).tolist())
    plain = TripletLoss(0.7)
    plain(x, labels)
    assert plain.stats.n_hard is None


@pytest.mark.parametrize("name", LOSSES)
def test_misspelt_settings_suggest_the_right_one(name):
    kind = type(LOSSES[name]())
    with pytest.raises(InputError) as caught:
        kind(distance="euclidian", statistics="ful", implementation="refrence")
    assert "Did you mean 'euclidean'?" in str(caught.value)
    assert "statistics is 'ful'; allowed are 'free', 'full'. Did you mean 'full'?" in str(caught.value)
    assert "Did you mean 'reference'?" in str(caught.value)


# --- transforms ---------------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """A layer and its loss."""

    def __init__(self, loss):
        super().__init__()
        self.layer, self.loss = torch.nn.Linear(5, 4), loss

    def forward(self, x, labels):
        return self.loss(torch.relu(self.layer(x)), labels)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_and_loss(backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(TripletLoss(0.7, penalty="logsumexp", learn_temperature=True))
    x, labels = random_rows(23, 5, 1).float(), [f"class {i % 4}" for i in range(23)]
    expected = model(x, labels)
    right = torch.autograd.grad(expected, list(model.parameters()))
    compiled = torch.compile(model, backend=backend)
    for _ in range(2):
        value = compiled(x, labels)
        assert_close(value.detach(), expected.detach(), 1e-6)
        for found, gradient in zip(torch.autograd.grad(value, list(model.parameters())), right, strict=True):
            assert gradient.abs().max() > 0
            assert_close(found, gradient, 1e-6)
    assert model.loss.stats.to_dict()["n_valid"] > 0
    torch._dynamo.reset()


def test_a_compiled_loss_and_its_values():
    torch._dynamo.reset()
    x, labels = batch()
    loss = InfoNCE(0.3)
    assert_close(torch.compile(loss, backend="eager")(x, labels).detach(), loss(x, labels).detach())
    assert_close(torch.compile(loss.per_anchor, backend="eager")(x, labels), loss.per_anchor(x, labels))
    torch._dynamo.reset()


@pytest.mark.parametrize("name", LOSSES)
def test_functional_gradients(name):
    loss = LOSSES[name]().double()
    x, labels = batch()
    (expected,) = torch.autograd.grad(call(loss, x, labels), x)
    assert expected.abs().max() > 0
    assert_close(torch.func.grad(lambda rows: call(loss, rows, labels))(x.detach()), expected)
    value, pull = torch.func.vjp(lambda rows: call(loss, rows, labels), x.detach())
    assert_close(pull(torch.full_like(value, 3.0))[0], 3 * expected)
    assert_close(torch.func.jacrev(lambda rows: call(loss, rows, labels))(x.detach()), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_what_cannot_be_done_says_so(name):
    loss, (x, labels) = LOSSES[name](), batch()
    plain, several = x.detach(), torch.stack([x.detach(), x.detach() + 1])
    with pytest.raises(TrainingError) as caught:
        torch.func.vmap(lambda rows: call(loss, rows, labels))(several)
    assert str(caught.value) == (
        "this loss compares the rows of one batch and cannot be mapped over several by torch.func.vmap; call it once "
        "for each batch, in a loop."
    )
    with pytest.raises(TrainingError, match="cannot be mapped over several"):
        torch.func.vmap(torch.func.grad(lambda rows: call(loss, rows, labels)))(several)
    with pytest.raises(TrainingError) as caught:
        torch.func.jvp(lambda rows: call(loss, rows, labels), (plain,), (plain,))
    assert str(caught.value) == (
        "this loss forms its gradient for the backward pass and has no forward-mode derivative (torch.func.jvp, "
        "jacfwd); use torch.func.grad or backward()."
    )
    twice = "cannot be differentiated twice"
    with pytest.raises(TrainingError, match=twice):
        torch.func.grad(lambda rows: torch.func.grad(lambda r: call(loss, r, labels))(rows).square().sum())(plain)
    (gradient,) = torch.autograd.grad(call(loss, x, labels), x, create_graph=True)
    with pytest.raises(TrainingError, match=twice):
        gradient.sum().backward()
    with pytest.raises(TrainingError, match="has no forward-mode derivative"):
        torch.func.hessian(lambda rows: call(loss, rows, labels))(plain)


def test_accumulated_over_two_batches():
    """A second forward pass between the first and its backward pass changes nothing of it."""
    (x, labels), loss = batch(), ClipLoss(0.3)
    first = call(loss, x, labels)
    with torch.no_grad():
        loss.log_scale.fill_(9.0)  # which the second call clips
    second = call(loss, x * 2, labels)
    assert loss.temperature == pytest.approx(0.01)
    (first + second).backward()
    total = x.grad.clone()
    parts = [torch.autograd.grad(call(ClipLoss(tau), x * scale, labels), x)[0] for tau, scale in ((0.3, 1), (0.01, 2))]
    assert_close(total, sum(parts), 1e-6)


# --- pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [None, random_rows(9, 5, 2)])
@pytest.mark.parametrize("reduction", ["mean", "mean-active", "sum"])
def test_contrastive_pairs_of_a_batch(reduction, reference):
    x, labels = batch(14, 5, 4)
    y, of_y = (x.detach(), labels) if reference is None else (reference, torch.arange(9) % 3)
    given = {} if reference is None else {"reference": y, "reference_labels": of_y}
    near, far, weights = 1.9, 2.6, torch.arange(14).double() / 5
    d = torch.cdist(x.detach(), y).tolist()
    costs, counts, active = [0.0, 0.0], 0.0, [0.0, 0.0]
    for a, j in itertools.product(range(14), range(len(y))):
        if reference is None and a == j:
            continue
        alike = bool(labels[a] == of_y[j])
        cost = max(0.0, d[a][j] - near) ** 2 if alike else max(0.0, far - d[a][j]) ** 2
        weight = float(weights[a])
        costs[alike] += weight * cost
        counts += weight
        active[alike] += weight * (cost > 0)
    expected = {
        "mean": sum(costs) / counts,
        "mean-active": costs[0] / active[0] + costs[1] / active[1],
        "sum": sum(costs),
    }[reduction]
    assert 0 < sum(active) < counts
    loss = ContrastiveLoss(near, far, reduction=reduction)
    assert loss(x, labels, weights=weights, **given).item() == pytest.approx(expected, rel=1e-12)


# --- precision and autocast ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_reach_inside(name):
    (x, labels), loss = batch(), LOSSES[name]()
    x = x.detach().float().requires_grad_()
    expected = call(loss, x, labels)
    (gradient,) = torch.autograd.grad(expected, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16, "vacuous: autocast is off"
        value = call(loss, x, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(torch.autograd.grad(value, x)[0], gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_and_what_is_not_finite(name):
    (x, labels), loss = batch(), LOSSES[name]()
    half = x.detach().bfloat16().requires_grad_()
    value = call(loss, half, labels)
    assert value.dtype == torch.float32
    value.backward()
    assert half.grad.dtype == torch.bfloat16
    bad = x.detach().clone()
    bad[2, 1] = torch.inf
    assert call(loss, bad, labels).isnan()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


# --- saving -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_copies_pickles_and_states(name):
    (x, labels), loss = batch(), LOSSES[name]()
    optimizer = torch.optim.SGD(loss.parameters(), 0.1) if list(loss.parameters()) else None
    call(loss, x, labels).backward()
    if optimizer is not None:
        optimizer.step()
    value = call(loss, x, labels).detach()
    fresh = LOSSES[name]()
    fresh.load_state_dict(loss.state_dict())
    saved = io.BytesIO()
    torch.save(loss, saved)
    saved.seek(0)
    for copied in (
        copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), torch.load(saved, weights_only=False), fresh,
    ):  # fmt: skip
        assert torch.equal(call(copied, x, labels).detach(), value)
        for parameter, own in zip(copied.parameters(), loss.parameters(), strict=True):
            assert parameter is not own
    if optimizer is not None:
        assert call(LOSSES[name](), x, labels).item() != value.item(), "vacuous: the step changed nothing"


@pytest.mark.parametrize("name", LOSSES)
def test_settings_rebuild_an_equal_loss(name):
    (x, labels), loss = batch(), LOSSES[name]()
    built = type(loss)(**loss.settings)
    assert built.rule == loss.rule
    assert built.settings == loss.settings
    assert torch.equal(call(built, x, labels), call(loss, x, labels))
    if name != "map":
        assert eval(repr(loss)).rule == loss.rule


def test_settings_name_everything_that_is_in_use():
    assert InfoNCE(0.2, Minkowski(4), True, "torch", statistics="full").settings == {
        "temperature": 0.2,
        "distance": "minkowski(p=4)",
        "learn_temperature": True,
        "implementation": "torch",
        "statistics": "full",
    }
    assert ContrastiveLoss(0.1, 0.9, "cosine", "sum", normalize=True).settings == {
        "positive_margin": 0.1,
        "negative_margin": 0.9,
        "distance": "cosine",
        "reduction": "sum",
        "implementation": "auto",
        "normalize": True,
    }
    further = drawing(seed=3, statistics="full").settings
    assert (further["normalize"], further["seed"], further["statistics"]) == (True, 3, "full")

    def gap(x, y):
        return (x - y).abs().sum(1)

    assert TripletLoss(distance=gap).settings["distance"] is gap


def test_a_margin_beyond_unit_rows_is_warned_of():
    with pytest.warns(TercetWarning, match="a margin of 2 can never be satisfied: the euclidean distance is at most 2"):
        TripletLoss(2.0, normalize=True)
    with pytest.warns(TercetWarning, match="a negative_margin of 2.5 can never be reached: the cosine distance"):
        ContrastiveLoss(negative_margin=2.5, distance="cosine")
    TripletLoss(1.9, normalize=True)
    TripletLoss(3.0, distance="squared-euclidean", normalize=True)
    ContrastiveLoss(negative_margin=2.0, distance="cosine")
