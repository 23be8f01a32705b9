"""Tables whose columns are of every kind, and lack values: how they are read, coded, learned from and asked of."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tercet
from conftest import QUICK, QUICK_FLAGS
from tercet.data.features import BUCKETS, code_rows, kind_of
from tercet.data.readers import read
from tercet.data.tablefiles import Table
from tercet.encoders.build import build, fit_buffers, prepare
from tercet.encoders.features import TEXT_WIDTH
from tercet.encoders.options import CustomOptions, TabularOptions
from tercet.errors import DataError, InputError, TercetError

COLOURS = ("red", "green", "blue")


def write_goods(path, classes=range(6), samples=8):
    """Goods with a weight, a colour, a day and a maker, of which some are missing."""
    rows = ["weight,colour,day,maker,serial,class"]
    for number in classes:
        for sample in range(samples):
            draw = np.random.default_rng([7, number, sample])
            weight = "" if draw.random() < 0.2 else f"{number + draw.normal(0, 0.3):.3f}"
            colour = "" if draw.random() < 0.1 else COLOURS[number % 3]
            day = f"20{10 + number}-0{1 + sample}-11"
            rows.append(
                f"{weight},{colour},{day},maker{(number * samples + sample) // 2},s-{number}-{sample},c{number}"
            )
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    return write_goods(tmp_path_factory.mktemp("goods") / "goods.csv")


@pytest.fixture(scope="module")
def goods_run(goods, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "goods"
    return tercet.train(str(goods), out=out, progress=False, **QUICK)


def a_table(**columns):
    return Table("t", {name: pa.array(values) for name, values in columns.items()})


def encoder_of(records, **options):
    completed, assets = prepare(TabularOptions(**options), records)
    assert json.loads(json.dumps(assets)) == assets
    encoder = build(completed, assets)
    fit_buffers(encoder, records)
    return encoder.eval()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, None, 2.0], "number"),
        (["1", "", "2.5"], "number"),
        ([None, None, None], "empty"),
        (["", "-", "na"], "empty"),
        (["red", "", "blue"], "category"),
        (["2026-01-05", "", "2026-02-05 12:30"], "date"),
        (["2026-01-05T10:00:00Z", "2026-01-05T10:00:00+02:00", "2026-01-05"], "date"),
        (["2026-01-05", "yesterday", "2026-02-05"], "category"),
        ([f"serial{i}" for i in range(20)], "unique"),
        ([f"serial{i}" for i in range(19)], "category"),  # too few rows to tell
        ([f"maker{i // 2}" for i in range(20)], "category"),
        ([f"some words of {i}" for i in range(20)], "text"),
    ],
)
def test_the_kind_of_a_column(values, kind):
    assert kind_of(a_table(a=values), "a") == kind


def test_what_a_table_holds_is_found_and_said(goods):
    records = read(goods)
    assert records.kind == "tabular"
    assert records.columns == records.features.names == ("weight", "colour", "day", "maker")
    assert records.features.kinds == ("number", "category", "date", "category")
    assert records.items.dtype == np.float64
    lacking = np.isnan(records.items).sum(axis=0)
    assert lacking[0] > 0
    assert lacking[1] > 0
    assert lacking[2:].tolist() == [0, 0]
    assert records.description == (
        "48 rows in 6 classes (csv table, labels in 'class'; features: numbers in 'weight'; categories in 'colour', "
        "'maker'; dates in 'day'; left out: 'serial', a value of its own in nearly every row; missing and imputed: "
        f"{lacking[0]} in 'weight', {lacking[1]} in 'colour')"
    )
    assert records.features.described(records.items[-1]) == "weight 5.161, colour blue, day 2015-08-11, maker maker23"


def test_what_the_user_says_of_columns_overrules_what_is_found(goods):
    records = read(goods, columns=["weight", "serial"], categories=["weight"])
    assert dict(zip(records.columns, records.features.kinds, strict=True)) == {
        "weight": "category",
        "serial": "category",
    }
    assert read(goods, texts=["maker"]).items.shape[1] == 3 + BUCKETS
    assert read(goods, columns=["weight"]).features.kinds == ("number",)
    with pytest.raises(DataError, match=r"row 1, column 'colour': 'red' is no date; dates are written 2026-05-31"):
        read(goods, dates=["colour"])
    with pytest.raises(DataError, match=r"column 'weight': the value is missing \(--missing error\)"):
        read(goods, missing="error")


def test_complete_numbers_are_rows_as_ever(numbers):
    records = read(numbers)
    assert records.features is None
    assert records.items.dtype == np.float32


def test_cells_are_coded_by_what_they_are():
    table = a_table(
        n=["1.5", "", "-2"],
        c=["red", " red ", None],
        d=["1970-01-02", "1970-01-01 00:01:00", ""],
        t=["the cat, the dog", "", "cat"],
    )
    rows, features = code_rows(table, ("n", "c", "d", "t"), ("number", "category", "date", "text"))
    assert rows.shape == (3, 3 + BUCKETS)
    np.testing.assert_array_equal(rows[:, 0], [1.5, np.nan, -2])
    assert rows[0, 1] == rows[1, 1]
    assert features.words == {rows[0, 1]: "red"}
    assert np.isnan(rows[2, 1])
    np.testing.assert_array_equal(rows[:, 2], [86400, 60, np.nan])
    assert sorted(rows[0, 3:][rows[0, 3:] > 0]) == pytest.approx(np.array([1, 1, 2]) / 6**0.5)
    assert not rows[1, 3:].any()
    assert rows[2, 3:].max() == 1
    assert BUCKETS == TEXT_WIDTH


def test_dates_are_seconds_whatever_the_zone():
    cells = ["2026-03-01T12:00:00+02:00", "2026-03-01 10:00:00", "2026-03-01T10:00Z", "2026-03-01 10:00:00.123456789"]
    seconds = code_rows(a_table(d=cells), ("d",), ("date",))[0][:, 0]
    assert seconds[:3] == pytest.approx(datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp(), abs=0)
    assert seconds[3] == pytest.approx(seconds[0] + 0.123456, abs=1e-6)


def features_by_definition(records, one_hot):
    """What the network sees of each column, by plain loops."""
    rows = []
    known = {name: sorted(set(column[~np.isnan(column)])) for name, column in columns_of(records)}
    for i in range(len(records)):
        row = []
        for name, kind, column in zip(records.columns, records.features.kinds, columns_of(records), strict=True):
            values = column[1]
            held = values[~np.isnan(values)]
            value, gone = values[i], np.isnan(values[i])
            if kind in ("number", "date"):
                row.append(((np.median(held) if gone else value) - held.mean()) / held.std())
                row += [float(gone)] if np.isnan(values).any() else []
            if kind == "category":
                assert len(known[name]) <= one_hot
                row += [float(value == code) for code in known[name]] + [float(gone), 0.0]
            if kind == "date":
                turns = [2 * math.pi * (value / 86400 / period % 1) for period in (365.2425, 7)]
                row += [math.sin(turn) for turn in turns] + [math.cos(turn) for turn in turns]
        rows.append(row)
    return np.array(rows)


def columns_of(records):
    return list(zip(records.columns, records.items.T, strict=True))


def test_features_by_their_definition(goods):
    records = read(goods, columns=["weight", "colour", "day", "maker"])
    coded = encoder_of(records, one_hot=30).coded
    found = coded(torch.from_numpy(records.items))
    assert found.shape == (48, coded.features)
    np.testing.assert_allclose(found.numpy(), features_by_definition(records, 30), atol=1e-5)


def test_many_categories_have_learned_vectors_and_an_unknown_one_has_zeros(goods):
    records = read(goods)
    coded = encoder_of(records, one_hot=16).coded
    maker = coded.parts[3]
    assert maker.gives == round(1.6 * 24**0.56)
    column = torch.tensor(records.items[:, 3:4])
    vectors = maker(column)
    assert len(vectors.unique(dim=0)) == 24
    assert (maker(torch.tensor([[12345.0]], dtype=torch.float64)) == 0).all()
    assert (maker(torch.tensor([[np.nan]], dtype=torch.float64)) == maker.vectors.weight[24]).all()
    maker(column).sum().backward()
    assert maker.vectors.weight.grad[-1].abs().sum() == 0


def test_an_unknown_category_of_few_is_said_in_a_feature():
    coded = encoder_of(
        read(frame_of(colour=["red", "blue"] * 12, size=[1.0, 2, 3] * 8), kind="tabular", label="size")
    ).coded
    row = coded(torch.tensor([[77.0]], dtype=torch.float64))
    assert row.tolist() == [[0, 0, 0, 1]]


def frame_of(**columns):
    return pa.table(columns)


def test_everything_is_learned_from_training_rows_only(goods):
    records = read(goods)
    train = records.take(range(16))
    encoder = encoder_of(train)
    held = records.items[16:].copy()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(torch.from_numpy(held))
    assert len(encoder.coded.parts[1].codes) == len(np.unique(train.items[:, 1][~np.isnan(train.items[:, 1])]))
    weights = train.items[:, 0][~np.isnan(train.items[:, 0])]
    assert float(encoder.coded.parts[0].median) == np.median(weights)
    assert all((before[name] == value).all() for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("make", ["pandas", "polars", "arrow"])
def test_frames_are_read_as_files_are(goods, make, tmp_path):
    expected = read(goods)
    table = pa.table({name: pa.array([cell or None for cell in column]) for name, column in raw_columns(goods).items()})
    if make != "arrow":
        pytest.importorskip(make)
        frame = table.to_pandas() if make == "pandas" else pytest.importorskip("polars").from_arrow(table)
    else:
        frame = table
    found = read(frame)
    np.testing.assert_array_equal(found.items, expected.items)
    assert found.classes == expected.classes
    pyarrow.parquet.write_table(table, tmp_path / "goods.parquet")
    np.testing.assert_array_equal(read(tmp_path / "goods.parquet").items, expected.items)


def raw_columns(path):
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    return dict(zip(lines[0], map(list, zip(*lines[1:], strict=True)), strict=True))


def test_typed_columns_of_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({
        "day": pandas.to_datetime(["2026-01-01 00:00", None, "2026-01-03 06:00"]),
        "colour": pandas.Categorical(["red", "blue", None]),
        "there": [True, False, True],
        "label": ["a", "b", "a"],
    })  # fmt: skip
    records = read(frame)
    assert records.features.kinds == ("date", "category", "number")
    assert records.features.described(records.items[2]) == "day 2026-01-03 06:00, colour (missing), there 1"


def test_rows_of_which_nothing_is_known_are_left_out_and_counted():
    records = read(frame_of(a=[1.0, None, 3.0], c=["x", None, "y"], label=["u", "v", "v"]))
    assert len(records) == 2
    assert [(one.name, one.reason) for one in records.skipped] == [("row 2", "every value is missing")]


def test_a_run_on_goods_is_whole(goods, goods_run, tmp_path, command):
    config = goods_run.config.data
    assert (config.columns, config.categories, config.dates, config.texts) == (
        ("weight", "colour", "day", "maker"), ("colour", "maker"), ("day",), (),
    )  # fmt: skip
    vectors = goods_run.embed_records(str(goods)).vectors
    again = tercet.load(goods_run.path)
    np.testing.assert_array_equal(again.embed_records(str(goods)).vectors, vectors)
    raw = {name: [cell or None for cell in column] for name, column in raw_columns(goods).items()}
    rows = [{name: raw[name][i] for name in config.columns} for i in range(3)]
    np.testing.assert_allclose(again.embed(rows), vectors[:3], atol=1e-6)
    np.testing.assert_allclose(again.embed([list(row.values()) for row in rows]), vectors[:3], atol=1e-6)
    other = write_goods(tmp_path / "other.csv", range(10, 14))
    goods_run.evaluate(str(other))
    assert goods_run.metrics["test.recall_at_1"] > 0.3
    assert goods_run.metrics["baseline.recall_at_1"] > 0.3
    assert "colour red" in goods_run.report().read_text(encoding="utf-8")

    done = command("verify", goods_run.path, '{"colour": "red", "weight": 3}', "3,red,2010-01-11,maker1")
    assert done.code in (0, 1), done.err
    assert "distance" in done.out
    same = command("verify", goods_run.path, '{"colour": "red"}', ",red,,")
    assert same.code == 0
    assert "distance 0.0000" in same.out
    store = tmp_path / "goods.index"
    assert command("index", goods_run.path, goods, "--out", store).code == 0
    found = command("search", store, '{"weight": 2.0, "colour": "blue"}', "-k", "2")
    assert found.code == 0
    assert len(found.out.splitlines()) == 2
    out = tmp_path / "goods.parquet"
    assert command("embed", goods_run.path, goods, "--out", out).code == 0


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ('{"colour": "red"', "is not a JSON object such as"),
        ("{}", "is empty"),
        ('{"color": "red"}', "has the column 'color'"),
        ("1,red", "it has 2 values, and the columns are weight, colour, day, maker"),
        ("many,red,2026-01-01,m", "'many' is not a number, and column 'weight' holds numbers"),
        ("1,red,soon,m", "'soon' is no date"),
        ('{"weight": [1]}', "holds a list"),
        ("1e60,red,,", "which float32 cannot hold"),
    ],
)
def test_rows_that_are_no_rows(command, goods_run, word, expected):
    done = command("verify", goods_run.path, word, "3,red,2010-01-11,maker1")
    assert done.code == 2
    assert expected in done.err


def test_other_columns_than_the_run_knows_are_refused(goods_run, numbers, tmp_path, command):
    done = command("embed", goods_run.path, numbers, "--out", tmp_path / "x.parquet")
    assert done.code == 2
    assert "has no column 'weight'" in done.err or "has no column 'colour'" in done.err


def test_a_run_on_complete_numbers_names_what_is_missing(numbers, tmp_path, command):
    run = tercet.train(str(numbers), out=tmp_path / "run", progress=False, **QUICK)
    lines = numbers.read_text(encoding="utf-8").splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join(["", *cells[1:]])
    (tmp_path / "holes.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"row 3, column 'length': the value is missing"):
        run.embed_records(str(tmp_path / "holes.csv"))
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    row.pop("species")
    done = command("verify", run.path, json.dumps(row), lines[1].rpartition(",")[0])
    assert "distance 0.0000" in done.out


def test_validation_data_is_read_as_the_training_data_is(goods, numbers, tmp_path):
    other = write_goods(tmp_path / "other.csv", range(10, 14))
    run = tercet.train(str(goods), validation=str(other), out=tmp_path / "run", progress=False, **QUICK)
    assert run.config.data.categories == ("colour", "maker")


def test_an_encoder_of_your_own_takes_numbers(goods):
    with pytest.raises(InputError, match=r"takes rows of numbers"):
        prepare(CustomOptions(factory="torch.nn:Identity"), read(goods))


def test_views_of_a_mixed_table(goods, tmp_path):
    run = tercet.train(
        str(goods), out=tmp_path / "run", form="items", views=2, rows_per_batch=8, steps=2, progress=False
    )
    assert np.isfinite(run.embed_records(str(goods)).vectors).all()


def test_jaccard_on_counts(tmp_path, command):
    draw = np.random.default_rng(0)
    lines = ["a,b,c,d,e,class"]
    for number in range(6):
        rate = draw.gamma(1.0, 2.0, 5)
        lines += [",".join(map(str, [*draw.poisson(rate), f"k{number}"])) for _ in range(8)]
    path = tmp_path / "counts.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    words = ["train", path, "--distance", "jaccard", "--margin", "0.2", *QUICK_FLAGS, "--out"]
    refused = command(*words, tmp_path / "a")
    assert refused.code == 2
    assert "negative" in refused.err
    assert command(*words, tmp_path / "b", "--tabular.non-negative").code == 0
    run = tercet.load(tmp_path / "b")
    left, right = run.embed([[1, 0, 2, 0, 3], [0, 1, 2, 5, 0]])
    assert min(left.min(), right.min()) > 0
    expected = 1 - np.minimum(left, right).sum() / np.maximum(left, right).sum()
    assert run.verify([1, 0, 2, 0, 3], [0, 1, 2, 5, 0]).distance == pytest.approx(expected, abs=1e-5)


CELLS = st.one_of(
    st.sampled_from(["", "na", "nan", "red", "blue", "2026-01-01", "1", "-3.5", "inf", "1e39", "0001-01-01",
                     "9999-12-31"]),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters='\r\n\x00",;\t'), max_size=6),
    st.floats(allow_nan=True, width=32).map(str),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_table_is_read_or_refused_in_words(tmp_path, data):
    columns = data.draw(st.integers(1, 4))
    count = data.draw(st.integers(1, 25))
    rows = [[data.draw(CELLS) for _ in range(columns)] + [data.draw(st.sampled_from("uv"))] for _ in range(count)]
    path = tmp_path / "t.csv"
    header = [f"f{i}" for i in range(columns)] + ["label"]
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")
    try:
        records = read(path, kind="tabular")
    except TercetError:
        return
    assert len(records) + len(records.skipped) == count
    encoder = encoder_of(records, hidden=(), dim=3)
    assert torch.isfinite(encoder(torch.from_numpy(records.items))).all()
