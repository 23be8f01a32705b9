"""The settings of other libraries: value and gradient equal theirs. Skipped where they are not installed."""

import importlib

import pytest
import torch

from tercet.errors import InputError
from tercet.losses import ContrastiveLoss, InfoNCE, SupConLoss, TripletLoss
from tercet.losses.presets import PRESETS
from tercet.testing import assert_close, random_rows


def batch(rows=24, dim=6, classes=4):
    """Four classes of six, of unequal lengths, near enough that not every triplet is active."""
    x = random_rows(rows, dim, 1)
    labels = torch.arange(rows) % classes
    return (x + 1.5 * random_rows(classes, dim, 2)[labels]).requires_grad_(), labels


def assert_same(ours, theirs, x, labels, tolerance=1e-9):
    """Of a loss of ours and a function of theirs."""
    expected, value = theirs(x, labels), ours(x, labels)
    (right,), (found,) = torch.autograd.grad(expected, x), torch.autograd.grad(value, x)
    assert right.abs().max() > 1e-3, "vacuous: no gradient"
    assert_close(value.detach(), expected.detach().double(), tolerance)
    assert_close(found, right, tolerance)


# --- PyTorch Metric Learning --------------------------------------------------------------------------------


@pytest.fixture
def pml():
    return pytest.importorskip("pytorch_metric_learning")


def of_pml(kind, **settings):
    return getattr(importlib.import_module("pytorch_metric_learning.losses"), kind)(**settings)


def mined_by_pml(margin, positives, negatives):
    """Their triplet loss on what their easy-hard miner finds."""
    miners = importlib.import_module("pytorch_metric_learning.miners")
    loss, miner = of_pml("TripletMarginLoss", margin=margin), miners.BatchEasyHardMiner(positives, negatives)

    def call(x, labels):
        anchors, found, _, others = miner(x, labels)
        return loss(x, labels, (anchors, found, others))

    return call


def test_pml_of_all_triplets(pml):
    x, labels = batch()
    loss = TripletLoss(like="pytorch-metric-learning")
    assert_same(loss, of_pml("TripletMarginLoss"), x, labels)
    figures = loss.stats.to_dict()
    assert 0 < figures["n_active"] < figures["n_valid"]
    assert_same(
        TripletLoss(like="pytorch-metric-learning", penalty="softplus"),
        of_pml("TripletMarginLoss", smooth_loss=True), x, labels,
    )  # fmt: skip


def test_pml_with_its_batch_hard_miner(pml):
    x, labels = batch()
    miner = importlib.import_module("pytorch_metric_learning.miners").BatchHardMiner()
    theirs = of_pml("TripletMarginLoss")
    assert_same(
        TripletLoss(mining="hard", like="pytorch-metric-learning"),
        lambda x, labels: theirs(x, labels, miner(x, labels)), x, labels,
    )  # fmt: skip


@pytest.mark.parametrize(("mining", "negatives"), [("easy-positive", "hard"), ("easy-positive-semihard", "semihard")])
def test_pml_with_its_easy_positive_miner(pml, mining, negatives):
    x, labels = batch()
    ours = TripletLoss(0.9, mining, like="pytorch-metric-learning")
    assert_same(ours, mined_by_pml(0.9, "easy", negatives), x, labels)


def test_pml_nt_xent(pml):
    x, labels = batch()
    assert_same(InfoNCE(0.3), of_pml("NTXentLoss", temperature=0.3), x, labels)


def test_pml_sup_con(pml):
    x, labels = batch()
    labels[5] = 9  # a class of one, which both leave out
    assert_same(SupConLoss(0.3), of_pml("SupConLoss", temperature=0.3), x, labels)


def test_pml_reduces_contrastive_pairs_as_mean_active(pml):
    """Their costs are not squared; with squares put in, their reducers give ours."""
    kind = importlib.import_module("pytorch_metric_learning.losses").ContrastiveLoss

    class Squared(kind):
        def pos_calc(self, distances, margin):
            return super().pos_calc(distances, margin).square()

        def neg_calc(self, distances, margin):
            return super().neg_calc(distances, margin).square()

    x, labels = batch()
    ours = ContrastiveLoss(0.4, 1.1, reduction="mean-active", normalize=True)
    assert_same(ours, Squared(pos_margin=0.4, neg_margin=1.1), x, labels)
    figures = ours.stats.to_dict()
    assert 0 < figures["n_active"] < figures["n_mined"]


# --- sentence-transformers ----------------------------------------------------------------------------------


@pytest.fixture
def sbert():
    return pytest.importorskip("sentence_transformers.losses")


def of_sbert(kind, losses, **settings):
    """Their loss, which owns a model: one that gives what it is fed."""
    loss = getattr(losses, kind)(model=lambda features: features, **settings)
    return lambda x, labels: loss([{"sentence_embedding": x}], labels)


@pytest.mark.parametrize("margin", [None, 1.3])
@pytest.mark.parametrize(
    ("mining", "kind"),
    [("all", "BatchAllTripletLoss"), ("hard", "BatchHardTripletLoss"), ("semihard", "BatchSemiHardTripletLoss")],
)
def test_sentence_transformers(sbert, mining, kind, margin):
    x, labels = batch()
    given = {} if margin is None else {"margin": margin}
    loss = TripletLoss(mining=mining, like="sentence-transformers", **given)
    assert_same(loss, of_sbert(kind, sbert, **given), x, labels, 1e-6)  # they take float32 masks
    assert loss.rule.margin == (margin or 5)
    if mining == "semihard":
        skipping = TripletLoss(mining=mining, like="sentence-transformers", fallback="skip", **given)
        assert skipping(x, labels).item() != loss(x, labels).item(), "vacuous: every pair has a negative beyond it"


# --- what the table says ------------------------------------------------------------------------------------


def facenet_by_loops(x, labels):
    """Eq. 3 of Schroff et al. 2015 on unit rows, as a mean."""
    x = x / x.norm(dim=1, keepdim=True)
    costs = [
        torch.relu((x[a] - x[p]).square().sum() - (x[a] - x[n]).square().sum() + 0.2)
        for a in range(len(x))
        for p in range(len(x))
        for n in range(len(x))
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    return torch.stack(costs).mean()


def addons_by_loops(x, labels):
    """TensorFlow Addons' semi-hard rule: the nearest negative beyond the positive, else the farthest; margin 1."""
    d, costs = torch.cdist(x, x), []
    for a in range(len(x)):
        negatives = d[a][labels != labels[a]]
        for p in range(len(x)):
            if a != p and labels[a] == labels[p]:
                beyond = negatives[negatives > d[a, p]]
                costs.append(torch.relu(d[a, p] - (beyond.min() if len(beyond) else negatives.max()) + 1))
    return torch.stack(costs).mean()


def test_facenet():
    assert_same(TripletLoss(like="facenet"), facenet_by_loops, *batch(12, 4, 3))


def test_tensorflow_addons():
    assert_same(TripletLoss(mining="semihard", like="tensorflow-addons"), addons_by_loops, *batch())


@pytest.mark.parametrize("like", PRESETS)
def test_what_is_given_wins(like):
    own = {"distance": "manhattan", "margin": 0.123, "normalize": False, "reduction": "sum"}
    for mining, preset in PRESETS[like].items():
        plain, told = TripletLoss(mining=mining, like=like), TripletLoss(mining=mining, like=like, **own)
        found = {**plain.settings, "normalize": plain.normalize}
        assert {name: found[name] for name in preset} == preset
        assert {name: {**told.settings, "normalize": told.normalize}[name] for name in own} == own
        assert TripletLoss(**plain.settings).rule == plain.rule


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"like": "sentence-transformer"},
            "like is 'sentence-transformer'; allowed are 'facenet', 'pytorch-metric-learning', "
            "'sentence-transformers', 'tensorflow-addons'. Did you mean 'sentence-transformers'?",
        ),
        (
            {"like": "pytorch-metric-learning", "mining": "semihard"},
            "like 'pytorch-metric-learning' has no settings for mining 'semihard': its semihard miner keeps every "
            "triplet with 0 < d_an - d_ap <= margin. It has settings for 'all', 'hard', 'easy-positive', "
            "'easy-positive-semihard'; or leave `like` out and give margin, distance, normalize and reduction "
            "themselves.",
        ),
        (
            {"like": "facenet", "mining": "distance-weighted"},
            "like 'facenet' has no settings for mining 'distance-weighted': it has no such loss. It has settings for "
            "'all', 'hard', 'semihard'; or leave `like` out and give margin, distance, normalize and reduction "
            "themselves.",
        ),
        (
            {"like": "facenet", "mining": "semi-hard"},
            "mining is 'semi-hard'; allowed are 'all', 'hard', 'semihard', 'easy-positive', 'easy-positive-semihard', "
            "'distance-weighted'. Did you mean 'semihard'?",
        ),
    ],
)
def test_names_that_are_refused(given, message):
    with pytest.raises(InputError) as caught:
        TripletLoss(**given)
    assert str(caught.value) == message
