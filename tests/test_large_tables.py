"""Sources that are read row by row give the records that the same rows give when they are read at once."""

import datetime as dt
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import tercet
from conftest import QUICK, text_of, write_images
from tercet.data import indexed, kept, large_tables, large_tuples, lazy, rows
from tercet.data.groups import read_groups
from tercet.data.images import open_image
from tercet.data.lazy import LazyItems
from tercet.data.readers import read
from tercet.data.wishes import Wishes
from tercet.encoders.options import ImageOptions, TextOptions, TowersOptions
from tercet.errors import DataError, InputError
from tercet.training.batches.prompts import in_role, prompted


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def streamed(monkeypatch):
    """Every Parquet and JSONL file counts as large."""
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0)
    monkeypatch.setattr(rows, "KEPT_BYTES", 100)
    monkeypatch.setattr(rows, "BATCH", 5)


def table(count=42):
    texts = [text_of(row % 7, row) for row in range(count)]
    return {"text": texts, "label": [f"topic {row % 7}" for row in range(count)]}


def write(path, columns, row_group_size=4):
    if path.suffix == ".jsonl":
        lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    else:
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize(
    "columns",
    [
        table(),
        table() | {"label": list(range(42))},
        table() | {"label": [float(row % 4) for row in range(42)]},
        table() | {"label": [-row % 12 for row in range(42)]},
        {"a": [0.5 * row for row in range(42)], "b": list(range(42)), "label": ["x", "y", "z"] * 14},
    ],
    ids=["texts", "whole", "floats", "order", "numbers"],
)
def test_equals_the_reader_of_whole_tables(tmp_path, monkeypatch, suffix, columns):
    path = write(tmp_path / f"data{suffix}", columns)
    whole = read(path)
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0)
    monkeypatch.setattr(rows, "BATCH", 5)
    for _ in range(2):  # the second from what the first kept
        large = read(path)
        assert list(large.classes) == list(whole.classes)
        assert large.labels.tolist() == whole.labels.tolist()
        assert list(large.names) == list(whole.names)
        assert np.array_equal(np.asarray(list(large.items)), np.asarray(whole.items))
        assert np.array_equal(large.fingerprints(), whole.fingerprints())
        some = np.array([7, 3, 3, 41])
        assert list(large.take(some).names) == [whole.names[place] for place in some]
        assert large.take(some).take([1, 2]).labels.tolist() == whole.take(some).take([1, 2]).labels.tolist()


def test_items_are_read_when_they_are_asked_for(tmp_path, streamed):
    columns = table()
    records = read(write(tmp_path / "data.parquet", columns))
    assert isinstance(records.items, LazyItems)
    assert records.items[-1] == columns["text"][-1]
    assert records.items[3:6] == columns["text"][3:6]
    assert records.items.take([40, 2, 2, 17]) == [columns["text"][row] for row in (40, 2, 2, 17)]
    with pytest.raises(IndexError):
        records.items[42]
    sent = pickle.loads(pickle.dumps(records.items))  # as it goes to a process that loads
    assert sent.take([5]) == [columns["text"][5]]


def test_a_changed_file_is_read_anew(tmp_path, streamed):
    path = write(tmp_path / "data.jsonl", table())
    assert len(read(path)) == 42
    write(path, table(49))
    assert len(read(path)) == 49


def test_shards_of_a_folder_are_one_table(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    columns = table()
    for number, start in enumerate((0, 10, 31)):
        end = (10, 31, 42)[number]
        write(folder / f"part-{number}.parquet", {name: values[start:end] for name, values in columns.items()})
    records = read(folder)
    assert list(records.items) == columns["text"]
    assert records.items.rows.place(12) == "part-1.parquet, row 3"
    write(folder / "part-3.parquet", {"other": ["a"]})
    with pytest.raises(DataError, match=r"part-3.parquet has the columns other, and part-0.parquet has text, label"):
        read(folder)


@pytest.mark.slow
def test_a_file_is_opened_once_however_often_its_rows_are_read(tmp_path, streamed, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_FILES", 2)
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.parquet", {name: values[14 * number :][:14] for name, values in table().items()})
    items, opened = read(folder).items, []
    open_file = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda path, **given: opened.append(path.name) or open_file(path, **given))
    for _ in range(5):
        assert items.take([20, 3, 21, 7]) == [table()["text"][row] for row in (20, 3, 21, 7)]
    assert len(opened) == len(set(opened)), "a footer of thousands of row groups takes longer to read than a row"
    assert list(items) == table()["text"]
    assert list(items) == table()["text"]
    assert len(items.rows._files) == 2


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_damaged_row_group_is_named(tmp_path, streamed, column):
    path = write(tmp_path / "data.parquet", table(), row_group_size=2100)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(list(table()).index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    for place in range(start, start + chunk.total_compressed_size):
        data[place] = 255 - data[place]
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"data.parquet cannot be read as Parquet: "):
        list(read(path).items)


def test_labels_are_read_without_pandas(tmp_path):
    """Arrow imports pandas for most of what it turns into NumPy; that takes longer and more memory than some tables."""
    path = write(tmp_path / "data.parquet", table() | {"label": [-row % 12 for row in range(42)]})
    script = (
        "import sys, pathlib; from tercet.data.rows import ParquetRows; from tercet.data.label_column import *\n"
        f"rows = ParquetRows([pathlib.Path({str(path)!r})], 'it'); print(rows.take([3, 40], 'label'))\n"
        f"write_codes(rows.batches('label'), pathlib.Path({str(tmp_path / 'codes')!r}), 'it', 'label', rows.place)\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[9, 8]", "False"]


@pytest.mark.parametrize("as_struct", [False, True])
def test_images_in_a_table(tmp_path, as_struct):
    write_images(tmp_path / "images", range(6), samples=4)
    paths = sorted((tmp_path / "images").rglob("*.png"))
    held = [path.read_bytes() for path in paths]
    cells = [{"bytes": one, "path": path.name} for one, path in zip(held, paths, strict=True)] if as_struct else held
    path = write(tmp_path / "images.parquet", {"image": cells, "label": [path.parent.name for path in paths]})
    records, folder = read(path), read(tmp_path / "images")
    assert records.kind == "image"
    assert np.array_equal(records.fingerprints(), folder.fingerprints())
    run = tercet.train(str(path), out=tmp_path / "run", progress=False, **QUICK)
    assert np.array_equal(run.embed(records), run.embed(folder))


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_left_out_with_its_row(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "PNG")
    cells = [buffer.getvalue()] * 23 + [b"no image"]
    path = write(tmp_path / "images.parquet", {"image": cells, "label": [f"c{row % 6}" for row in range(24)]})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = tercet.train(str(path), out=tmp_path / "run", progress=False, **QUICK)
    assert any("row 24: " in str(one.message) and "not an image" in str(one.message) for one in seen)
    assert run.path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_training_equals_that_on_the_whole_table(tmp_path, monkeypatch, suffix):
    path = write(tmp_path / f"data{suffix}", table())
    whole = tercet.train(str(path), out=tmp_path / "whole", progress=False, **QUICK)
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0)
    large = tercet.train(str(path), out=tmp_path / "large", progress=False, **QUICK)
    assert (whole.path / "model.safetensors").read_bytes() == (large.path / "model.safetensors").read_bytes()
    assert whole.metrics == large.metrics


def stop_at_5(step, figures):
    if step == 5:
        raise RuntimeError("stopped")


@pytest.mark.slow
def test_training_from_an_index_of_classes_resumes_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(indexed, "INDEXED_FROM", 10)
    path = str(write(tmp_path / "data.parquet", table()))
    options = {**QUICK, "evaluate_every": 2}
    whole = tercet.train(path, out=tmp_path / "whole", progress=False, **options)
    with pytest.raises(RuntimeError, match="stopped"):
        tercet.train(path, out=tmp_path / "parts", progress=False, tracker=stop_at_5, **options)
    parts = tercet.train(path, out=tmp_path / "parts", progress=False, resume=True)
    assert (whole.path / "model.safetensors").read_bytes() == (parts.path / "model.safetensors").read_bytes()
    assert '"sampler": "IndexedBatches"' in next((tmp_path / "whole" / "checkpoints").rglob("*.json")).read_text()


BAD = [
    ({"label": [["a"], ["b", None]] + [["c"]] * 40}, r"row 2, column 'label': the label is missing"),
    ({"label": [["a"], ["b", "c"], None] + [["c"]] * 39}, r"row 3, column 'label': the label is missing"),
    ({"label": [[0, 1, 0], [1, 0, 0]] * 21}, r"column 'label': its lists hold 0 and 1, all of one length"),
    ({"label": ["a"] * 7 + [None] + ["b"] * 34}, r"row 8, column 'label': the label is missing"),
    ({"label": ["a"] * 7 + [" "] + ["b"] * 34}, r"row 8, column 'label': the label is missing"),
    ({"label": ["a"] * 42}, r"single class, 'a' in column 'label'"),
]


@pytest.mark.parametrize(("columns", "message"), BAD)
def test_labels_that_cannot_be_used(tmp_path, streamed, columns, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "data.parquet", table() | columns))


def test_a_list_of_one_label_is_that_label(tmp_path, streamed):
    columns = table() | {"label": [[f"topic {row % 7}"] for row in range(42)]}
    assert len(read(write(tmp_path / "data.parquet", columns)).classes) == 7
    assert len(read(write(tmp_path / "data.jsonl", columns)).classes) == 7


def test_bad_lines_are_named(tmp_path, streamed):
    path = write(tmp_path / "data.jsonl", table())
    path.write_text("\n" + path.read_text() + "{broken\n")
    with pytest.raises(DataError, match=r"data.jsonl, line 45: not valid JSON"):
        read(path)
    path.write_text('["a"]\n')
    with pytest.raises(DataError, match=r"line 1: expected an object"):
        read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a", "label": "\\ud800"}', r"holds half of a surrogate pair"),
        (b'{"text": "a", "label": "\xed\xa0\x80"}', r"not UTF-8 \(byte 0xed\)"),
        (b'{"text": "a\xff", "label": "b"}', r"not UTF-8 \(byte 0xff\)"),
        (b'{"text": "a", "label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "lists or objects are nested too deep"),
        (b'{"text": "a", "label": ' + b"9" * 5000 + b"}", r"cannot be read \(Exceeds the limit \(4300 digits\)"),
        (b'{"text": "a", "label": {"b": 1}}', r"'label' holds a dict; allowed are text and numbers"),
        (b'{"text": {"b": 1}, "label": "b"}', r"'text' holds a dict; allowed are text and numbers"),
        (b'{"text": ["b", "c"], "label": "b"}', r"'text' holds a list; allowed are text and numbers"),
        (b'{"text": ["b"], "label": "b"}', r"'text' holds a list; allowed are text and numbers"),
        (b'["a"]', r"""expected an object such as .* found \["a"\]"""),
    ],
)
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("before", [3, 1200], ids=["near", "far"])
def test_lines_that_hold_what_cannot_be_used(tmp_path, monkeypatch, line, message, large, before):
    """Also beyond the rows that are looked at to find out what the columns mean."""
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    path = tmp_path / "data.jsonl"
    rows_before = b"\n".join(b'{"text": "a", "label": "%d"}' % (row % 2) for row in range(before))
    path.write_bytes(b"\xef\xbb\xbf\n" + rows_before + b"\r\n \n" + line)
    with pytest.raises(DataError, match=rf"data\.jsonl(, line |:){before + 3}: {message}"):
        list(read(path).items)


@pytest.mark.parametrize("large", [False, True])
def test_whole_numbers_beyond_64_bits(tmp_path, monkeypatch, large):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    path = write(tmp_path / "labels.jsonl", {"text": ["a", "b", "c"], "label": [2**64 + 1, 9, 2**64]})
    assert list(read(path).classes) == ["9", str(2**64), str(2**64 + 1)]
    path = write(tmp_path / "features.jsonl", {"a": [2**70, 1], "b": [1, 2], "label": ["x", "y"]})
    assert read(path).items.tolist() == [[2.0**70, 1], [1, 2]]
    path = write(tmp_path / "large.jsonl", {"a": [10**400, 1], "b": [1, 2], "label": ["x", "y"]})
    with pytest.raises(DataError, match=r"line 1, column 'a': the value is inf, which float32 cannot hold"):
        read(path)


NAMES = [
    ["--5", "-7", "3", "3"],
    ["10", "9", "100000000000000000000", "-100000000000000000000"],
    ["\u0661\u0660", "\u0669", "8", "-1"],
    ["00", "0", "-0", "1"],
    ["9" * 5000, "8", "10", "8"],
    ["-", "5", "30", "5"],
]


@pytest.mark.parametrize("names", NAMES)
def test_classes_have_the_same_order_however_they_are_read(tmp_path, streamed, names):
    whole = [name for name in names if name.removeprefix("-").isdecimal() and len(name) < 1000]
    expected = sorted(set(names), key=(lambda name: (int(name), name)) if whole == names else None)
    path = write(tmp_path / "data.parquet", {"text": ["a", "b", "c", "d"], "label": names})
    assert list(read(path).classes) == expected
    assert list(read((["a", "b", "c", "d"], names)).classes) == expected


TIME = dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC)
KINDS = {  # of columns that Parquet holds: what each cell is as a label, or a text
    "text": (pa.array(["x", "y"], pa.string_view()), ["x", "y"]),
    "codes": (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
    "decimal": (pa.array([Decimal("1.00"), Decimal("2.50")]), ["1", "2.5"]),
    "moment": (pa.array([TIME, TIME + dt.timedelta(1)], pa.timestamp("us", "UTC")),
               ["2020-01-02 03:00:00+00:00", "2020-01-03 03:00:00+00:00"]),
    "day": (pa.array([TIME.date(), TIME.date() + dt.timedelta(1)]), ["2020-01-02", "2020-01-03"]),
    "clock": (pa.array([dt.time(1), dt.time(2)]), ["01:00:00", "02:00:00"]),
    "span": (pa.array([dt.timedelta(seconds=1), dt.timedelta(2)]), ["0:00:01", "2 days, 0:00:00"]),
    "truth": (pa.array([False, True]), ["false", "true"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("large", [False, True])
def test_labels_and_texts_of_every_kind(tmp_path, monkeypatch, kind, large):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    cells, expected = KINDS[kind]
    path = write(tmp_path / "labels.parquet", {"text": ["a", "b"], "label": cells})
    assert list(read(path).classes) == expected
    assert list(read(path).items) == ["a", "b"]
    path = write(tmp_path / "texts.parquet", {"text": cells, "label": ["x", "y"]})
    if kind not in ("decimal", "truth"):  # which are features
        assert list(read(path).items) == expected


@pytest.mark.parametrize("kind", ["text", "codes", "moment", "day", "clock", "span"])
def test_features_of_a_large_table_are_numbers(tmp_path, streamed, kind):
    cells, expected = KINDS[kind]
    path = write(tmp_path / "data.parquet", {"a": [1.0, 2.0], "odd": cells, "label": ["x", "y"]})
    with pytest.raises(
        DataError, match=rf"row 1, column 'odd' holds '{expected[0]}'.* are numbers\. Leave".replace("+", r"\+")
    ):
        read(path, kind="tabular", columns=["a", "odd"])


def test_features_that_are_true_or_false(tmp_path, streamed):
    columns = {"a": [1.0, 2.0], "b": [True, False], "label": ["x", "y"]}
    for suffix in ("parquet", "jsonl"):
        assert read(write(tmp_path / f"data.{suffix}", columns)).items.tolist() == [[1, 1], [2, 0]]


def test_lists_are_marks_only_where_all_are(tmp_path, streamed):
    """The last batch of rows has lists of zeros and ones alone, by chance."""
    labels = [[2, 3, 4]] * 5 + [[0, 1, 1]]
    path = write(tmp_path / "data.jsonl", {"text": list("abcdef"), "label": labels})
    assert list(read(path).classes) == ["0", "1", "2", "3", "4"]
    write(path, {"text": list("abcdef"), "label": [[1, 0, 0]] * 5 + [[0, 1, 1]]})
    with pytest.raises(DataError, match="look like marks"):
        read(path)


def test_a_column_is_taken_by_its_whole_name(tmp_path, streamed):
    """Parquet calls a field of a structure by both names with a dot between them, as a column may be called too."""
    columns = {
        "text": [{"raw": "no"}, {"raw": "no"}],
        "text.raw": ["a", "b"],
        "label.raw": ["no", "no"],
        "label": ["x", "y"],
    }
    records = read(write(tmp_path / "data.parquet", columns), columns=("text.raw",), label="label")
    assert list(records.items) == ["a", "b"]
    assert list(records.classes) == ["x", "y"]


def test_texts_that_are_structures_in_a_later_shard_are_refused(tmp_path):
    write(tmp_path / "0.parquet", table())
    write(tmp_path / "1.parquet", {"text": [{"a": "b"}], "label": ["topic 1"]})
    with pytest.raises(DataError, match=r"1\.parquet, row 1: 'text' holds a dict; allowed are text and numbers"):
        list(read(tmp_path).items)


def test_shards_without_rows_and_with_columns_in_another_order(tmp_path):
    columns, none = table(), {name: [] for name in table()}
    parts = [none, none, {name: values[:9] for name, values in columns.items()}, none]
    parts += [{name: columns[name][9:] for name in ("label", "text")}, none]
    for number, part in enumerate(parts):
        write(tmp_path / f"{number}.parquet", {name: pa.array(values, pa.string()) for name, values in part.items()})
    records = read(tmp_path)
    assert list(records.items) == columns["text"]
    assert records.labels.tolist() == [row % 7 for row in range(42)]
    assert [records.items.rows.place(row) for row in (0, 8, 9, 41)] == [
        "2.parquet, row 1", "2.parquet, row 9", "4.parquet, row 1", "4.parquet, row 33",
    ]  # fmt: skip


def test_what_is_kept_of_row_groups_is_what_was_read_last(tmp_path, monkeypatch):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0)
    source = read(write(tmp_path / "data.parquet", {"a": [0.5 * row for row in range(20)], "label": ["x", "y"] * 10}))
    of = source.names.rows
    of._kept.clear()
    of._kept_bytes = 0
    monkeypatch.setattr(rows, "KEPT_BYTES", 2 * of._column_of(0, "a").nbytes)
    for group in (1, 0, 2):
        of._column_of(group, "a")
    assert list(of._kept) == [(0, "a"), (2, "a")]
    assert of._kept_bytes == sum(values.nbytes for values in of._kept.values())
    for group in (3, 4):
        of._column_of(group, "a")
    assert list(of._kept) == [(3, "a"), (4, "a")]


def test_what_is_kept_of_a_file_is_of_what_was_asked_for(tmp_path, streamed):
    columns = {"a": [1.0, 2.0], "b": [3.0, 4.0], "label": ["x/p", "y/q"]}
    path = write(tmp_path / "data.parquet", columns)
    for _ in range(2):
        assert list(read(path, label_level=1).classes) == ["x", "y"]
        assert read(path, columns=("a",)).items.tolist() == [[1], [2]]
        assert read(path, columns=("b", "a")).items.tolist() == [[3, 1], [4, 2]]
        assert list(read(path).classes) == ["x/p", "y/q"]


def test_of_several_columns_of_images_one_is_to_be_named(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    cells = [{"bytes": buffer.getvalue(), "path": f"{name}.png"} for name in "ab"]
    path = write(tmp_path / "data.parquet", {"front": cells, "back": cells, "label": ["x", "y"]})
    with pytest.raises(DataError, match=r"the columns front, back all hold images\. Say which with --columns"):
        read(path)
    assert list(read(path, columns=("back",)).names) == ["a.png", "b.png"]
    path = write(tmp_path / "usual.parquet", {"front": cells, "image": cells, "label": ["x", "y"]})
    assert "items in 'image'" in read(path).description


class Rowed:
    """What Tercet asks of a `datasets.Dataset`."""

    column_names = ("text", "label")

    def __init__(self, labels, names=None):
        self.columns = {"text": [f"t{row}" for row in range(len(labels))], "label": labels}
        self.features = {} if names is None else {"label": SimpleNamespace(names=names)}

    def __len__(self):
        return len(self.columns["text"])

    def __getitem__(self, positions):
        return {name: [values[row] for row in positions] for name, values in self.columns.items()}


@pytest.mark.parametrize(("labels", "names"), [([0, 1] * 4 + [-1], ["a", "b"]), (["a", "b"] * 4 + [None], None)])
def test_a_label_that_a_dataset_lacks_is_named_by_its_row(streamed, labels, names):
    with pytest.raises(DataError, match=r"row 9, column 'label': the label is missing"):
        large_tables.read_dataset_rows(Rowed(labels, names), Wishes())


def test_shards_are_files_that_are_not_hidden(tmp_path):
    folder = tmp_path / "data.parquet"  # as some programs write them
    folder.mkdir()
    write(folder / "0.PARQUET", {"text": ["a"], "label": ["x"]})
    write(folder / "1.parquet", {"text": ["b"], "label": ["y"]})
    (folder / "._1.parquet").write_bytes(b"not a table")
    records = read(folder)
    assert list(records.items) == ["a", "b"]
    assert "2 Parquet shards" in records.description


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, streamed, suffix, replaced):
    path = write(tmp_path / f"data{suffix}", table())
    items = read(path).items
    assert items[0] == table()["text"][0]
    other = write(tmp_path / f"other{suffix}", table(49))
    if replaced:
        other.replace(path)
    else:
        path.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match=rf"data{suffix} has changed while it was being read"):
        list(items)


def test_where_a_line_is_does_not_take_a_look_at_the_file(tmp_path, streamed):
    path = write(tmp_path / "data.jsonl", {"a": [1.0, 2.0, 3.0], "label": ["x", "y", "x"]})
    first, second, third = path.read_bytes().split(b"\n")[:3]
    path.write_bytes(b"\n\n" + first + b"\n" + second + b"\n \n" + third + b"\n\n")
    names = read(path).names
    assert names.rows.place(0) == "line 3"
    path.unlink()
    assert [names.rows.place(row) for row in range(3)] == ["line 3", "line 4", "line 6"]


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path, streamed, monkeypatch):
    """In a container, the next process has the number of the one that was killed."""
    path = write(tmp_path / "data.jsonl", table())
    left = []

    def killed(source, target):
        left.append(shutil.copytree(source, tmp_path / "left"))
        raise KeyboardInterrupt

    monkeypatch.setattr(kept.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        read(path)
    monkeypatch.undo()
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0)
    folder = kept.folder_of([path], "lines")
    shutil.copytree(left[0], folder.with_name(f".{folder.name}.{os.getpid()}.partial"))
    assert len(read(path)) == 42


def test_of_two_that_keep_the_same_the_first_is_left(tmp_path):
    with kept.new_folder(tmp_path / "a") as mine:
        (mine / "file").write_text("mine")
        with kept.new_folder(tmp_path / "a") as other:
            (other / "file").write_text("other")
    assert (tmp_path / "a" / "file").read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("large", [False, True])
def test_labels_of_a_hierarchy(tmp_path, monkeypatch, large):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    labels = ["animal/dog/poodle", "animal/dog/collie", "animal/cat", "plant/oak"]
    path = write(tmp_path / "data.parquet", {"text": ["a", "b", "c", "d"], "label": labels})
    assert list(read(path).classes) == sorted(labels)
    assert list(read(path, label_level=2).classes) == ["animal/cat", "animal/dog", "plant/oak"]
    assert list(read(path, label_level=1).classes) == ["animal", "plant"]
    with pytest.raises(InputError, match="label_level is 0"):
        read(path, label_level=0)


TOO_DEEP = r"label_level is 4, and no label of .* has more than 3 parts, such as 'animal/dog/\w+'; allowed is a whole"


@pytest.mark.parametrize("large", [False, True])
def test_a_level_that_would_do_nothing_is_refused(tmp_path, monkeypatch, large):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    labels = ["animal/dog/poodle", "animal/dog/collie", "animal/cat", "plant/oak"]
    path = write(tmp_path / "data.parquet", {"text": ["a", "b", "c", "d"], "label": labels})
    assert len(read(path, label_level=3).classes) == 4
    for level in (4, 7):
        with pytest.raises(InputError, match=TOO_DEEP.replace("4", str(level))):
            read(path, label_level=level, labelled=level == 4)
    write(path, {"text": ["a", "b"], "label": ["x", "y"]})
    with pytest.raises(InputError, match=r"more than 1 part, such as 'x'; allowed is 1\.$"):
        read(path, label_level=2)
    write(path, {"anchor": ["a", "b"], "positive": ["c", "d"]})
    with pytest.raises(InputError, match=r"label_level is 2, and .* holds pairs; leave it out"):
        read(path, label_level=2)
    assert read(path, label_level=2, labelled=False).labels is None


EDGES = [  # of columns that the format holds, and Tercet or Python does not
    (pa.array([2**31 - 1] * 42, pa.date32()), r"column 'odd': a value of the type date32\[day\] cannot be read"),
    (pa.array([2**62] * 42, pa.timestamp("us")), r"column 'odd': a value of the type timestamp\[us\] cannot be read"),
]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("values", "message"), EDGES)
def test_dates_beyond_the_calendar_are_refused(tmp_path, monkeypatch, large, values, message):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "data.parquet", table() | {"odd": values}))


@pytest.mark.parametrize("large", [False, True])
def test_columns_of_one_name_are_refused(tmp_path, monkeypatch, large):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    pq.write_table(pa.table([["x", "y"], [1, 2], [3, 4]], names=["label", "a", "a"]), tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"data.parquet has several columns of the name 'a'; rename them"):
        read(tmp_path / "data.parquet")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], "row 1: 'odd' holds a list; allowed are text and numbers"),
        ([{"x": 1.0}, {"x": 2.0}], r"column 'odd' holds struct<x: double>, and the features .* are numbers"),
    ],
)
def test_what_is_no_number_among_the_features_of_a_large_table_is_refused(tmp_path, streamed, odd, message):
    path = write(tmp_path / "data.parquet", {"label": ["x", "y"], "a": [1.0, 2.0], "odd": odd})
    with pytest.raises(DataError, match=message):
        read(path, kind="tabular", columns=["a", "odd"])


class Tensors(torch.utils.data.Dataset):
    """Gives (input, label)."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return torch.full((2,), float(place)), self.labels[place]


def test_labels_of_python_objects_have_levels_too():
    labels = ["b/x", "a/y", "b/z", "a/y"]
    for source in ((["k", "l", "m", "n"], labels), Tensors(labels)):
        records = read(source, label_level=1)
        assert list(records.classes) == ["a", "b"]
        assert records.labels.tolist() == [1, 0, 1, 0]
        assert "4 " in records.description
        assert "by 1 part of their labels" in records.description
        with pytest.raises(InputError, match="label_level is 0"):
            read(source, label_level=0)
        with pytest.raises(InputError, match="label_level is 3"):
            read(source, label_level=3)
    with pytest.raises(DataError, match="single class at label_level 1, 'a'"):
        read((["k", "l"], ["a/x", "a/y"]), label_level=1)


def test_folders_within_folders_are_a_hierarchy(tmp_path):
    write_images(tmp_path / "data" / "one", range(2), samples=1)
    write_images(tmp_path / "data" / "two", range(2), samples=1)
    assert list(read(tmp_path / "data").classes) == ["one", "two"]
    assert list(read(tmp_path / "data", label_level=2).classes) == [
        "one/class00", "one/class01", "two/class00", "two/class01",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"label_level is 3, and no label of .* has more than 2 parts"):
        read(tmp_path / "data", label_level=3)


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="needs Hugging Face datasets")


def test_datasets_of_texts(datasets, tmp_path):
    columns = table()
    features = datasets.Features(
        {"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=list("abcdefg"))}
    )
    made = datasets.Dataset.from_dict(
        {"text": columns["text"], "topic": [row % 7 for row in range(42)]}, features=features
    )
    records = read(made, label="topic", columns=("text",))
    assert list(records.items) == columns["text"]
    assert list(records.classes) == list("abcdefg")
    run = tercet.train(made, label="topic", columns=("text",), out=tmp_path / "run", progress=False, **QUICK)
    assert run.embed(records).shape == (42, 128)
    with pytest.raises(DataError, match="streaming=True"):
        read(made.to_iterable_dataset(), label="topic")
    with pytest.raises(DataError, match=r"no column 'topics'.*Did you mean 'topic'"):
        read(made, label="topics")


def test_datasets_of_images_and_numbers(datasets, tmp_path):
    write_images(tmp_path / "images", range(6), samples=4)
    paths = sorted(str(path) for path in (tmp_path / "images").rglob("*.png"))
    made = datasets.Dataset.from_dict({"image": paths, "label": [row // 4 for row in range(24)]})
    records = read(made.cast_column("image", datasets.Image()), label="label", columns=("image",))
    assert records.kind == "image"
    assert read(made).kind == "image"  # paths
    run = tercet.train(made.cast_column("image", datasets.Image()), label="label", columns=("image",),
                       out=tmp_path / "run", progress=False, **QUICK)  # fmt: skip
    assert np.array_equal(run.embed(records), run.embed(paths))
    numbers = datasets.Dataset.from_dict({"a": [1.5, 2.0], "b": [3, 4], "label": ["x", "y"]})
    assert read(numbers).items.tolist() == [[1.5, 3.0], [2.0, 4.0]]


def tuples_of(form, words, count=24):
    columns = {
        "anchor": [words[row % 5] for row in range(count)],
        "positive": [words[row % 11] for row in range(count)],
    }
    if form == "triplets":
        return columns | {"negative": [words[row % 7] for row in range(count)]}
    columns = dict(zip(("left", "right"), columns.values(), strict=True))
    last = {"pairs": {}, "marked-pairs": {"label": [row % 2 for row in range(count)]},
            "scored-pairs": {"score": [row / 7 for row in range(count)]}}[form]  # fmt: skip
    return columns | last


def assert_equal_tuples(one, other):
    assert (one.form, one.kind, list(one.items), list(one.names)) == (
        other.form, other.kind, list(other.items), list(other.names),
    )  # fmt: skip
    assert one.tuples.tolist() == other.tuples.tolist()
    assert one.skipped == other.skipped
    for name in ("similar", "scores"):
        mine, theirs = (getattr(records, name) for records in (one, other))
        assert (None if mine is None else mine.tolist()) == (None if theirs is None else theirs.tolist())


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("form", ["pairs", "triplets", "marked-pairs", "scored-pairs"])
def test_pairs_and_triplets_equal_those_that_are_read_at_once(tmp_path, request, suffix, form):
    path = write(tmp_path / f"data{suffix}", tuples_of(form, [f"text number {row}" for row in range(12)]))
    whole = read(path)
    request.getfixturevalue("streamed")
    large = read(path)
    assert isinstance(large.items, LazyItems)
    assert_equal_tuples(large, whole)
    rows = [5, 2, 9]
    assert_equal_tuples(large.take_tuples(rows), whole.take_tuples(rows))


@pytest.mark.parametrize("form", ["pairs", "triplets"])
def test_pairs_and_triplets_of_paths_leave_out_what_is_missing(tmp_path, request, monkeypatch, form):
    """A file that is written in two ways is one item, by the name that it has first; names of files are whole."""
    folder = write_images(tmp_path / ("faces" * 15), range(3), samples=4)
    words = sorted(str(path.relative_to(tmp_path)) for path in folder.rglob("*.png"))[:11]
    (tmp_path / words[3]).unlink()
    words[5] = f"./{words[4]}"
    path = write(tmp_path / "data.jsonl", tuples_of(form, [*words, words[0]]))
    whole = read(path)
    assert {one.reason for one in whole.skipped} >= {"no such file"}
    assert (tmp_path / words[3]) not in map(tmp_path.__truediv__, whole.names)
    assert all((tmp_path / name).is_file() for name in whole.names)
    request.getfixturevalue("streamed")
    assert_equal_tuples(read(path), whole)
    monkeypatch.setattr(large_tuples, "BLOCK", 5)
    assert_equal_tuples(read(path), whole)


def captions(folder, count=24):
    """Paths of images and what they show; some come several times, and one is written in two ways."""
    images = sorted(
        str(path.relative_to(folder)) for path in write_images(folder / "faces", range(3), 4).rglob("*.png")
    )
    paths = [images[row * 5 % 11] for row in range(count)]
    return {
        "image": ["./" + paths[0], *paths[1:]],
        "caption": [
            f"what is in picture {row % 13}, in words too many to be a name as a whole" for row in range(count)
        ],
    }


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("missing", [False, True])
def test_pairs_of_two_kinds_equal_those_that_are_read_at_once(tmp_path, request, suffix, missing):
    columns = captions(tmp_path)
    if missing:
        (tmp_path / columns["image"][3]).unlink()
    path = write(tmp_path / f"data{suffix}", columns)
    whole = read(path)
    request.getfixturevalue("streamed")
    large = read(path)
    assert (large.kind, large.columns) == ("sides", ("image", "caption"))
    assert [isinstance(values, LazyItems) for values in large.items.values] == [True, True]
    assert_equal_tuples(large, whole)
    assert len(large.skipped) == missing
    assert "pairs of images in 'image' with texts in 'caption'" in large.description
    assert_equal_tuples(large.take_tuples([5, 2, 9]), whole.take_tuples([5, 2, 9]))
    assert large.fingerprints().tolist() == whole.fingerprints().tolist()
    for side in (0, 1):
        one, other = large.of_side(side), whole.of_side(side)
        assert (one.kind, list(one.items), list(one.names)) == (other.kind, list(other.items), list(other.names))
        assert isinstance(one.items, LazyItems)
        assert isinstance(one.as_side(side, ("image", "caption")).items.values[side], LazyItems)


def test_of_triplets_that_nothing_can_satisfy_and_missing_images_each_is_left_out(tmp_path, request):
    """Items that only such triplets use are gone before the missing ones are, and those after them count anew."""
    a, b, c, d, e = (str(path) for path in sorted(write_images(tmp_path / "faces", range(1), 5).rglob("*.png")))
    columns = {"anchor": [a, c, c, d], "positive": [b, d, d, e], "negative": [a, e, "gone.png", e]}
    path = write(tmp_path / "data.jsonl", columns)
    whole = read(path)
    reason = "the negative is the anchor or the positive itself"
    told = [("line 1", reason), ("line 4", reason), ("gone.png", "no such file")]
    assert [(one.name, one.reason) for one in whole.skipped] == told
    assert (list(whole.items), whole.tuples.tolist()) == ([c, d, e], [[0, 1, 2]])
    request.getfixturevalue("streamed")
    assert_equal_tuples(read(path), whole)


def test_images_on_the_right_are_left_out_with_their_pairs_too(tmp_path, request, monkeypatch):
    """Paths start from the current folder as well."""
    columns = captions(tmp_path)
    (tmp_path / columns["image"][3]).unlink()
    (tmp_path / "tables").mkdir()
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "tables" / "data.jsonl", {"said": columns["caption"], "seen": columns["image"]})
    options = {"form": "pairs", "columns": ("said", "seen")}
    whole = read(path, **options)
    request.getfixturevalue("streamed")
    large = read(path, **options)
    assert large.items.kinds == ("text", "image")
    assert [one.name for one in large.skipped] == [columns["image"][3]]
    assert_equal_tuples(large, whole)


def test_an_image_that_is_missing_in_many_rows_is_missing_once(tmp_path, streamed):
    """It is in as many rows as there are items, and not all items are missing."""
    write_images(tmp_path / "faces", range(1), 1)
    here = str(next(tmp_path.rglob("*.png")))
    columns = {"image": ["gone.png"] * 3 + [here], "caption": ["a picture"] * 4}
    records = read(write(tmp_path / "data.jsonl", columns))
    assert [one.name for one in records.skipped] == ["gone.png"]
    assert list(records.items.values[0]) == [here]


def test_two_towers_of_large_pairs_in_shards_and_datasets(tmp_path):
    words = [f"text number {row}" for row in range(12)]
    columns = tuples_of("pairs", words)
    whole = read(write(tmp_path / "data.parquet", columns), towers="separate")
    assert "text number 0" in {whole.items[0].value, whole.items[len(whole) - 1].value}
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards" / "a.parquet", {name: values[:9] for name, values in columns.items()})
    write(tmp_path / "shards" / "b.parquet", {name: values[9:] for name, values in columns.items()})
    assert_equal_tuples(read(tmp_path / "shards", towers="separate"), whole)
    datasets = pytest.importorskip("datasets")
    assert_equal_tuples(read(datasets.Dataset.from_dict(columns), towers="separate"), whole)


def test_an_empty_cell_of_one_of_two_sides_is_named(tmp_path, streamed):
    columns = captions(tmp_path)
    columns["caption"][13] = None
    with pytest.raises(DataError, match=r"data\.jsonl, line 14, column 'caption': the cell is empty\. Fill it in or"):
        read(write(tmp_path / "data.jsonl", columns))


def test_a_training_of_two_towers_on_large_pairs_is_that_of_small_ones(tmp_path, request):
    paths = [str(path) for path in sorted(write_images(tmp_path / "faces", range(4), 4).rglob("*.png"))]
    path = write(
        tmp_path / "data.parquet", {"image": paths, "caption": [f"this is picture {row}" for row in range(16)]}
    )
    encoder = TowersOptions(left=ImageOptions(dim=8, width=8), right=TextOptions(dim=8, vocabulary=20))
    settings = {"steps": 4, "rows_per_batch": 6, "evaluate_every": 2, "loss": "infonce", "holdout": 0.25}
    whole = tercet.train(path, out=tmp_path / "whole", encoder=encoder, progress=False, **settings)
    vectors = {side: whole.embed_records(path, side=side).vectors for side in ("image", "caption")}
    request.getfixturevalue("streamed")
    large = tercet.train(path, out=tmp_path / "large", encoder=encoder, progress=False, **settings)
    for name, weight in whole.encoder.state_dict().items():
        assert torch.equal(weight, large.encoder.state_dict()[name]), name
    for side, expected in vectors.items():
        found = large.embed_records(path, side=side).vectors
        assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("held", ["bytes", "struct", "dataset"])
def test_images_with_captions_in_the_table_itself(tmp_path, held):
    columns = captions(tmp_path)
    whole = read(write(tmp_path / "paths.parquet", columns))
    paths = [tmp_path / path for path in columns["image"]]
    images = [path.read_bytes() for path in paths]
    if held == "struct":
        images = [{"bytes": image, "path": path.name} for image, path in zip(images, paths, strict=True)]
    if held == "dataset":
        datasets = pytest.importorskip("datasets")
        given = datasets.Dataset.from_dict({"image": [str(path) for path in paths], "caption": columns["caption"]})
        records = read(given.cast_column("image", datasets.Image()))
    else:
        records = read(write(tmp_path / "held.parquet", {"image": images, "caption": columns["caption"]}))
    assert (records.kind, records.form, records.columns) == ("sides", "pairs", ("image", "caption"))
    assert records.tuples.tolist() == whole.tuples.tolist()
    assert records.items.kinds == ("image", "text")
    assert list(records.items.values[1]) == whole.items.values[1]
    for found, path in zip(records.items.values[0], whole.items.values[0], strict=True):
        assert np.array_equal(np.asarray(open_image(found)), np.asarray(open_image(path)))
    named = [path.name for path in map(Path, whole.names[:11])] if held == "struct" else None
    rows = [columns["image"].index(name) + 1 for name in whole.names[:11]]
    assert list(records.names)[:11] == (named or [f"row {row}" for row in rows])
    if held != "dataset":
        run = tercet.train(records.take_tuples(range(11)), out=tmp_path / "run", progress=False, steps=2,
                           rows_per_batch=4, holdout=0.2, evaluate_every=2, loss="infonce")  # fmt: skip
        assert run.embed_records(tmp_path / "held.parquet", side="image").vectors.shape[0] == 24


def test_triplets_of_images_in_the_table_itself(tmp_path):
    paths = sorted(write_images(tmp_path / "faces", range(3), 4).rglob("*.png"))
    columns = tuples_of("triplets", paths)
    whole = read(write(tmp_path / "paths.parquet", {name: list(map(str, own)) for name, own in columns.items()}))
    images = {name: [path.read_bytes() for path in own] for name, own in columns.items()}
    records = read(write(tmp_path / "held.parquet", images))
    assert (records.kind, records.form) == ("image", "triplets")
    assert records.tuples.tolist() == whole.tuples.tolist()
    assert records.skipped == whole.skipped
    assert records.fingerprints().tolist() == whole.fingerprints().tolist()
    images["positive"][5] = None
    with pytest.raises(DataError, match=r"held\.parquet, row 6, column 'positive': the cell is empty"):
        read(write(tmp_path / "held.parquet", images))


def test_images_with_a_palette_are_told_apart_by_their_colours(datasets):
    """Their pixels are but numbers of colours, equal in all of them."""
    images = []
    for shade in range(10):
        images.append(Image.new("P", (8, 8)))
        images[-1].putpalette([20 * shade, 0, 0] * 256)
    given = datasets.Dataset.from_dict({"image": images, "caption": [f"shade {row}" for row in range(10)]})
    records = read(given.cast_column("image", datasets.Image()))
    assert records.tuples.tolist() == [[row, 10 + row] for row in range(10)]


def test_images_of_several_columns_are_named_by_row_and_column(tmp_path):
    paths = sorted(write_images(tmp_path / "faces", range(1), 3).rglob("*.png"))
    image, other, third = ([path.read_bytes()] for path in paths)
    path = write(tmp_path / "data.parquet", {"anchor": image, "positive": other, "negative": third})
    assert list(read(path).names) == ["row 1, anchor", "row 1, positive", "row 1, negative"]
    path = write(tmp_path / "sides.parquet", {"left": image, "right": other})
    assert list(read(path, towers="separate").names) == ["row 1, left", "row 1, right"]


@pytest.mark.parametrize("beside", [{"caption": ["one", "two", "three"]}, {"label": ["x", "y", "x"]}])
def test_images_in_files_that_a_structure_names_are_read(tmp_path, beside):
    """As `datasets` writes them where it does not put the bytes into the table, in all of the first rows."""
    paths = sorted(write_images(tmp_path / "faces", range(1), 3).rglob("*.png"))
    cells = [{"bytes": None, "path": str(path.relative_to(tmp_path))} for path in paths]
    records = read(write(tmp_path / "data.parquet", {"image": cells, **beside}))
    items = records.items.values[0] if "caption" in beside else records.items
    assert list(items) == [str(path) for path in paths]
    assert list(records.names)[:3] == [cell["path"] for cell in cells]


@pytest.mark.parametrize("kind", ["dictionary", "view"])
def test_images_as_bytes_of_every_type(tmp_path, kind):
    """Read as text, they would be trained on as the words of b'...'."""
    contents = [path.read_bytes() for path in sorted(write_images(tmp_path / "faces", range(1), 3).rglob("*.png"))]
    given = pa.array(contents).dictionary_encode() if kind == "dictionary" else pa.array(contents, pa.binary_view())
    records = read(write(tmp_path / "data.parquet", {"image": given, "caption": ["one", "two", "three"]}))
    assert records.items.kinds == ("image", "text")
    assert list(records.items.values[0]) == contents


@pytest.mark.parametrize(
    ("cell", "named"), [(b"\x89PNG", "bytes"), ({"bytes": b"\x89PNG", "path": None}, "structures")]
)
def test_images_in_a_data_frame_are_no_texts(cell, named):
    frame = pa.table({"image": [cell] * 4, "text": ["a", "b", "c", "d"], "label": ["x", "y"] * 2})
    message = (
        rf"the Table: 'image' holds {named}; allowed are text and numbers\. Images themselves are read from a Parq"
    )
    for given in (frame.select(["image", "label"]), frame.select(["image", "text"])):
        with pytest.raises(DataError, match=message):
            read(given)
    assert list(read(frame).items) == ["a", "b", "c", "d"]


def test_what_is_meant_of_a_table_with_images_can_be_said(tmp_path):
    image = next(write_images(tmp_path / "faces", range(1), 1).rglob("*.png")).read_bytes()
    columns = {"picture": [None, image, image], "caption": ["one", "two", "three"], "label": ["x", "y", "x"]}
    path = write(tmp_path / "data.parquet", columns)
    assert (read(path).kind, list(read(path).items)) == ("image", ["", image, image])
    assert (read(path, kind="text").kind, list(read(path, kind="text").items)) == ("text", columns["caption"])
    with pytest.raises(DataError, match=r"no column 'pictures' .*are picture, caption, label\. Did you mean 'picture'"):
        read(path, columns=("pictures",))


def test_decoded_images_are_no_texts(datasets, tmp_path):
    paths = [str(path) for path in sorted(write_images(tmp_path / "faces", range(1), 3).rglob("*.png"))]
    given = datasets.Dataset.from_dict({"image": paths, "caption": ["one", "two", "three"]})
    with pytest.raises(DataError, match=r"row 1: 'image' holds a PngImageFile; allowed are text and numbers\."):
        read(given.cast_column("image", datasets.Image()), kind="text")


@pytest.mark.parametrize("form", ["numpy", "torch", "arrow", "pandas"])
def test_datasets_of_every_format_are_read_alike(datasets, tmp_path, form):
    paths = [str(path) for path in sorted(write_images(tmp_path / "faces", range(1), 3).rglob("*.png"))]
    texts = ["one", "two", "three"]
    pairs = datasets.Dataset.from_dict({"image": paths, "caption": texts}).cast_column("image", datasets.Image())
    found, expected = read(pairs.with_format(form)), read(pairs)
    assert (found.kind, found.items.kinds, list(found.names)) == ("sides", ("image", "text"), list(expected.names))
    assert found.fingerprints().tolist() == expected.fingerprints().tolist()
    named = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    labelled = datasets.Dataset.from_dict({"text": texts, "label": [0, 1, 0]}, features=named)
    for given in (labelled, datasets.Dataset.from_dict({"text": texts, "label": [0, 1, 0]})):
        records = read(given.with_format(form))
        assert (records.label_names(), list(records.items)) == (read(given).label_names(), texts)


def test_what_a_transform_of_a_dataset_makes_is_read(datasets):
    given = datasets.Dataset.from_dict({"text": ["one", "two"], "label": ["x", "y"]})
    changed = given.with_transform(lambda cells: {name: [f"{cell}!" for cell in own] for name, own in cells.items()})
    assert list(read(changed).items) == ["one!", "two!"]


def test_groups_of_pairs_of_which_images_are_missing(tmp_path):
    """The rows that are left are told by the paths beside the images, not by their bytes."""
    image = next(write_images(tmp_path / "faces", range(1), 1).rglob("*.png")).read_bytes()
    cells = [{"bytes": image, "path": "a.png"}, {"bytes": None, "path": "gone.png"}, {"bytes": image, "path": None}]
    columns = {"image": cells, "caption": ["one", "two", "three"], "camera": ["x", "y", "z"]}
    path = write(tmp_path / "data.parquet", columns)
    records = read(path)
    assert [one.name for one in records.skipped] == ["gone.png"]
    assert read_groups(path, "camera", records) == ["x", "z"]
    cells = large_tables.load_columns(path, str(path), None).columns["image"]
    assert cells.to_pylist() == ["a.png", "gone.png", None]


def test_unlike_texts_of_many_pairs_stay_unlike(tmp_path, streamed):
    """Hashes of a byte or two would not tell so many apart."""
    texts = [f"text number {row}" for row in range(1400)]
    large = read(write(tmp_path / "data.parquet", {"left": texts[:700], "right": texts[700:]}, row_group_size=500))
    assert len(large) == 1400
    assert sorted(large.items) == sorted(texts)


def test_pairs_in_shards_and_datasets(tmp_path):
    columns = tuples_of("pairs", [f"text number {row}" for row in range(12)])
    whole = read(write(tmp_path / "data.parquet", columns))
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards" / "a.parquet", {name: values[:9] for name, values in columns.items()})
    write(tmp_path / "shards" / "b.parquet", {name: values[9:] for name, values in columns.items()})
    assert_equal_tuples(read(tmp_path / "shards"), whole)
    datasets = pytest.importorskip("datasets")
    assert_equal_tuples(read(datasets.Dataset.from_dict(columns)), whole)


def test_an_empty_cell_of_a_large_table_of_pairs_is_named(tmp_path, streamed):
    columns = tuples_of("pairs", [f"text number {row}" for row in range(12)])
    columns["right"][13] = "  "
    path = write(tmp_path / "data.jsonl", columns)
    with pytest.raises(DataError, match=r"data\.jsonl, line 14, column 'right': the cell is empty\. Fill it in or"):
        read(path)


def test_a_mark_of_a_large_table_that_says_nothing_is_named(tmp_path):
    columns = tuples_of("marked-pairs", [f"text number {row}" for row in range(12)])
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards" / "a.parquet", columns)
    write(tmp_path / "shards" / "b.parquet", columns | {"label": [1] * 23 + [7]})
    with pytest.raises(DataError, match=r"b\.parquet, row 24, column 'label': '7' does not say whether"):
        read(tmp_path / "shards")


@pytest.mark.parametrize("form", ["pairs", "triplets"])
def test_a_training_on_large_pairs_and_triplets_is_that_of_small_ones(tmp_path, request, form):
    path = write(tmp_path / "data.parquet", tuples_of(form, [f"text number {row}" for row in range(12)]))
    settings = QUICK | {"rows_per_batch": 4, "holdout": 0.25}
    settings = {name: value for name, value in settings.items() if "classes" not in name and "samples" not in name}
    whole = tercet.train(path, out=tmp_path / "whole", **settings)
    request.getfixturevalue("streamed")
    large = tercet.train(path, out=tmp_path / "large", **settings)
    for name, weight in whole.encoder.state_dict().items():
        assert torch.equal(weight, large.encoder.state_dict()[name]), name


@pytest.mark.parametrize("form", ["pairs", "marked-pairs", "scored-pairs", "triplets"])
def test_tuples_that_are_read_in_blocks_equal_those_that_are_read_at_once(tmp_path, request, monkeypatch, form):
    """Some cells are no text, and one block ends within a row."""
    words = [1.0, True, " a", "a", "a ", "\u00e4", "a\u0308", "x\ty", "NaN", "none", "t" * 70]
    columns = tuples_of(form, words) | {"extra": [None] * 24}
    path = write(tmp_path / "data.jsonl", columns)
    whole = read(path)
    request.getfixturevalue("streamed")
    for block in (1, 4, 1000):
        monkeypatch.setattr(large_tuples, "BLOCK", block)
        monkeypatch.setattr(lazy, "BLOCK", block)
        large = read(path)
        assert_equal_tuples(large, whole)
        assert "; not used: extra)" in large.description


def test_scores_that_are_true_or_false(tmp_path, request):
    columns = tuples_of("pairs", [f"text number {row}" for row in range(12)]) | {"score": [True, False] * 12}
    path = write(tmp_path / "data.parquet", columns)
    whole = read(path, form="scored-pairs")
    request.getfixturevalue("streamed")
    assert_equal_tuples(read(path, form="scored-pairs"), whole)


@pytest.mark.parametrize(
    ("form", "odd", "message"),
    [
        ("marked-pairs", {"label": [1] * 23 + [[1]]}, r"line 24, column 'label': '\[1\]' does not say whether"),
        (
            "scored-pairs",
            {"score": [0.5] * 20 + [True] * 3 + [None]},
            r"line 24, column 'score': the score is missing or not",
        ),
        (
            "marked-pairs",
            {"label": [True, "0", 1, 0.0] * 5 + [True, "1", 0, 2]},
            r"line 24, column 'label': '2' does not",
        ),
        ("scored-pairs", {"score": [0.5] * 23 + ["x"]}, r"line 24, column 'score': the score is missing or not finite"),
        ("marked-pairs", {"label": [1] * 23 + [{}]}, r"line 24: 'label' holds a dict; allowed are text and numbers"),
        ("pairs", {"right": ["a"] * 23 + [["b"]]}, r"line 24: 'right' holds a list; allowed are text and numbers"),
    ],
)
def test_what_is_odd_in_a_later_block_is_named_by_its_row(tmp_path, streamed, monkeypatch, form, odd, message):
    monkeypatch.setattr(large_tuples, "BLOCK", 5)
    monkeypatch.setattr(large_tables, "HEAD", 10)
    columns = tuples_of(form, [f"text number {row}" for row in range(12)]) | odd
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "data.jsonl", columns))


@pytest.mark.parametrize("form", ["labels", "pairs"])
def test_paths_start_from_the_root_alone_where_it_is_said(tmp_path, request, monkeypatch, form):
    """Of a large table too, a file of that name in the current folder is another one."""
    for folder in ("root", "here"):
        write_images(tmp_path / folder, range(2), samples=4)
    words = sorted(str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*.png"))
    (tmp_path / "root" / words[3]).unlink()
    monkeypatch.chdir(tmp_path / "here")
    columns = (
        {"left": words, "right": words[1:] + words[:1]}
        if form == "pairs"
        else {"path": words, "label": list("abababab")}
    )
    path = write(tmp_path / "data.jsonl", columns)
    whole = read(path, root=tmp_path / "root")
    request.getfixturevalue("streamed")
    large = read(path, root=tmp_path / "root")
    if form == "pairs":
        assert_equal_tuples(large, whole)
        assert [one.name for one in large.skipped] == [words[3]]
    else:
        assert [item for item in large.items if os.path.exists(item)] == list(whole.items)


IDLE = [
    ("pairs", {"root": "images"}, InputError, r"--root is about paths to images; .* holds pairs\. Leave it out"),
    ("triplets", {"label": "anchor"}, InputError, r"--label is about labels, which triplets do without"),
    ("pairs", {"texts": ["left"]}, InputError, r"--texts is about feature columns; .* holds pairs"),
    ("pairs", {"towers": "shared", "form": "items", "columns": ["left"]}, DataError, r"holds items, and --towers is"),
]


@pytest.mark.parametrize(("form", "options", "kind", "message"), IDLE)
@pytest.mark.parametrize("large", [False, True])
def test_options_that_say_nothing_of_a_table_are_refused(tmp_path, monkeypatch, large, form, options, kind, message):
    monkeypatch.setattr(large_tables, "STREAMED_FROM", 0 if large else 10**9)
    path = write(tmp_path / "data.jsonl", tuples_of(form, [f"text number {row}" for row in range(12)]))
    with pytest.raises(kind, match=message):
        read(path, **options)


def test_options_of_features_that_are_no_numbers_are_refused(tmp_path, streamed):
    path = write(tmp_path / "data.jsonl", {"a": [1.5, 2.5], "code": [1, 2], "label": ["x", "y"]})
    with pytest.raises(InputError, match=r"--categories names 'code', and .* with features that are numbers\. Leave"):
        read(path, categories=["code"])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_forgeries_are_marked_in_large_tables_too(tmp_path, request, suffix):
    columns = {"a": [0.5 * row for row in range(42)], "forged": [row % 3 == 1 for row in range(42)]}
    path = write(tmp_path / f"data{suffix}", columns | {"label": ["x", "y"] * 21})
    whole = read(path)
    request.getfixturevalue("streamed")
    large = read(path)
    assert large.forged.tolist() == whole.forged.tolist()
    assert "forgeries marked in 'forged'" in large.description
    assert read(write(path, columns | {"label": ["x", "y"] * 21, "forged": [False] * 42})).forged is None
    with pytest.raises(DataError, match=r"marks forgeries in 'forged', and its items have several labels in 'label'"):
        read(write(path, columns | {"label": [["x", "y"], ["y"]] * 21}))


def test_towers_of_a_folder_of_shards(tmp_path):
    columns = tuples_of("pairs", [f"text number {row}" for row in range(12)])
    write(tmp_path / "data.parquet", columns)
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards" / "a.parquet", columns)
    assert_equal_tuples(read(tmp_path / "shards", towers="shared"), read(tmp_path / "data.parquet"))


def test_columns_of_a_large_row_group_are_read_once(tmp_path, streamed, monkeypatch):
    """Were they not kept together, a pass over pairs would read the row group again for every block."""
    path = write(tmp_path / "data.parquet", tuples_of("triplets", [f"text {row}" for row in range(12)]), 1000)
    for module in (large_tuples, lazy):
        monkeypatch.setattr(module, "BLOCK", 5)
    read_group, seen = pq.ParquetFile.read_row_group, []

    def counted(*given, **named):
        seen.append(given)
        return read_group(*given, **named)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    records = read(path)
    assert list(records.items) == records.items.take(range(11))
    assert len(seen) == 3


def test_of_columns_of_a_row_group_three_are_kept_at_most(tmp_path, streamed, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_BYTES", 1)
    columns = {name: [f"{name} {row}" for row in range(9)] for name in "abcde"}
    source = rows.ParquetRows([write(tmp_path / "data.parquet", columns, 3)], "it")
    for name in "abcde":
        source.take([0], name)
    assert list(source._kept) == [(0, "c"), (0, "d"), (0, "e")]
    source.take([8], "a")
    assert list(source._kept) == [(2, "a")]
    assert source._kept_bytes == source._kept[2, "a"].nbytes


def test_a_line_is_read_once_for_all_of_its_cells(tmp_path, streamed, monkeypatch):
    columns = {"anchor": ["a", "d"], "positive": ["b", "e"], "negative": ["c", "f"]}
    records = read(write(tmp_path / "data.jsonl", columns))
    parse, seen = rows.parse_json, []
    monkeypatch.setattr(rows, "parse_json", lambda *given: seen.append(1) or parse(*given))
    assert records.items.take([5, 0, 3, 1]) == ["f", "a", "d", "b"]
    assert len(seen) == 2


def test_items_in_order_of_their_cells_take_little_memory():
    draw = np.random.default_rng(0)
    for different in (7, 2**62):
        cells = draw.integers(0, different, 20_000)
        expected = list(dict.fromkeys(cells.tolist()))
        places = {value: place for place, value in enumerate(expected)}
        tracemalloc.start()
        given = cells.copy()
        first, codes = large_tuples._in_order(given)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert cells[first].tolist() == expected
        assert codes.tolist() == [places[value] for value in cells.tolist()]
        assert most < 46 * len(cells)


@pytest.mark.parametrize("form", ["pairs", "triplets"])
def test_prompts_of_large_pairs_are_put_before_texts_when_they_are_read(tmp_path, request, form):
    path = write(tmp_path / "data.parquet", tuples_of(form, [f"text number {row}" for row in range(12)]))
    options = TextOptions(query_prompt="q: ", document_prompt="d: ")
    whole = prompted(read(path), options)
    request.getfixturevalue("streamed")
    records = read(path)
    large = prompted(records, options)
    assert isinstance(large.items, LazyItems)
    assert isinstance(whole.items, list)
    assert_equal_tuples(large, whole)
    for place, prompt in enumerate(["q: ", "d: ", "d: "][: records.tuples.shape[1]]):
        texts = records.items.take(records.tuples[:, place])
        assert large.items.take(large.tuples[:, place]) == [prompt + text for text in texts]
    assert list(pickle.loads(pickle.dumps(large.items))) == list(whole.items)
    for role in ("query", "document"):
        assert list(in_role(records.items, options, role)) == [f"{role[0]}: {text}" for text in records.items]
    with pytest.raises(InputError, match="--side query or --side document"):
        in_role(records.items, options, None)


@pytest.mark.slow
def test_what_a_run_does_with_a_folder_of_shards_of_pairs(tmp_path, monkeypatch):
    """No command reads such a table at once."""
    columns = {"query": [text_of(row % 5, row) for row in range(24)],
               "document": [text_of(row % 5, 100 + row) for row in range(24)]}  # fmt: skip
    small, shards = write(tmp_path / "data.parquet", columns), tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        part = {name: values[12 * number :][:12] for name, values in columns.items()}
        write(shards / f"{number}.parquet", part)
    settings = {"steps": 2, "evaluate_every": 2, "rows_per_batch": 4, "progress": False}
    plain = tercet.train(shards, out=tmp_path / "plain", **settings)
    roles = tercet.train(shards, out=tmp_path / "roles", encoder=TextOptions(query_prompt="q: "), **settings)
    expected = [roles.embed_records(small, side=side).vectors for side in ("query", "document")]
    of_small = plain.embed_to(small, tmp_path / "small", shard_rows=10)
    groups = read_groups(small, "query", read(small))
    monkeypatch.setattr(large_tables, "load_table", None)
    found = [roles.embed_records(shards, side=side).vectors for side in ("query", "document")]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert plain.embed_to(shards, tmp_path / "large", shard_rows=10).items == of_small.items == 48
    for path in (tmp_path / "small").glob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "large" / path.name).read_bytes()
    assert read_groups(shards, "query", read(shards)) == groups == columns["query"]
    with pytest.raises(DataError, match=r"no column 'camera' \(--group\); its columns are query, document"):
        read_groups(shards, "camera", read(shards))


def test_cells_of_billions_of_rows_have_numbers_of_their_own():
    source = SimpleNamespace(take=lambda positions, column: [f"{column} {row}" for row in positions])
    cells = large_tuples._Cells(source, ("left", "right"), ("text", "text"), ())
    assert cells.take([0, 2**33, 2**33 + 1], "") == ["left 0", f"left {2**32}", f"right {2**32}"]
