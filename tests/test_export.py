"""What other programs are given: ONNX files that give PyTorch's vectors, and folders with a card."""

import socket

import numpy as np
import pytest

import tercet
from conftest import QUICK, text_of
from tercet.errors import InputError, RunError


@pytest.fixture
def runtime():
    pytest.importorskip("onnxscript", reason="needs tercet[onnx]")
    return pytest.importorskip("onnxruntime", reason="needs tercet[onnx]")


def vectors_of(runtime, path, **inputs):
    return runtime.InferenceSession(str(path)).run(None, inputs)[0]


@pytest.mark.slow
def test_images_as_onnx(runtime, image_run, unseen_images, tmp_path, command):
    path = tmp_path / "images.onnx"
    done = command("export", image_run, path, "--to", "onnx")
    assert done.code == 0
    assert "differs from PyTorch by at most" in done.out
    run = tercet.load(image_run)
    items = sorted(str(one) for one in unseen_images.rglob("*.png"))[:7]
    from tercet.data.loaders import make_loader

    pixels = make_loader(run.config.encoder, items).batch(range(7)).numpy()
    assert np.allclose(vectors_of(runtime, path, pixels=pixels), run.embed(items), atol=1e-4)
    assert "exists already" in command("export", image_run, path, "--to", "onnx").err


def test_numbers_as_onnx(runtime, numbers, tmp_path):
    from tercet.integrations.onnx_file import write_onnx

    run = tercet.train(str(numbers), out=tmp_path / "run", progress=False, **QUICK)
    assert write_onnx(run.model, tmp_path / "x.onnx") <= 1e-4
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert np.allclose(vectors_of(runtime, tmp_path / "x.onnx", rows=rows), run.embed(rows), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_words_as_onnx(runtime, texts, tmp_path, pooling):
    from tercet.encoders.options import TextOptions
    from tercet.integrations.onnx_file import _words, write_onnx

    run = tercet.train(str(texts), out=tmp_path / "run", encoder=TextOptions(pooling=pooling), progress=False, **QUICK)
    assert write_onnx(run.model, tmp_path / "x.onnx") <= 1e-4
    items = [text_of(1, 2), "", "candle"]
    made = {name: value.numpy() for name, value in _words(run.encoder, items).items()}
    expected = run.encoder(items).detach().numpy()
    assert np.allclose(vectors_of(runtime, tmp_path / "x.onnx", **made), expected, atol=1e-4)


@pytest.mark.slow
def test_a_pretrained_encoder_of_texts_as_onnx(runtime, texts, tmp_path):
    from tercet.encoders.options import TextOptions
    from tercet.integrations.onnx_file import write_onnx
    from test_encoders import save_bert

    save_bert(tmp_path / "bert")
    options = TextOptions(weights=str(tmp_path / "bert"), head="linear", dim=8)
    run = tercet.train(str(texts), out=tmp_path / "run", encoder=options, progress=False, **{**QUICK, "steps": 1})
    write_onnx(run.model, tmp_path / "x.onnx")
    items = ["the cat sat down", "a dog", "the cat sat down the dog sat down a cat", "sat"]
    tokens = {name: value.numpy() for name, value in run.encoder.tokens(items).items() if name != "token_type_ids"}
    assert np.allclose(vectors_of(runtime, tmp_path / "x.onnx", **tokens), run.embed(items), atol=1e-4)


def test_a_file_that_differs_is_not_written(runtime, image_run, tmp_path, monkeypatch):
    from tercet.integrations import onnx_file

    monkeypatch.setattr(onnx_file, "_difference", lambda *_: 2e-4)
    with pytest.raises(RunError, match=r"off by 0\.0002"):
        onnx_file.write_onnx(tercet.load(image_run).model, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_to_give_away(image_run, unseen_images, tmp_path, command):
    folder = tmp_path / "model"
    assert command("export", image_run, folder, "--to", "safetensors").code == 0
    items = sorted(str(one) for one in unseen_images.rglob("*.png"))[:3]
    assert np.array_equal(tercet.load(folder).embed(items), tercet.load(image_run).embed(items))
    card = (folder / "README.md").read_text()
    for said in ("## Data", "| validation | map_at_r |", "never saw", f"- tercet {tercet.__version__}"):
        assert said in card
    assert not (folder / "fingerprints.safetensors").exists()
    assert "exists already" in command("export", image_run, folder, "--to", "safetensors").err


def test_a_format_that_there_is_not(image_run, tmp_path, command):
    done = command("export", image_run, tmp_path / "x", "--to", "onyx")
    assert done.code == 2
    assert "Did you mean 'onnx'" in done.err


def test_nothing_reaches_for_the_network(texts, tmp_path, command, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError(f"the network was reached for: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run = tmp_path / "run"
    assert command("train", texts, "--out", run, "--steps", 3).code == 0
    assert command("evaluate", run, "--data", texts, "--vectors", "int8").code == 0
    assert command("embed", run, texts, "--out", tmp_path / "vectors").code == 0
    assert command("index", run, tmp_path / "vectors", "--out", tmp_path / "index").code == 0
    assert command("search", tmp_path / "index", "candle").code == 0
    assert command("export", run, tmp_path / "model", "--to", "safetensors").code == 0
    assert command("report", run).code == 0


def test_what_cannot_be_an_onnx_file(image_run, tmp_path):
    from tercet.integrations.onnx_file import write_onnx

    with pytest.raises(InputError, match=r"must end in .onnx"):
        write_onnx(tercet.load(image_run).model, tmp_path / "x")
