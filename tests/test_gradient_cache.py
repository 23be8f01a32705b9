"""The gradient cache: chunks change the memory and nothing else.

What must hold: a step's gradient is that of one graph over the same chunks; draws belong to rows, so chunk sizes agree;
the loss is called once; what an encoder keeps in its buffers changes once; and no comparison here is of nothing.
"""

import dataclasses
import shutil
import warnings
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.checkpoint import checkpoint

import tercet
from conftest import QUICK, Scaled, digest, text_of
from tercet.data.readers import read
from tercet.encoders.images import ImageNetwork
from tercet.encoders.options import ImageOptions, TabularOptions, TextOptions
from tercet.encoders.tables import TableNetwork
from tercet.encoders.texts import BagOfWords
from tercet.errors import ConfigError, InputError, TercetWarning
from tercet.training.config import BatchOptions, read_config, sized
from tercet.training.model import Model, read_all
from tercet.training.reporter import Reporter
from tercet.training.step import chunk as chunks
from tercet.training.step import gradient_cache
from tercet.training.step.dropout import KeyedDraws, _Draw
from tercet.training.step.gradient_cache import cached_step, cut, take

B = 71  # rows: 7 and 64 leave a ragged last chunk
CHUNKS = (1, 7, 64, B)
LABELS = torch.arange(B) // 3
EXACT = 1e-6


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Chunks of a row are small work: threads that wait for each other would be most of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What is drawn.


class Attention(nn.Module):
    """scaled_dot_product_attention with dropout, over items of 5 tokens."""

    def forward(self, rows):
        heads = rows.view(len(rows), 5, 2, 6).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.3).flatten(1)


class Recurrent(nn.Module):
    """Draws between its layers, on tensors whose second dimension is the batch."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(12, 6, 2, batch_first=True, dropout=0.3)

    def forward(self, rows):
        return self.cell(rows.view(len(rows), 5, 12))[0].flatten(1)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, rows):
        return self.function(rows)


def transformer(**options):
    layer = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.3, batch_first=True, **options)
    layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return nn.Sequential(nn.Unflatten(1, (5, 12)), layers, nn.Flatten())


DRAWING = {
    "dropout": lambda: nn.Dropout(0.3),
    "dropout in place": lambda: Function(lambda rows: F.dropout(rows * 1, 0.3, inplace=True)),
    "alpha dropout": lambda: nn.AlphaDropout(0.3),
    "dropout1d": lambda: nn.Sequential(nn.Unflatten(1, (12, 5)), nn.Dropout1d(0.3), nn.Flatten()),
    "dropout2d": lambda: nn.Sequential(nn.Unflatten(1, (15, 2, 2)), nn.Dropout2d(0.3), nn.Flatten()),
    "dropout3d": lambda: nn.Sequential(nn.Unflatten(1, (5, 3, 2, 2)), nn.Dropout3d(0.3), nn.Flatten()),
    "feature alpha": lambda: nn.Sequential(nn.Unflatten(1, (12, 5)), nn.FeatureAlphaDropout(0.3), nn.Flatten()),
    "attention": Attention,
    "transformer": transformer,
    "transformer, norm first": lambda: transformer(norm_first=True),
    "recurrent": Recurrent,
    "bernoulli": lambda: Function(lambda rows: rows * torch.bernoulli(torch.full_like(rows, 0.3))),
    "bernoulli of one share": lambda: Function(lambda rows: rows * torch.bernoulli(rows, 0.3)),
    "stochastic depth": lambda: Function(lambda rows: rows * rows.new_empty(len(rows), 1).bernoulli_(0.7)),
    "rand": lambda: Function(lambda rows: rows * torch.rand(len(rows), 1)),
    "rand_like": lambda: Function(lambda rows: rows * torch.rand_like(rows)),
    "randn": lambda: Function(lambda rows: rows + torch.randn(len(rows), 60)),
    "randn_like": lambda: Function(lambda rows: rows + torch.randn_like(rows)),
    "two calls": lambda: nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.3)),
    "native": lambda: Function(lambda rows: torch.native_dropout(rows, 0.3, True)[0]),
}


def rows_of(count=B, width=60, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 3


def encoded(module, inputs, chunk, seed=1, step=5):
    found = []
    for part in cut(B, chunk):
        with KeyedDraws(seed, step, part):
            found.append(module(take(inputs, part, B)))
    return torch.cat(found)


@pytest.mark.parametrize("name", DRAWING)
def test_each_row_draws_the_same_in_every_chunk(name):
    module, rows = DRAWING[name](), rows_of()
    with torch.random.fork_rng():
        whole = encoded(module, rows, B)
        for chunk in CHUNKS:
            assert torch.allclose(encoded(module, rows, chunk), whole, rtol=1e-5, atol=1e-5), chunk
        for other in ({"seed": 2}, {"step": 6}):
            assert not torch.allclose(encoded(module, rows, B, **other), whole, atol=0.1), other


def test_rows_and_calls_draw_differently_and_as_often_as_they_should():
    with torch.random.fork_rng(), KeyedDraws(0, 0, slice(100, 400)):
        first, second = (F.dropout(torch.ones(300, 1000), 0.3) for _ in range(2))
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    kept = (first > 0).double()
    assert abs(kept.mean() - 0.7) < 5 * (0.21 / 300_000) ** 0.5
    assert kept.mean(1).sub(0.7).abs().max() < 5 * (0.21 / 1000) ** 0.5
    assert kept.mean(0).sub(0.7).abs().max() < 5 * (0.21 / 300) ** 0.5
    centred = (kept - kept.mean()) / kept.std()
    between = centred @ centred.T / 1000
    assert between.fill_diagonal_(0).abs().max() < 6 / 1000**0.5  # rows are not copies of each other
    again = ((second > 0).double() - 0.7) / 0.21**0.5
    assert abs((centred * again).mean()) < 5 / 300_000**0.5


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_of_none_and_all(share):
    with torch.random.fork_rng(), KeyedDraws(0, 0, slice(0, 5)):
        assert torch.equal(F.dropout(torch.ones(5, 7), share), torch.full((5, 7), 1 - share))
        assert torch.equal(torch.native_dropout(torch.ones(5, 7), share, True)[0], torch.full((5, 7), 1 - share))
        assert torch.equal(torch.bernoulli(torch.ones(5, 7), share), torch.full((5, 7), share))
        assert F.dropout(torch.ones(0, 7), 0.5).shape == (0, 7)


def test_uniform_and_normal_numbers():
    with torch.random.fork_rng(), KeyedDraws(3, 1, slice(0, 400)):
        uniform, normal = torch.rand(400, 500), torch.randn(400, 500, dtype=torch.float64)
    assert uniform.dtype == torch.float32
    assert 0 <= uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() <= 1
    assert abs(uniform.mean() - 0.5) < 5 * (1 / 12 / 200_000) ** 0.5
    assert (abs(normal.mean()), abs(normal.std() - 1)) < (5 / 200_000**0.5, 5 / 400_000**0.5)


def test_padding_does_not_change_what_is_drawn():
    with torch.random.fork_rng():
        with KeyedDraws(1, 1, slice(0, 4)):
            short = F.dropout(torch.ones(4, 3, 6, 6), 0.5)
        with KeyedDraws(1, 1, slice(0, 4)):
            padded = F.dropout(torch.ones(4, 3, 9, 8), 0.5)
    assert torch.equal(padded[:, :, :6, :6], short)


def test_a_generator_of_the_encoder_s_own_is_not_used():
    own, drawn = torch.Generator().manual_seed(1), []
    with torch.random.fork_rng():
        for _ in range(2):
            with KeyedDraws(0, 0, slice(0, 7)):
                drawn.append((torch.rand(7, 9, generator=own), torch.ones(7, 9).bernoulli_(0.5, generator=own)))
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other)
        assert len(one.unique()) > 1


def test_attention_without_dropout_draws_nothing():
    """Else what follows would depend on which of the ways to compute it is taken, and that on the gradient's mode."""
    drawn, heads = [], torch.ones(4, 2, 3, 8)
    with torch.random.fork_rng():
        for attends in (True, False):
            with KeyedDraws(1, 1, slice(0, 4)):
                if attends:
                    F.scaled_dot_product_attention(heads, heads, heads)
                drawn.append(F.dropout(torch.ones(4, 50), 0.5))
    assert torch.equal(*drawn)


def test_both_halves_of_a_row_s_key_count():
    keys = np.array([7 + (1 << 32), 7 + (2 << 32), 8 + (1 << 32)], dtype=np.uint64)
    bits = _Draw(keys, (3, 500), 0).bits(torch.device("cpu"))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len(set(bits[one].tolist()) & set(bits[other].tolist())) < 3


def test_what_cannot_be_given_to_rows_is_drawn_by_chunk():
    """A bag of tokens: the same chunk draws the same again, others differently, and later calls as if it were not."""
    seen = []
    with torch.random.fork_rng():
        for rows, tokens in ((slice(0, 7), 23), (slice(0, 7), 23), (slice(7, 14), 23), (slice(7, 14), 29)):
            with KeyedDraws(0, 0, rows):
                seen.append((F.dropout(torch.ones(tokens, 50), 0.5), F.dropout(torch.ones(7, 50), 0.5)))
    assert torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0][0], seen[2][0])
    assert torch.equal(seen[2][1], seen[3][1])


# The gradient.


class Words(nn.Module):
    """Texts to a bag of words, with dropout on the tokens themselves and on the bags."""

    def __init__(self):
        super().__init__()
        texts = [text_of(number, 0) for number in range(20)]
        options = TextOptions(dim=8, pooling="mean", max_tokens=9)
        self.bag = BagOfWords(options, {"vocabulary": sorted({word for text in texts for word in text.split()})})
        self.drop = nn.Dropout(0.2)

    def forward(self, texts):
        tokens = self.bag.tokens(texts)
        words = self.drop(F.embedding(tokens["numbers"], self.bag.words.weight))
        numbers = torch.arange(len(words))
        return self.bag.head(self.drop(F.embedding_bag(numbers, words, tokens["starts"], mode="mean")))


class Named(nn.Module):
    """A custom module of a nested batch."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(10, 8)

    def forward(self, batch):
        left, (right, scale) = batch["left"], batch["others"]
        return F.dropout(self.map(torch.cat([left, right], dim=1)), 0.2, self.training) * scale


class Checkpointed(nn.Module):
    """Computes its first half anew in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second = nn.Sequential(nn.Linear(60, 20), nn.Tanh(), nn.Dropout(0.4)), nn.Linear(20, 8)
        self.reentrant = reentrant

    def forward(self, rows):
        if self.reentrant is None:
            half = self.first(rows)
        else:
            half = checkpoint(self.first, rows, use_reentrant=self.reentrant)
        return F.dropout(self.second(half), 0.2)


TEXTS = [text_of(number % 9, number) for number in range(B)]
IMAGES = torch.randint(0, 256, (B, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
ENCODERS = {
    "images": (lambda: ImageNetwork(ImageOptions(size=(16, 16), channels=1, width=8, dim=8, grid=2)), IMAGES),
    "bags of words": (
        lambda: BagOfWords(TextOptions(dim=8, pooling="mean", max_tokens=9), {"vocabulary": ["apple", "river"]}), TEXTS,
    ),
    "table": (
        lambda: TableNetwork(TabularOptions(dim=8, hidden=(9,)), {"columns": list("abcde")}), rows_of(B, 5),
    ),
    "transformer": (lambda: nn.Sequential(transformer(), nn.Linear(60, 8)), rows_of()),
    "attention": (lambda: nn.Sequential(nn.Linear(60, 60), Attention(), nn.Linear(60, 8)), rows_of()),
    "recurrent": (Recurrent, rows_of()),
    "custom": (Named, {"left": rows_of(B, 4), "others": (rows_of(B, 6), torch.tensor(0.5))}),
    "frozen, with a head": (
        lambda: nn.Sequential(nn.Linear(60, 9).requires_grad_(False), nn.Dropout(0.3), nn.Linear(9, 8)), rows_of(),
    ),
}  # fmt: skip


def made(name):
    make, inputs = ENCODERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return make().train(), inputs


def gradient(*modules):
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    flat = torch.cat([torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in weights])
    for weight in weights:
        weight.grad = None
    assert flat.norm() > 0
    return flat


def error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def over_chunks(encoder, inputs, loss, chunk):
    """One graph over the same chunks, and one backward pass: the definition."""
    value = loss(encoded(encoder, inputs, chunk))[0]
    value.backward()
    return value


def smooth(embeddings):
    """A loss whose gradient does not jump where a distance is rounded otherwise."""
    near = torch.tanh(embeddings @ embeddings.T)
    return (near * (1 - 2.0 * (LABELS[:, None] == LABELS))).mean() + 0.01 * embeddings.square().sum(), None


@pytest.mark.parametrize("name", ENCODERS)
def test_the_gradient_is_that_of_one_graph_and_all_chunk_sizes_agree(name):
    encoder, inputs = made(name)
    found = {}
    with torch.random.fork_rng():
        for chunk in CHUNKS:
            value, _ = cached_step(encoder, inputs, B, smooth, encoder, chunk=chunk, seed=1, step=5)
            found[chunk] = gradient(encoder)
            assert torch.allclose(value, over_chunks(encoder, inputs, smooth, chunk), rtol=EXACT)
            assert error(found[chunk], gradient(encoder)) < EXACT, chunk
    for chunk in CHUNKS:
        assert error(found[chunk], found[B]) < 3 * EXACT, chunk  # products of other shapes round otherwise


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_is_computed_anew_in_the_backward_pass_draws_the_same(reentrant):
    encoder, inputs = Checkpointed(None), rows_of().requires_grad_()
    with torch.random.fork_rng():
        for chunk in (7, 64, B):
            encoder.reentrant = None
            cached_step(encoder, inputs, B, smooth, encoder, chunk=chunk, seed=1, step=5)
            expected, encoder.reentrant = gradient(encoder), reentrant
            cached_step(encoder, inputs, B, smooth, encoder, chunk=chunk, seed=1, step=5)
            assert error(gradient(encoder), expected) < EXACT


def test_tokens_outside_rows_draw_the_same_in_both_passes():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = Words().train()
        for chunk in CHUNKS:
            cached_step(encoder, TEXTS, B, smooth, encoder, chunk=chunk, seed=1, step=5)
            found = gradient(encoder)
            over_chunks(encoder, TEXTS, smooth, chunk)
            assert error(found, gradient(encoder)) < EXACT, chunk


ANCHORS, POSITIVES, NEGATIVES = (
    torch.randint(0, B, (50,), generator=torch.Generator().manual_seed(k)) for k in (1, 2, 3)
)
LOSSES = {
    "all": tercet.TripletLoss(),
    "hard": tercet.TripletLoss(mining="hard", margin=0.3),
    "semihard": tercet.TripletLoss(mining="semihard"),
    "learned logsumexp": tercet.TripletLoss(penalty="logsumexp", learn_temperature=True),
    "infonce": tercet.InfoNCE(temperature=0.2, learn_temperature=True),
    "supcon": tercet.SupConLoss(),
    "contrastive": tercet.ContrastiveLoss(),
    "own": Scaled(),
}


def calls(name):
    """The loss of that name as the step calls it, its module, and how often it was called."""
    counted = SimpleNamespace(n=0)
    module = LOSSES.get(name, tercet.ContrastiveLoss() if name == "marked pairs" else tercet.TripletLoss())

    def call(embeddings):
        counted.n += 1
        if name == "given triplets":
            return module.triplets(embeddings[ANCHORS], embeddings[POSITIVES], embeddings[NEGATIVES]), counted
        if name == "marked pairs":
            return module.pairs(embeddings[ANCHORS], embeddings[POSITIVES], ANCHORS % 2 == 0), counted
        return module(embeddings, LABELS), counted

    return call, module, counted


@pytest.mark.parametrize("name", [*LOSSES, "given triplets", "marked pairs"])
def test_every_loss(name):
    encoder = nn.Sequential(nn.Linear(60, 20), nn.Tanh(), nn.Dropout(0.3), nn.Linear(20, 8)).double()
    inputs = rows_of().double()
    call, module, counted = calls(name)
    with torch.random.fork_rng():
        for chunk in (7, 64, B):
            counted.n = 0
            value, said = cached_step(encoder, inputs, B, call, encoder, chunk=chunk, seed=1, step=5)
            assert (counted.n, said) == (1, counted)
            found = gradient(encoder), [weight.grad for weight in module.parameters()]
            module.zero_grad()
            expected = over_chunks(encoder, inputs, call, chunk)
            assert torch.allclose(value, expected, rtol=1e-12)
            assert error(found[0], gradient(encoder)) < 1e-10
            for own, weight in zip(found[1], module.parameters(), strict=True):
                assert own.abs() > 0
                assert torch.allclose(own, weight.grad, rtol=1e-6)
            module.zero_grad()


def test_bfloat16():
    encoder, inputs = made("transformer")

    def encode(part):
        with torch.autocast("cpu", torch.bfloat16):
            return encoder(part).float()

    with torch.random.fork_rng():
        found = {}
        for chunk in (7, 64, B):
            cached_step(encode, inputs, B, smooth, encoder, chunk=chunk, seed=1, step=5)
            found[chunk] = gradient(encoder)
            smooth(encoded(encode, inputs, chunk))[0].backward()
            assert error(found[chunk], gradient(encoder)) < 0.02, chunk  # weights are rounded, and summed in bfloat16
        cached_step(encoder, inputs, B, smooth, encoder, seed=1, step=5)
        exact = gradient(encoder)
    assert 1e-4 < error(found[7], exact) < 0.1


def test_a_loss_that_does_not_look_at_the_embeddings():
    encoder, scale = nn.Linear(60, 8), nn.Parameter(torch.tensor(2.0))
    with torch.random.fork_rng():
        value, _ = cached_step(encoder, rows_of(), B, lambda rows: (scale * 3, None), encoder, chunk=7)
    assert (float(value.detach()), float(scale.grad), encoder.weight.grad) == (6.0, 3.0, None)


def test_an_encoder_without_anything_to_train():
    encoder, loss = nn.Linear(60, 8).requires_grad_(False), Scaled()
    found = []
    with torch.random.fork_rng():
        for chunk in (7, B):
            loss.zero_grad()
            cached_step(encoder, rows_of(), B, lambda rows: (loss(rows, LABELS), None), encoder, chunk=chunk)
            found.append(float(loss.scale.grad))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] != 0


# What an encoder keeps.


class Normed(nn.Module):
    def __init__(self, count=3):
        super().__init__()
        self.map, self.norm, self.out = nn.Linear(60, 20), nn.BatchNorm1d(20), nn.Linear(20, 8)

    def forward(self, rows):
        return self.out(torch.tanh(self.norm(self.map(rows))))


@pytest.mark.parametrize("make", [Normed, lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(60, 8))])
def test_buffers_change_once_and_are_the_same_in_both_passes(make):
    torch.manual_seed(3)
    encoder = make().train()
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.random.fork_rng():
        cached_step(encoder, rows_of(), B, smooth, encoder, chunk=24)
        found, buffers = gradient(encoder), {name: value.clone() for name, value in encoder.named_buffers()}
        encoder.load_state_dict(start)
        over_chunks(encoder, rows_of(), smooth, 24)
    assert error(found, gradient(encoder)) < EXACT
    assert buffers
    for name, value in encoder.named_buffers():
        assert torch.equal(buffers[name], value)
        assert not torch.equal(buffers[name], start[name])


class Held:
    """Counts the numbers that graphs keep, as long as they keep them."""

    now = most = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Held.now += tensor.numel()
        Held.most = max(Held.most, Held.now)

    def __del__(self):
        Held.now -= self.tensor.numel()


def most_held(encoder, inputs, chunk):
    Held.now = Held.most = 0
    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        cached_step(encoder, inputs, B, lambda rows: (rows.square().sum(), None), encoder, chunk=chunk)
    assert Held.now == 0
    return Held.most


def test_the_memory_is_that_of_one_chunk():
    encoder, inputs = made("transformer")
    weights = 2 * sum(weight.numel() for weight in encoder.parameters())  # some are kept twice
    assert most_held(encoder, inputs, 7) < most_held(encoder, inputs, B) * 7 / B + weights + B * 8
    assert most_held(encoder, inputs, B) > 20 * weights


# Parts of a batch.


def test_cutting():
    for count, size in ((1, 1), (10, 3), (71, 64), (8, 4), (5, 9)):
        parts = cut(count, size)
        assert [row for part in parts for row in range(count)[part]] == list(range(count))
        sizes = [part.stop - part.start for part in parts]
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert len(parts) == -(-count // size)


Pair = namedtuple("Pair", "left right")


def test_rows_of_whatever_a_loader_gives():
    rows, part = torch.arange(12).reshape(4, 3), slice(1, 3)
    batch = {"a": rows, "b": Pair(rows, [("x", "y", "z", "w"), rows]), "n": 3, "s": torch.tensor(2.0), "t": None}
    taken = take(batch, part, 4)
    assert torch.equal(taken["a"], rows[1:3])
    assert isinstance(taken["b"], Pair)
    assert taken["b"].right[0] == ("y", "z")
    assert torch.equal(taken["b"].right[1], rows[1:3])
    assert (taken["n"], float(taken["s"]), taken["t"]) == (3, 2.0, None)
    assert take(["a", "b", "c", "d"], part, 4) == ["b", "c"]


def test_a_batch_that_cannot_be_cut():
    with pytest.raises(InputError) as raised:
        take({"rows": torch.zeros(4, 2), "tokens": torch.zeros(9)}, slice(0, 2), 4)
    assert str(raised.value) == (
        "a batch of 4 items holds a tensor of shape (9,), which cannot be cut into chunks of the items. Give the "
        "encoder the whole batch: chunk=4 or more."
    )
    with pytest.raises(InputError, match="holds 3 values"):
        take(["a", "b", "c"], slice(0, 2), 4)


# The chunk that fits.


def test_the_chunk_is_the_batch_or_a_power_of_two():
    assert chunks.fitting(budget=1000.5, each=1.0, count=1000) == 1000
    assert chunks.fitting(budget=999, each=1.0, count=1000) == 512
    assert chunks.fitting(budget=33, each=1.0, count=1000) == 32
    assert chunks.fitting(budget=0, each=1.0, count=1000) == 1
    assert chunks.fitting(budget=25, each=0.0, count=20) == 20


@pytest.mark.parametrize(("free", "device", "budget"), [
    (4000, "cpu", 1000), (10**12, "cpu", 256 * 2**20), (10**12, "cuda", 250 * 10**9), (0, "cpu", 0),
])  # fmt: skip
def test_the_budget_is_a_share_of_the_free_memory(monkeypatch, free, device, budget):
    monkeypatch.setattr(chunks, "free_bytes", lambda device: free)
    assert chunks.budget_bytes(torch.device(device)) == budget


def probed_model(encoder=None):
    records = read((rows_of(40, 6).numpy(), [place // 4 for place in range(40)]))
    model = Model.create(TabularOptions(dim=8, hidden=(50, 70)), records, 0, "cpu")
    if encoder is not None:
        model.encoder = encoder
    return model, read_all(TabularOptions(dim=8), records, Reporter(), "training")


def test_the_probe_counts_what_autograd_keeps():
    model, train = probed_model(nn.Sequential(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 8)))
    expected = 4 * (6 + 50 + 8)  # the rows, what tanh gives (which the next layer keeps too), and the embeddings
    assert chunks.bytes_per_item(model, train, "float32") == expected


def test_the_probe_leaves_everything_as_it_was():
    model, train = probed_model(Normed().eval())
    model.encoder.map = nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5))
    model.encoder.eval()
    before, state = {name: value.clone() for name, value in model.encoder.state_dict().items()}, torch.get_rng_state()
    assert chunks.bytes_per_item(model, train, "float32") > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.encoder.training
    assert all(weight.grad is None for weight in model.encoder.parameters())
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_limits_of_control_groups(tmp_path):
    (tmp_path / "two").write_text("0::/outer/inner\n")
    group(tmp_path / "v2" / "outer", memory__max="5000\n", memory__current="1000\n", memory__stat="inactive_file 300\n")
    group(tmp_path / "v2" / "outer" / "inner", memory__max="max\n", memory__current="900\n", memory__stat="anon 5\n")
    assert list(chunks._group_bytes(tmp_path / "two", tmp_path / "v2")) == [4300]
    (tmp_path / "one").write_text("5:cpu:/x\n4:memory:/not/mounted\n")
    group(
        tmp_path / "v1" / "memory", memory__limit_in_bytes="8000\n", memory__usage_in_bytes="6000\n",
        memory__stat="inactive_file 1\ntotal_inactive_file 500\n",
    )  # fmt: skip
    assert list(chunks._group_bytes(tmp_path / "one", tmp_path / "v1")) == [2500]
    assert list(chunks._group_bytes(tmp_path / "none", tmp_path)) == []
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     7 kB\n")
    assert list(chunks._system_bytes(tmp_path / "meminfo")) == [7168]
    assert list(chunks._system_bytes(tmp_path / "none")) == []


def test_the_least_of_all_limits_is_free(monkeypatch):
    for name, values in (("_system_bytes", [50]), ("_group_bytes", [70, 40]), ("_address_bytes", [])):
        monkeypatch.setattr(chunks, name, lambda values=values: iter(values))
    assert chunks.free_bytes(torch.device("cpu")) == 40
    for name in ("_system_bytes", "_group_bytes"):
        monkeypatch.setattr(chunks, name, lambda: iter(()))
    assert chunks.free_bytes(torch.device("cpu")) == chunks.UNKNOWN_BYTES
    monkeypatch.setattr(chunks, "_system_bytes", lambda: iter([-3]))
    assert chunks.free_bytes(torch.device("cpu")) == 0


# Options.


def test_the_batch_follows_from_its_size():
    options = BatchOptions(batch_size=50, samples_per_class=3)
    assert sized(options, "labels") == dataclasses.replace(options, classes_per_batch=16)
    assert sized(options, "triplets") == dataclasses.replace(options, rows_per_batch=50)
    assert sized(sized(options, "labels"), "labels") == sized(options, "labels")
    assert sized(BatchOptions(), "labels") == BatchOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 7, "samples_per_class": 4}, "batch_size is 7, which is fewer than 2 classes of 4 samples "
         "(samples_per_class); it must be 8 or more."),
        ({"batch_size": 48, "samples_per_class": 4, "classes_per_batch": 10}, "batch_size is 48 and classes_per_batch "
         "is 10, where 12 follows from it; give one of them."),
        ({"batch_size": 48, "rows_per_batch": 10}, "batch_size is 48 and rows_per_batch is 10, where 48 follows from "
         "it; give one of them."),
        ({"chunk": 0}, "chunk is 0, it must be 1 or more."),
        ({"batch_size": -8}, "batch_size is -8, it must be 2 or more, and of labelled data 8 or more: 2 classes of "
         "samples_per_class each."),
        ({"precision": "float16"}, "precision is 'float16'; it must be 'float32' or 'bfloat16'. Did you mean "
         "'bfloat16'?"),
    ],
)  # fmt: skip
def test_bad_values(options, message, numbers, tmp_path):
    with pytest.raises(ConfigError) as raised:
        tercet.train(str(numbers), out=tmp_path / "run", progress=False, steps=1, **options)
    assert message.removesuffix(".") in str(raised.value)
    assert not (tmp_path / "run").exists()


# Runs.


def weights(path):
    return load_file(path / "model.safetensors")


def test_a_run_in_chunks_learns_what_a_run_in_one_piece_learns(images, tmp_path):
    options = {**QUICK, "loss": "infonce", "learn_temperature": True, "encoder": ImageOptions(dim=16)}
    for name, chunk in (("whole", None), ("five", 5), ("large", 500)):
        tercet.train(str(images), out=tmp_path / name, chunk=chunk, progress=False, **options)
    for key, value in weights(tmp_path / "whole").items():
        assert torch.allclose(weights(tmp_path / "five")[key], value, atol=2e-4), key
    assert read_config(tmp_path / "five" / "config.toml").batch.chunk == 5
    assert digest(tmp_path / "large")["model.safetensors"] == digest(tmp_path / "whole")["model.safetensors"]
    assert "chunk" not in (tmp_path / "whole" / "config.toml").read_text()


def test_a_run_in_chunks_goes_on_to_the_same_bytes(images, tmp_path):
    tercet.train(str(images), out=tmp_path / "whole", chunk=5, progress=False, **QUICK)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "step-00000006")
    for name in ("metrics.json", "summary.json", "report.html"):
        (tmp_path / "part" / name).unlink()
    tercet.train(str(images), out=tmp_path / "part", resume=True, progress=False)
    assert digest(tmp_path / "part") == digest(tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"batch\.chunk was 5 and is now 6"):
        tercet.train(str(images), out=tmp_path / "part", resume=True, progress=False, chunk=6)


def test_one_number_is_enough_and_the_chunk_is_written(numbers, tmp_path, monkeypatch):
    """Memory is found once: a resumed run keeps the chunk that it began with."""
    free = [60_000]
    monkeypatch.setattr(chunks, "free_bytes", lambda device: free[0])
    options = {"batch_size": 17, "samples_per_class": 3, "steps": 4, "evaluate_every": 2, "progress": False}
    run = tercet.train(str(numbers), out=tmp_path / "run", **options)
    batch = run.config.batch
    assert (batch.batch_size, batch.classes_per_batch) == (17, 5)
    assert batch.chunk in (2, 4, 8)
    before = digest(run.path)
    free[0] = 10**12
    tercet.train(str(numbers), out=run.path, resume=True, progress=False)
    assert digest(run.path) == before
    run = tercet.train(str(numbers), out=tmp_path / "ample", **options)
    assert run.config.batch.chunk == 15  # all of the batch: 5 classes × 3


def test_what_is_said(images, tmp_path, command):
    done = command("train", images, "--out", tmp_path / "run", "--batch-size", 12, "--samples-per-class", 3,
                   "--chunk", 5, "--steps", 2, "--precision", "bfloat16")  # fmt: skip
    assert done.code == 0, done.err
    assert "the encoder takes 5 of 12 items at a time\n" in done.err
    written = read_config(tmp_path / "run" / "config.toml")
    assert (written.batch.chunk, written.batch.classes_per_batch, written.training.precision) == (5, 4, "bfloat16")


def test_rows_of_a_table_of_triplets(tmp_path):
    lines = ["anchor,positive,negative"]
    lines += [f"{text_of(i % 5, i)},{text_of(i % 5, i + 50)},{text_of((i + 1) % 5, i)}" for i in range(40)]
    (tmp_path / "triplets.csv").write_text("\n".join(lines) + "\n")
    found = []
    for chunk in (4, 100):
        run = tercet.train(str(tmp_path / "triplets.csv"), out=tmp_path / str(chunk), progress=False, batch_size=9,
                           chunk=chunk, steps=6)  # fmt: skip
        found.append(weights(run.path))
    assert run.config.batch.rows_per_batch == 9
    for key, value in found[0].items():
        assert torch.allclose(found[1][key], value, atol=2e-4), key


def test_bfloat16_is_used_in_training_and_trains(numbers, tmp_path):
    runs = {
        precision: tercet.train(str(numbers), out=tmp_path / precision, precision=precision, chunk=5, progress=False,
                                loss="supcon", **QUICK)
        for precision in ("float32", "bfloat16")
    }  # fmt: skip
    exact, rounded = (weights(run.path) for run in runs.values())
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert 1e-6 < max(float((exact[key] - rounded[key]).abs().max()) for key in exact) < 0.05


def test_batch_normalisation_is_warned_of_once(tmp_path):
    rows, labels = rows_of(60, 60).numpy(), [place % 6 for place in range(60)]
    with pytest.warns(TercetWarning) as warned:
        tercet.train((rows, labels), out=tmp_path / "run", encoder=Normed(), chunk=6, progress=False, **QUICK)
    assert [str(one.message) for one in warned if "batch normalisation" in str(one.message)] == [
        "the encoder has batch normalisation (1 layer, such as network.norm), which normalises each chunk of 6 items "
        "by itself and not the batch of 12: the chunk is part of the result. Use group or layer normalisation, keep "
        "these layers in evaluation mode (override their train method), or let the encoder take the whole batch with "
        "--chunk 12"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", TercetWarning)
        tercet.train((rows, labels), out=tmp_path / "whole", encoder=Normed(), chunk=12, progress=False, **QUICK)


def test_images_are_augmented_chunk_by_chunk(images, tmp_path, monkeypatch):
    """No more than a chunk of pixels is ever there as floats."""
    from tercet.training.step import learner

    sizes, augment = [], learner.augment

    def counted(pixels, *others):
        sizes.append((len(pixels), pixels.dtype))
        return augment(pixels, *others)

    monkeypatch.setattr(learner, "augment", counted)
    tercet.train(str(images), out=tmp_path / "run", chunk=5, progress=False, **{**QUICK, "steps": 1})
    assert sizes == [(4, torch.uint8)] * 6  # 12 items in three parts, twice


def test_a_drawing_loss_of_ones_own_repeats_whatever_the_chunk(numbers, tmp_path):
    def noisy(embeddings, labels):
        return smooth_of(embeddings, labels) + (torch.randn_like(embeddings) * embeddings).mean()

    def smooth_of(embeddings, labels):
        return (torch.tanh(embeddings @ embeddings.T) * (1 - 2.0 * (labels[:, None] == labels))).mean()

    found = [
        weights(tercet.train(str(numbers), out=tmp_path / str(chunk), loss=noisy, chunk=chunk, progress=False,
                             **QUICK).path)
        for chunk in (None, 5)
    ]  # fmt: skip
    for key, value in found[0].items():
        assert torch.allclose(found[1][key], value, atol=2e-4), key


def test_the_statistics_named_are_those_that_are_on():
    encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4).eval())
    encoder.train()
    encoder[3].eval()
    assert gradient_cache.batch_statistics(encoder) == ["1"]
    assert gradient_cache.warning_of_statistics(nn.Linear(2, 2), 3, 9) is None
