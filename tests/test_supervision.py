"""Supervision: the loss of a batch and its statistics, from the definition."""

import numpy as np
import pytest
import torch

import tercet
from tercet.data import read
from tercet.errors import InputError
from tercet.training.batches.supervision import make_supervision, whole_loss
from tercet.training.config import BatchOptions
from tercet.training.objective.loss_state import device_of

OPTIONS = BatchOptions(classes_per_batch=3, samples_per_class=2, rows_per_batch=5)


def records_of(tmp_path, lines):
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return read(str(tmp_path / "table.csv"))


def embeddings_of(count):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0)).double()


def distance(a, b):
    return float(torch.sqrt(((a - b) ** 2).sum()))


def test_given_triplets(tmp_path):
    rows = [("a", "b", "c"), ("b", "a", "d"), ("c", "d", "a"), ("a", "e", "f"), ("e", "a", "c")]
    records = records_of(tmp_path, ["anchor,positive,negative", *(",".join(row) for row in rows)])
    x = embeddings_of(len(records))
    place = {text: i for i, text in enumerate(records.items)}
    z = [distance(x[place[a]], x[place[p]]) + 0.4 - distance(x[place[a]], x[place[n]]) for a, p, n in rows]
    loss = tercet.TripletLoss(0.4, reduction="mean")
    assert whole_loss(records, loss, x.numpy()) == pytest.approx(sum(max(0, one) for one in z) / 5, rel=1e-12)

    supervision = make_supervision(records, OPTIONS, loss, seed=0)
    batch = supervision.next()
    _, statistics = supervision(x[batch.positions], batch)
    active = sum(one > 0 for one in z)
    assert 0 < active < 5
    figures = statistics()
    assert (figures["n_active"], figures["active_share"]) == (active, active / 5)
    near = [distance(x[place[a]], x[place[p]]) for a, p, _ in rows]
    assert figures["mean_positive"] == pytest.approx(np.mean(near), rel=1e-12)


def test_marked_pairs(tmp_path):
    rows = [("a", "b", 1), ("a", "c", 0), ("b", "d", 0), ("c", "d", 1), ("e", "a", 0)]
    records = records_of(tmp_path, ["left,right,similar", *(f"{a},{b},{mark}" for a, b, mark in rows)])
    x = embeddings_of(len(records)) / 2
    place = {text: i for i, text in enumerate(records.items)}
    d = [distance(x[place[a]], x[place[b]]) for a, b, _ in rows]
    marks = [mark for _, _, mark in rows]
    expected = [far**2 if mark else max(0, 0.9 - far) ** 2 for far, mark in zip(d, marks, strict=True)]
    loss = tercet.ContrastiveLoss(0.0, 0.9)
    assert whole_loss(records, loss, x.numpy()) == pytest.approx(np.mean(expected), rel=1e-12)
    supervision = make_supervision(records, OPTIONS, loss, seed=0)
    batch = supervision.next()
    figures = supervision(x[batch.positions], batch)[1]()
    assert figures["n_active"] == sum(far > 0 if mark else far < 0.9 for far, mark in zip(d, marks, strict=True))
    assert figures["mean_negative"] == pytest.approx(
        np.mean([far for far, mark in zip(d, marks, strict=True) if not mark])
    )


class MyTriplets(tercet.TripletLoss):
    """A user's own class, still one of Tercet's losses."""


LOSSES = [
    tercet.TripletLoss(0.2),
    tercet.TripletLoss(0.2, mining="easy-positive"),
    tercet.ContrastiveLoss(0.1, 0.9),
    tercet.InfoNCE(0.3, distance="euclidean"),
    tercet.SupConLoss(0.3, distance="euclidean"),
    MyTriplets(0.2),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_sample_drawn_twice_is_never_its_own_positive(loss):
    """Two classes of two samples in groups of three: the third is one of the two again."""
    data = (np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1]))
    options = BatchOptions(classes_per_batch=2, samples_per_class=3)
    supervision = make_supervision(read(data), options, loss, seed=0)
    batch = supervision.next()
    assert len(batch.positions) == 6
    x = embeddings_of(4)
    figures = supervision(x[batch.positions], batch)[1]()
    pairs = [(a, b) for a in batch.positions for b in batch.positions if a != b and a // 2 == b // 2]
    assert figures["n_valid"] == len(pairs) * 3
    assert figures["mean_positive"] == pytest.approx(np.mean([distance(x[a], x[b]) for a, b in pairs]), rel=1e-9)


# Rows that are given: every setting of the loss counts, or is refused.


def given_triplets(tmp_path):
    rows = [("a", "b", "c"), ("b", "a", "d"), ("c", "d", "a"), ("a", "e", "f"), ("e", "a", "c")]
    return records_of(tmp_path, ["anchor,positive,negative", *(",".join(row) for row in rows)])


def marked_pairs(tmp_path):
    rows = [("a", "b", 1), ("a", "c", 0), ("b", "d", 0), ("c", "d", 1), ("e", "a", 0)]
    return records_of(tmp_path, ["left,right,similar", *(f"{a},{b},{mark}" for a, b, mark in rows)])


def unit(row):
    return row / torch.sqrt((row**2).sum())


def test_given_triplets_use_every_setting_of_the_loss(tmp_path):
    records = given_triplets(tmp_path)
    x = embeddings_of(len(records))
    tau, margin = 0.3, 0.2
    loss = tercet.TripletLoss(margin, penalty="logsumexp", temperature=tau, reduction="sum", normalize=True)
    rows = [[unit(x[place]) for place in row] for row in records.tuples]
    near, far = [distance(a, b) for a, b, _ in rows], [distance(a, c) for a, _, c in rows]
    z = [p + margin - n for p, n in zip(near, far, strict=True)]
    expected = sum(tau * np.log1p(np.exp(one / tau)) for one in z)
    assert whole_loss(records, loss, x.numpy()) == pytest.approx(expected, rel=1e-12)
    supervision = make_supervision(records, OPTIONS, loss, seed=0)
    batch = supervision.next()
    figures = supervision(x[batch.positions], batch)[1]()
    assert figures["n_active"] == sum(one > 0 for one in z)
    assert figures["mean_negative"] == pytest.approx(np.mean(far), rel=1e-12)


def test_marked_pairs_use_every_setting_of_the_loss(tmp_path):
    records = marked_pairs(tmp_path)
    x = embeddings_of(len(records))
    loss = tercet.ContrastiveLoss(0.8, 1.3, distance="cosine", reduction="mean-active", normalize=True)
    d = [1 - float(unit(x[a]) @ unit(x[b])) for a, b in records.tuples]
    similar = records.similar.tolist()
    costs = [max(0, far - 0.8) ** 2 if mark else max(0, 1.3 - far) ** 2 for far, mark in zip(d, similar, strict=True)]
    parts = [[c for c, mark in zip(costs, similar, strict=True) if mark == side and c > 0] for side in (True, False)]
    assert all(parts)
    assert min(costs) == 0  # an inactive pair, so that mean-active is not the mean
    assert whole_loss(records, loss, x.numpy()) == pytest.approx(sum(np.mean(part) for part in parts), rel=1e-12)
    supervision = make_supervision(records, OPTIONS, loss, seed=0)
    batch = supervision.next()
    figures = supervision(x[batch.positions], batch)[1]()
    assert figures["n_active"] == sum(cost > 0 for cost in costs)


@pytest.mark.parametrize("table", [given_triplets, marked_pairs])
def test_a_map_is_learned_from_given_rows_too(tmp_path, table):
    records = table(tmp_path)
    between = tercet.Mahalanobis(components=[[2.0, 0.0, 0.5], [0.0, 1.0, 0.0]], learned=True)
    loss = (tercet.TripletLoss if records.tuples.shape[1] == 3 else tercet.ContrastiveLoss)(distance=between)
    supervision = make_supervision(records, OPTIONS, loss, seed=0)
    batch = supervision.next()
    rows = embeddings_of(len(records)).float() / 2
    supervision(rows[batch.positions], batch)[0].backward()
    assert loss.map.components.grad.abs().max() > 0.01


PER_CLASS = tercet.TripletLoss(margin={"a": 0.1, "b": 0.2})
LEARNED = tercet.TripletLoss(penalty="logsumexp", learn_temperature=True)


@pytest.mark.parametrize(
    ("table", "loss", "message"),
    [
        (
            given_triplets,
            PER_CLASS,
            "margins per class need labels, and given triplets have none; give one margin for all.",
        ),
        (
            given_triplets,
            LEARNED,
            "a learned temperature gets no gradient from given triplets; give a fixed one.",
        ),
        (
            given_triplets,
            tercet.TripletLoss(mining="hard"),
            "mining is 'hard', and of given triplets nothing is left to mine; leave it out.",
        ),
        (
            given_triplets,
            tercet.TripletLoss(penalty="lifted"),
            "penalty 'lifted' takes all pairs of an anchor together, and given triplets are taken one by one;"
            " choose another, such as 'hinge'.",
        ),
        (
            given_triplets,
            tercet.TripletLoss(statistics="full"),
            "statistics is 'full', which is of batches with labels; with given triplets or marked pairs leave it out.",
        ),
        (
            marked_pairs,
            tercet.ContrastiveLoss(implementation="torch"),
            "implementation is 'torch', which is of batches with labels; with given triplets or marked pairs "
            "leave it out.",
        ),
        (
            given_triplets,
            tercet.SupConLoss(),
            "a SupConLoss needs labels or positive pairs, and the data holds triplets; leave the loss out, or"
            " give a tercet.TripletLoss, whose margin, distance and penalty are used.",
        ),
        (
            marked_pairs,
            tercet.TripletLoss(),
            "a TripletLoss needs labels or positive pairs, and the data holds marked-pairs; leave the loss "
            "out, or give a tercet.ContrastiveLoss, whose margins and distance are used.",
        ),
    ],
)
def test_what_means_nothing_for_given_rows_is_refused(tmp_path, table, loss, message):
    with pytest.raises(InputError) as raised:
        make_supervision(table(tmp_path), OPTIONS, loss, seed=0)
    assert str(raised.value) == message


def test_faults_of_a_loss_on_given_rows_are_named_together(tmp_path):
    loss = tercet.TripletLoss(margin=[0.1, 0.2], mining="hard", penalty="logsumexp", learn_temperature=True)
    with pytest.raises(InputError) as raised:
        make_supervision(given_triplets(tmp_path), OPTIONS, loss, seed=0)
    assert len(str(raised.value).splitlines()) == 3


# Margins per class go by the user's labels, whatever codes the data has for them.


@pytest.mark.parametrize(
    ("labels", "margins"),
    [
        (np.array([7, 7, 30, 30, 30, 4]), {30: 0.9, 4: 0.3, 7: 0.05}),
        (np.array(["cat", "cat", "ox", "ox", "ox", "bee"]), {"ox": 0.9, "unused": 5.0, "bee": 0.3, "cat": 0.05}),
    ],
)
def test_margins_per_class(labels, margins):
    data = read((np.zeros((6, 2)), labels))
    loss = tercet.TripletLoss(margin=margins, reduction="sum")
    supervision = make_supervision(data, BatchOptions(3, 3), loss, seed=0)
    x = embeddings_of(6)
    batch = supervision.batch(np.arange(6))
    value = supervision(x[batch.positions], batch)[0]
    triples = [(a, p, n) for a in range(6) for p in range(6) for n in range(6)
               if a != p and labels[a] == labels[p] and labels[a] != labels[n]]  # fmt: skip
    expected = sum(max(0, distance(x[a], x[p]) + margins[labels[a].item()] - distance(x[a], x[n]))
                   for a, p, n in triples)  # fmt: skip
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_margins_per_class_must_cover_the_data(tmp_path):
    data = read((np.zeros((6, 2)), np.array([7, 7, 30, 30, 30, 4])))
    with pytest.raises(InputError) as raised:
        make_supervision(data, BatchOptions(3, 3), tercet.TripletLoss(margin=[0.1, 0.2, 0.3]), seed=0)
    assert str(raised.value) == (
        "margins per class are given for 0, 1, 2, and the training data also has the classes '4', '7', '30'; give "
        "every class its margin."
    )
    pairs = records_of(tmp_path, ["left,right", "a,b", "c,d", "e,f"])
    with pytest.raises(InputError, match="margins per class need labels, and the data holds pairs"):
        make_supervision(pairs, OPTIONS, PER_CLASS, seed=0)


def test_a_loss_of_two_sides_is_refused():
    data = read((np.zeros((6, 2)), np.array([0, 0, 1, 1, 2, 2])))
    with pytest.raises(InputError, match="ClipLoss compares two sides, and training has one encoder for both"):
        make_supervision(data, BatchOptions(3, 2), tercet.ClipLoss(), seed=0)


def test_other_losses_are_given_embeddings_and_codes_alone():
    given = []

    def loss(*arguments, **others):
        given.append((arguments, others))
        return arguments[0].sum()

    data = read((np.zeros((4, 2)), np.array(["b", "b", "a", "a"])))
    supervision = make_supervision(data, BatchOptions(2, 2), loss, seed=0)
    batch = supervision.next()
    assert supervision(embeddings_of(4)[batch.positions], batch)[1]().keys() == {"loss"}
    ((_, labels),), ((others),) = [one[0] for one in given], [one[1] for one in given]
    assert (labels.dtype, others) == (torch.int64, {})
    assert labels.tolist() == [1 if position < 2 else 0 for position in batch.positions]


def test_the_figures_of_a_step_hold_what_is_learned_and_full_counts():
    data = read((np.zeros((6, 2)), np.array([0, 0, 1, 1, 2, 2])))
    margins = tercet.PerClassMargin([0, 1, 2], [0.1, 0.2, 0.6])
    losses = {
        "temperature": (tercet.InfoNCE(0.25, learn_temperature=True), 0.25),
        "mean_margin": (tercet.TripletLoss(margin=margins, distance="cosine"), 0.3),
        "n_hard": (tercet.TripletLoss(0.2, statistics="full"), None),
    }
    for name, (loss, expected) in losses.items():
        supervision = make_supervision(data, BatchOptions(3, 2), loss, seed=0)
        batch = supervision.next()
        x = embeddings_of(6)[batch.positions]
        figures = supervision(x, batch)[1]()
        assert all(isinstance(value, (int, float)) for value in figures.values())
        if expected is None:
            far = torch.cdist(x, x)
            same = torch.from_numpy(batch.targets[:, None] == batch.targets)
            expected = sum(
                bool(far[a, n] <= far[a, p])
                for a in range(6) for p in range(6) for n in range(6) if a != p and same[a, p] and not same[a, n]
            )  # fmt: skip
        assert figures[name] == pytest.approx(expected, rel=1e-5)


def test_the_whole_loss_goes_where_the_loss_is():
    assert device_of(torch.nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(tercet.TripletLoss()) == torch.device("cpu")
    assert device_of(len) == torch.device("cpu")


def test_each_item_of_pairs_is_encoded_once(tmp_path):
    records = records_of(tmp_path, ["left,right", "a,b", "b,c", "d,e", "f,g", "h,i"])
    supervision = make_supervision(records, OPTIONS, tercet.TripletLoss(), seed=0)
    batch = supervision.next()
    assert sorted(batch.positions.tolist()) == list(range(9))
    labels = dict(zip(batch.positions.tolist(), batch.targets.tolist(), strict=True))
    assert len(set(labels.values())) == 4


def test_epochs_are_counted_without_moving_on(tmp_path):
    data = (np.zeros((14, 2)), np.array([0] * 5 + [1] * 5 + [2] * 4))
    supervision = make_supervision(read(data), BatchOptions(2, 3), tercet.TripletLoss(), seed=0)
    before = supervision.sampler.state()
    steps = supervision.count_steps(3)
    assert supervision.sampler.state() == before
    for _ in range(steps):
        assert supervision.sampler.epoch < 3
        supervision.next()
    assert (supervision.sampler.epoch, supervision.sampler.cursor) == (3, 0)
