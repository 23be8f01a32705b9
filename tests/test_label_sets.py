"""Items with several labels: read, dealt, trained on, evaluated; each against plain loops over the labels as given."""

import csv
import dataclasses
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tercet
from conftest import QUICK, QUICK_FLAGS, digest
from tercet import cli
from tercet.data import large_tables
from tercet.data.labels import Labels, are_alike
from tercet.data.readers import read
from tercet.data.records import Records
from tercet.data.samplers import SetBatches
from tercet.data.split import hold_out
from tercet.errors import DataError, InputError
from tercet.evaluation import evaluate_embeddings
from tercet.evaluation.pairs import all_pairs
from tercet.index import Index
from tercet.index.embedding import index_of_shards
from tercet.training.assessment.neighbours import Neighbours, mistaken_queries
from tercet.training.batches.supervision import Batch
from tercet.training.health.vitals import _kinds, composition
from tercet.training.tuning.identity import _contents

TAGS = ("red", "round", "heavy", "old", "wet", "loud")
SETS = [["red", "round"], ["blue"], [], ["round", "blue", "red"], ["wet"], ["blue", "wet"], ["round"]]


def drawn(count, seed=0):
    """Rows of numbers, each near the sum of what its labels stand for, and the labels: none to three."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(0, 2, (len(TAGS), 5))
    chosen = [sorted(generator.choice(len(TAGS), generator.integers(0, 4), replace=False)) for _ in range(count)]
    rows = np.stack([centres[own].sum(0) + generator.normal(0, 0.4, 5) for own in chosen])
    return rows.round(3), [[TAGS[code] for code in own] for own in chosen]


def write_jsonl(path, rows, sets):
    lines = [{**{f"f{i}": value for i, value in enumerate(row)}, "label": own}
             for row, own in zip(rows.tolist(), sets, strict=True)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_csv(path, rows, sets, sign):
    lines = [[*map(str, row), sign.join(own)] for row, own in zip(rows.tolist(), sets, strict=True)]
    path.write_text("\n".join(",".join(line) for line in [[*(f"f{i}" for i in range(5)), "label"], *lines]) + "\n")
    return path


def texts_in(path, sets):
    texts = [f"text {i}" for i in range(len(sets))]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "label": pa.array(sets, pa.list_(pa.string()))}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": s}) + "\n" for t, s in zip(texts, sets, strict=True)))
    else:
        path.write_text("text,label\n" + "".join(f"{t},{' | '.join(s)}\n" for t, s in zip(texts, sets, strict=True)))
    return str(path)


class Dataset:
    """What `datasets.Dataset` has of it: lists of ClassLabels are codes, whose names the features know."""

    column_names = ("text", "label")

    def __init__(self, sets):
        self.names = sorted({one for own in sets for one in own})
        self.columns = {"text": [f"text {i}" for i in range(len(sets))],
                        "label": [[self.names.index(one) for one in own] for own in sets]}  # fmt: skip
        self.features = {"label": SimpleNamespace(feature=SimpleNamespace(names=self.names))}

    def __len__(self):
        return len(self.columns["text"])

    def __getitem__(self, rows):
        return {name: [values[row] for row in rows] for name, values in self.columns.items()}


def marks(sets):
    names = sorted({one for own in sets for one in own})
    return np.array([[name in own for name in names] for own in sets], dtype=np.int8)


SOURCES = {
    "jsonl": lambda folder: texts_in(folder / "t.jsonl", SETS),
    "parquet": lambda folder: texts_in(folder / "t.parquet", SETS),
    "arrow": lambda folder: pa.table({"text": [f"text {i}" for i in range(7)], "label": SETS}),
    "views of lists": lambda folder: pa.table(
        {"text": [f"text {i}" for i in range(7)], "label": pa.array(SETS, pa.list_view(pa.string()))}
    ),
    "lists": lambda folder: ([f"text {i}" for i in range(7)], [set(own) for own in SETS]),
    "dataset": lambda folder: Dataset(SETS),
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_lists_of_labels_are_sets_of_codes(tmp_path, monkeypatch, kind, large):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    records = read(SOURCES[kind](tmp_path))
    assert (records.form, records.labels) == ("label-sets", None)
    assert records.label_lists() == [sorted(own) for own in SETS]
    assert records.label_names() == records.label_lists() == [records.label_of(i) for i in range(7)]
    assert [records.label_name(i) for i in range(7)] == [", ".join(sorted(own)) for own in SETS]
    assert records.count() == "7 texts with 4 labels, up to 3 an item, 1 of them without a label"
    part = records.take([5, 2, 1])
    assert part.label_lists() == [["blue", "wet"], [], ["blue"]]
    assert (list(part.classes), part.sets.tolist()) == (["blue", "wet"], [[0, 1], [-1, -1], [0, -1]])


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_cell_of_several_labels_needs_a_separator(tmp_path, ending):
    if ending == "parquet":
        cells = pa.table({"text": [f"text {i}" for i in range(7)], "label": [" | ".join(own) for own in SETS]})
        pq.write_table(cells, tmp_path / "t.parquet")
    else:
        text = (tmp_path / "t.csv", texts_in(tmp_path / "t.csv", SETS))[0].read_text()
        (tmp_path / f"t.{ending}").write_text(text.replace(",", "\t") if ending == "tsv" else text)
    assert read(str(tmp_path / f"t.{ending}"), label_separator="|").label_lists() == [sorted(own) for own in SETS]
    if ending != "parquet":
        with pytest.raises(DataError, match="row 3, column 'label': the label is missing"):
            read(str(tmp_path / f"t.{ending}"))


def test_marks_are_the_columns_that_they_mark():
    texts = [f"text {i}" for i in range(7)]
    names = sorted({one for own in SETS for one in own})
    expected = [[str(names.index(one)) for one in sorted(own)] for own in SETS]
    assert read((texts, marks(SETS))).label_lists() == expected
    assert read((texts, list(marks(SETS).astype(float)))).label_lists() == expected
    with pytest.raises(DataError, match=r"hold 0 and 1, all of one length, which look like marks.*np.array\(labels\)"):
        read((texts, marks(SETS).tolist()))
    with pytest.raises(DataError, match="hold false and true, all of one length, which look like marks"):
        read((texts, marks(SETS).astype(bool).tolist()))


def test_lists_made_equally_long_are_refused():
    """All items would share the label -1."""
    texts, codes = [f"text {i}" for i in range(3)], np.array([[0, 2, -1], [1, -1, -1], [0, 1, 2]])
    for one in (codes, torch.from_numpy(codes), codes.tolist(), list(codes)):
        with pytest.raises(DataError, match="hold -1, and are all of one length, which looks like padding"):
            read((texts, one))
    assert read((texts, [[0, -1], [-1], [2]])).label_lists() == [["-1", "0"], ["-1"], ["2"]]  # a label like any other


def test_one_label_each_is_that_label(tmp_path, monkeypatch):
    plain = [f"topic {i % 3}" for i in range(12)]
    expected = read(([f"text {i}" for i in range(12)], plain))
    sources = [texts_in(tmp_path / f"t.{ending}", [[one] for one in plain]) for ending in ("jsonl", "parquet", "csv")]
    for source in (*sources, ([f"text {i}" for i in range(12)], [[one] for one in plain])):
        records = read(source, label_separator=";" if str(source).endswith("csv") else None)
        assert records.form == "labels"
        assert records.sets is None
        assert (records.labels == expected.labels).all()
        assert tuple(records.classes) == expected.classes


def test_a_label_counts_once_and_in_its_parts(tmp_path):
    sets = [["a/b", "a/c"], ["a/b", "d"], ["d", "d"]]
    assert read(texts_in(tmp_path / "t.jsonl", sets)).label_lists() == [["a/b", "a/c"], ["a/b", "d"], ["d"]]
    assert read(texts_in(tmp_path / "t.jsonl", sets), label_level=1).label_lists() == [["a"], ["a", "d"], ["d"]]
    same = read(texts_in(tmp_path / "t.jsonl", [["a/b", "a/c"], ["d"], ["d", "d"]]), label_level=1)
    assert (same.form, same.labels.tolist()) == ("labels", [0, 1, 1])


BAD = {
    "null": ('{"text": "x", "label": ["a", null]}\n{"text": "y", "label": ["b"]}\n',
             "{0}, line 1, column 'label': the label is missing. Fill it in or remove the row."),
    "no list": ('{"text": "x", "label": ["a", "b"]}\n{"text": "y", "label": null}\n{"text": "z", "label": "c"}\n',
                "{0}, line 2, column 'label': the label is missing. Fill it in or remove the row."),
    "marks": ('{"text": "x", "label": [0, 1, 1]}\n{"text": "y", "label": [1, 0, 0]}\n',
              "{0}, column 'label': its lists hold 0 and 1, all of one length, which look like marks, one for each "
              "label. Give the labels that an item has."),
    "true marks": ('{"text": "x", "label": [false, true, true]}\n{"text": "y", "label": [true, false, false]}\n',
                   "{0}, column 'label': its lists hold false and true, all of one length, which look like marks, one "
                   "for each label. Give the labels that an item has."),
    "padding": ('{"text": "x", "label": [3, 1]}\n{"text": "y", "label": [1, -1]}\n',
                "{0}, column 'label': its lists hold -1, and are all of one length, which looks like padding. Leave it "
                "out of the lists."),
    "nothing": ('{"text": "x", "label": []}\n{"text": "y", "label": []}\n',
                "{0} holds no label in column 'label'; at least two are needed to tell apart."),
    "one": ('{"text": "x", "label": ["a"]}\n{"text": "y", "label": []}\n',
            "{0} holds a single class, 'a' in column 'label'; at least two are needed to tell apart."),
    "nested": ('{"text": "x", "label": ["a", ["b"]]}\n', "{0}:1: 'label' holds a list in a list; allowed are text and "
               "numbers."),
    "forged": ('{"text": "x", "label": ["a", "b"], "forged": 0}\n{"text": "y", "label": ["b"], "forged": 1}\n',
               "{0} marks forgeries in 'forged', and its items have several labels in 'label'; a forgery imitates one "
               "class. Give one label an item, or rename 'forged' if it marks something else."),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_labels_that_cannot_be_used(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(DataError) as raised:
        read(str(tmp_path / "t.jsonl"))
    assert str(raised.value) == message.format(tmp_path / "t.jsonl")


def test_separators_that_cannot_be_used(tmp_path):
    path = texts_in(tmp_path / "t.csv", SETS)
    with pytest.raises(InputError, match="label_separator is empty"):
        read(path, label_separator="")
    (tmp_path / "two.csv").write_text("text,label\nx,a;;b\ny,c\n")
    with pytest.raises(DataError, match="row 1, column 'label': the label is missing"):
        read(str(tmp_path / "two.csv"), label_separator=";")


@pytest.mark.parametrize("large", [False, True])
def test_a_name_given_twice_in_a_line_is_refused(tmp_path, monkeypatch, large):
    """Readers of JSON take the last in silence, so that half of the labels would be gone."""
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    path = tmp_path / "t.jsonl"
    path.write_text('\ufeff{"text": "x", "label": "a"}\n{"text": "y", "label": ["a"], "label": ["b"]}\n')
    where = f"{path}, line 2" if large else f"{path}:2"
    with pytest.raises(DataError) as raised:
        read(str(path))
    assert (
        str(raised.value) == f"{where}: 'label' is given more than once, and only one can be meant; remove the others."
    )


@pytest.mark.parametrize("large", [False, True])
def test_cells_among_lists_are_not_taken_for_one_label(tmp_path, monkeypatch, large):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "x", "label": ["a", "b"]}\n{"text": "y", "label": "a;b"}\n{"text": "z", "label": "b"}\n')
    with pytest.raises(DataError, match=r"line 2, column 'label': the column holds lists, .* 'a;b' holds the sep"):
        read(str(path), label_separator=";")
    assert read(str(path)).label_lists() == [["a", "b"], ["a;b"], ["b"]]
    assert read(str(path), label_separator="|").label_lists() == [["a", "b"], ["a;b"], ["b"]]


def test_what_splits_cells_is_refused_where_there_are_none(tmp_path):
    with pytest.raises(InputError, match="label_separator splits cells of a table; the source is none"):
        tercet.train((["x", "y"], ["a;b", "b"]), out=tmp_path / "run", progress=False, label_separator=";", **QUICK)


def test_what_is_kept_of_a_large_table_is_kept_by_separator(tmp_path, monkeypatch):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["x", "y", "z"], "label": ["a;b|c", "c", "a"]}), path)
    for separator, first in ((";", ["a", "b|c"]), ("|", ["a;b", "c"]), (None, "a;b|c"), (";", ["a", "b|c"])):
        assert read(str(path), label_separator=separator).label_of(0) == first


def test_a_tuning_on_other_sets_is_another():
    """Of the same items and the same labels, dealt otherwise among them."""
    texts = ["x", "y", "z"]
    one, other = (read((texts, given)) for given in ([["a", "b"], ["b"], ["c"]], [["b"], ["a", "b"], ["c"]]))
    assert one.classes == other.classes
    assert _contents(one, one) == _contents(one, one)
    assert len({_contents(one, one), _contents(one, other), _contents(other, one)}) == 3


def test_a_tuning_on_the_same_large_table_is_the_same(tmp_path, monkeypatch):
    """Its classes are read from a file, and no two reads give one object."""
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0)
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{row}", "label": "xy"[row % 2]}) + "\n" for row in range(4)))
    kept = [read(str(path)) for _ in range(2)]
    assert _contents(kept[0], kept[0]) == _contents(kept[1], kept[1])
    forged = dataclasses.replace(kept[0], forged=np.arange(4) == 1)
    assert _contents(forged, kept[0]) != _contents(kept[0], kept[0])


def test_labels_of_three_dimensions_are_refused():
    with pytest.raises(DataError, match="Label 0 is array"):
        read((["x", "y"], np.zeros((2, 2, 2))))


def coded(sets):
    return Labels.of([one for own in sets for one in own], np.array([len(own) for own in sets])).sets


label_sets = st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=4, max_size=30).filter(
    lambda sets: max(map(len, sets)) > 1 and max(Counter(one for own in sets for one in own).values()) > 1
)


def members_of(sets):
    """By the definition: the items of each label of two items and more; and those that share none."""
    of = {label: [i for i, own in enumerate(sets) if label in own] for label in range(6)}
    shared = {label: items for label, items in of.items() if len(items) > 1}
    together = {i for items in shared.values() for i in items}
    return list(shared.values()), [i for i in range(len(sets)) if i not in together]


@settings(max_examples=60, deadline=None)
@given(label_sets, st.integers(2, 4), st.integers(2, 5), st.integers(0, 99), st.sampled_from(["negatives", "drop"]))
def test_each_label_deals_its_items_equally_often(sets, per_batch, size, seed, singletons):
    shared, alone = members_of(sets)
    if len(shared) + len(alone) * (singletons == "negatives") < 2:
        with pytest.raises(DataError, match="a single label, and there is none to tell them from"):
            SetBatches(coded([[str(one) for one in own] for own in sets]), per_batch, size, seed, singletons)
        return
    sampler = SetBatches(coded([[str(one) for one in own] for own in sets]), per_batch, size, seed, singletons)
    used = [Counter() for _ in shared]
    for epoch in range(6):
        seen = set()
        for c, items in enumerate(shared):
            for group in sampler.groups(c, epoch):
                assert set(group.tolist()) <= set(items)
                used[c].update(group.tolist())
                seen |= set(group.tolist())
            counts = [used[c][i] for i in items]
            most = 1 if len(items) >= size else epoch + 1  # a small label is topped up anew each time
            assert max(counts) - min(counts) <= most
        batches = [sampler.next().tolist() for _ in range(len(sampler))]
        assert all(len(set(batch)) == len(batch) <= per_batch * size for batch in batches)
        assert {i for batch in batches for i in batch} == seen | (set(alone) if singletons == "negatives" else set())


@settings(max_examples=20, deadline=None)
@given(label_sets, st.integers(0, 20), st.integers(0, 9))
def test_a_restored_sampler_goes_on_the_same(sets, steps, seed):
    shared, alone = members_of(sets)
    if len(shared) + len(alone) < 2:
        return
    one, other = (SetBatches(coded([[str(x) for x in own] for own in sets]), 2, 3, seed) for _ in range(2))
    for _ in range(steps):
        one.next()
    other.restore(json.loads(json.dumps(one.state())))
    for _ in range(5):
        assert one.next().tolist() == other.next().tolist()


def test_what_is_dealt_is_said():
    sampler = SetBatches(coded([["a", "b"], ["a"], ["b"], [], ["c"]]), 4, 2)
    assert sampler.summary() == (
        "1 batch an epoch, each of up to 4 labels × 2 samples, every sample once, from 5 samples with 2 labels that "
        "they share. Negatives only: 2 samples that share no label with another."
    )
    assert sorted(sampler.next().tolist()) == [0, 1, 2, 3, 4]
    dropped = SetBatches(coded([["a", "b"], ["a"], ["b"], [], ["c"]]), 4, 2, singletons="drop")
    assert "Left out: 2 samples that share no label with another." in dropped.summary()
    assert sorted(dropped.next().tolist()) == [0, 1, 2]
    with pytest.raises(DataError, match="No two items share a label, so nothing is like anything else"):
        SetBatches(coded([["a", "b"], ["c"], []]), 2, 2)


def test_items_are_held_out_and_said():
    _, sets = drawn(37)
    records = read((np.arange(74.0).reshape(37, 2), sets))
    train, held, sentence = hold_out(records, 0.3, seed=3)
    assert (len(train), len(held)) == (26, 11)
    rows = [*train.items[:, 0], *held.items[:, 0]]
    assert sorted(rows) == np.arange(0.0, 74.0, 2).tolist()
    assert [sorted(own) for own in sets] == [
        own for _, own in sorted(zip(rows, [*train.label_lists(), *held.label_lists()], strict=True))
    ]
    assert sentence == (
        "Held out for validation: 11 of 37 samples, drawn one by one as their labels overlap. Training sees "
        f"{len(set(train.classes) & set(held.classes))} of their {len(held.classes)} labels on other samples."
    )
    bare = read((np.arange(20.0).reshape(10, 2), [["a"], ["b"], [], ["a"], ["b"]] * 2))
    assert "drawn one by one as some have no label." in hold_out(bare, 0.4)[2]
    with pytest.raises(InputError, match="holdout_by is 'class', but items of an array have several labels"):
        hold_out(records, by="class")
    with pytest.raises(DataError, match=r"holds 3 items; to hold two out"):
        hold_out(records.take([0, 1, 2]))


def test_alike_is_to_share_a_label():
    sets = [set(own) for own in SETS]
    codes = coded(SETS)
    expected = [[bool(one & other) for other in sets] for one in sets]
    assert are_alike(codes[:, None], codes[None], 2).tolist() == expected
    plain = np.array([0, 1, 0])
    assert are_alike(plain[:, None], plain[None], 2).tolist() == [[True, False, True], [False, True, False],
                                                                  [True, False, True]]  # fmt: skip


def test_pairs_are_the_same_where_they_share_a_label():
    vectors = np.random.default_rng(0).normal(size=(7, 3))
    found = all_pairs(vectors, SETS)
    same = {(left, right) for left, right, same in zip(found.left, found.right, found.same, strict=True) if same}
    expected = {(i, j) for i in range(7) for j in range(i + 1, 7) if set(SETS[i]) & set(SETS[j])}
    assert same == expected
    assert (found.n_same_total, found.n_different_total) == (len(expected), 21 - len(expected))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    rows, sets = drawn(60)
    return write_jsonl(folder / "train.jsonl", rows, sets)


@pytest.fixture(scope="module")
def run(data):
    return tercet.train(str(data), out=data.parent / "run", progress=False, **QUICK)


def test_training_and_evaluation_are_those_of_the_sets(run, data, tmp_path):
    assert run.config.data.form == "labels"
    rows, sets = drawn(40, seed=5)
    path = write_jsonl(tmp_path / "test.jsonl", rows, sets)
    found = run.evaluate(str(path), by_class=tmp_path / "classes.csv")
    expected = evaluate_embeddings(run.embed(rows), sets, threshold=run.threshold, distance=run.distance)
    for name in ("map_at_r", "recall_at_1", "auc", "eer", "far", "frr", "accuracy", "n_pairs", "n_same_pairs"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name]), name
    assert run.metrics["baseline.auc"] is not None
    of_file = {one["class"] for one in found.classes}
    assert of_file <= {", ".join(sorted(own)) or "(none)" for own in sets}
    assert (tmp_path / "classes.csv").read_text().startswith("of,name,items")
    same = run.evaluate(str(write_csv(tmp_path / "test.csv", rows, sets, ";")), name="csv", label_separator=";")
    assert same.metrics == found.metrics
    calibrated = run.path / "calibration.json"
    assert json.loads(calibrated.read_text())["training"]["threshold"] == run.threshold
    assert run.doctor().findings is not None
    train, _, _ = hold_out(read(str(data)))
    counted = Counter(one for own in train.label_lists() for one in own)
    assert json.loads((run.path / "classes.json").read_text()) == counted


def test_a_gallery_of_sets(run, tmp_path):
    rows, sets = drawn(40, seed=6)
    queries, gallery = (write_jsonl(tmp_path / f"{name}.jsonl", rows[part], sets[part])
                        for name, part in (("q", slice(0, 15)), ("g", slice(15, 40))))  # fmt: skip
    found = run.evaluate(str(queries), gallery=str(gallery), name="g", baseline=False)
    expected = evaluate_embeddings(
        run.embed(rows[:15]), sets[:15], gallery=run.embed(rows[15:]), gallery_labels=sets[15:], distance=run.distance
    )
    assert found.metrics["map_at_r"] == pytest.approx(expected.metrics["map_at_r"])


def test_an_index_and_shards_show_the_labels(run, tmp_path):
    rows, sets = drawn(20, seed=7)
    path = write_jsonl(tmp_path / "items.jsonl", rows, sets)
    given = [sorted(own) for own in sets]
    index, _ = run.index(str(path))
    index.save(tmp_path / "index")
    assert Index.open(tmp_path / "index").labels == given
    run.embed_to(str(path), tmp_path / "shards", shard_rows=8)
    shards = sorted((tmp_path / "shards").glob("*.parquet"))
    assert [one for shard in shards for one in pq.read_table(shard)["label"].to_pylist()] == given
    assert index_of_shards(run.path, tmp_path / "shards").labels == given
    assert run.embed_records(str(path)).labels == given


@pytest.mark.parametrize("given", [["a, b", "c"], ["a", "b, c"], ["a", "b", "c"], ['say "a"', "b"], []])
def test_labels_with_commas_stay_apart(tmp_path, given):
    """In an index as lists, and in words so that no other labels are written alike."""
    records = read((["one", "two", "three"], [given, ["x", "y"], ["x"]]))
    index = Index(np.eye(3, dtype=np.float32), list(records.names), records.label_names(), "run", "0" * 32, "euclidean")
    index.save(tmp_path / "index")
    found = Index.open(tmp_path / "index").search(np.eye(3, dtype=np.float32)[:1], 1)[0][0]
    assert found.label == sorted(given)
    assert next(csv.reader([records.label_name(0)], skipinitialspace=True, doublequote=False, escapechar="\\"), []) == (
        sorted(given)
    )


def test_an_index_of_joined_labels_is_still_opened(tmp_path):
    """As it was written before the labels of an item were kept apart."""
    index = Index(np.eye(2, dtype=np.float32), ["one", "two"], ["a, b", ""], "run", "0" * 32, "euclidean")
    index.save(tmp_path / "index")
    assert pq.read_schema(tmp_path / "index" / "items.parquet").field("label").type == pa.string()
    assert Index.open(tmp_path / "index").labels == ["a, b", ""]


def test_a_search_shows_the_labels_of_what_it_finds(run, tmp_path, capsys):
    rows, _ = drawn(3, seed=7)
    path = write_jsonl(tmp_path / "items.jsonl", rows, [["wet, cold", "red"], ["old"], []])
    index, _ = run.index(str(path))
    index.save(tmp_path / "index")
    words = ["search", str(tmp_path / "index"), ", ".join(map(str, rows[0])), "-k", "1"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.rstrip().endswith('red, "wet, cold"')
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["label"] == ["red", "wet, cold"]


def test_a_resumed_run_is_the_same_to_the_byte(run, data, tmp_path):
    class Stop(Exception):
        pass

    def stop(step, figures):
        if step == 5:
            raise Stop

    with pytest.raises(Stop):
        tercet.train(str(data), out=tmp_path / "run", progress=False, tracker=stop, **QUICK)
    tercet.train(str(data), out=tmp_path / "run", progress=False, resume=True)
    names = ("model.safetensors", "config.toml", "history.jsonl", "calibration.json", "summary.json", "copies.json",
             "evaluations/validation.json", "maps/validation.json")  # fmt: skip
    one, other = digest(run.path), digest(tmp_path / "run")
    assert [one[name] for name in names] == [other[name] for name in names]


def test_lists_of_one_train_the_same(tmp_path):
    rows, _ = drawn(40)
    labels = [f"kind {i % 8}" for i in range(40)]
    runs = [tercet.train((rows, given), out=tmp_path / name, progress=False, **QUICK)
            for name, given in (("plain", labels), ("lists", [[one] for one in labels]))]  # fmt: skip
    one, other = (digest(run.path) for run in runs)
    assert one == other


@pytest.mark.parametrize("loss", ["contrastive", "infonce", "supcon"])
def test_every_loss_takes_sets(data, tmp_path, loss):
    run = tercet.train(str(data), out=tmp_path / loss, progress=False, loss=loss, memory=20, selection="loss", **QUICK)
    rows = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)


REFUSED = {
    "mine_every": ({"mine_every": 1}, "mine_every is set, which takes each item to have one label"),
    "record_learned": ({"record_learned": True}, "record_learned is set, which takes each item to have one label"),
    "views": ({"views": 2}, "views is 2, and the data holds label sets"),
    "rows": ({"rows_per_batch": 5}, "rows_per_batch is 5, and the data holds label sets"),
    "own loss": ({"loss": lambda embeddings, labels: embeddings.sum()}, "a loss of your own takes one label an item"),
    "margins": ({"loss": tercet.TripletLoss(margin=dict.fromkeys(TAGS, 0.1))}, "margins per class need one label"),
    "holdout": ({"holdout_by": "class"}, "holdout_by is 'class', but items of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_takes_one_label_an_item_is_refused(data, tmp_path, name):
    options, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        tercet.train(str(data), out=tmp_path / "run", progress=False, **{**QUICK, **options})
    assert not (tmp_path / "run").exists()


def test_a_label_of_all_items_is_refused(tmp_path):
    rows, sets = drawn(20)
    with pytest.raises(InputError, match="all items of the training data have the label 'any'"):
        tercet.train((rows, [["any", *own] for own in sets]), out=tmp_path / "run", progress=False, **QUICK)


def test_mining_clusters_and_benchmarks_need_one_label(run, data, tmp_path):
    with pytest.raises(DataError, match="holds several labels an item, and mining needs one label for every item"):
        run.mine(str(data))
    with pytest.raises(
        InputError, match=r"clustering is for items with labels, one each; .* holds 60 rows with 6 labels"
    ):
        run.evaluate(str(data), clustering=True)
    with pytest.raises(DataError, match="holds label sets, and a benchmark needs items with labels"):
        tercet.benchmark(str(data), out=tmp_path / "benchmark", progress=False)


def test_runs_are_compared_on_sets(run, data, tmp_path):
    other = tercet.train(str(data), out=tmp_path / "other", progress=False, **{**QUICK, "seed": 1})
    rows, sets = drawn(30, seed=8)
    path = write_jsonl(tmp_path / "test.jsonl", rows, sets)
    found = tercet.compare([run, other], str(path))
    for one in (run, other):
        expected = evaluate_embeddings(one.embed(rows), sets, distance=one.distance).metrics
        figures = found.figures[str(one.path)]
        assert {name: figures[name] for name in figures} == pytest.approx({name: expected[name] for name in figures})


def test_the_command_line_takes_cells_of_several(tmp_path, capsys):
    rows, sets = drawn(50)
    path = write_csv(tmp_path / "train.csv", rows, sets, "|")
    words = ["train", str(path), "--out", str(tmp_path / "run"), "--label-separator", "|", *QUICK_FLAGS]
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert "50 rows with 6 labels, up to 3 an item" in said
    assert "drawn one by one as their labels overlap" in said
    assert cli.main(["evaluate", str(tmp_path / "run"), "--data", str(path)]) == 0  # as in training
    assert "auc" in capsys.readouterr().out
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Sizes of the labels trained on" in report
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("left,right\nx y,z\nq,r s\nu,v\n")
    with pytest.raises(InputError, match=r"label_separator is '\|', and .* holds pairs, which have no labels"):
        tercet.train(str(pairs), out=tmp_path / "no", label_separator="|", progress=False, **QUICK)


def test_copies_with_different_labels_are_told(tmp_path):
    from tercet.training.folder.copies import copies

    records = read((["a", "a", "b", "b", "c"], [["x", "y"], ["x"], ["x"], ["x"], ["y"]]))
    found = copies(records, records.fingerprints())
    assert (found["n_copies"], found["n_contradictory"]) == (2, 1)
    assert found["contradictory"] == [[{"name": "a", "class": "x, y"}, {"name": "a", "class": "x"}]]
    assert isinstance(records, Records)


def test_queries_are_right_and_answerable_by_shared_labels():
    codes, sets = coded(SETS), [set(own) for own in SETS]
    queries, indices = np.array([6, 2, 4, 0]), np.array([[0, 2, 3], [0, 1, -1], [5, 1, 2], [4, 3, -1]])
    found = Neighbours(queries, indices, np.arange(12.0).reshape(4, 3), codes)
    assert found.are_right().tolist() == [
        [item >= 0 and bool(sets[query] & sets[item]) for item in row]
        for query, row in zip(queries.tolist(), indices.tolist(), strict=True)
    ]
    assert found.are_answerable().tolist() == [
        any(sets[query] & other for item, other in enumerate(sets) if item != query) for query in queries.tolist()
    ]
    assert [one["query"] for one in mistaken_queries(found)] == [0]


def test_vital_signs_of_sets():
    """A label of the most items, and the pairs that share one."""
    codes, sets = coded(SETS), [set(own) for own in SETS]
    batch = Batch(np.arange(7), codes)
    assert composition(batch) == {"n_items": 7, "n_classes": 4, "largest_class": 3 / 7}
    distances = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    found = _kinds(distances, ~torch.eye(7, dtype=torch.bool), codes)
    for name, wanted in (("positive_50", True), ("negative_50", False)):
        values = [float(distances[i, j]) for i, j in pairs if bool(sets[i] & sets[j]) == wanted]
        assert found[name] == pytest.approx(np.median(values))
    assert not {"strange_share", "adopted_share"} & set(found)


def test_a_level_cuts_the_labels_of_lists_too():
    given = [["a/b/c", "a/b/d"], ["a/e", "f"], ["f/g"]]
    records = read((["one", "two", "three"], given), label_level=1)
    assert (records.form, records.label_lists(), tuple(records.classes)) == (
        "label-sets", [["a"], ["a", "f"], ["f"]], ("a", "f"),
    )  # fmt: skip
    single = read((["one", "two"], [["a/b", "a/c"], ["d/e"]]), label_level=1)
    assert (single.form, single.label_names()) == ("labels", ["a", "d"])
    with pytest.raises(InputError, match="label_level is 4, and no label of a list has more than 3 parts"):
        read((["one", "two", "three"], given), label_level=4)
