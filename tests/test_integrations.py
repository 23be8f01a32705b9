"""Tercet's losses in other libraries' training: value and gradient equal theirs. Skipped where one is missing."""

import copy
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

# Read when their libraries are imported, which is when the first test that uses them runs.
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from safetensors.torch import load_file

import tercet
from tercet import losses as ours
from tercet.errors import InputError, MissingDependency, TercetWarning
from tercet.integrations import STLoss
from tercet.testing import assert_close, random_rows

DTYPES = {torch.float64: 1e-9, torch.float32: 2e-5}


def batch(rows=24, dim=6, classes=4, seed=1, dtype=torch.float64):
    """Classes of equal size, near enough that not every triplet is active."""
    labels = torch.arange(rows) % classes
    x = random_rows(rows, dim, seed) + 1.5 * random_rows(classes, dim, 2)[labels]
    return x.to(dtype).requires_grad_(), labels


def value_and_gradient(value, *inputs):
    return value.detach(), *torch.autograd.grad(value, inputs, retain_graph=True)


def assert_same(found, expected, *inputs, tolerance=1e-9):
    """Of two values with a graph to the same inputs: equal, and equal gradients, none of them zero."""
    expected, found = value_and_gradient(expected, *inputs), value_and_gradient(found, *inputs)
    assert all(part.abs().max() > 1e-3 for part in expected), "vacuous: nothing to compare"
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other.double(), tolerance)


def test_importing_the_package_imports_nothing():
    check = "import sys, tercet.integrations; print('torch' in sys.modules, tercet.integrations.__all__)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "False ['PMLLoss', 'STLoss']\n"
    with pytest.raises(AttributeError, match=r"module 'tercet\.integrations' has no attribute 'PmlLoss'"):
        tercet.integrations.PmlLoss  # noqa: B018


def test_a_missing_pml_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    monkeypatch.delitem(sys.modules, "tercet.integrations.pml", raising=False)
    with pytest.raises(MissingDependency) as caught:
        tercet.integrations.PMLLoss  # noqa: B018
    assert str(caught.value) == (
        "pytorch_metric_learning.losses is needed here and could not be imported (import of "
        "pytorch_metric_learning.losses halted; None in sys.modules). Install it with: pip install 'tercet[pml]'"
    )


@pytest.mark.parametrize(
    ("loss", "given"), [(tercet.TripletLoss, "the class TripletLoss"), (torch.nn.Identity(), "a Identity")]
)
def test_what_is_no_loss_is_refused(pml, loss, given):
    message = f"loss is {given}; allowed is a loss of Tercet's over a batch, such as tercet.TripletLoss(margin=0.2)."
    for make in (lambda: STLoss(lambda features: features, loss), lambda: pml.PMLLoss(loss)):
        with pytest.raises(InputError) as caught:
            make()
        assert str(caught.value) == message


# --- PyTorch Metric Learning --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pml():
    """The adapter, and what of PML it is tested with."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, trainers
    from pytorch_metric_learning.utils import common_functions, distributed

    from tercet.integrations import PMLLoss

    class Squared(losses.ContrastiveLoss):
        """Their contrastive loss with the squares that ours has, under a name that their wrappers accept."""

        def pos_calc(self, pairs, margin):
            return super().pos_calc(pairs, margin).square()

        def neg_calc(self, pairs, margin):
            return super().neg_calc(pairs, margin).square()

    Squared.__name__ = "ContrastiveLoss"
    return SimpleNamespace(
        PMLLoss=PMLLoss, losses=losses, miners=miners, reducers=reducers, distances=distances, Squared=Squared,
        regularizers=regularizers, trainers=trainers, distributed=distributed, logger=common_functions.LOGGER,
    )  # fmt: skip


def their_triplet_loss(pml, margin=0.9, reducer="AvgNonZeroReducer", **settings):
    """On distances of rows as they are."""
    distance = pml.distances.LpDistance(normalize_embeddings=False)
    return pml.losses.TripletMarginLoss(margin, distance=distance, reducer=getattr(pml.reducers, reducer)(), **settings)


PAIR_LOSSES = {
    "contrastive": (
        lambda: ours.ContrastiveLoss(0.4, 1.1, reduction="mean-active", normalize=True),
        lambda pml: pml.Squared(pos_margin=0.4, neg_margin=1.1),
    ),
    "infonce": (
        lambda: ours.InfoNCE(0.3),
        # Theirs counts a pair whose anchor has no negative, as 0; ours leaves it out.
        lambda pml: pml.losses.NTXentLoss(0.3, reducer=pml.reducers.AvgNonZeroReducer()),
    ),
    "supcon": (lambda: ours.SupConLoss(0.3), lambda pml: pml.losses.SupConLoss(0.3)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("reducer", "reduction"),
    [("AvgNonZeroReducer", "mean-active"), ("MeanReducer", "mean"), ("SumReducer", "sum")],
)
def test_all_triplets_of_a_batch(pml, reducer, reduction, dtype):
    x, labels = batch(dtype=dtype)
    loss = pml.PMLLoss(tercet.TripletLoss(0.9, reduction=reduction))
    expected = their_triplet_loss(pml, reducer=reducer)(x, labels)
    assert_same(loss(x, labels), expected, x, tolerance=DTYPES[dtype])
    assert 0 < loss.loss.stats.to_dict()["n_active"] < loss.loss.stats.to_dict()["n_valid"]


MINERS = {
    "batch-hard": lambda miners: miners.BatchHardMiner(),
    "triplet-margin": lambda miners: miners.TripletMarginMiner(margin=0.3),
    "multi-similarity": lambda miners: miners.MultiSimilarityMiner(epsilon=0.3),
    "pair-margin": lambda miners: miners.PairMarginMiner(pos_margin=0.5, neg_margin=1.2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("miner", MINERS)
def test_triplets_from_what_a_miner_gives(pml, miner, dtype):
    x, labels = batch(dtype=dtype)
    indices = MINERS[miner](pml.miners)(x, labels)
    assert len(indices) == (3 if miner in ("batch-hard", "triplet-margin") else 4)
    for theirs, settings in ({}, {}), ({"smooth_loss": True}, {"penalty": "softplus"}):
        loss = pml.PMLLoss(tercet.TripletLoss(0.9, **settings))
        expected = their_triplet_loss(pml, **theirs)(x, labels, indices)
        assert expected.item() != their_triplet_loss(pml, **theirs)(x, labels).item(), "vacuous: all were mined"
        assert_same(loss(x, labels, indices), expected, x, tolerance=DTYPES[dtype])


def test_given_triplets_take_every_setting(pml):
    x, _ = batch(9)
    a, p, n = torch.tensor([[0, 4, 8, 4], [1, 5, 2, 5], [2, 6, 0, 6]])
    loss = tercet.TripletLoss(
        0.7, distance="squared-euclidean", penalty="logsumexp", reduction="sum", temperature=0.3, normalize=True
    )
    unit = x / x.norm(dim=1, keepdim=True)
    z = (unit[a] - unit[p]).square().sum(1) - (unit[a] - unit[n]).square().sum(1) + 0.7
    assert_same(pml.PMLLoss(loss)(x, None, (a, p, n)), (0.3 * torch.log1p(torch.exp(z / 0.3))).sum(), x)


@pytest.mark.parametrize("miner", ["multi-similarity", "batch-hard", None])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_losses_of_pairs(pml, name, miner):
    mine, theirs = PAIR_LOSSES[name]
    x, labels = batch(classes=5)
    labels[7] = 9  # a class of one
    indices = None if miner is None else MINERS[miner](pml.miners)(x, labels)
    loss = pml.PMLLoss(mine())
    assert_same(loss(x, labels, indices), theirs(pml)(x, labels, indices), x)
    if miner is not None:
        assert loss(x, labels, indices).item() != loss(x, labels).item(), "vacuous: all pairs were mined"


def test_pairs_are_a_relation_for_every_mining(pml):
    """Batch hard among some of the pairs, by loops."""
    x, labels = batch(12, 4, 3)
    generator = torch.Generator().manual_seed(3)
    kept = torch.rand(12, 12, generator=generator) < 0.6
    same = (labels[:, None] == labels) & ~torch.eye(12, dtype=torch.bool)
    indices = (*(same & kept).nonzero().T, *((labels[:, None] != labels) & kept).nonzero().T)
    d, costs = torch.cdist(x, x), []
    for a in range(12):
        positives, negatives = indices[1][indices[0] == a], indices[3][indices[2] == a]
        if len(positives) and len(negatives):
            costs.append(torch.relu(d[a, positives].max() - d[a, negatives].min() + 0.9))
    assert 1 < len(costs) < 12
    found = pml.PMLLoss(tercet.TripletLoss(0.9, "hard"))(x, labels, indices)
    assert_same(found, torch.stack(costs).mean(), x)


def test_a_reference(pml):
    x, labels = batch()
    bank, bank_labels = batch(17, seed=5)
    loss, theirs = pml.PMLLoss(tercet.TripletLoss(2.9)), their_triplet_loss(pml, 2.9)
    miner = pml.miners.TripletMarginMiner(margin=0.3)
    for indices in (None, miner(x, labels, bank, bank_labels)):
        given = (x, labels, indices, bank, bank_labels)
        assert_same(loss(*given), theirs(*given), x, bank)
    # The batch as its own reference is still the batch; with other labels, rows meet themselves, as there.
    assert_same(loss(x, labels, None, x, labels), loss(x, labels), x)
    given = {"embeddings": x, "labels": labels, "ref_emb": x, "ref_labels": labels.clone()}
    assert loss(**given).item() != loss(x, labels).item()
    assert_same(loss(**given), theirs(**given), x)


def memory_run(pml, loss, miner=None):
    """Values and gradients of some batches through a memory that fills and wraps around."""
    memory = pml.losses.CrossBatchMemory(loss, 6, memory_size=40, miner=miner)
    return [value_and_gradient(memory(x, labels), x) for x, labels in (batch(12, seed=seed) for seed in range(5))]


@pytest.mark.parametrize("miner", [None, "batch-hard", "triplet-margin", "multi-similarity"])
def test_cross_batch_memory(pml, miner):
    def made():
        return None if miner is None else MINERS[miner](pml.miners)

    found = memory_run(pml, pml.PMLLoss(tercet.TripletLoss(0.9)), made())
    expected = memory_run(pml, their_triplet_loss(pml), made())
    assert len({float(value) for value, _ in expected}) == 5
    for one, other in zip(found, expected, strict=True):
        assert_close(one[0], other[0], 1e-9)
        assert_close(one[1], other[1], 1e-9)


@pytest.mark.parametrize("miner", [None, "batch-hard"])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_cross_batch_memory_with_losses_of_pairs(pml, name, miner):
    mine, theirs = PAIR_LOSSES[name]
    miner = None if miner is None else MINERS[miner](pml.miners)
    found, expected = memory_run(pml, pml.PMLLoss(mine()), miner), memory_run(pml, theirs(pml), miner)
    for one, other in zip(found, expected, strict=True):
        assert_close(one[0], other[0], 1e-9)
        assert_close(one[1], other[1], 1e-9)


def test_cross_batch_memory_mines_as_the_loss_says(pml):
    memory = pml.losses.CrossBatchMemory(pml.PMLLoss(tercet.TripletLoss(0.9, "hard")), 6, memory_size=36)
    memory(*batch(24, seed=3))
    x, labels = batch(12, seed=4)
    bank, bank_labels = torch.cat([batch(24, seed=3)[0], x]).detach(), torch.cat([torch.arange(24) % 4, labels])
    expected = tercet.TripletLoss(0.9, "hard")(
        x,
        labels,
        reference=bank,
        reference_labels=bank_labels,
        ids=torch.arange(24, 36),
        reference_ids=torch.arange(36),
    )
    assert_same(memory(x, labels), expected, x, tolerance=1e-6)  # the memory starts as float32


def test_their_other_wrappers(pml):
    x, labels = batch()
    y, _ = batch(seed=5)
    for symmetric in (True, False):
        found, expected = (
            pml.losses.SelfSupervisedLoss(loss, symmetric)(x, y)
            for loss in (pml.PMLLoss(tercet.InfoNCE(0.3)), pml.losses.NTXentLoss(0.3))
        )
        assert_same(found, expected, x, y)
    several = [
        pml.losses.MultipleLosses([one, other], weights=[0.3, 2.0])
        for one, other in (
            (pml.PMLLoss(tercet.TripletLoss(0.9)), pml.PMLLoss(tercet.SupConLoss(0.2))),
            (their_triplet_loss(pml), pml.losses.SupConLoss(0.2)),
        )
    ]
    assert_same(several[0](x, labels), several[1](x, labels), x)
    with pytest.warns(UserWarning, match="non-distributed setting"):
        alone = pml.distributed.DistributedLossWrapper(pml.PMLLoss(tercet.TripletLoss(0.9)))(x, labels)
    assert_same(alone, their_triplet_loss(pml)(x, labels), x)


def test_what_the_efficient_distributed_wrapper_calls(pml):
    """Anchors of this rank against those of all, with the pairs that it lists."""
    x, labels = batch()
    every, every_labels = torch.cat([x, batch(12, seed=5)[0]]), torch.cat([labels, torch.arange(12) % 4])
    pairs = pml.distributed.get_indices_tuple(labels, every_labels)
    given = (x, labels, pairs, every, every_labels)
    assert_same(pml.PMLLoss(tercet.TripletLoss(0.9))(*given), their_triplet_loss(pml)(*given), x)


def test_an_embedding_regularizer(pml):
    x, labels = batch()
    added = {"embedding_regularizer": pml.regularizers.LpRegularizer(), "embedding_reg_weight": 0.3}
    loss = pml.PMLLoss(tercet.TripletLoss(0.9), **added)
    expected = their_triplet_loss(pml, **added)(x, labels)
    assert_same(loss(x, labels), expected, x)
    assert loss(x, labels).item() > tercet.TripletLoss(0.9)(x, labels).item() + 0.1


@pytest.mark.parametrize("miner", [None, "batch-hard", "multi-similarity"])
def test_their_trainer_ends_with_the_same_weights(pml, miner, capfd):
    x, labels = batch(48, 6, 4, dtype=torch.float32)
    weights = []
    for loss in (pml.PMLLoss(tercet.TripletLoss(0.9)), their_triplet_loss(pml)):
        torch.manual_seed(0)
        trunk = torch.nn.Linear(6, 3)
        before = trunk.weight.clone()
        pml.trainers.MetricLossOnly(
            models={"trunk": trunk}, optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
            batch_size=16, loss_funcs={"metric_loss": loss}, data_device="cpu", dataloader_num_workers=0,
            mining_funcs={} if miner is None else {"tuple_miner": MINERS[miner](pml.miners)},
            dataset=torch.utils.data.TensorDataset(x.detach(), labels), dtype=torch.float32,
        ).train(num_epochs=2)  # fmt: skip
        weights.append(trunk.weight.detach())
        assert (trunk.weight - before).abs().max() > 0.01, "vacuous: nothing was learned"
    assert_close(weights[0], weights[1], 1e-5)
    capfd.readouterr()  # its progress bar


def test_parameters_of_the_loss_are_trained(pml):
    x, labels = batch()
    loss = pml.PMLLoss(tercet.InfoNCE(0.3, learn_temperature=True).double())
    assert [name for name, _ in loss.named_parameters()] == ["loss.log_scale"]
    plain = tercet.InfoNCE(0.3, learn_temperature=True).double()
    expected = torch.autograd.grad(plain(x, labels), plain.log_scale)[0]
    pml.losses.CrossBatchMemory(loss, 6, memory_size=24)(x, labels).backward()
    assert abs(expected) > 1e-3
    assert_close(loss.loss.log_scale.grad, expected, 1e-6)


def test_names_that_their_wrappers_know_survive_copies(pml):
    x, labels = batch()
    names = {"TripletLoss": "TripletMarginLoss", "InfoNCE": "NTXentLoss", "ClipLoss": "PMLLoss"}
    names |= {"ContrastiveLoss": "ContrastiveLoss", "SupConLoss": "SupConLoss"}
    for own, name in names.items():
        loss = pml.PMLLoss(getattr(tercet, own)())
        assert type(loss).__name__ == name
        assert isinstance(loss, pml.losses.BaseMetricLossFunction)
        assert loss.distance is None  # theirs, which would be unused
    loss = pml.PMLLoss(tercet.TripletLoss(0.9))
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert type(twin) is type(loss)
        assert twin(x, labels).item() == loss(x, labels).item()
    with pytest.raises(Exception, match="CrossBatchMemory not supported for PMLLoss"):
        pml.losses.CrossBatchMemory(pml.PMLLoss(tercet.ClipLoss()), 6)


def test_a_pair_counts_once(pml):
    x, labels = batch(9)
    a, p, n = torch.tensor([[0, 0, 4, 4], [1, 1, 5, 5], [2, 3, 6, 7]])
    pairs = (a[::2], p[::2], a, n)
    for loss in (tercet.ContrastiveLoss(0.4, 1.9), tercet.InfoNCE(0.3), tercet.SupConLoss(0.3)):
        loss = pml.PMLLoss(loss)
        expected = loss(x, labels, pairs)
        assert_same(loss(x, labels, (a, p, n)), expected, x)  # (0, 1) stands twice, for two negatives
        with pytest.warns(TercetWarning) as caught:
            assert_same(loss(x, labels, (a, p, a, n)), expected, x)
        assert str(caught[0].message) == (
            "indices_tuple names 8 pairs, of which 6 are different; a pair counts once here, and as often as it is "
            "named in PyTorch Metric Learning."
        )


def test_nothing_mined_is_zero_with_a_graph(pml):
    x, labels = batch(9)
    nothing = torch.zeros(0, dtype=torch.int64)
    for indices in ((nothing,) * 3, (nothing,) * 4):
        for loss in (tercet.TripletLoss(), tercet.SupConLoss()):
            value = pml.PMLLoss(loss)(x, labels, indices)
            (gradient,) = torch.autograd.grad(value, x)
            assert value.item() == 0
            assert not gradient.any()


HELP = " take mining='all' with a miner of triplets, or leave the miner out."
TRIPLET, PAIRS = ([0], [1], [2]), ([0], [1], [0], [2])


@pytest.mark.parametrize(
    ("loss", "indices", "message"),
    [
        (
            {"mining": "hard"}, TRIPLET,
            f"mining is 'hard', and of given triplets nothing is left to mine;{HELP}",
        ),
        (
            {"margin": {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.1}, "penalty": "lifted", "learn_temperature": True}, TRIPLET,
            "margins per class do not go with given triplets; give one margin for all.\n"
            "penalty 'lifted' takes all positives and negatives of an anchor together, and given triplets are taken "
            "one by one; choose another penalty, such as 'hinge'.\n"
            "a learned temperature gets no gradient from given triplets; set learn_temperature=False.",
        ),
        (
            {}, ([0], [1]),
            "indices_tuple has 2 parts; allowed are the two forms of PML's miners: (anchors, positives, negatives) for "
            "triplets, and (anchors, positives, anchors, negatives) for pairs.",
        ),
        (
            {}, ([0, 3], [1, 4], [3], [4]),
            "indices_tuple names the pair (3, 4) as positive and as negative; let it be one of them.",
        ),
        (
            {"margin": {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.1}}, PAIRS,
            "margins per class need one label for each anchor, whose class they go by; give labels, integers or "
            "strings, without a relation, or one margin for all.",
        ),
    ],
)  # fmt: skip
def test_indices_that_are_refused(pml, loss, indices, message):
    x, labels = batch(9)
    with pytest.raises(InputError) as caught:
        pml.PMLLoss(tercet.TripletLoss(**loss))(x, labels, tuple(torch.tensor(part) for part in indices))
    assert str(caught.value) == message


def test_tercet_trains_with_their_losses(pml, numbers, tmp_path):
    runs = [
        tercet.train(
            str(numbers), out=tmp_path / f"run{number}", loss=loss, progress=False, steps=4,
            classes_per_batch=4, samples_per_class=3,
        )
        for number, loss in enumerate((
            pml.losses.TripletMarginLoss(1.5), pml.PMLLoss(tercet.TripletLoss(1.5, like="pytorch-metric-learning"))
        ))
    ]  # fmt: skip
    weights = [load_file(run.path / "model.safetensors") for run in runs]
    assert weights[0].keys() == weights[1].keys()
    steps = [json.loads(line) for line in (runs[0].path / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(step["gradient_norm"] > 0.1 for step in steps if "loss" in step), "vacuous: nothing to learn"
    for name, part in weights[1].items():
        assert_close(weights[0][name].double(), part.double(), 1e-4)


# --- sentence-transformers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def st():
    """Their losses and trainer."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.losses import BatchHardTripletLossDistanceFunction as BatchDistance
    from sentence_transformers.sentence_transformer.losses import SiameseDistanceMetric, TripletDistanceMetric

    return SimpleNamespace(
        losses=losses, BatchDistance=BatchDistance, SiameseDistanceMetric=SiameseDistanceMetric,
        TripletDistanceMetric=TripletDistanceMetric, SentenceTransformer=SentenceTransformer,
        Trainer=SentenceTransformerTrainer, Arguments=SentenceTransformerTrainingArguments,
    )  # fmt: skip


def fed(features):
    """A model that gives what it is fed."""
    return features


def call(loss, columns, labels=None):
    return loss([{"sentence_embedding": column} for column in columns], labels)


def columns_of(count, rows=7, dim=5):
    """Embeddings of so many columns; those of a row are kin."""
    topic = 1.5 * random_rows(rows, dim, 20)
    return [(random_rows(rows, dim, 21 + column) + topic).requires_grad_() for column in range(count)]


@pytest.mark.parametrize(
    ("settings", "kind", "their_settings"),
    [
        ({"like": "sentence-transformers"}, "BatchAllTripletLoss", {}),
        ({"mining": "hard", "like": "sentence-transformers"}, "BatchHardTripletLoss", {}),
        ({"mining": "semihard", "like": "sentence-transformers"}, "BatchSemiHardTripletLoss", {}),
        ({"margin": 0.3, "distance": "cosine"}, "BatchAllTripletLoss", {"margin": 0.3}),
        ({"margin": 0.3, "mining": "hard", "distance": "cosine"}, "BatchHardTripletLoss", {"margin": 0.3}),
        ({"margin": 0.0, "mining": "hard", "penalty": "softplus"}, "BatchHardSoftMarginTripletLoss", {}),
    ],
)
def test_a_column_with_class_labels(st, settings, kind, their_settings):
    x, labels = batch()
    if settings.get("distance") == "cosine":
        their_settings = {**their_settings, "distance_metric": st.BatchDistance.cosine_distance}
    theirs = getattr(st.losses, kind)(fed, **their_settings)
    loss = STLoss(fed, tercet.TripletLoss(**settings))
    assert_same(call(loss, [x], labels), call(theirs, [x], labels), x, tolerance=1e-6)  # they take float32 masks
    assert call(loss, [x], labels[:, None]).item() == call(loss, [x], labels).item()
    assert loss.loss.stats.to_dict()["n_valid"] == 24 * 5 * 18


def test_a_column_with_several_labels_an_item():
    x, labels = batch(9)
    marks = torch.zeros(9, 4, dtype=torch.int64)
    marks[torch.arange(9), labels] = 1
    marks[2, 0] = 1
    lists = [[int(label)] for label in labels]
    lists[2].append(0)
    expected = tercet.TripletLoss()(x, lists)
    assert_same(call(STLoss(fed, tercet.TripletLoss()), [x], marks), expected, x)
    assert expected.item() != tercet.TripletLoss()(x, labels).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("metric", "distance"), [("EUCLIDEAN", "euclidean"), ("MANHATTAN", "manhattan"), ("COSINE", "cosine")]
)
def test_columns_of_triplets(st, metric, distance, dtype):
    columns = [column.detach().to(dtype).requires_grad_() for column in columns_of(3)]
    theirs = st.losses.TripletLoss(fed, getattr(st.TripletDistanceMetric, metric), triplet_margin=0.7)
    loss = STLoss(fed, tercet.TripletLoss(0.7, distance=distance, reduction="mean"))
    assert_same(call(loss, columns), call(theirs, columns), *columns, tolerance=DTYPES[dtype])


def test_a_row_with_several_negatives_is_several_triplets():
    a, p, *negatives = columns = columns_of(4)
    expected = torch.stack(
        [torch.relu((a[i] - p[i]).norm() - (a[i] - n[i]).norm() + 2.5) for i in range(7) for n in negatives]
    )
    assert 0 < (expected > 0).sum() < 14
    loss = STLoss(fed, tercet.TripletLoss(2.5, reduction="mean"))
    assert_same(call(loss, columns), expected.mean(), *columns)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_in_batch_negatives_and_hard_ones(st, count):
    columns = columns_of(count)
    theirs = st.losses.MultipleNegativesRankingLoss(fed, scale=4.0)
    expected = call(theirs, columns)
    for loss in (tercet.InfoNCE(0.25), tercet.SupConLoss(0.25)):  # with one positive an anchor they are equal
        assert_same(call(STLoss(fed, loss), columns), expected, *columns)
    both = st.losses.MultipleNegativesRankingLoss(
        fed, scale=4.0, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    clip = STLoss(fed, tercet.ClipLoss(0.25, learn_temperature=False))
    assert_same(call(clip, columns), call(both, columns), *columns)
    assert call(clip, columns).item() != expected.item()


@pytest.mark.parametrize("mining", ["all", "hard"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_triplets_in_the_batch(count, mining):
    """Each anchor, its own positive, and every other text of the other columns, by loops."""
    anchors, positives, *negatives = columns = columns_of(count)
    costs = []
    for i, a in enumerate(anchors):
        others = [p for j, p in enumerate(positives) if j != i] + [n for column in negatives for n in column]
        distances = torch.stack([(a - n).norm() for n in others])
        if mining == "hard":
            distances = distances.min()[None]
        costs.append(torch.relu((a - positives[i]).norm() - distances + 1.3))
    expected = torch.cat(costs).mean()
    loss = STLoss(fed, tercet.TripletLoss(1.3, mining, reduction="mean"), in_batch=True)
    assert_same(call(loss, columns), expected, *columns)
    if count == 2:
        assert_same(call(STLoss(fed, tercet.TripletLoss(1.3, mining, reduction="mean")), columns), expected, *columns)


@pytest.mark.parametrize("size_average", [True, False])
def test_pairs_marked_similar_or_not(st, size_average):
    left, right = columns_of(2)
    labels = torch.tensor([1, 0, 0, 1, 0, 1, 0])
    theirs = st.losses.ContrastiveLoss(fed, margin=0.7, size_average=size_average)
    reduction = "mean" if size_average else "sum"
    loss = STLoss(fed, tercet.ContrastiveLoss(negative_margin=0.7, distance="cosine", reduction=reduction))
    expected = 2 * call(theirs, [left, right], labels)  # they halve it
    for marks in (labels, labels.float(), labels[:, None], labels.bool()):
        assert_same(call(loss, [left, right], marks), expected, left, right)
    with pytest.raises(InputError) as caught:
        call(loss, [left, right], labels * 0.5)
    assert str(caught.value) == "similar has dtype torch.float32; allowed are booleans, or integers 0 and 1."


def test_their_online_contrastive_loss_where_every_pair_is_hard(st):
    left, right = columns_of(2)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    with torch.no_grad():  # similar pairs far, others near
        right[labels == 1] = -left[labels == 1] + 0.3 * right[labels == 1]
        right[labels == 0] = left[labels == 0] + 0.2 * right[labels == 0]
    theirs = st.losses.OnlineContrastiveLoss(fed, st.SiameseDistanceMetric.EUCLIDEAN, margin=2.5)
    loss = STLoss(fed, tercet.ContrastiveLoss(negative_margin=2.5, reduction="sum"))
    # They add 1e-6 to every difference.
    assert_same(call(loss, [left, right], labels), call(theirs, [left, right], labels), left, right, tolerance=1e-5)


@pytest.mark.parametrize(
    ("loss", "count", "labelled", "given", "advice"),
    [
        (tercet.TripletLoss(), 1, False, "1 column without a label, for TripletLoss", ""),
        (tercet.TripletLoss(), 2, True, "2 columns and a label, for TripletLoss", "remove"),
        (tercet.InfoNCE(), 3, True, "3 columns and a label, for InfoNCE", "remove"),
        (tercet.ContrastiveLoss(), 3, True, "3 columns and a label, for ContrastiveLoss", "remove"),
    ],
)
def test_columns_that_are_refused(loss, count, labelled, given, advice):
    with pytest.raises(InputError) as caught:
        call(STLoss(fed, loss), columns_of(count), torch.ones(7) if labelled else None)
    assert str(caught.value) == (
        f"the dataset has {given}; allowed are one column of texts and a label (a class); two columns (anchor, "
        "positive) without a label; two columns and a label 0 or 1, for ContrastiveLoss; three columns or more "
        "(anchor, positive, negatives) without a label."
        + (" Remove the label column if it is not needed: dataset.remove_columns(...)." if advice else "")
    )


def test_settings_that_columns_do_not_go_with():
    margins = {0: 0.1, 1: 0.2}
    for make, message in (
        (
            lambda: call(STLoss(fed, tercet.TripletLoss(mining="hard")), columns_of(3)),
            "mining is 'hard', and of given triplets nothing is left to mine; take mining='all' for the triplets as "
            "they are, or in_batch=True to mine among all rows of the batch.",
        ),
        (
            lambda: call(STLoss(fed, tercet.TripletLoss(margins)), columns_of(2)),
            "margins per class need a label column with the classes; give one margin for all.",
        ),
        (
            lambda: STLoss(fed, tercet.InfoNCE(), in_batch=True),
            "in_batch belongs to TripletLoss; InfoNCE always compares all rows of the batch: leave it out.",
        ),
        (lambda: STLoss(fed, tercet.TripletLoss(), in_batch=1), "in_batch is 1; allowed are True and False."),
        (
            lambda: STLoss(lambda _: {"token_embeddings": 0, "mask": 1}, tercet.TripletLoss())([{}], torch.ones(2)),
            "the model gives 'token_embeddings', 'mask' and no 'sentence_embedding'; end it with a pooling module that "
            "makes one vector of each text.",
        ),
    ):
        with pytest.raises(InputError) as caught:
            make()
        assert str(caught.value) == message


def test_the_library_itself_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(sys.modules, "tercet.integrations.sentence_transformers")
    from tercet.integrations.sentence_transformers import STLoss as again

    assert again is not STLoss
    x, labels = batch(9)
    assert call(again(fed, tercet.TripletLoss()), [x], labels).item() == tercet.TripletLoss()(x, labels).item()


@pytest.mark.parametrize(
    ("loss", "config", "key"),
    [
        (
            tercet.TripletLoss(0.3, "semihard", tercet.Minkowski(3)),
            {
                "loss": "TripletLoss", "margin": 0.3, "mining": "semihard", "distance": "minkowski(p=3)",
                "penalty": "hinge", "reduction": "mean", "fallback": "skip", "temperature": None,
                "implementation": "auto", "in_batch": False,
            },
            "schroff2015facenet",
        ),
        (
            tercet.ContrastiveLoss(0.1, 0.9, tercet.Mahalanobis(matrix=torch.eye(2))),
            {
                "loss": "ContrastiveLoss", "positive_margin": 0.1, "negative_margin": 0.9, "reduction": "mean",
                "distance": repr(tercet.Mahalanobis(matrix=torch.eye(2))), "implementation": "auto",
            },
            "hadsell2006dimensionality",
        ),
        (tercet.TripletLoss(), None, "hermans2017defense"),
        (tercet.TripletLoss(mining="easy-positive"), None, "xuan2020improved"),
        (tercet.TripletLoss(mining="distance-weighted"), None, "wu2017sampling"),
        (tercet.InfoNCE(), None, "oord2018representation"),
        (tercet.SupConLoss(), None, "khosla2020supervised"),
        (tercet.ClipLoss(), None, "radford2021learning"),
    ],
)  # fmt: skip
def test_what_the_model_card_is_told(loss, config, key):
    adapter = STLoss(fed, loss)
    found = adapter.get_config_dict()
    assert json.loads(json.dumps(found)) == found
    if config is not None:
        assert found == config
    assert re.search(r"@\w+\{(\w+),", adapter.citation)[1] == key
    assert adapter.citation.count("{") == adapter.citation.count("}")


# --- a real model, tiny, and their trainer ------------------------------------------------------------------

WORDS = ("apple", "river", "stone", "cloud", "tiger", "piano", "green", "seven")


@pytest.fixture(scope="module")
def folder(st, tmp_path_factory):
    """A BERT of one layer with random weights, whose words are letters."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    letters = [chr(ord("a") + number) for number in range(26)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    transformers.BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(7)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    return path


@pytest.fixture
def table(st):
    """Makes a dataset of columns; what their trainer needs is there."""
    pytest.importorskip("accelerate")
    return pytest.importorskip("datasets").Dataset.from_dict


def tiny(st, folder):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    return st.SentenceTransformer(modules=[Transformer(str(folder)), Pooling(16)], device="cpu")


@pytest.fixture
def offline(monkeypatch):
    """Fails a test that tries to reach anything."""

    def refuse(self, address):
        raise AssertionError(f"reached for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def trained(st, model, loss, dataset, where, **arguments):
    """The trainer, after a few steps."""
    trainer = st.Trainer(
        model=model, loss=loss, train_dataset=dataset,
        args=st.Arguments(
            output_dir=str(where), num_train_epochs=2, per_device_train_batch_size=4, learning_rate=0.01, use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, seed=5, **arguments,
        ),
    )  # fmt: skip
    trainer.train()
    return trainer


def pairs_and_negatives():
    """Anchors, positives and negatives: a word, the same word beside others."""
    return {
        "anchor": list(WORDS),
        "positive": [f"{word} and {word}" for word in WORDS],
        "negative": [f"a {word}" for word in (*WORDS[3:], *WORDS[:3])],
    }


def test_gradients_of_a_real_model(st, folder):
    model = tiny(st, folder)
    features = [model.preprocess(column) for column in pairs_and_negatives().values()]
    labels = torch.arange(8) % 3
    for mine, theirs, given in (
        (tercet.InfoNCE(0.05), st.losses.MultipleNegativesRankingLoss(model), (features, None)),
        (tercet.TripletLoss(5, reduction="mean"), st.losses.TripletLoss(model), (features, None)),
        (
            tercet.TripletLoss(like="sentence-transformers"),
            st.losses.BatchAllTripletLoss(model),
            (features[:1], labels),
        ),
    ):
        gradients = []
        for loss in (STLoss(model, mine), theirs):
            model.zero_grad()
            loss([dict(column) for column in given[0]], given[1]).backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert len(gradients[1]) > 10
        assert max(float(part.abs().max()) for part in gradients[1]) > 1e-3
        for one, other in zip(*gradients, strict=True):
            assert_close(one, other.double(), 2e-5)


@pytest.mark.parametrize("form", ["pairs", "triplets"])
def test_their_trainer_ends_with_the_same_model(st, folder, table, form, tmp_path, offline, capfd):
    columns = pairs_and_negatives()
    if form == "pairs":
        del columns["negative"]
    vectors = []
    for name in ("ours", "theirs"):
        model = tiny(st, folder)
        before = torch.as_tensor(model.encode(list(WORDS)))
        loss = {
            "ours": lambda model: STLoss(model, tercet.InfoNCE(0.05)),
            "theirs": st.losses.MultipleNegativesRankingLoss,
        }[name](model)
        trained(st, model, loss, table(columns), tmp_path / name)
        vectors.append(torch.as_tensor(model.encode(list(WORDS))))
        assert (vectors[-1] - before).abs().max() > 0.05, "vacuous: nothing was learned"
    assert_close(vectors[0], vectors[1].double(), 1e-3)


def test_their_trainer_with_classes_and_a_learned_temperature(st, folder, table, tmp_path, offline, capfd):
    data = {"text": [f"{word} {other}" for word in WORDS[:4] for other in WORDS[4:]], "label": [0] * 8 + [1] * 8}
    model = tiny(st, folder)
    loss = tercet.TripletLoss(0.2, distance="cosine", penalty="logsumexp", temperature=0.3, learn_temperature=True)
    trainer = trained(
        st, model, lambda model: STLoss(model, loss), table(data), tmp_path,
        batch_sampler="group_by_label", eval_strategy="no",
    )  # fmt: skip
    assert loss.temperature != pytest.approx(0.3, abs=1e-4)
    assert loss.stats.to_dict()["anchors_without_positive"] == 0
    evaluated = trainer.evaluate(table(data))["eval_loss"]
    assert evaluated > 0
    card = model.model_card_data
    assert {"loss:STLoss", "loss:TripletLoss"} <= set(card.tags)
    assert any("hermans2017defense" in citation for citation in card.citations.values())
    assert '"penalty": "logsumexp"' in card.train_datasets[0]["loss"]["config_code"]


def test_their_matryoshka_loss_goes_around_it(st, folder):
    model = tiny(st, folder)
    features = [model.preprocess(column) for column in pairs_and_negatives().values()]
    values = [
        st.losses.MatryoshkaLoss(model, inner, [16, 8])([dict(column) for column in features], None)
        for inner in (STLoss(model, tercet.InfoNCE(0.05)), st.losses.MultipleNegativesRankingLoss(model))
    ]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)


# --- the page of examples -----------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "integrations.md"


def sections():
    """The Python blocks under each heading, in order, as one program each."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    programs = {
        title: "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: program for title, program in programs.items() if program}


@pytest.mark.parametrize("title", sections())
def test_the_page_prints_what_it_says(title, request, tmp_path, monkeypatch, capfd):
    """Each `print(...)  # text` of a section prints the text; the trainer prints its figures, too."""
    request.getfixturevalue("pml" if "Metric" in title else "table")
    monkeypatch.chdir(tmp_path)
    program, printed = sections()[title], io.StringIO()
    expected = re.findall(r"^ *print\(.*\)  # (.+)$", program, flags=re.MULTILINE)
    assert expected
    with redirect_stdout(printed):
        exec(compile(program, str(PAGE), "exec"), {"__name__": "page"})
    assert [line for line in printed.getvalue().splitlines() if "train_runtime" not in line] == expected
