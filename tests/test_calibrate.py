"""Calibrate, verify with a probability or a table of pairs, and evaluate in folds: from Python and the command line."""

import csv
import json
import shutil

import numpy as np
import pytest

import tercet
from conftest import digest
from tercet.errors import ConfigError, InputError, RunError
from tercet.evaluation import calibrate
from tercet.training.assessment.assessment import pairs_of
from tercet.training.assessment.calibration import read_calibration
from tercet.training.assessment.targets import parse_target, target_word
from tercet.training.config import TrainingOptions, read_partial_config
from tercet.training.reporter import SilentReporter


@pytest.fixture
def run(image_run, tmp_path):
    return tercet.load(shutil.copytree(image_run, tmp_path / "run"))


@pytest.fixture
def pairs_table(unseen_images, tmp_path):
    """Thirty marked pairs with a column of folds; one names a file that is no image."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = sorted(str(path) for path in unseen_images.rglob("*.png"))
    rng = np.random.default_rng(0)
    chosen = [(paths[i], paths[i - i % 6 + (i + 1) % 6], 1) for i in range(15)]
    chosen += [(paths[i], paths[(i + 6 * rng.integers(1, 5)) % 30], 0) for i in range(15)]
    chosen = [chosen[i] for i in rng.permutation(30)]
    chosen.insert(7, (paths[0], str(tmp_path / "broken.png"), 1))
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["left", "right", "same", "part"])
        rows.writerows((*row, "xyz"[number % 3]) for number, row in enumerate(chosen))
    return table


def own_pairs(run, data):
    records = run.read(str(data))
    return pairs_of(run.embed(records), records, run.distance)


def test_another_threshold_counts_until_it_is_taken_back(run, unseen_images):
    before, files = run.threshold, digest(run.path)
    found = run.calibrate(str(unseen_images), target="far=0.05", test=str(unseen_images))
    pairs = own_pairs(run, unseen_images)
    assert found.threshold == pytest.approx(calibrate(pairs, 0.05))
    assert found.before == before
    assert run.threshold == found.threshold != before
    accepted = pairs.distance <= found.threshold
    assert found.figures["data"]["far"] == pytest.approx(accepted[~pairs.same].mean())
    assert found.figures["data"]["frr"] == pytest.approx(1 - accepted[pairs.same].mean())
    hits = (accepted & pairs.same).sum()
    assert found.figures["test"]["f1"] == pytest.approx(2 * hits / (accepted.sum() + pairs.same.sum()))
    assert run.metrics["calibration.threshold"] == found.threshold
    assert run.metrics["calibration.far"] == found.figures["data"]["far"]
    assert run.metrics["validation.threshold"] == before
    assert run.evaluate(str(unseen_images), name="again").metrics["threshold"] == found.threshold
    restored = run.calibrate(target="training")
    assert (restored.threshold, restored.before, restored.figures) == (before, found.threshold, {})
    assert run.threshold == before
    after = {name: value for name, value in digest(run.path).items() if "again" not in name}
    assert after["calibration.json"] == files["calibration.json"]


def test_equal_calibrations_are_equal_bytes(run, unseen_images):
    run.calibrate(str(unseen_images), target="f1")
    first = digest(run.path)
    run.calibrate(str(unseen_images), target=0.1)
    assert digest(run.path) != first
    run.calibrate(str(unseen_images), target="f1")
    assert digest(run.path) == first


def test_f1_is_the_greatest_there_is(run, unseen_images):
    pairs = own_pairs(run, unseen_images)
    best = run.calibrate(str(unseen_images), target="f1").figures["data"]["f1"]
    for threshold in pairs.distance.astype(float):
        accepted = pairs.distance <= threshold
        assert 2 * (accepted & pairs.same).sum() / (accepted.sum() + pairs.same.sum()) <= best + 1e-12


def test_a_verdict_says_how_sure_it_is(run, unseen_images):
    paths = sorted(str(path) for path in unseen_images.rglob("*.png"))
    verdicts = [run.verify(paths[0], other) for other in (paths[0], paths[1], paths[9], paths[20])]
    fitted = read_calibration(run.path).probability
    for verdict in verdicts:
        assert 0 < verdict.probability < 1
        assert verdict.probability == pytest.approx(float(fitted(verdict.distance)))
    order = np.argsort([verdict.distance for verdict in verdicts])
    assert (np.diff([verdicts[i].probability for i in order]) <= 0).all()
    rare = run.verify(paths[0], paths[1], prior=0.01)
    p = verdicts[1].probability
    assert rare.probability == pytest.approx(0.01 * p / (0.01 * p + 0.99 * (1 - p)))
    with pytest.raises(InputError, match=r"prior is 2; it is the share of all pairs"):
        run.verify(paths[0], paths[1], prior=2)


def test_a_run_of_before_has_a_threshold_and_no_probability(run, command, unseen_images):
    (run.path / "calibration.json").unlink()
    path = str(unseen_images / "class20" / "0.png")
    verdict = run.verify(path, path)
    assert verdict.probability is None
    assert verdict.threshold == run.metrics["validation.threshold"]
    assert "probability" not in command("verify", run.path, path, path).out
    before = run.threshold
    run.calibrate(str(unseen_images), target="f1")
    assert run.verify(path, path).probability is not None
    run.calibrate(target="training")
    assert run.threshold == before


def test_evaluation_judges_the_probability(run, unseen_images):
    found = run.evaluate(str(unseen_images))
    pairs, fitted = own_pairs(run, unseen_images), read_calibration(run.path).probability
    error = (fitted(pairs.distance) - pairs.same) ** 2
    expected = (error[pairs.same].mean() + error[~pairs.same].mean()) / 2
    assert found.metrics["brier"] == pytest.approx(expected, rel=1e-4)
    assert run.metrics["test.calibration_error"] == found.metrics["calibration_error"] > 0
    assert sum(row["n_pairs"] for row in found.reliability) == len(pairs.same)
    assert "validation.brier" not in run.metrics  # it was fitted there
    assert "baseline.brier" not in run.metrics


def test_what_training_calibrates_for_is_an_option(tmp_path):
    assert [parse_target(word) for word in ("eer", "f1", "far=0.01", 0.2)] == ["eer", "f1", 0.01, 0.2]
    assert [target_word(target) for target in ("eer", 0.001)] == ["eer", "far=0.001"]
    config = tmp_path / "config.toml"
    for given in ("'far=0.01'", "0.01", "'f1'"):
        config.write_text(f"[training]\nthreshold_target = {given}\n", encoding="utf-8")
        assert parse_target(read_partial_config(config).training.threshold_target) in ("f1", 0.01)
    assert TrainingOptions().threshold_target == "eer"
    for given in ("'errr'", "'far=2'", "'far='", "1.5", "'0.01'"):
        config.write_text(f"[training]\nthreshold_target = {given}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"threshold_target is .* it must be 'eer', 'f1', or 'far='"):
            read_partial_config(config)


def test_the_target_of_training_is_kept(images, tmp_path):
    made = tercet.train(
        str(images), out=tmp_path / "run", progress=False, steps=2, classes_per_batch=4, samples_per_class=3,
        threshold_target="far=0.2",
    )  # fmt: skip
    assert made.metrics["validation.far"] <= 0.2
    assert read_calibration(made.path).target == "far=0.2"
    assert made.metrics["validation.threshold"] == made.threshold


def test_the_command_line_calibrates(command, run, unseen_images):
    before = run.threshold
    done = command("calibrate", run.path, "--data", unseen_images, "--target", "far=0.1", "--test", unseen_images)
    assert done.code == 0, done.err
    first, header, *rows = done.out.splitlines()
    assert first == f"threshold {run.threshold:.4f} (far=0.1; {before:.4f} before)"
    assert header.split() == ["data", "test"]
    assert [row.split()[0] for row in rows] == ["far", "frr", "accuracy", "balanced_accuracy", "f1"]
    assert all(row.split()[1] == row.split()[2] for row in rows)
    done = command("calibrate", run.path, "--target", "training", "--json")
    assert json.loads(done.out)["threshold"] == before
    done = command("calibrate", run.path, "--data", unseen_images, "--target", "err")
    assert (done.code, done.out) == (2, "")
    assert "target is 'err'; it must be 'eer', 'f1', or 'far=' with" in done.err
    assert "Did you mean 'eer'?" in done.err
    done = command("calibrate", run.path, "--data", unseen_images, "--target", "far=1e-6")
    assert "needs at least 1,000,000 different pairs; there are 360" in done.err
    assert run.threshold == before
    assert "data is missing" in command("calibrate", run.path).err
    assert "it takes no data" in command("calibrate", run.path, "--target", "training", "--data", "x").err


def test_the_verdict_of_the_command_line(command, run, unseen_images):
    path = unseen_images / "class20" / "0.png"
    verdict = run.verify(str(path), str(path))
    out = command("verify", run.path, path, path).out
    start = f"same  (distance 0.0000 <= threshold {verdict.threshold:.4f}; probability 0."
    assert out.startswith(start)
    assert out.endswith(" where half of all pairs are same)\n")
    assert " where 0.1 % of all pairs are same)" in command("verify", run.path, path, path, "--prior", 0.001).out
    said = json.loads(command("verify", run.path, path, path, "--json").out)
    assert said["probability"] == verdict.probability
    assert said["prior"] == 0.5
    assert command("verify", run.path, path).code == 2
    assert "belong to --pairs" in command("verify", run.path, path, path, "--out", "x.csv").err
    assert "--pairs takes the place of two items" in command("verify", run.path, path, "--pairs", "x.csv").err


def test_many_pairs_at_once(command, run, pairs_table, tmp_path):
    out = tmp_path / "verdicts.csv"
    done = command("verify", run.path, "--pairs", pairs_table, "--out", out)
    assert done.code == 4, done.err
    assert done.out.splitlines()[0].startswith(f"30 pairs in {out}: ")
    assert any(line.startswith(f"left out: {tmp_path / 'broken.png'}: ") for line in done.out.splitlines())
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    given = [row for row in csv.DictReader(pairs_table.open(encoding="utf-8")) if "broken" not in row["right"]]
    assert [(row["left"], row["right"]) for row in rows] == [(row["left"], row["right"]) for row in given]
    for row in rows[:4]:
        verdict = run.verify(row["left"], row["right"])
        assert float(row["distance"]) == pytest.approx(verdict.distance, abs=1e-5)
        assert row["verdict"] == ("same" if verdict.same else "different")
        assert float(row["probability"]) == pytest.approx(verdict.probability, abs=1e-4)
    done = command("verify", run.path, "--pairs", pairs_table, "--out", out)
    assert (done.code, "exists already" in done.err) == (2, True)
    assert "does not end in .csv" in command("verify", run.path, "--pairs", pairs_table, "--out", "x.txt").err
    assert "--label does nothing" in command(
        "verify", run.path, "--pairs", pairs_table, "--out", "x.csv", "--label", "same"
    ).err  # fmt: skip


def test_folds_come_from_a_column_or_the_order(command, run, pairs_table):
    done = command("evaluate", run.path, "--data", pairs_table, "--folds", "part", "--name", "lfw", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["lfw.n_folds"] == found["lfw-baseline.n_folds"] == 3
    folds = [row["part"] for row in csv.DictReader(pairs_table.open(encoding="utf-8")) if "broken" not in row["right"]]
    by_hand = run.evaluate(str(pairs_table), folds=folds, reporter=SilentReporter())
    assert by_hand.metrics["accuracy_folds"] == found["lfw.accuracy_folds"]
    in_order = run.evaluate(str(pairs_table), folds=3, reporter=SilentReporter())
    assert in_order.metrics["n_folds"] == 3
    named = run.evaluate(str(pairs_table), folds=np.repeat(["a", "b", "c"], 10), reporter=SilentReporter())
    folded = [name for name in named.metrics if "folds" in name]
    assert [in_order.metrics[name] for name in folded] == [named.metrics[name] for name in folded]
    shown = command("evaluate", run.path, "--data", pairs_table, "--folds", 3, "--no-baseline").out
    assert "accuracy_folds " in shown
    empty = pairs_table.with_name("empty.csv")
    empty.write_text(pairs_table.read_text(encoding="utf-8").replace(",x\n", ",\n"), encoding="utf-8")
    assert "column 'part' names no fold for 1" in command(
        "evaluate", run.path, "--data", empty, "--folds", "part"
    ).err  # fmt: skip
    assert "has no column 'parts' (--folds)" in command(
        "evaluate", run.path, "--data", pairs_table, "--folds", "parts"
    ).err  # fmt: skip


def test_folds_of_labelled_items_are_refused(command, run, unseen_images):
    done = command("evaluate", run.path, "--data", unseen_images, "--folds", 10)
    assert done.code == 2
    assert "folds belong to pairs that are marked as the same or not;" in done.err
    with pytest.raises(InputError, match="neither 'validation' nor 'calibration'"):
        run.evaluate(str(unseen_images), name="calibration")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"training": {}}', '{"training": {"target": 1}}'])
def test_a_damaged_calibration_is_named(command, run, content, unseen_images):
    (run.path / "calibration.json").write_text(content, encoding="utf-8")
    path = unseen_images / "class20" / "0.png"
    done = command("verify", run.path, path, path)
    assert done.code == 2
    assert "calibration.json" in done.err
    with pytest.raises(RunError):
        read_calibration(run.path)
