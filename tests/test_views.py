"""Views: training without labels, from the draws of a batch to the run folder."""

import dataclasses
import json
import math
import shutil
import signal

import numpy as np
import pytest
import torch
from torch import nn

import tercet
from conftest import digest, killed_at, text_of, write_images
from tercet.data import read
from tercet.data.corruption import corrupt
from tercet.data.items import ItemBatches
from tercet.data.options import Augmentation
from tercet.data.split import hold_out
from tercet.encoders.options import TabularOptions, TextOptions
from tercet.errors import ConfigError, DataError, InputError
from tercet.training.batches.feed import Feed
from tercet.training.batches.supervision import make_supervision
from tercet.training.batches.views import HeldViews, _encoded_as_in_training
from tercet.training.config import BatchOptions, Config, DataOptions, LossOptions, TrainingOptions, read_config
from tercet.training.folder.history import read_history
from tercet.training.model import Model, read_all
from tercet.training.reporter import Reporter
from tercet.training.step.bank import Memory

QUICK_FLAGS = ["--steps", "6", "--rows-per-batch", "12", "--evaluate-every", "3", "--views", "2"]
QUICK = {"steps": 6, "rows_per_batch": 12, "evaluate_every": 3, "views": 2, "loss": "infonce"}


@pytest.fixture(scope="module")
def loose_images(tmp_path_factory):
    """Forty-eight images in one folder, of which nothing says which belong together."""
    folder = write_images(tmp_path_factory.mktemp("loose") / "classes", range(8))
    loose = folder.with_name("photos")
    loose.mkdir()
    for path in folder.rglob("*.png"):
        shutil.copy(path, loose / f"{path.parent.name}-{path.name}")
    return loose


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A text a line."""
    path = tmp_path_factory.mktemp("lines") / "texts.txt"
    path.write_text("\n".join(text_of(number, sample) for number in range(7) for sample in range(5)))
    return path


def numbers_of(count=30, features=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features)).astype(np.float32)


def items_of(count=30, features=5):
    return read(numbers_of(count, features), labelled=False)


# Corruption


def test_corruption_takes_the_values_that_other_rows_have_there():
    rows, donors = numbers_of(40, 7), numbers_of(23, 7, seed=1)
    found = corrupt(torch.from_numpy(rows), donors, 0.4, seed=3, step=5, spared=10).numpy()
    assert np.array_equal(found[:10], rows[:10])
    for before, after in zip(rows[10:], found[10:], strict=True):
        changed = np.flatnonzero(before != after)
        assert len(changed) == round(0.4 * 7)
        for feature in changed:
            assert after[feature] in donors[:, feature]
    places = found[10:] != rows[10:]
    assert places.any(axis=0).all()
    donor_of = [np.flatnonzero(donors[:, f] == found[r, f])[0] for r, f in zip(*np.nonzero(found != rows), strict=True)]
    assert len(set(donor_of)) > 15


def test_a_corrupted_row_depends_on_seed_step_and_its_place_alone():
    rows = torch.from_numpy(numbers_of(9))
    whole = corrupt(rows, rows.numpy(), 0.6, 3, 5, 0)
    assert torch.equal(whole[:4], corrupt(rows[:4], rows.numpy(), 0.6, 3, 5, 0))
    for other in ((4, 5), (3, 6)):
        assert not torch.equal(whole, corrupt(rows, rows.numpy(), 0.6, *other, 0))


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_at_least_one_feature_changes_and_at_least_one_stays(share, expected):
    rows = torch.zeros(6, 4)
    found = corrupt(rows, np.ones((3, 4), dtype=np.float32), share, 0, 0, 0)
    assert found.sum(dim=1).tolist() == [expected] * 6
    assert rows.sum() == 0


# Batches


def test_an_epoch_holds_each_item_once():
    sampler = ItemBatches(23, 5, seed=1)
    dealt = [sampler.next() for _ in range(len(sampler))]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(23))
    assert {len(batch) for batch in dealt} == {4, 5}
    assert sampler.summary() == "5 batches an epoch, each of up to 5 of 23 items."
    with pytest.raises(DataError, match=r"^Items to train with: 1; at least two are needed to tell apart\.$"):
        ItemBatches(1, 5)


def embeddings_of(count, seed=0):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).double()


def cosine(a, b):
    return float((a @ b / (a.norm() * b.norm())).detach())


def nt_xent(x, items, tau):
    """SimCLR's equation 1, by loops; with several views each positive against the negatives."""
    terms = []
    for a in range(len(x)):
        negatives = [math.exp(cosine(x[a], x[n]) / tau) for n in range(len(x)) if items[n] != items[a]]
        for p in range(len(x)):
            if p != a and items[p] == items[a]:
                near = math.exp(cosine(x[a], x[p]) / tau)
                terms.append(-math.log(near / (near + sum(negatives))))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("views", [2, 3])
def test_views_of_an_item_are_positives_and_all_else_negatives(views):
    records = items_of(11)
    supervision = make_supervision(records, BatchOptions(rows_per_batch=4, views=views), tercet.InfoNCE(0.3), seed=0)
    batch = supervision.next()
    once = len(batch.positions) // views
    assert np.array_equal(batch.positions, np.tile(batch.positions[:once], views))
    assert len(set(batch.positions.tolist())) == once
    x = embeddings_of(len(batch.positions))
    value, statistics = supervision(x, batch)
    assert float(value) == pytest.approx(nt_xent(x, batch.positions, 0.3), rel=1e-9)
    assert statistics()["n_valid"] == once * views * (views - 1) * (once - 1) * views


def test_a_loss_of_ones_own_is_given_the_items_as_labels():
    seen = []

    def loss(embeddings, labels):
        seen.append(labels.tolist())
        return embeddings.sum()

    supervision = make_supervision(items_of(9), BatchOptions(rows_per_batch=9, views=2), loss, seed=0)
    batch = supervision.next()
    supervision(embeddings_of(18), batch)
    assert seen == [batch.positions.tolist()]
    assert sorted(seen[0]) == [number // 2 for number in range(18)]


def test_views_of_labelled_items_keep_the_labels():
    """Also of an item that is drawn twice to fill up its class: each of its rows is a draw of its own."""
    data = (np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1]))
    options = BatchOptions(classes_per_batch=2, samples_per_class=3, views=2)
    supervision = make_supervision(read(data), options, tercet.SupConLoss(0.2), seed=0)
    batch = supervision.next()
    assert len(batch.positions) == 12
    assert np.array_equal(batch.targets, batch.positions // 2)
    assert len(set(batch.ids.tolist())) == 12
    x = embeddings_of(12)
    value, _ = supervision(x, batch)
    terms = []
    for a in range(12):
        others = [j for j in range(12) if j != a]
        total = sum(math.exp(cosine(x[a], x[j]) / 0.2) for j in others)
        own = [j for j in others if batch.targets[j] == batch.targets[a]]
        terms.append(-np.mean([math.log(math.exp(cosine(x[a], x[j]) / 0.2) / total) for j in own]))
    assert float(value) == pytest.approx(np.mean(terms), rel=1e-9)


def test_a_memory_gives_views_further_negatives():
    """Batch and memory in one denominator; of the batch's own items the memory's rows are left out."""
    records, memory = items_of(12), Memory(7)
    options = BatchOptions(rows_per_batch=4, views=2)
    supervision = make_supervision(records, options, tercet.InfoNCE(0.3), seed=0, memory=memory)
    first, second = supervision.next(), supervision.batch(np.array([0, 1, 2, 3]))
    old = embeddings_of(8, seed=1)
    value, statistics = supervision(old, first)
    assert float(value) == pytest.approx(nt_xent(old, first.positions, 0.3), rel=1e-9)
    assert statistics()["memory_rows"] == 0
    kept, kept_rows = first.positions[1:], old[1:].float().double()
    x = embeddings_of(8, seed=2).requires_grad_()
    value, statistics = supervision(x, second)
    others = ~np.isin(kept, second.positions)
    assert 0 < others.sum() < 7
    terms = []
    for a in range(8):
        far = [x[n] for n in range(8) if second.positions[n] != second.positions[a]] + list(kept_rows[others])
        near = math.exp(cosine(x[a], x[(a + 4) % 8]) / 0.3)
        terms.append(-math.log(near / (near + sum(math.exp(cosine(x[a], row) / 0.3) for row in far))))
    assert float(value.detach()) == pytest.approx(np.mean(terms), rel=1e-6)
    assert statistics()["memory_rows"] == others.sum()
    value.backward()
    assert x.grad.abs().sum(dim=1).min() > 0


def test_the_feed_changes_each_view_by_itself():
    records = items_of(12, 6)
    supervision = make_supervision(records, BatchOptions(rows_per_batch=4, views=3), tercet.InfoNCE(), seed=0)
    loader = read_all(TabularOptions(), records, Reporter(), "training")
    fed = Feed(supervision, loader, Augmentation(), seed=0, corruption=0.5).next(0, 0)
    first, second, third = fed.inputs.numpy().reshape(3, 4, 6)
    assert np.array_equal(first, records.items[fed.batch.positions[:4]])
    for other in (second, third):  # a value may come from the row itself
        changed = (first != other).sum(axis=1)
        assert changed.max() == 3
        assert changed.min() >= 1
    assert not np.array_equal(second, third)


# Held-out views


def config_of(records, encoder, **batch):
    return Config(
        "x", DataOptions(kind=records.kind, form="items"), encoder, LossOptions(), BatchOptions(views=2, **batch),
        Augmentation(), TrainingOptions(),
    )  # fmt: skip


class Drawing(nn.Module):
    """A network with dropout, batch normalisation and a count of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, rows):
        self.seen += len(rows)
        return self.layers(rows)


def held_of(count=150):
    """More than are encoded at a time."""
    records = items_of(count)
    model = Model.create(TabularOptions(dim=4), records, 0, "cpu", Drawing())
    return model, HeldViews.of(read_all(model.options, records, Reporter(), "held"), config_of(records, model.options))


def test_held_views_are_records_of_two_views_of_each_item():
    _, held = held_of(5)
    assert held.records.form == "labels"
    assert held.records.labels.tolist() == [0, 1, 2, 3, 4] * 2
    assert held.records.names[1] == "row 2 (view 1)"
    assert held.records.names[9] == "row 5 (view 2)"
    assert np.array_equal(held.records.items, np.tile(held.items.items, (2, 1)))
    assert held.count() == "2 views of each of 5 rows, which no label tells apart"


def test_held_views_are_drawn_as_in_training_and_each_time_the_same():
    model, held = held_of()
    model.encoder.eval()
    model.encoder.network.seen += 5
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    before = {name: buffer.clone() for name, buffer in model.encoder.named_buffers()}
    vectors = held.encode(model, Reporter())
    assert torch.equal(torch.rand(2), expected), "the caller's random state has changed"
    assert not model.encoder.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.encoder.named_buffers())
    assert vectors.shape == (300, 4)
    assert np.array_equal(vectors, held.encode(model, Reporter()))
    assert (vectors[:150] != vectors[150:]).any(axis=1).mean() > 0.95
    alone = _encoded_as_in_training(model, torch.from_numpy(held.items.items[:9]), slice(0, 9), seed=0)
    np.testing.assert_allclose(alone.numpy(), vectors[:9], rtol=1e-5, atol=1e-6)
    other = dataclasses.replace(held, config=dataclasses.replace(held.config, training=TrainingOptions(seed=1)))
    assert not np.array_equal(vectors, other.encode(model, Reporter()))


def test_held_rows_of_numbers_are_corrupted_in_their_second_view():
    _, held = held_of()
    config = config_of(held.items, TabularOptions(), corruption=0.4)
    model = Model.create(TabularOptions(dim=4, hidden=(), normalize=False), held.items, 0, "cpu")
    vectors = HeldViews(held.records, held.loader, held.items, config).encode(model, Reporter())
    plain = model.encode(held.loader, np.arange(150), Reporter())
    np.testing.assert_allclose(vectors[:150], plain, atol=1e-5)
    assert (np.abs(vectors[150:] - plain) > 1e-4).any(axis=1).mean() > 0.95


# What cannot work is refused


def test_hold_out_of_items():
    train, held, sentence = hold_out(items_of(30), 0.2, seed=1)
    assert (len(train), len(held)) == (24, 6)
    both = np.concatenate([train.items, held.items])
    assert len(np.unique(both, axis=0)) == 30
    assert sentence == "Held out for validation: 6 of 30 items, which training does not see."
    with pytest.raises(
        InputError, match="holdout_by is 'class', but an array has no labels; allowed are 'row' and 'auto'"
    ):
        hold_out(items_of(30), by="class")
    with pytest.raises(DataError, match="holds 3 items without labels; to hold two out"):
        hold_out(items_of(3))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (numbers_of(), {"corruption": 0},
         "views is 2, and nothing makes the views of an item differ: corruption is 0, or all rows are "
      "equal, and the encoder draws nothing. "
         "Give --corruption 0.6, for example."),
        (numbers_of(30, 1), {},
         "an array has a single column of features, and nothing would be left of a row with that corrupted; views need "
         "two columns or more."),
        ([text_of(3, sample) for sample in range(20)], {},
         "views is 2, and nothing makes the views of an item differ: the encoder of texts has no dropout. Give "
         "--text.dropout 0.1, or with --text.weights a transformer with dropout that is not frozen."),
        ([text_of(3, sample) for sample in range(20)], {"corruption": 0.3},
         "corruption is 0.3, which changes rows of numbers, and the data is text; leave it out."),
    ],
)  # fmt: skip
def test_views_that_would_not_differ_are_refused(tmp_path, source, options, message):
    with pytest.raises(InputError) as raised:
        tercet.train(source, out=tmp_path / "run", progress=False, **{**QUICK, **options})
    assert str(raised.value) == message
    assert not (tmp_path / "run").exists()


def test_images_without_any_augmentation_are_refused(loose_images, tmp_path):
    nothing = Augmentation(mirror=False, rotation_degrees=0, scale=0, shift=0, brightness=0, contrast=0)
    with pytest.raises(InputError, match=r"every augmentation is off and the encoder draws nothing\. Give --augm"):
        tercet.train(loose_images, out=tmp_path / "run", augmentation=nothing, progress=False, **QUICK)


class Tensors(torch.utils.data.Dataset):
    """Tensors, which a random change of the dataset's own may tell apart."""

    def __init__(self, noise):
        self.noise = noise

    def __len__(self):
        return 20

    def __getitem__(self, place):
        return torch.from_numpy(numbers_of(20)[place]) + self.noise * torch.rand(5)


def test_a_dataset_makes_its_own_views_or_is_refused(tmp_path):
    with pytest.raises(InputError, match="the dataset gives an item twice the same and the encoder draws nothing"):
        tercet.train(Tensors(0), out=tmp_path / "a", encoder=TabularOptions(), progress=False, **QUICK)
    run = tercet.train(Tensors(0.5), out=tmp_path / "b", encoder=TabularOptions(), progress=False, **QUICK)
    assert run.metrics["validation.n_views"] == 2


def test_data_that_says_what_is_alike_needs_no_views(tmp_path):
    (tmp_path / "pairs.csv").write_text("left,right\n" + "\n".join(f"a {i},b {i}" for i in range(20)))
    with pytest.raises(InputError) as raised:
        tercet.train(tmp_path / "pairs.csv", out=tmp_path / "run", progress=False, **QUICK)
    assert str(raised.value) == "views is 2, and the data holds pairs, which say what is alike; leave views out."


def test_corruption_without_views_is_refused(numbers, tmp_path):
    with pytest.raises(ConfigError, match="corruption does nothing without views; give views too, such as 2"):
        tercet.train(numbers, out=tmp_path / "run", corruption=0.4, progress=False)


def test_changes_of_colour_on_images_in_grey_are_refused(loose_images, tmp_path):
    with pytest.raises(InputError) as raised:
        tercet.train(
            loose_images, out=tmp_path / "run", augmentation=Augmentation(hue=0.1, grey=0.2), progress=False, **QUICK
        )
    assert str(raised.value) == (
        "hue and grey would do nothing: the encoder takes images in grey. Leave out what changes colours, or set the "
        "encoder's channels to 3."
    )


def test_without_views_the_way_to_train_without_labels_is_named(loose_images, tmp_path):
    with pytest.raises(DataError, match=r"tercet train takes it as it is with --views 2\.$"):
        tercet.train(loose_images, out=tmp_path / "run", progress=False)
    with pytest.raises(DataError, match=r"or views of each item, which take their place: add --views 2\.$"):
        tercet.train(loose_images, out=tmp_path / "run", form="items", progress=False)


def test_margins_per_class_need_labels():
    loss = tercet.TripletLoss(margin={"a": 0.1, "b": 0.2})
    with pytest.raises(InputError, match="margins per class need labels, and the data holds items"):
        make_supervision(items_of(), BatchOptions(views=2), loss, seed=0)


# Whole runs


@pytest.fixture(scope="module")
def view_run(loose_images, tmp_path_factory):
    """A small run on images without labels."""
    path = tmp_path_factory.mktemp("runs") / "views"
    tercet.train(loose_images, out=path, progress=False, **QUICK)
    return path


def test_a_run_without_labels_says_what_its_figures_are(view_run):
    metrics = json.loads((view_run / "metrics.json").read_text())
    assert (metrics["validation.n_views"], metrics["validation.n_items"], metrics["validation.n_classes"]) == (
        2,
        20,
        10,
    )
    assert 0 < metrics["validation.recall_at_1"] <= 1
    assert metrics["validation.threshold"] > 0
    config = read_config(view_run / "config.toml")
    assert (config.data.form, config.batch.views, config.batch.corruption) == ("items", 2, None)
    page = (view_run / "report.html").read_text()
    assert "2 views of each of 10 images, which no label tells apart" in page
    assert "These figures are of views" in page


def test_the_history_of_views_tells_positives_from_negatives(view_run):
    rows = [row for row in read_history(view_run / "history.jsonl") if "loss" in row]
    assert all(row["n_items"] in (18, 20) for row in rows)
    assert all({"positive_50", "negative_50"} <= set(row) for row in rows)
    assert [row["step"] for row in read_history(view_run / "history.jsonl") if "validation.map_at_r" in row] == [3, 6]


def test_a_run_without_labels_is_evaluated_on_labels(view_run, unseen_images, tmp_path):
    run = tercet.load(shutil.copytree(view_run, tmp_path / "run"))
    found = run.evaluate(unseen_images)
    assert found.metrics["n_classes"] == 5
    assert "test.n_views" not in run.metrics


@pytest.mark.slow
def test_views_learn_to_find_each_other(tmp_path):
    """Held-out rows of correlated features: what of a row was corrupted is made up for by the rest of it."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 3)) @ generator.normal(size=(3, 20)) + generator.normal(0, 0.1, (400, 20))
    run = tercet.train(
        rows, out=tmp_path / "run", steps=80, evaluate_every=40, views=2, loss="infonce", corruption=0.4,
        learning_rate=3e-3, progress=False,
    )  # fmt: skip
    history = read_history(run.path / "history.jsonl")
    first = tercet.train(rows, out=tmp_path / "start", steps=1, views=2, corruption=0.4, progress=False)
    assert run.metrics["validation.recall_at_1"] > first.metrics["validation.recall_at_1"] + 0.1
    losses = [row["loss"] for row in history if "loss" in row]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_labels_beside_views_keep_the_usual_validation(images, tmp_path):
    run = tercet.train(
        images, out=tmp_path / "run", views=2, steps=3, classes_per_batch=4, samples_per_class=3, progress=False
    )
    assert run.config.data.form == "labels"
    assert "validation.n_views" not in run.metrics
    assert {row["n_items"] for row in read_history(run.path / "history.jsonl") if "loss" in row} == {24}


def test_labels_can_be_left_aside(images, unseen_images, tmp_path):
    run = tercet.train(images, out=tmp_path / "run", form="items", validation=unseen_images, progress=False, **QUICK)
    assert run.config.data.form == "items"
    assert run.metrics["validation.n_classes"] == 5, "validation data with labels gives the usual figures"
    assert "validation.n_views" not in run.metrics


def test_a_single_class_is_no_label(images, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copytree(images / "class00", tmp_path / "photos" / "2024")
    run = tercet.train(tmp_path / "photos", out=tmp_path / "run", progress=False, **QUICK)
    assert run.config.data.form == "items"


def test_copies_are_warned_of(tmp_path):
    rows = numbers_of()
    rows[3:7] = rows[2]
    with pytest.warns(tercet.errors.TercetWarning, match="are copies of others, and count as unlike them; remove them"):
        tercet.train(rows, out=tmp_path / "run", validation=numbers_of(9, seed=1), progress=False, **QUICK)


@pytest.mark.parametrize("loss", ["triplet", "contrastive", "supcon"])
def test_every_loss_takes_views_of_numbers(tmp_path, loss):
    run = tercet.train(numbers_of(), out=tmp_path / "run", progress=False, **{**QUICK, "loss": loss})
    assert run.config.batch.corruption == 0.6
    assert run.config.loss.loss == loss


@pytest.mark.parametrize("selection", ["loss", "recall_at_1"])
def test_selection_by_views(tmp_path, selection):
    run = tercet.train(numbers_of(), out=tmp_path / "run", selection=selection, progress=False, **QUICK)
    rows = read_history(run.path / "history.jsonl")
    assert sum(f"validation.{selection}" in row for row in rows) == 2


def test_texts_differ_by_dropout_whatever_the_chunk(lines, tmp_path):
    runs = []
    for chunk in (None, 5):
        run = tercet.train(
            lines, out=tmp_path / f"{chunk}", encoder=TextOptions(dim=8, vocabulary=50, dropout=0.3), chunk=chunk,
            progress=False, **QUICK,
        )  # fmt: skip
        runs.append(run)
    for name, weight in runs[0].encoder.state_dict().items():
        torch.testing.assert_close(weight, runs[1].encoder.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert runs[0].metrics["validation.recall_at_1"] < 1, "the views do not differ"
    assert np.array_equal(runs[0].embed(["apple river"]), runs[0].embed(["apple river"]))


def test_a_memory_with_a_slow_copy_is_mocos_queue(tmp_path):
    run = tercet.train(
        numbers_of(), out=tmp_path / "run", memory=20, memory_warmup=2, momentum=0.9, progress=False, **QUICK
    )
    rows = [row["memory_rows"] for row in read_history(run.path / "history.jsonl") if "loss" in row]
    assert rows[:2] == [0, 0]
    assert min(rows[3:]) > 0


def test_batch_size_counts_items(tmp_path):
    run = tercet.train(
        numbers_of(), out=tmp_path / "run", progress=False,
        **{**QUICK, "rows_per_batch": 64, "batch_size": 8, "views": 3},
    )  # fmt: skip
    assert (run.config.batch.rows_per_batch, run.config.batch.chunk) == (8, 24)


def test_from_the_command_line(loose_images, tmp_path, command):
    done = command("train", loose_images, "--views", "2", "--loss", "infonce", "--out", tmp_path / "run", "--steps", 3)
    assert done.code == 0, done.err
    assert "on views of validation items, which no label tells apart" in done.out
    assert "no labels: what is alike is 2 views of an item" in done.err


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(loose_images, tmp_path, command):
    flags = [*QUICK_FLAGS, "--loss", "infonce", "--memory", "16"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    words = ["train", str(loose_images), *flags, "--out"]
    assert command(*words, whole).code == 0
    killed = killed_at(5, [*words, str(part)])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert command(*words, part, "--resume").code == 0
    assert digest(part) == digest(whole)


def test_items_have_no_labels_that_could_be_wrong(tmp_path):
    """With three views the signs of label errors could be measured, and would mean nothing."""
    run = tercet.train(numbers_of(), out=tmp_path / "run", progress=False, **{**QUICK, "views": 3})
    assert not any("adopted_share" in row for row in read_history(run.path / "history.jsonl"))
    data = (numbers_of(), np.arange(30) % 10)
    run = tercet.train(data, out=tmp_path / "other", steps=2, views=3, classes_per_batch=4, progress=False)
    assert any("adopted_share" in row for row in read_history(run.path / "history.jsonl"))


def test_equal_rows_of_numbers_have_no_views(tmp_path):
    with (
        pytest.warns(tercet.errors.TercetWarning),
        pytest.raises(InputError, match="all rows are equal"),
    ):  # copies, too
        tercet.train(np.ones((20, 4), np.float32), out=tmp_path / "run", views=2, loss="infonce", steps=2,
                     progress=False)  # fmt: skip
