"""Shards of embeddings: broken off and gone on with, by one process or several, whole or in fewer bytes."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import tercet
from conftest import QUICK, digest, text_of, write_texts
from tercet.errors import InputError, RunError
from tercet.index import Index, shards
from tercet.neighbors.quantised import nearest_bits, quantised


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return tercet.train(str(write_texts(folder / "texts.csv", range(7))), out=folder / "run", progress=False, **QUICK)


@pytest.fixture
def lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "texts.jsonl"
    rows = [{"text": "" if row in (3, 25) else text_of(row % 7, row), "label": row % 7} for row in range(53)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("tercet.data.large_tables.STREAMED_FROM", 0)
    return path


def test_shards_hold_what_can_be_embedded(run, lines, tmp_path, command):
    done = command("embed", run.path, lines, "--columns", "text", "--out", tmp_path / "out", "--shard-rows", 10)
    assert done.code == 0
    assert "51 embeddings of 128 dimensions in 6 shards" in done.out
    vectors, names, labels = shards.read_shards(shards.open_shards(tmp_path / "out"))
    kept = [row for row in range(53) if row not in (3, 25)]
    texts = [text_of(row % 7, row) for row in kept]
    assert names == texts
    assert labels == [str(row % 7) for row in kept]
    assert np.allclose(vectors.codes, run.embed(texts), atol=1e-6)
    assert (tmp_path / "out" / "skipped.csv").read_text().splitlines() == [
        "name,reason", "line 4,the text is empty", "line 26,the text is empty",
    ]  # fmt: skip


def test_what_was_left_out_in_reading_is_listed_too(tmp_path, image_run, images, command):
    paths = sorted(images.rglob("*.png"))[:3]
    rows = [{"left": str(paths[row % 3]), "right": "gone.png" if row == 1 else str(paths[0])} for row in range(3)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command("embed", image_run, tmp_path / "data.jsonl", "--out", tmp_path / "out", "--shard-rows", 10)
    assert "1 left out, see" in done.out
    skipped = (tmp_path / "out" / "skipped.csv").read_text()
    assert skipped.splitlines() == ["name,reason", "gone.png,no such file"]


def test_a_broken_embedding_goes_on_and_ends_in_the_same_bytes(run, lines, tmp_path, monkeypatch):
    whole = run.embed_to(lines, tmp_path / "whole", shard_rows=10, columns=("text",))
    assert whole.items == 51
    write, written = shards.files.write_with, []

    def stop_at_third(path, how):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, how)

    with monkeypatch.context() as patch:
        patch.setattr(shards.files, "write_with", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            run.embed_to(lines, tmp_path / "parts", shard_rows=10, columns=("text",))
    assert not (tmp_path / "parts" / "skipped.csv").exists()
    with pytest.raises(RunError, match="is not finished"):
        shards.read_shards(shards.open_shards(tmp_path / "parts"))
    with pytest.raises(RunError, match="exists already"):
        run.embed_to(lines, tmp_path / "parts", shard_rows=10, columns=("text",))
    with pytest.raises(RunError, match="shard_rows was 10 and is now 11"):
        run.embed_to(lines, tmp_path / "parts", shard_rows=11, columns=("text",), resume=True)
    before = (tmp_path / "parts" / "shard-00001.parquet").stat().st_mtime_ns
    run.embed_to(lines, tmp_path / "parts", shard_rows=10, columns=("text",), resume=True)
    assert (tmp_path / "parts" / "shard-00001.parquet").stat().st_mtime_ns == before
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


@pytest.mark.slow
def test_a_database_of_the_shards(run, lines, tmp_path, command, monkeypatch):
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed")
    monkeypatch.setattr("tercet.integrations.lance.BATCH", 4)  # ragged batches of ragged shards
    out, store = tmp_path / "out", tmp_path / "items.lancedb"
    embedding = ("embed", run.path, lines, "--columns", "text", "--out", out, "--shard-rows", 10)
    done = command(*embedding, "--lance", store)
    assert done.code == 0
    assert f"the same in the table 'embeddings' of {store}" in done.out
    vectors, names, labels = shards.read_shards(shards.open_shards(out))
    table = lancedb.connect(store).open_table("embeddings")
    rows = {row["name"]: row for row in table.to_arrow().to_pylist()}
    assert [rows[name]["label"] for name in names] == labels
    assert np.array_equal(np.array([rows[name]["vector"] for name in names], dtype=np.float32), vectors.codes)
    found = table.search(run.embed([names[7]])[0]).where(f"label = '{labels[7]}'").limit(1).to_list()
    assert found[0]["name"] == names[7]
    assert "exists already" in command(*embedding, "--resume", "--lance", store).err
    again = command(*embedding, "--resume", "--lance", tmp_path / "again.lancedb")
    assert again.code == 0
    bits = ("embed", run.path, lines, "--out", tmp_path / "bits", "--vectors", "binary", "--lance", tmp_path / "b")
    assert "a database is given floats" in command(*bits).err
    assert not (tmp_path / "bits").exists()


def test_processes_share_the_shards(run, tmp_path):
    path = write_texts(tmp_path / "texts.csv", range(7))
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as of each of two: other sums may round otherwise
    try:
        run.embed_to(path, tmp_path / "one", shard_rows=10)
    finally:
        torch.set_num_threads(threads)
    found = run.embed_to(path, tmp_path / "two", shard_rows=10, processes=2)
    assert found.items == 42
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.parametrize("kind", ["float32", "int8", "binary"])
def test_an_index_of_shards_without_the_model(run, lines, tmp_path, command, monkeypatch, kind):
    command("embed", run.path, lines, "--columns", "text", "--out", tmp_path / "out", "--vectors", kind)
    with monkeypatch.context() as patch:
        patch.setattr("tercet.training.model.Model.load", None)  # calling it would fail
        assert command("index", run.path, tmp_path / "out", "--out", tmp_path / "index").code == 0
    index = Index.open(tmp_path / "index")
    assert index.kind == kind
    assert index.search(run.embed([text_of(1, 8)]), 1)[0][0].name == text_of(1, 8)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "out", other)
    about = json.loads((other / "embedding.json").read_text())
    (other / "embedding.json").write_text(json.dumps(about | {"weights": "0" * 32}))
    assert "made by" in command("index", run.path, other, "--out", tmp_path / "another").err


@pytest.mark.parametrize("kind", ["float32", "int8", "binary", "rescored"])
def test_an_index_searches_by_its_kind(run, tmp_path, kind):
    items = [text_of(row % 7, row) for row in range(60)]
    floats = run.embed(items)
    index = Index(floats, items, None, "run", "0" * 32, "cosine").of_kind(kind)
    index.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    found = opened.search(floats[:5], 4)
    assert [[one.position for one in row] for row in found] == [
        [one.position for one in row] for row in index.search(floats[:5], 4)
    ]
    if kind == "rescored":
        exact = Index(floats, items, None, "run", "0" * 32, "cosine").search(floats[:5], 4)
        assert [[one.position for one in row] for row in found] == [[one.position for one in row] for row in exact]
    size = {"float32": 4, "int8": 1, "binary": 1 / 8, "rescored": 4}[kind]
    assert abs((tmp_path / "index" / "vectors.safetensors").stat().st_size / (size * floats.size) - 1) < 0.5


def test_quantised_vectors():
    rows = np.random.default_rng(0).normal(size=(40, 21)).astype(np.float32)
    rows[7] = 0
    few = quantised(rows, "int8")
    assert few.codes.dtype == np.int8
    assert (np.abs(few.restored() - rows) <= few.scales[:, None] / 2 + 1e-7).all()
    assert np.array_equal(quantised(few.restored(), "int8").codes, few.codes)
    bits = quantised(rows, "binary")
    assert bits.codes.shape == (40, 3)
    assert np.array_equal(bits.restored() > 0, rows > 0)
    expected = ((rows[:3, None] > 0) != (rows[None] > 0)).sum(axis=2)
    far, at = nearest_bits(bits.codes[:3], bits.codes, 9)
    for query in range(3):
        order = np.lexsort((np.arange(40), expected[query]))[:9]
        assert at[query].tolist() == order.tolist()
        assert far[query].tolist() == expected[query][order].tolist()
    with pytest.raises(InputError, match="Did you mean 'binary'"):
        quantised(rows, "binari")
    with pytest.raises(InputError, match="not finite"):
        quantised(np.full((1, 2), np.nan, np.float32), "int8")


def test_evaluate_says_what_fewer_bytes_cost(run, tmp_path, command):
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    data = write_texts(tmp_path / "test.csv", range(20, 26))
    done = command("evaluate", path, "--data", data, "--vectors", "binary")
    assert done.code == 0
    metrics = tercet.load(path).metrics
    assert {"test.map_at_r", "test-binary.map_at_r", "test-binary.map_at_r_interval"} <= set(metrics)
    assert metrics["test-binary.map_at_r"] != metrics["test.map_at_r"]
    assert "test-binary" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.parquet", "--resume"], "--resume: only for a folder of shards"),
        (["--out", "x", "--shard-rows", "0"], "shard_rows is 0"),
        (["--out", "x", "--processes", "0"], "processes is 0"),
    ],
)
def test_options_that_do_nothing_are_refused(run, texts, tmp_path, command, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = command("embed", run.path, texts, *words)
    assert done.code == 2
    assert message in done.err


def test_one_file_in_fewer_bytes(run, texts, tmp_path, command):
    assert command("embed", run.path, texts, "--out", tmp_path / "x.parquet", "--vectors", "int8").code == 0
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["name", "label", "embedding", "scale"]


def test_an_index_of_items_by_bits(run, texts, tmp_path, command):
    assert command("index", run.path, texts, "--out", tmp_path / "index", "--vectors", "rescored").code == 0
    assert Index.open(tmp_path / "index").kind == "rescored"
