import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from tercet.data.loaders import make_loader
from tercet.data.readers import read
from tercet.encoders.base import unit
from tercet.encoders.build import build, fit_buffers, prepare
from tercet.encoders.custom import CustomEncoder
from tercet.encoders.images import ImageNetwork
from tercet.encoders.options import CustomOptions, ImageOptions, TabularOptions, TextOptions
from tercet.encoders.pooling import pool
from tercet.errors import DataError, InputError, MissingDependency

TEXTS = ["The cat sat", "the dog sat down", "A cat!", "économie d'énergie", "…"]


def image_records(count=6, shape=(40, 32, 3)):
    items = list(np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8))
    return read((items, [i % 2 for i in range(count)]))


def text_records():
    return read((TEXTS, [0, 1, 0, 1, 1]))


def made(options, records, seed=0):
    options, assets = prepare(options, records)
    torch.manual_seed(seed)
    encoder = build(options, assets)
    fit_buffers(encoder, records)
    return encoder, options, assets


def assert_rebuilds(encoder, options, assets, batch, folder):
    """An encoder comes back from its options, assets as JSON, its files and its weights."""
    folder.mkdir(exist_ok=True)
    encoder.save_assets(folder)
    torch.manual_seed(99)
    again = build(options, json.loads(json.dumps(assets)), folder)
    before = again.eval()(batch)
    again.load_state_dict(encoder.state_dict())
    expected = encoder.eval()(batch)
    assert not torch.equal(before, expected), "the weights were not random, so nothing is shown"
    torch.testing.assert_close(again(batch), expected, rtol=0, atol=0)


def assert_trains(encoder, batch):
    out = encoder.train()(batch)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, weight in encoder.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.any(), name


# Images


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_images_from_scratch(tmp_path, head):
    records = image_records()
    encoder, options, assets = made(ImageOptions(dim=12, width=8, head=head), records)
    assert (options.size, options.channels, assets) == ((40, 32), 3, {})
    batch = make_loader(options, records.items).batch([0, 3, 5])
    out = encoder(batch)
    assert (out.shape, out.dtype) == ((3, 12), torch.float32)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(encoder(batch.float() / 255), out)
    assert_rebuilds(encoder, options, assets, batch, tmp_path / "encoder")
    assert_trains(encoder, batch)


def test_images_do_not_see_their_batch():
    encoder, options, _ = made(ImageOptions(dim=12, width=8), image_records())
    batch = make_loader(options, image_records().items).batch(range(6))
    torch.testing.assert_close(encoder.train()(batch)[:2], encoder(batch[:2]), rtol=0, atol=1e-6)


def test_weights_follow_the_seed_and_are_contiguous():
    one, same, other = (made(ImageOptions(width=8), image_records(), seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert all(value.is_contiguous() for value in one.state_dict().values())  # safetensors asks for it


def test_what_the_user_says_of_images_is_kept():
    options, _ = prepare(ImageOptions(size=(24, 48)), image_records())
    assert (options.size, options.channels) == ((24, 48), 3)
    options, _ = prepare(ImageOptions(channels=1), image_records())
    assert (options.size, options.channels) == ((40, 32), 1)


@pytest.mark.parametrize("shape", [(16, 16), (17, 23), (8, 8), (72, 56)])
def test_images_of_any_size(shape):
    encoder = build(ImageOptions(size=shape, channels=1, width=8), {})
    assert encoder(torch.zeros(2, 1, *shape, dtype=torch.uint8)).shape == (2, 128)
    with pytest.raises(
        InputError, match=r"Images of shape \(2, 3, 8, 8\) were given; this encoder takes \(B, 1, H, W\)"
    ):
        encoder(torch.zeros(2, 3, 8, 8))


class Tensors(Dataset):
    def __init__(self, shape):
        self.given = torch.rand(6, *shape)

    def __len__(self):
        return 6

    def __getitem__(self, place):
        return self.given[place], place % 2


def test_a_dataset_of_tensors_trains_built_in_encoders():
    records = read(Tensors((3, 20, 24)))
    encoder, options, _ = made(ImageOptions(dim=5, width=8), records)
    assert (options.size, options.channels) == ((20, 24), 3)
    assert encoder(make_loader(options, records.items).batch([1, 4])).shape == (2, 5)
    records = read(Tensors((7,)))
    encoder, options, assets = made(TabularOptions(dim=5), records)
    assert assets["columns"][6] == "feature 7"
    torch.testing.assert_close(encoder.mean, records.items.dataset.given.mean(0))
    assert encoder(make_loader(options, records.items).batch([1, 4])).shape == (2, 5)
    with pytest.raises(InputError, match=r"images have"):
        prepare(ImageOptions(), records)


# Texts


@pytest.mark.parametrize("pooling", [None, "max"])
def test_texts_from_scratch(tmp_path, pooling):
    records = text_records()
    encoder, options, assets = made(TextOptions(dim=12, pooling=pooling, vocabulary=3), records)
    assert (options.pooling, options.max_tokens) == (pooling or "mean", 256)
    assert assets == {"vocabulary": ["cat", "sat", "the"]}
    batch = make_loader(options, records.items).batch([0, 3, 4])
    assert batch == [TEXTS[0], TEXTS[3], TEXTS[4]]
    out = encoder(batch)
    assert (out.shape, out.dtype) == ((3, 12), torch.float32)
    assert out.isfinite().all()
    assert_rebuilds(encoder, options, assets, batch, tmp_path / "encoder")
    assert_trains(encoder, batch)


def test_words_are_found_whatever_the_case_and_marks():
    encoder, *_ = made(TextOptions(), text_records())
    out = encoder(["the cat", "The CAT?!", "cat the", "the dog", "unknown zebra", "unknown yak"])
    torch.testing.assert_close(out[0], out[1])
    torch.testing.assert_close(out[0], out[2])
    assert not torch.allclose(out[0], out[3])
    assert not torch.allclose(out[4], out[5])  # words that training never saw differ too


def test_a_text_is_its_own_whatever_is_beside_it():
    encoder, *_ = made(TextOptions(), text_records())
    whole = encoder(TEXTS)
    for place, text in enumerate(TEXTS):
        torch.testing.assert_close(encoder([text])[0], whole[place])
    torch.testing.assert_close(encoder(encoder.tokens(TEXTS)), whole)


def test_only_the_first_tokens_count():
    encoder, options, _ = made(TextOptions(max_tokens=2), text_records())
    assert options.max_tokens == 2
    out = encoder(["the cat sat", "the cat lay", "the dog sat"])
    torch.testing.assert_close(out[0], out[1])
    assert not torch.allclose(out[0], out[2])


def test_pooling_by_its_definition():
    states = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])  # padding may come first
    for how in ("mean", "max", "first"):
        expected = []
        for text, there in zip(states, mask, strict=True):
            rows = [text[i] for i in range(4) if there[i]]
            expected.append(
                {"mean": sum(rows) / len(rows), "max": torch.stack(rows).max(0).values, "first": rows[0]}[how]
            )
        torch.testing.assert_close(pool(states, mask, how), torch.stack(expected))
    nothing = torch.zeros(1, 4, dtype=torch.int64)
    for how in ("mean", "max"):
        assert not pool(states[:1], nothing, how).any()


# Tables


@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_rows_of_numbers(tmp_path, hidden):
    rows = np.random.default_rng(0).normal(1000, [1, 100, 1e-3], (50, 3))
    records = read((rows, np.arange(50) % 3))
    encoder, options, assets = made(TabularOptions(dim=4, hidden=hidden), records)
    assert assets == {"columns": ["feature 1", "feature 2", "feature 3"]}
    np.testing.assert_allclose(encoder.mean, records.items.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(encoder.deviation[:2], records.items.std(0, dtype=np.float64)[:2], rtol=1e-5)
    batch = make_loader(options, records.items).batch([1, 7])
    assert batch.dtype == torch.float32
    assert encoder(batch).shape == (2, 4)
    assert sum(isinstance(layer, nn.Linear) for layer in encoder.layers) == len(hidden) + 1
    assert_rebuilds(encoder, options, assets, batch, tmp_path / "encoder")
    assert_trains(encoder, batch)
    with pytest.raises(InputError) as caught:
        encoder(batch[:, :2])
    assert str(caught.value) == (
        "Rows of shape (2, 2) were given; this encoder takes (B, 3), with the columns feature 1, feature 2, feature 3."
    )


def test_constant_columns_do_not_divide_by_zero():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    rows[:, 1] = 0.1
    rows[:, 2] = 0
    encoder, *_ = made(TabularOptions(normalize=False), read((rows, np.arange(40) % 2)))
    assert encoder.deviation[1:].tolist() == [1, 1]
    assert encoder(torch.tensor([[0.0, 0.1, 0.0], [9.0, 5.0, 1.0]])).isfinite().all()


def test_normalisation_is_safe_at_zero():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    out = unit(rows)
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    out.sum().backward()
    assert rows.grad.abs().max() <= 1
    plain, *_ = made(TabularOptions(normalize=False), read((np.eye(4), [0, 0, 1, 1])))
    assert not torch.allclose(plain(torch.eye(4)).norm(dim=1), torch.ones(4))


# Encoders of the user's own


def test_a_factory(tmp_path):
    records = image_records(shape=(16, 24, 3))
    for name in ("make", "make_average", "Average"):
        options = CustomOptions(factory=f"encoder_factories:{name}", arguments={"scale": 2.0})
        encoder, options, assets = made(options, records)
        assert (options.input, options.size, options.channels, assets) == ("image", (16, 24), 3, {})
        batch = make_loader(options, records.items).batch([0, 1])
        torch.testing.assert_close(encoder(batch), batch.float().mean((2, 3)) * 2)
        encoder.save_assets(tmp_path)
        assert build(options, {}, tmp_path)(batch).shape == (2, 3)
    encoder, *_ = made(CustomOptions("encoder_factories:Average", normalize=True), records)
    torch.testing.assert_close(encoder(batch).norm(dim=1), torch.ones(2))
    for kind in (text_records(), read(Tensors((7,)))):
        assert prepare(CustomOptions("encoder_factories:Average"), kind)[0].input == kind.kind


REFUSED = "is not allowed; it must be an nn.Module class, or a function annotated to return one, such as `def "


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("os:system", REFUSED),
        ("builtins:eval", REFUSED),
        ("encoder_factories:unannotated", REFUSED),
        ("encoder_factories:number", REFUSED),
        ("encoder_factories:instance", REFUSED),
        ("encoder_factories:Avrage", "encoder_factories has no 'Avrage'. Did you mean 'Average'?"),
        ("no_such_package:x", "no_such_package cannot be imported (No module named 'no_such_package')."),
        ("encoder_factories:wrong", "encoder_factories:wrong gave a int, not an nn.Module."),
    ],
)
def test_factories_that_are_refused(factory, expected):
    with pytest.raises(InputError) as caught:
        build(CustomOptions(factory), {})
    assert expected in str(caught.value)


def test_arguments_and_outputs_of_a_factory_are_checked():
    with pytest.raises(InputError) as caught:
        build(CustomOptions("encoder_factories:make", {"scales": 1}), {})
    assert str(caught.value) == (
        "encoder_factories:make does not take the arguments {'scales': 1}: missing a required argument: "
        "'scale'. It is make(scale: float) -> torch.nn.modules.module.Module."
    )
    with pytest.raises(InputError, match=r"The encoder Flatten gives shape .24,.; expected is a tensor .B, D."):
        build(CustomOptions("encoder_factories:flat"), {})(torch.zeros(2, 3, 4))
    assert CustomEncoder(nn.Linear(3, 2), normalize=True)(torch.ones(5, 3)).shape == (5, 2)
    with pytest.raises(InputError, match=r"factory is 'x'; allowed is package.module:name"):
        CustomOptions("x")


# Options


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ImageOptions(dim=0), "dim is 0; allowed is a whole number from 1 up."),
        (lambda: ImageOptions(width=12), "width is 12; allowed is a multiple of 8."),
        (lambda: ImageOptions(channels=2), "channels is 2; allowed are 1 and 3."),
        (lambda: ImageOptions(size=(4, 9)), "size is (4, 9); each side must be at least 8 pixels."),
        (
            lambda: ImageOptions(frozen=True),
            "frozen is set, but without weights there is nothing pretrained to freeze.",
        ),
        (
            lambda: ImageOptions(weights="x", width=64),
            "width is set, but it is of the network from scratch; with weights it does nothing.",
        ),
        (
            lambda: ImageOptions(head="none"),
            "head is 'none', which needs weights: a network from scratch has 'linear' or 'mlp'.",
        ),
        (
            lambda: TextOptions(head="mpl"),
            "head is 'mpl'; allowed are 'linear', 'mlp', 'none'. Did you mean 'mlp'?",
        ),
        (
            lambda: TextOptions(weights="x", vocabulary=9),
            "vocabulary is set, but it is of the network from scratch; with weights it does nothing.",
        ),
        (
            lambda: TextOptions(pooling="first"),
            "pooling is 'first', which needs weights: a bag of words takes 'mean' or 'max'.",
        ),
        (lambda: TabularOptions(hidden=(3, 0)), "hidden is (3, 0); allowed are whole numbers from 1 up."),
        (
            lambda: prepare(TextOptions(), image_records()),
            "The data are of kind 'image', the encoder is for 'text'; choose one.",
        ),
        (
            lambda: prepare(CustomOptions("a:b", input="text"), image_records()),
            "The data are of kind 'image', the encoder's input is 'text'.",
        ),
        (
            lambda: prepare(TextOptions(weights="no/such/folder"), text_records()),
            "no/such/folder is not a folder. Weights are a local folder with config.json and "
            "model.safetensors; nothing is fetched by name.",
        ),
        (
            lambda: prepare(ImageOptions(weights="timm:resnet18"), image_records()),
            "weights is 'timm:resnet18'; allowed is timm:NAME@FILE, with a .safetensors file of its weights.",
        ),
    ],
)
def test_options_that_make_no_sense(make, expected):
    pytest.importorskip("transformers")
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == expected


# Loaders


def test_loaders_find_what_cannot_be_used():
    seen = []
    assert make_loader(TextOptions(), ["a", " ", "b"]).check() == [(1, "the text is empty")]
    assert make_loader(TabularOptions(), np.array([[1.0], [np.inf]])).check() == [(1, "a value is not finite")]
    loader = make_loader(CustomOptions("a:b", input="tensor"), [torch.ones(3), torch.ones(2), torch.ones(3)])
    assert loader.check(lambda done, total: seen.append((done, total))) == [(1, "has shape (2,), others (3,)")]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert loader.batch([0, 2]).shape == (2, 3)
    with pytest.raises(DataError, match=r"cannot be put into one batch"):
        loader.batch([0, 1])
    with pytest.raises(InputError, match=r"complete the options with prepare"):
        make_loader(CustomOptions("a:b"), ["x"])


# Pretrained


def save_bert(folder, length=64):
    """A tiny BERT with random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "dog", "a", "down"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=40, max_position_embeddings=length, hidden_dropout_prob=0.1,
    )  # fmt: skip
    torch.manual_seed(5)
    model = transformers.BertModel(config)
    model.save_pretrained(folder)
    return model.eval(), tokenizer


def save_sentence_transformer(folder, pooling, extra=()):
    model, tokenizer = save_bert(folder)
    kinds = ["Transformer", "Pooling", *extra, "Normalize"]
    paths = ["", "1_Pooling", *[f"{n}_{kind}" for n, kind in enumerate(extra, 2)], "9_Normalize"]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return model, tokenizer


def test_a_pretrained_transformer(tmp_path):
    model, tokenizer = save_bert(tmp_path / "bert")
    records = text_records()
    encoder, options, assets = made(TextOptions(weights=str(tmp_path / "bert"), head="none", dim=24), records)
    assert (options.pooling, options.max_tokens, assets) == ("mean", 64, {})
    batch = ["the cat sat", "a dog"]
    tokens = tokenizer(batch, padding=True, return_tensors="pt")
    states = model(**tokens).last_hidden_state
    expected = torch.stack([states[0].mean(0), states[1, :4].mean(0)])  # [CLS] a dog [SEP]
    torch.testing.assert_close(encoder.eval()(batch), unit(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(encoder.tokens(batch)), encoder(batch))
    (tmp_path / "bert").rename(tmp_path / "gone")  # the run alone is enough
    assert_rebuilds(encoder, options, assets, batch, tmp_path / "run")


def test_a_linear_head_keeps_what_is_near(tmp_path):
    save_bert(tmp_path / "bert")
    encoder, _options, _assets = made(TextOptions(weights=str(tmp_path / "bert"), dim=7), text_records())
    assert encoder(TEXTS).shape == (5, 7)
    torch.testing.assert_close(encoder.head.weight @ encoder.head.weight.T, torch.eye(7), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"without a head an embedding has 24 numbers; say dim=24"):
        made(TextOptions(weights=str(tmp_path / "bert"), head="none"), text_records())


def test_frozen_weights_stay_and_have_no_dropout(tmp_path):
    save_bert(tmp_path / "bert")
    options = TextOptions(weights=str(tmp_path / "bert"), frozen=True)
    encoder, *_ = made(options, text_records())
    encoder.train()
    torch.testing.assert_close(encoder(TEXTS), encoder(TEXTS))
    assert_trains(encoder, TEXTS)
    assert {name.split(".")[0] for name, w in encoder.named_parameters() if w.grad is not None} == {"head"}
    loose, *_ = made(TextOptions(weights=str(tmp_path / "bert")), text_records())
    assert not torch.allclose(loose.train()(TEXTS), loose(TEXTS)), "no dropout, so nothing is shown"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"word_embedding_dimension": 24, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["mean", "lasttoken"]}, "mean+last"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_weightedmean_tokens": True}, "mean+weighted-mean"),
    ],
)
def test_a_sentence_transformers_folder_says_its_pooling(tmp_path, pooling, expected):
    save_sentence_transformer(tmp_path / "st", pooling)
    options = TextOptions(weights=str(tmp_path / "st"))
    completed, _ = prepare(options, text_records())
    assert (completed.pooling, completed.max_tokens) == (expected, 16)
    other = TextOptions(weights=str(tmp_path / "st"), pooling="max", max_tokens=5)
    assert prepare(other, text_records())[0].pooling == "max"
    encoder, completed, assets = made(options, text_records())
    assert_rebuilds(encoder, completed, assets, TEXTS, tmp_path / "run")
    with pytest.raises(InputError, match=r"max_tokens is 17; the model in .* takes at most 16"):
        prepare(TextOptions(weights=str(tmp_path / "st"), max_tokens=17), text_records())


def test_sentence_transformers_models_that_would_lose_layers(tmp_path):
    save_sentence_transformer(tmp_path / "st", {"pooling_mode": "mean"}, extra=["LSTM"])
    with pytest.raises(InputError, match=r"has a layer of type LSTM, which would be left out"):
        prepare(TextOptions(weights=str(tmp_path / "st")), text_records())
    save_sentence_transformer(tmp_path / "odd", {"pooling_mode_lstm_tokens": True})
    with pytest.raises(InputError, match=r"asks for pooling by lstm_tokens; say --text.pooling"):
        prepare(TextOptions(weights=str(tmp_path / "odd")), text_records())


def test_weights_are_never_a_pickle(tmp_path):
    model, _ = save_bert(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"Weights must be in model.safetensors\."):
        made(TextOptions(weights=str(tmp_path / "bert")), text_records())


def save_vit(folder):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, num_channels=3, hidden_size=24, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=30,
    )  # fmt: skip
    torch.manual_seed(6)
    model = transformers.ViTModel(config)
    model.save_pretrained(folder)
    said = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return model.eval()


def test_a_pretrained_vision_model(tmp_path):
    model = save_vit(tmp_path / "vit")
    records = image_records()
    encoder, options, assets = made(ImageOptions(weights=str(tmp_path / "vit"), head="none", dim=24), records)
    assert (options.size, options.channels) == ((16, 16), 3)
    assert assets == {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    batch = make_loader(options, records.items).batch([0, 5])
    mean, std = (torch.tensor(assets[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = model(pixel_values=(batch.float() / 255 - mean) / std).pooler_output
    torch.testing.assert_close(encoder.eval()(batch), unit(expected), rtol=1e-4, atol=1e-5)
    (tmp_path / "vit").rename(tmp_path / "gone")
    assert_rebuilds(encoder, options, assets, batch, tmp_path / "run")
    assert_trains(encoder, batch)


def test_a_vision_model_that_does_not_fit(tmp_path):
    save_vit(tmp_path / "vit")
    weights = str(tmp_path / "vit")
    with pytest.raises(InputError, match=r"does not take images of 24 x 24 pixels with 3 channels"):
        made(ImageOptions(weights=weights, size=(24, 24)), image_records())
    with pytest.raises(InputError, match=r"channels is 1, but .* takes 3"):
        made(ImageOptions(weights=weights, channels=1), image_records())
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"has no preprocessor_config.json, which says how pixels are scaled"):
        made(ImageOptions(weights=weights), image_records())


class TimmLike(nn.Module):
    """What Tercet uses of a timm model."""

    pretrained_cfg = {"input_size": (3, 24, 16), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 9)

    def forward(self, pixels):
        return self.map(pixels.mean((2, 3)))


def test_a_timm_model(tmp_path, monkeypatch):
    import sys

    from safetensors.torch import save_file

    asked = []

    def create_model(name, pretrained, num_classes):
        asked.append((name, pretrained, num_classes))
        return TimmLike()

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    model = TimmLike()
    file = tmp_path / "weights.safetensors"
    save_file({**model.state_dict(), "classifier.weight": torch.zeros(2)}, file)
    options = ImageOptions(weights=f"timm:tiny@{file}", head="none", dim=9)
    encoder, options, assets = made(options, image_records())
    assert (options.size, set(asked)) == ((24, 16), {("tiny", False, 0)})
    batch = make_loader(options, image_records().items).batch([0, 1])
    torch.testing.assert_close(encoder(batch), unit(model((batch.float() / 255 - 0.5) / 0.25)))
    file.unlink()
    assert_rebuilds(encoder, options, assets, batch, tmp_path / "run")
    with pytest.raises(InputError, match=r"weights.safetensors is not a .safetensors file of weights"):
        build(options, assets)
    save_file({"map.weight": model.map.weight}, file)
    with pytest.raises(InputError, match=r"lacks 1 of the network's weights, such as map.bias"):
        build(options, assets)


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("transformers", lambda: prepare(TextOptions(weights="x"), text_records())),
        ("timm", lambda: prepare(ImageOptions(weights="timm:a@b"), image_records())),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, make):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=r"pip install 'tercet\[(text|timm)\]'"):
        make()


def test_a_symmetric_encoder_does_not_tell_left_from_right():
    images = torch.rand(3, 1, 24, 32, generator=torch.Generator().manual_seed(0))
    for symmetric in (True, False):
        torch.manual_seed(0)
        encoder = ImageNetwork(ImageOptions(size=(24, 32), channels=1, dim=7, symmetric=symmetric))
        difference = (encoder(images) - encoder(images.flip(3))).abs().max()
        assert (difference < 1e-5) == symmetric


def test_parts_keep_where_things_are():
    """A square that moves changes the embedding much less where the last maps are averaged over the whole image."""
    image = torch.zeros(1, 1, 64, 64)
    image[:, :, 8:24, 8:24] = 1
    changes = {}
    for grid in (1, 4):
        torch.manual_seed(0)
        encoder = ImageNetwork(ImageOptions(size=(64, 64), channels=1, grid=grid))
        changes[grid] = (encoder(image) - encoder(image.roll((32, 32), (2, 3)))).norm().item()
    assert changes[1] < 0.3 * changes[4]
