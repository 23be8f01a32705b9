"""What a newcomer may do to the command line: damaged runs, odd files, and options that would do nothing."""

import errno
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tercet
from conftest import QUICK, QUICK_FLAGS, write_images, write_numbers, write_texts
from tercet.data.readers import read
from tercet.errors import DataError


@pytest.fixture(scope="module")
def texts_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    source = write_texts(folder / "texts.csv", range(7))
    return tercet.train(str(source), out=folder / "run", progress=False, matryoshka=[8, 128], **QUICK).path


@pytest.fixture
def damaged(texts_run, tmp_path):
    """A copy of a run, to be damaged."""
    return shutil.copytree(texts_run, tmp_path / "damaged")


@pytest.fixture
def triplets(tmp_path):
    path = tmp_path / "triplets.csv"
    rows = [f"red {row},red cat {row},blue dog {row}" for row in range(12)]
    path.write_text("\n".join(["anchor,positive,negative", *rows]) + "\n")
    return path


@pytest.mark.parametrize("name", ["metrics.json", "encoder/assets.json", "fingerprints.safetensors", "config.toml"])
def test_a_damaged_file_of_a_run_is_named(command, damaged, texts, name):
    (damaged / name).write_text("{")
    done = command("evaluate", damaged, "--data", texts, "--name", "again")
    assert done.code == 2
    assert f"{damaged / name} " in done.err
    assert "unexpected" not in done.err


@pytest.mark.parametrize("name", ["encoder/assets.json", "fingerprints.safetensors"])
def test_a_missing_file_of_a_run_is_named(command, damaged, texts, name):
    (damaged / name).unlink()
    done = command("evaluate", damaged, "--data", texts)
    assert done.code == 2
    assert f"{damaged / name} is missing, which belongs to the run. Bring the file back" in done.err


def test_a_folder_in_the_place_of_a_configuration(command, damaged, texts):
    (damaged / "config.toml").unlink()
    (damaged / "config.toml").mkdir()
    done = command("evaluate", damaged, "--data", texts)
    assert (done.code, done.err) == (2, f"error: {damaged / 'config.toml'} cannot be read: Is a directory.\n")


def test_lost_weights_are_not_said_to_come_back_by_resuming(command, damaged):
    (damaged / "model.safetensors").unlink()
    done = command("train", "--resume", "--out", damaged)
    assert done.code == 2
    assert "model.safetensors is missing, which belongs to the run" in done.err
    assert "--resume" not in done.err


def test_a_damaged_shard_is_said_when_going_on(command, texts_run, texts, tmp_path):
    words = ("embed", texts_run, texts, "--out", tmp_path / "shards", "--shard-rows", 20)
    assert command(*words).code == 0
    (tmp_path / "shards" / "shard-00001.parquet").write_bytes(b"PAR1")
    done = command(*words, "--resume")
    assert done.code == 2
    assert "shard-00001.parquet is damaged" in done.err
    assert "remove it and embed with --resume" in done.err


def test_going_on_needs_no_size_of_shards(command, texts_run, texts, tmp_path):
    words = ("embed", texts_run, texts, "--out", tmp_path / "shards")
    assert command(*words, "--shard-rows", 20).code == 0
    (tmp_path / "shards" / "shard-00001.parquet").unlink()
    done = command(*words, "--resume")
    assert done.code == 0, done.err
    assert (tmp_path / "shards" / "shard-00001.parquet").exists()


def test_shards_hold_as_many_numbers_as_asked_for(command, texts_run, texts, tmp_path):
    done = command("embed", texts_run, texts, "--out", tmp_path / "shards", "--dim", 8)
    assert done.code == 0, done.err
    assert "of 8 dimensions in 1 shard in" in done.out
    assert command("embed", texts_run, texts, "--out", tmp_path / "one.parquet", "--dim", 8).code == 0
    shard, whole = (pq.read_table(tmp_path / name) for name in ("shards/shard-00000.parquet", "one.parquet"))
    assert shard["embedding"].to_pylist() == whole["embedding"].to_pylist()
    assert command("embed", texts_run, texts, "--out", tmp_path / "shards", "--resume").code == 2  # whole embeddings


def test_a_file_that_is_not_written_is_no_name_for_a_folder(command, texts_run, texts, tmp_path):
    done = command("embed", texts_run, texts, "--out", tmp_path / "vectors.csv")
    assert done.code == 2
    assert "embeddings go to a .parquet file, or to a folder of such shards" in done.err
    assert not (tmp_path / "vectors.csv").exists()


@pytest.mark.parametrize("sign", ["\t", ";"])
def test_columns_of_a_csv_may_be_apart_by_tabs_and_semicolons(tmp_path, sign):
    path = tmp_path / "numbers.csv"
    path.write_text(write_numbers(tmp_path / "plain.csv", range(4)).read_text().replace(",", sign))
    assert read(path).columns == read(tmp_path / "plain.csv").columns


def test_lines_may_end_in_carriage_returns_alone(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes(write_texts(tmp_path / "plain.csv", range(4)).read_bytes().replace(b"\n", b"\r"))
    assert list(read(path).items) == list(read(tmp_path / "plain.csv").items)


def test_a_header_that_is_no_header_is_an_error(tmp_path):
    (tmp_path / "odd.csv").write_text("text," + "l" * 200_000 + "\nhello,a\n")
    with pytest.raises(DataError, match=r"odd.csv:1: the header cannot be read"):
        read(tmp_path / "odd.csv")


def test_a_folder_of_a_table_and_of_images_is_ambiguous(tmp_path):
    folder = write_images(tmp_path / "photos", range(3), samples=2)
    pq.write_table(pa.table({"name": ["a", "b"], "label": ["x", "y"]}), folder / "vectors.parquet")
    with pytest.raises(DataError, match=r"1 Parquet file, such as vectors.parquet, and other items, such as class00"):
        read(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label", "x", "--columns", "y"], "--label and --columns can only be given for a table"),
        (["--root", "/"], "--root can only be given for a table"),
        (["--missing", "error"], "--missing can only be given for a table"),
        (["--rows-per-batch", "5"], "rows_per_batch is 5, and the data holds labels"),
        (["--holdout", "0"], "holdout is 0.0, it must be between 0 and 1"),
    ],
)
def test_options_that_do_nothing_to_a_folder_of_images_are_refused(command, images, tmp_path, flags, message):
    done = command("train", images, "--out", tmp_path / "run", *QUICK_FLAGS, *flags)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--holdout", "0.3"], ["--holdout-by", "row"]])
def test_nothing_is_held_out_beside_validation_data(command, images, unseen_images, tmp_path, flags):
    done = command("train", images, "--out", tmp_path / "run", "--validation", unseen_images, *flags)
    assert done.code == 2
    assert "validation is given, so nothing is held out; give one of them" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classes-per-batch", "5"], "classes_per_batch is 5, and the data holds triplets"),
        (["--samples-per-class", "5"], "samples_per_class is 5, and the data holds triplets"),
        (["--singletons", "drop"], "singletons is 'drop', and the data holds triplets"),
        (["--label", "anchor"], "--label is about labels, which triplets do without"),
        (["--root", "/"], "--root is about paths to images"),
        (["--missing", "error"], "--missing is about feature columns"),
    ],
)
def test_options_that_do_nothing_to_triplets_of_texts_are_refused(command, triplets, tmp_path, flags, message):
    done = command("train", triplets, "--out", tmp_path / "run", "--steps", 2, *flags)
    assert done.code == 2
    assert message in done.err


def test_a_column_counts_once(command, numbers, tmp_path):
    done = command("train", numbers, "--out", tmp_path / "run", "--columns", "length", "width", "length")
    assert done.code == 2
    assert "--columns names 'length' more than once" in done.err


def test_an_empty_path_is_not_the_current_folder(command, texts_run, tmp_path):
    for words in (("train", "", "--out", tmp_path / "run"), ("evaluate", texts_run, "--data", "")):
        done = command(*words)
        assert done.code == 2
        assert "the data is an empty path" in done.err


@pytest.mark.parametrize(
    "command_words", [["evaluate", "--data"], ["embed", "--out=x.parquet"], ["mine", "--out=y.parquet"]]
)
def test_a_run_refuses_them_too(command, image_run, unseen_images, command_words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, flag = command_words
    words = (image_run, flag, unseen_images) if flag == "--data" else (image_run, unseen_images, flag)
    done = command(name, *words, "--label", "x")
    assert done.code == 2
    assert f"--label can only be given for a table; {unseen_images} is none." in done.err


def test_a_gallery_may_be_a_folder_where_the_queries_are_a_table(command, image_run, unseen_images, tmp_path):
    rows = [f"{path},{path.parent.name}" for path in sorted(unseen_images.rglob("*.png"))]
    (tmp_path / "queries.csv").write_text("\n".join(["file,who", *rows]) + "\n")
    run = shutil.copytree(image_run, tmp_path / "run")
    words = ("evaluate", run, "--data", tmp_path / "queries.csv", "--gallery", unseen_images, "--label", "who")
    assert command(*words, "--columns", "file").code == 0


@pytest.mark.parametrize("flags", [["--group-from", "(.)"], ["--by-class", "classes.csv"]])
def test_triplets_have_no_groups_and_classes(command, texts_run, triplets, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("evaluate", texts_run, "--data", triplets, *flags)
    assert done.code == 2
    assert "triplets.csv holds triplets; " in done.err
    assert "for data with labels" in done.err


def test_an_evaluation_without_figures_says_why(command, texts_run, tmp_path):
    rows = [f"left {row},right {row},1" for row in range(8)]
    (tmp_path / "alike.csv").write_text("\n".join(["left,right,similar", *rows]) + "\n")
    done = command("evaluate", texts_run, "--data", tmp_path / "alike.csv", "--no-baseline")
    assert done.code == 0, done.err
    assert "no figure: needs pairs of both kinds; there are 8 same and 0 different" in done.out


def test_scores_calibrate_nothing(command, texts_run, tmp_path):
    rows = [f"left {row},right {row},{row / 2}" for row in range(8)]
    (tmp_path / "scored.csv").write_text("\n".join(["left,right,score", *rows]) + "\n")
    done = command("calibrate", texts_run, "--data", tmp_path / "scored.csv")
    assert done.code == 2
    assert "scored.csv has no labels, pairs or triplets to calibrate with, but scores of pairs." in done.err


def test_a_full_disk_behind_the_output_is_no_fault_of_ours(command, monkeypatch):
    def full(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tercet.cli._write", full)
    monkeypatch.setattr("tercet.cli.COMMANDS", {"doctor": ""})
    monkeypatch.setattr("tercet.cli.doctor.main", full, raising=False)
    done = command("doctor", "x")
    assert done.code == 2
    assert "could not read or write the output: No space left on device." in done.err
    assert "unexpected" not in done.err


def test_json_holds_the_notes_that_the_text_says(command, texts_run, texts):
    words = ("evaluate", texts_run, "--data", texts, "--no-baseline")
    text, found = command(*words).out, json.loads(command(*words, "--json").out)
    notes = [line.removeprefix("note: ") for line in text.splitlines() if line.startswith("note: ")]
    assert notes
    assert found["test.notes"] == notes
