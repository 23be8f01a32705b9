"""Bad input: a clear message, exit code 2, no traceback, nothing lost and nothing left behind."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import tercet
from conftest import QUICK_FLAGS, write_images, write_numbers, write_texts
from tercet.errors import ConfigError


@pytest.fixture
def train(command, tmp_path):
    """Runs train on a source, and makes sure that a refused one leaves no run behind."""

    def run(source, *flags, fails=True):
        done = command("train", source, "--out", tmp_path / "run", *QUICK_FLAGS, *flags)
        assert done.code == (2 if fails else 0), done.err
        if fails:
            assert "error: " in done.err
            assert done.out == ""
            assert not (tmp_path / "run").exists()
        return done.err

    return run


def test_unreadable_images_are_skipped_counted_and_named_in_the_report(train, tmp_path):
    folder = write_images(tmp_path / "faces", range(8))
    (folder / "class01" / "bad.png").write_bytes(b"this is no image")
    whole = (folder / "class02" / "0.png").read_bytes()
    (folder / "class02" / "cut.png").write_bytes(whole[: len(whole) // 2])
    said = train(folder, "--holdout-by", "row", fails=False)
    assert "cannot be read and are skipped" in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "class01/bad.png" in page
    assert "class02/cut.png" in page


def test_all_images_unreadable_is_an_error(train, tmp_path):
    for number in range(6):
        (tmp_path / "faces" / f"c{number}").mkdir(parents=True)
        for sample in range(3):
            (tmp_path / "faces" / f"c{number}" / f"{sample}.png").write_bytes(b"no image")
    said = train(tmp_path / "faces")
    assert "none of them can be read" in said or "not an image" in said


def test_a_class_with_one_sample_is_used_and_said(train, tmp_path):
    folder = write_images(tmp_path / "faces", range(8))
    (folder / "single").mkdir()
    Image.fromarray(np.zeros((24, 24), dtype=np.uint8)).save(folder / "single" / "0.png")
    said = train(folder, "--holdout-by", "row", fails=False)
    assert "Negatives only: 1 class of one sample." in said


def test_one_class_only(train, tmp_path):
    said = train(write_images(tmp_path / "faces", range(1)))
    assert "class" in said


def test_no_labels(train, tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for sample in range(3):
        Image.fromarray(np.zeros((24, 24), dtype=np.uint8)).save(folder / f"{sample}.png")
    assert "subfolder" in train(folder)


def test_a_nan_feature_names_row_and_column(train, tmp_path):
    path = write_numbers(tmp_path / "t.csv", range(7))
    lines = path.read_text().splitlines()
    cells = lines[4].split(",")
    lines[4] = ",".join([cells[0], "nan", *cells[2:]])
    path.write_text("\n".join(lines))
    said = train(path, "--missing", "error")
    assert "t.csv, row 4, column 'width': the value is missing (NaN)" in said


def test_an_empty_text_names_the_row(train, tmp_path):
    path = write_texts(tmp_path / "t.csv", range(7))
    lines = path.read_text().splitlines()
    lines[3] = ",x,topic 1"
    path.write_text("\n".join(lines))
    said = train(path, "--columns", "sentence")
    assert "empty" in said
    assert "t.csv" in said


def test_a_missing_column_suggests_the_likely_one(train, numbers):
    assert "Did you mean 'species'?" in train(numbers, "--label", "specie")
    assert "Did you mean 'weight'?" in train(numbers, "--columns", "length", "wieght")


def test_duplicates_across_train_and_test_are_warned_of(command, image_run, images, tmp_path):
    run = shutil.copytree(image_run, tmp_path / "run")
    folder = write_images(tmp_path / "test", range(30, 33))
    shutil.copy(images / "class00" / "0.png", folder / "class30" / "copy.png")
    shutil.copy(images / "class01" / "0.png", folder / "class31" / "copy.png")
    shutil.copy(images / "class02" / "0.png", folder / "class32" / "copy.png")
    shutil.copy(images / "class03" / "0.png", folder / "class32" / "copy2.png")
    done = command("evaluate", run, "--data", folder)
    assert done.code == 0
    assert "of 22 items of the test data are also in the training data" in done.err
    assert "duplicates" in (run / "evaluations" / "test.json").read_text()


def test_a_run_folder_that_exists(command, images, image_run):
    before = {path: path.read_bytes() for path in image_run.rglob("*") if path.is_file()}
    done = command("train", images, "--out", image_run)
    assert done.code == 2
    assert done.err == (
        f"error: {image_run} exists already. Go on with it by adding --resume (from Python: resume=True), or choose "
        "another name.\n"
    )
    assert before == {path: path.read_bytes() for path in image_run.rglob("*") if path.is_file()}


def test_a_configuration_with_an_unknown_key(train, images, tmp_path):
    (tmp_path / "mine.toml").write_text("[loss]\nmagin = 0.3\n")
    said = train(images, "--config", tmp_path / "mine.toml")
    assert said == (
        f"error: {tmp_path / 'mine.toml'}: loss: unknown key 'magin'. Did you mean 'margin'? Known here are loss, "
        "margin, positive_margin, mining, distance, p, penalty, temperature, learn_temperature, reduction, fallback, "
        "draw_seed, normalize, statistics, implementation.\n"
    )


def test_a_run_from_a_newer_version(command, image_run, unseen_images, tmp_path):
    run = shutil.copytree(image_run, tmp_path / "run")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("format = 1", "format = 2"))
    done = command("embed", run, unseen_images, "--out", tmp_path / "e.parquet")
    assert done.code == 2
    assert "in format 2; this is Tercet" in done.err
    assert not (tmp_path / "e.parquet").exists()


def test_what_is_not_there(command, image_run, images, tmp_path):
    for words in (
        ["train", tmp_path / "nothing", "--out", tmp_path / "run"],
        ["evaluate", tmp_path / "nothing", "--data", images],
        ["evaluate", image_run, "--data", tmp_path / "nothing"],
        ["embed", image_run, tmp_path / "nothing", "--out", tmp_path / "e.parquet"],
        ["verify", image_run, tmp_path / "nothing.png", tmp_path / "nothing.png"],
        ["search", tmp_path / "nothing.index", "query.png"],
        ["report", tmp_path / "nothing"],
        ["train", images, "--out", tmp_path / "run", "--config", tmp_path / "nothing.toml"],
    ):
        done = command(*words)
        assert done.code == 2, words
        assert "error: " in done.err, words
        assert "nothing" in done.err, words
        assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_command_and_a_misspelt_flag(command, images, tmp_path):
    done = command("trian", images)
    assert done.code == 2
    assert "there is no command 'trian'. Did you mean 'train'?" in done.err
    done = command("train", images, "--out", tmp_path / "run", "--minng", "hard")
    assert done.code == 2
    assert "--mining" in done.err


def test_files_that_are_in_the_way_are_not_overwritten(command, image_run, unseen_images, tmp_path):
    (tmp_path / "e.parquet").write_text("mine")
    assert command("embed", image_run, unseen_images, "--out", tmp_path / "e.parquet").code == 2
    assert (tmp_path / "e.parquet").read_text() == "mine"
    (tmp_path / "i.index").mkdir()
    assert command("index", image_run, unseen_images, "--out", tmp_path / "i.index").code == 2
    assert list((tmp_path / "i.index").iterdir()) == []


def test_damaged_weights_and_a_damaged_index(command, image_run, unseen_images, tmp_path):
    run = shutil.copytree(image_run, tmp_path / "run")
    command("index", run, unseen_images, "--out", tmp_path / "i.index")
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    picture = unseen_images / "class20" / "0.png"
    done = command("verify", run, picture, picture)
    assert done.code == 2
    assert "model.safetensors cannot be read" in done.err
    (tmp_path / "i.index" / "items.parquet").write_bytes(b"no parquet")
    done = command("search", tmp_path / "i.index", picture)
    assert done.code == 2
    assert "is damaged" in done.err


def test_other_data_than_the_run_was_trained_on(command, image_run, numbers):
    done = command("evaluate", image_run, "--data", numbers)
    assert done.code == 2
    assert "image" in done.err


def test_a_row_that_is_no_row(command, numbers, tmp_path):
    assert command("train", numbers, "--out", tmp_path / "run", *QUICK_FLAGS).code == 0
    assert command("verify", tmp_path / "run", "1,2,3,4", "1,2,3,4.5").code in (0, 1)
    done = command("verify", tmp_path / "run", "1,2,x,4", "1,2,3,4")
    assert done.code == 2
    assert "'x' is not a number, and column 'height' holds numbers" in done.err
    done = command("verify", tmp_path / "run", "1,2,3", "1,2,3")
    assert done.code == 2
    for left in ("1,2,3,nan", "1,2,3"):
        assert command("verify", tmp_path / "run", left, "1,2,3,4").code == 2  # 1 would say that they differ


def test_a_closed_output_is_no_fault():
    closed = "import os, sys; sys.stdout = sys.stderr = None; from tercet import cli; os._exit(cli.main(['--version']))"
    assert subprocess.run([sys.executable, "-c", closed], check=False).returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--steps", "0", "--learning-rate", "-3"), "steps is 0, it must be 1 or more; learning_rate is -3.0, it must"),
        (("--margin", "-1"), "margin is -1.0; allowed is a finite number of at least 0."),
        (("--penalty", "lifted", "--mining", "hard"), "penalty 'lifted' goes with mining 'all'"),
        (("--loss", "supcon", "--margin", "0.3"), "margin is 0.3, but it belongs to loss='triplet' or 'contrastive'"),
        (
            ("--learning-rate", "0", "--steps", "3", "--epochs", "2"),
            "learning_rate is 0.0, it must be above 0 and below 1e+37; steps is 3 and epochs is 2; give one of them.",
        ),
        (("--label-level", "0"), "label_level is 0, it must be 1 or more."),
        (
            ("--batch-size", "-8", "--samples-per-class", "5"),
            "batch_size is -8, it must be 2 or more, and of labelled data 10 or more: 2 classes of samples_per_class "
            "each.",
        ),
        (("--batch-size", "64", "--classes-per-batch", "3"), "batch_size is 64 and classes_per_batch is 3, where 16"),
        (("--momentum", "0.9"), "momentum does nothing without memory; give memory too."),
        (("--mine.seed", "1"), "rules of mine are given, and nothing is mined without mine_every"),
        (("--corruption", "0.3"), "corruption does nothing without views; give views too, such as 2."),
        (("--curriculum.levels", "5"), "curriculum.levels: nothing is paced without curriculum.pacing; give it too."),
        (("--mining-schedule", "hard"), "mining_schedule is 'hard': 'hard' is not a mining and a number"),
        (("--matryoshka", "0"), "matryoshka is (0,), it must be lengths of 1 or more, each once."),
        (("--validation", "x.csv", "--holdout", "0.3"), "holdout is 0.3 and validation is given"),
        (("--device", "meta"), "device is 'meta', which cannot be used here ("),
        (("--device", "hpu"), "device is 'hpu', which cannot be used here ("),
        (("--validation", "nowhere.csv"), "nowhere.csv does not exist."),
        (("--init", "nowhere"), "init names nowhere, and there is no run: it holds no config.toml."),
        (("--init", ""), "init names an empty path, and there is no run: it holds no config.toml."),
        (
            ("--curriculum.pacing", "log", "--curriculum.scoring", "learned", "--curriculum.reference", "nowhere"),
            "curriculum.reference names nowhere, and there is no run: it holds no config.toml.",
        ),
        (("--text.weights", "nowhere"), "nowhere is not a folder. Weights are a local folder with config.json and"),
        (("--image.weights", ""), "an empty path is not a folder. Weights are a local folder with config.json and"),
        (("--config", ""), ". cannot be read: Is a directory."),
    ],
)
def test_settings_that_no_data_goes_with_are_refused_before_any_is_read(command, tmp_path, flags, message):
    done = command("train", tmp_path / "missing.jsonl", "--out", tmp_path / "run", *flags)
    assert (done.code, done.err.startswith(f"error: {message}")) == (2, True)
    assert not (tmp_path / "run").exists()


def test_what_says_nothing_yet_is_not_looked_for_before_reading(command, tmp_path):
    for flags in (
        ("--curriculum.pacing", "log", "--curriculum.order", "random"),
        ("--curriculum.pacing", "log", "--curriculum.scoring", "column", "--curriculum.column", "age"),
        ("--image.weights", "timm:resnet18@nowhere.safetensors"),
    ):
        done = command("train", tmp_path / "missing.csv", "--out", tmp_path / "run", *flags)
        assert done.err.startswith(f"error: {tmp_path / 'missing.csv'} does not exist."), flags


def test_an_empty_path_is_not_the_run_at_hand(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text("")
    done = command("train", "missing.csv", "--out", "run", "--init", "")
    assert done.err.startswith("error: init names an empty path, and there is no run")


def test_a_share_is_not_held_out_beside_validation_data_of_python(tmp_path):
    rows = (np.zeros((8, 2)), ["a", "b"] * 4)
    with pytest.raises(ConfigError, match=r"holdout is 0\.3 and validation is given, so nothing is held out"):
        tercet.train(rows, validation=rows, holdout=0.3, out=tmp_path / "run", progress=False)


def test_a_loss_left_open_may_be_that_of_marked_pairs(command, tmp_path):
    done = command("train", tmp_path / "missing.csv", "--out", tmp_path / "run", "--positive-margin", "0.1")
    assert "missing.csv" in done.err
