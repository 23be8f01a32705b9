"""Two towers: pairs of two sides, from the table to the search."""

import csv
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import tercet
from conftest import digest
from tercet.data import read
from tercet.data.augmentation import draw
from tercet.data.loaders import make_loader
from tercet.data.options import Augmentation
from tercet.data.sides import Sided, SidedItems, TwoSides
from tercet.encoders.build import build, prepare
from tercet.encoders.options import ImageOptions, TextOptions, TowersOptions
from tercet.errors import DataError, InputError, TercetWarning
from tercet.evaluation import evaluate_across, pairs_across
from tercet.training.batches.supervision import make_supervision, whole_loss
from tercet.training.config import BatchOptions, read_config
from tercet.training.step.gradient_cache import cached_step

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "yellow": (230, 220, 40)}
PLACES = {"left": (8, 2), "right": (8, 14), "top": (2, 8), "bottom": (14, 8)}
QUICK = {"steps": 4, "rows_per_batch": 8, "evaluate_every": 2, "loss": "infonce", "learn_temperature": True}
TINY = TowersOptions(left=ImageOptions(dim=8, width=8), right=TextOptions(dim=8, vocabulary=20, dropout=0.2))


def write_table(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Sixteen images of a coloured square somewhere, each with its caption."""
    folder = tmp_path_factory.mktemp("captioned")
    rows = []
    for (colour, light), (place, (row, column)) in itertools.product(COLOURS.items(), PLACES.items()):
        pixels = np.zeros((24, 24, 3), dtype=np.uint8)
        pixels[row : row + 8, column : column + 8] = light
        Image.fromarray(pixels).save(folder / f"{colour}-{place}.png")
        rows.append((f"{colour}-{place}.png", f"a {colour} square at the {place}"))
    return write_table(folder / "pairs.csv", ("image", "caption"), rows)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Queries and documents, both texts; one document answers two queries."""
    rows = [(f"where is thing {i}", f"document {i} tells of thing {i}") for i in range(14)]
    rows.append(("which place has thing 3", "document 3 tells of thing 3"))
    return write_table(tmp_path_factory.mktemp("questions") / "pairs.csv", ("query", "document"), rows)


@pytest.fixture(scope="module")
def captioned_run(captioned, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "captioned"
    tercet.train(captioned, out=path, encoder=TINY, progress=False, **QUICK)
    return path


# The table


def test_columns_of_two_kinds_are_two_sides(captioned):
    records = read(captioned)
    assert (records.kind, records.form, records.columns) == ("sides", "pairs", ("image", "caption"))
    assert records.description == (
        "16 pairs of 32 items (csv table, pairs of images in 'image' with texts in 'caption')"
    )
    assert [item.side for item in records.items] == [0] * 16 + [1] * 16
    assert records.tuples.tolist() == [[i, 16 + i] for i in range(16)]
    assert records.items[17] == Sided(1, "text", "a red square at the right")
    part = records.take_tuples([3, 5])
    assert [item.side for item in part.items] == [0, 0, 1, 1]
    assert part.tuples.tolist() == [[0, 2], [1, 3]]
    assert (part.of_side(0).kind, part.of_side(1).items[0]) == ("image", "a red square at the bottom")
    assert len(set(records.fingerprints().tolist())) == 32


def test_columns_of_one_kind_are_two_sides_where_asked_for(questions):
    assert read(questions).kind == "text"
    records = read(questions, towers="separate")
    assert records.columns == ("query", "document")
    assert (len(records.of_side(0)), len(records.of_side(1))) == (15, 14)
    assert records.tuples[14].tolist() == [14, 15 + 3]


def test_an_item_on_both_sides_is_one_of_each(tmp_path):
    path = write_table(tmp_path / "pairs.csv", ("query", "document"), [("same", "same"), ("other", "one")])
    assert len(read(path, towers="separate")) == 4
    assert len(read(path)) == 3


def test_a_label_beside_images_and_texts_stays_a_label(captioned):
    rows = [(f"{colour}-left.png", "words", colour) for colour in COLOURS]
    path = write_table(captioned.with_name("labelled.csv"), ("image", "text", "label"), rows)
    assert (read(path).kind, read(path).form) == ("image", "labels")


def test_missing_images_take_their_pairs_with_them(captioned):
    rows = [("gone.png", "nothing"), *(line.split(",") for line in captioned.read_text().splitlines()[1:5])]
    records = read(write_table(captioned.with_name("gone.csv"), ("image", "caption"), rows))
    assert len(records.tuples) == 4
    assert "no such file" in records.skipped[0].reason


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        (("image", "text"), [("a.png", "b"), ("c.png", "d")], {"towers": "shared"},
         "one encoder cannot take both. Say --towers separate, or nothing."),
        (("anchor", "positive", "negative"), [("a", "b", "c")] * 2, {"towers": "separate"},
         "holds triplets, and two towers take positive pairs alone."),
        (("left", "right", "similar"), [("a", "b", 1), ("c", "d", 0)], {"towers": "separate"},
         "holds marked pairs, and two towers take positive pairs alone."),
        (("text", "label"), [("a", "b"), ("c", "d")], {"towers": "separate"},
         "holds labels, and --towers is for two columns of positive pairs."),
        (("left", "right"), [("a", "b"), ("c", "d")], {"towers": "seperate"}, "Did you mean 'separate'?"),
    ],
)  # fmt: skip
def test_tables_that_are_not_two_sides(tmp_path, header, rows, options, message):
    path = write_table(tmp_path / "table.csv", header, rows)
    with pytest.raises((InputError, DataError)) as raised:
        read(path, **options)
    assert message in str(raised.value)


# Batches, encoder and gradient


def made(captioned):
    records = read(captioned)
    options, assets = prepare(TINY, records)
    torch.manual_seed(0)
    return records, options, build(options, assets), make_loader(options, records.items)


def test_items_of_two_sides_are_a_sequence_left_ones_first():
    items = SidedItems(("image", "text"), (["0.png", "1.png"], ["a", "b", "c"]))
    whole = [(0, "image", "0.png"), (0, "image", "1.png"), (1, "text", "a"), (1, "text", "b"), (1, "text", "c")]
    assert list(items) == whole == [items[place] for place in range(5)] == items[:]
    assert (items[-1], items[-5], items[1:4]) == (whole[-1], whole[0], whole[1:4])
    for place in (5, -6):
        with pytest.raises(IndexError):
            items[place]
    assert list(items.pick(np.array([1, 3, 2]))) == [whole[1], whole[3], whole[2]]
    assert items.pick(np.array([4])).kinds_held == {"text"}
    with pytest.raises(InputError, match="hold a left item after a right one; put the left ones first"):
        items.pick(np.array([0, 2, 1]))


def test_a_batch_holds_the_left_side_first(captioned):
    records, _, encoder, loader = made(captioned)
    assert loader.check() == []
    batch = loader.batch([2, 3, 5, 16, 18])
    assert (batch.n_left, batch.n_right, batch.left.shape[0]) == (3, 2, 3)
    assert batch.right == [records.items[16].value, records.items[18].value]
    assert batch.sections == [slice(0, 3), slice(3, 5)]
    encoder.eval()
    rows = encoder(batch)
    assert rows.shape == (5, 8)
    torch.testing.assert_close(rows[:3], encoder.left.scale(encoder.left.embed(batch.left)))
    torch.testing.assert_close(rows[3:], encoder.right(batch.right))
    torch.testing.assert_close(encoder(loader.batch([17])), encoder.right([records.items[17].value]))
    with pytest.raises(InputError, match="a left item after a right one"):
        loader.batch([16, 2])


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_do_not_change_the_gradient(captioned, chunk):
    """With dropout in one tower and changed images in the other."""
    from tercet.training.batches.feed import Pictures
    from tercet.training.step.learner import Learner

    _, _, encoder, loader = made(captioned)
    inputs = loader.batch(np.r_[0:7, 16:27])
    settings = Augmentation()
    changed = TwoSides(Pictures(inputs.left, draw(settings, 7, 0, 0)), inputs.right, 7, 11)
    learner = object.__new__(Learner)
    learner.model = type("", (), {"device": torch.device("cpu"), "encoder": encoder})()
    learner.config = type("", (), {"augmentation": settings, "training": type("", (), {"precision": "float32"})})()
    target = torch.randn(18, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for size in (None, chunk):
        encoder.zero_grad()
        value, _ = cached_step(
            learner._encode, changed, 18, lambda rows: ((rows * target).sum() ** 2, None), encoder, chunk=size, step=3
        )
        found.append((value.detach(), torch.cat([weight.grad.flatten() for weight in encoder.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert (found[0][1] - found[1][1]).norm() < 1e-5 * found[0][1].norm()


def embeddings_of(count, seed=0):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).double()


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def infonce(left, right, of_left, of_right, tau):
    """One direction by loops: each pair against the other items of the right side."""
    terms = []
    for a, row in enumerate(left):
        far = sum(math.exp(cosine(row, right[n]) / tau) for n in range(len(right)) if of_right[n] != of_left[a])
        for p in range(len(right)):
            if of_right[p] == of_left[a]:
                near = math.exp(cosine(row, right[p]) / tau)
                terms.append(-math.log(near / (near + far)))
    return np.mean(terms)


def test_each_side_is_compared_with_the_other_and_never_with_itself(questions):
    """Two queries share a document: they are no negatives of each other's answer."""
    records = read(questions, towers="separate")
    x = embeddings_of(len(records))
    classes = [*range(14), 3]
    left, right = x[:15], x[15:]
    expected = (infonce(left, right, classes, range(14), 0.2) + infonce(right, left, range(14), classes, 0.2)) / 2
    assert whole_loss(records, tercet.InfoNCE(0.2), x.numpy()) == pytest.approx(expected, rel=1e-9)


def test_clip_loss_is_the_cross_entropy_of_both_directions(captioned):
    records = read(captioned)
    x = embeddings_of(32)
    unit = x / x.norm(dim=1, keepdim=True)
    logits = unit[:16] @ unit[16:].T / 0.07
    cross = torch.nn.functional.cross_entropy
    expected = (cross(logits, torch.arange(16)) + cross(logits.T, torch.arange(16))) / 2
    assert whole_loss(records, tercet.ClipLoss(), x.numpy()) == pytest.approx(float(expected), rel=1e-6)
    assert whole_loss(records, tercet.InfoNCE(0.07), x.numpy()) == pytest.approx(float(expected), rel=1e-6)


def test_triplets_across_the_sides(captioned):
    records = read(captioned)
    x = embeddings_of(32)
    far = torch.cdist(x[:16], x[16:])
    terms = [
        max(0.0, float(table[a, a] + 0.4 - table[a, n]))
        for table in (far, far.T) for a in range(16) for n in range(16) if n != a
    ]  # fmt: skip
    loss = tercet.TripletLoss(0.4, reduction="mean")
    assert whole_loss(records, loss, x.numpy()) == pytest.approx(np.mean(terms), rel=1e-9)
    supervision = make_supervision(records, BatchOptions(rows_per_batch=5), loss, seed=0)
    batch = supervision.next()
    assert (supervision.sides[batch.positions] == 0).sum() in (4, 3, 5)
    assert supervision(embeddings_of(len(batch.positions)), batch)[1]()["n_valid"] > 0


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda embeddings, labels: embeddings.sum(),
            "a loss of your own takes no reference, and two towers compare two",
        ),
        (tercet.TripletLoss(margin={"a": 0.1, "b": 0.2}), "margins per class need labels, and the data holds pairs"),
    ],
)
def test_losses_that_cannot_compare_two_sides(captioned, loss, message):
    with pytest.raises(InputError, match=message):
        make_supervision(read(captioned), BatchOptions(), loss, seed=0)


# Evaluation


def across_by_loops(x, labels, queries, gallery, ks):
    """Recall@k, R-precision and MAP@R of each query, from the definition."""
    found = []
    for q in queries:
        order = sorted(gallery, key=lambda g: (float((x[q] - x[g]).norm()), g))
        hits = [labels[g] == labels[q] for g in order]
        r = sum(hits)
        precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
        found.append([*(float(any(hits[:k])) for k in ks), sum(hits[:r]) / r,
                      sum(p for p, hit in zip(precision[:r], hits[:r], strict=True) if hit) / r])  # fmt: skip
    return np.mean(found, axis=0)


def test_retrieval_across_from_the_definition():
    """Also where a column's name has a dot."""
    x = embeddings_of(37, seed=3)
    sides = np.array([0] * 17 + [1] * 20)
    labels = np.concatenate([np.arange(17) % 11, np.arange(20) % 11])
    pairs = pairs_across(x, labels, sides)
    found = evaluate_across(x, labels, sides, pairs, ("photo", "caption.en"), ks=(1, 5, 18))
    left, right = np.arange(17), np.arange(17, 37)
    one = across_by_loops(x, labels, left, right, (1, 5, 18))
    other = across_by_loops(x, labels, right, left, (1, 5))
    names = ["recall_at_1", "recall_at_5", "recall_at_18", "r_precision", "map_at_r"]
    for name, value in zip(names, one, strict=True):
        assert found.metrics[f"photo_to_caption.en.{name}"] == pytest.approx(value)
    for name, value in zip(names[:2] + names[3:], other, strict=True):
        assert found.metrics[f"caption.en_to_photo.{name}"] == pytest.approx(value)
    assert found.metrics["map_at_r"] == pytest.approx((one[-1] + other[-1]) / 2)
    assert found.metrics["recall_at_18"] is None
    assert found.metrics["n_same_pairs"] == sum(labels[a] == labels[b] for a in left for b in right)
    assert found.metrics["n_pairs"] == 17 * 20
    low, high = found.intervals["photo_to_caption.en.map_at_r"]
    assert low <= one[-1] <= high
    json.dumps(found.to_json(), allow_nan=False)


def test_of_many_pairs_a_part_is_drawn_and_said():
    x = embeddings_of(80)
    sides, labels = np.repeat([0, 1], 40), np.tile(np.arange(40), 2)
    pairs = pairs_across(x, labels, sides, max_pairs=200)
    assert pairs.sampled
    assert (int(pairs.same.sum()), len(pairs.same)) == (40, 200 if (~pairs.same).sum() == 160 else len(pairs.same))
    assert (pairs.n_same_total, pairs.n_different_total) == (40, 1560)
    assert (labels[pairs.left] == labels[pairs.right]).tolist() == pairs.same.tolist()
    assert (pairs.left < 40).all()
    assert (pairs.right >= 40).all()
    assert len({*zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}) == len(pairs.same)
    notes = evaluate_across(x, labels, sides, pairs).notes
    assert "of 1,600 pairs" in notes[0]


# Whole runs


def test_a_run_holds_both_encoders(captioned_run, captioned):
    config = read_config(captioned_run / "config.toml")
    assert (config.encoder.left.size, config.encoder.left.channels) == ((24, 24), 3)
    assert config.encoder.right == TINY.right.__class__(**{**vars(TINY.right), "pooling": "mean", "max_tokens": 256})
    assert config.encoder.sides == ("image", "caption")
    assert (config.data.form, config.data.towers, config.data.kind) == ("pairs", "separate", None)
    run = tercet.load(captioned_run)
    assert run.sides == ("image", "caption")
    metrics = run.metrics
    mean = (metrics["validation.image_to_caption.map_at_r"] + metrics["validation.caption_to_image.map_at_r"]) / 2
    assert metrics["validation.map_at_r"] == pytest.approx(mean)
    assert run.threshold > 0
    page = (captioned_run / "report.html").read_text()
    assert "image and caption embedding, trained on" in page
    assert "MAP@R, image to caption" in page
    assert "MAP@R, caption to image" in page


def test_each_side_is_embedded_by_its_own_encoder(captioned_run, captioned):
    run = tercet.load(captioned_run)
    photo, words = str(captioned.with_name("red-left.png")), "a red square at the left"
    assert np.array_equal(run.embed([photo]), run.embed([photo], side="image"))
    assert np.array_equal(run.embed([words]), run.embed([words], side="caption"))
    encoder = run.encoder.eval()
    np.testing.assert_allclose(run.embed([words]), encoder.right([words]).detach().numpy(), rtol=1e-5)
    with pytest.raises(
        InputError, match=r"side is 'captain'; allowed are 'image', 'caption'\. Did you mean 'caption'\?"
    ):
        run.embed([words], side="captain")
    verdict = run.verify(photo, words)
    expected = 1 - float(run.embed([photo])[0] @ run.embed([words])[0])
    assert verdict.distance == pytest.approx(expected, abs=1e-5)


def test_a_finished_run_of_two_towers_is_resumed_to_the_same_bytes(captioned_run, captioned, tmp_path):
    copy = shutil.copytree(captioned_run, tmp_path / "copy")
    tercet.train(captioned, out=copy, resume=True, progress=False)
    assert digest(copy) == digest(captioned_run)


@pytest.mark.slow
def test_an_interrupted_run_of_two_towers_goes_on_to_the_same_weights(captioned, tmp_path, monkeypatch):
    from tercet.training.folder.history import History

    whole, part = tmp_path / "whole", tmp_path / "part"
    tercet.train(captioned, out=whole, encoder=TINY, progress=False, **QUICK)
    add = History.add

    def stop(self, step, figures):
        add(self, step, figures)
        if step == 3 and "loss" in figures:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(History, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            tercet.train(captioned, out=part, encoder=TINY, progress=False, **QUICK)
    tercet.train(captioned, out=part, resume=True, progress=False)
    assert digest(part) == digest(whole)


def test_evaluation_index_and_search_across(captioned_run, captioned, tmp_path, command):
    run = shutil.copytree(captioned_run, tmp_path / "run")
    done = command("evaluate", run, "--data", captioned)
    assert done.code == 0, done.err
    assert "image_to_caption.recall_at_1" in done.out
    assert "baseline" not in done.out
    done = command("index", run, captioned.parent, "--out", tmp_path / "photos.index")
    assert done.code == 0, done.err
    opened = tercet.load(run)
    index, _ = opened.index(captioned, side="caption")
    assert index.side == "caption"
    expected = opened.index(captioned.parent)[0].search(opened.embed(["a red square"]), 2)[0]
    done = command("search", tmp_path / "photos.index", "a red square", "-k", 2, "--json")
    assert [one["name"] for one in json.loads(done.out)] == [one.name for one in expected]
    done = command(
        "search", tmp_path / "photos.index", captioned.with_name("red-left.png"), "--side", "image", "--json"
    )
    assert json.loads(done.out)[0]["name"] == "red-left.png"
    done = command("embed", run, captioned, "--side", "caption", "--out", tmp_path / "texts.parquet")
    assert "16 embeddings of 8 dimensions" in done.out
    done = command("embed", run, captioned, "--out", tmp_path / "other.parquet")
    assert done.code == 2
    assert "holds both sides; say which is meant: --side image or --side caption." in done.err


def test_queries_and_documents_need_to_be_said_apart(questions, tmp_path):
    run = tercet.train(questions, out=tmp_path / "run", towers="separate", progress=False, **QUICK)
    assert run.sides == ("query", "document")
    with pytest.raises(InputError) as raised:
        run.embed(["where is thing 3"])
    assert str(raised.value) == (
        "this run has an encoder for each of query and document; say which is meant: --side query or --side document."
    )
    found = [run.embed(["where is thing 3"], side=side) for side in run.sides]
    assert not np.allclose(*found)
    with pytest.warns(TercetWarning, match="are also in the training data"):
        evaluation = run.evaluate(questions)
    assert evaluation.metrics["n_query_items"] == 15
    assert run.metrics["baseline.map_at_r"] > 0, "texts can be compared raw"


@pytest.mark.slow
def test_two_towers_learn_to_find_the_other_side(captioned, tmp_path):
    with pytest.warns(TercetWarning, match="are also in the training data"):
        run = tercet.train(
            captioned, out=tmp_path / "run", validation=captioned, steps=40, evaluate_every=40, loss="infonce",
            encoder=TowersOptions(left=ImageOptions(dim=16, width=8), right=TextOptions(dim=16)), learning_rate=3e-3,
            augmentation=Augmentation(mirror=False), progress=False,
        )  # fmt: skip
    assert run.metrics["validation.image_to_caption.recall_at_1"] > 0.8
    assert run.metrics["validation.caption_to_image.recall_at_1"] > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 10}, "memory is set, and it does not tell the sides of two towers apart; leave it out."),
        (
            {"views": 2, "form": "pairs"},
            "views is 2, and the data holds pairs, which say what is alike; leave views out.",
        ),
        ({"encoder": torch.nn.Linear(2, 2)}, "the data has two sides with an encoder each, and an encoder of your own"),
        (
            {"encoder": TowersOptions(left=TextOptions(), right=TextOptions())},
            "the towers are for text and text, the data",
        ),
        (
            {"augmentation": Augmentation(hue=0.1), "encoder": TowersOptions(left=ImageOptions(channels=1))},
            "hue would do",
        ),
    ],
)
def test_what_two_towers_cannot_take_is_refused(captioned, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        tercet.train(captioned, out=tmp_path / "run", progress=False, **{**QUICK, **options})
    assert not (tmp_path / "run").exists()


def test_towers_of_other_dimensions_are_refused():
    with pytest.raises(InputError) as raised:
        TowersOptions(left=ImageOptions(dim=8))
    assert str(raised.value) == (
        "dim is 8 for the left tower and 128 for the right one; they share a space, so it must be the same. Set "
        "--image.dim and --text.dim alike."
    )


def test_a_run_of_one_encoder_has_no_sides(image_run, unseen_images):
    run = tercet.load(image_run)
    assert run.sides == ()
    for call in (run.embed, run.embed_records):
        with pytest.raises(
            InputError, match="side is 'left', and this run has one encoder for all items; leave it out"
        ):
            call([str(next(unseen_images.rglob("*.png")))], side="left")
    with pytest.raises(InputError, match=r"--towers can only be given for a table"):
        read(unseen_images, towers="separate")
