"""The benchmark: its folds, its methods, what its figures are of, and that a kill changes nothing."""

import csv
import itertools
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

import tercet
from conftest import digest, killed_at
from tercet.data.readers import read
from tercet.errors import ConfigError, DataError, RunError, TercetWarning, TrainingError
from tercet.training.benchmark.classes import check_test, folds_of, halves
from tercet.training.benchmark.comparison import Estimate, differences_of, paired_p, sentence_of
from tercet.training.benchmark.methods import Range, make_method, tables_of
from tercet.training.benchmark.options import BenchmarkOptions
from tercet.training.benchmark.plan import make_plan
from tercet.training.benchmark.testing import TestSet, figures
from tercet.training.config import BatchOptions, TrainingOptions
from tercet.training.request import Request
from tercet.training.tuning.space import Rung
from test_tune import write_noisy

BATCH = {"classes_per_batch": 4, "samples_per_class": 3, "evaluate_every": 3, "steps": 6}
SMALL = {**BATCH, "folds": 2, "seeds": 2, "trials": 2}
FLAGS = [
    "--classes-per-batch", "4", "--samples-per-class", "3", "--evaluate-every", "3", "--steps", "6", "--folds", "2",
    "--seeds", "2", "--trials", "2",
]  # fmt: skip
METHODS = """
[triplet]
loss = "triplet"
margin = 0.2
mining = "all"
[triplet.try]
learning_rate = [1e-7, 3e-2]

[supcon]
loss = "supcon"
temperature = 0.1
learning_rate = 0.01
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Of trainings this small, a second thread does nothing but wait, and that takes most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return write_noisy(tmp_path_factory.mktemp("noisy") / "noisy.csv", classes=16)


@pytest.fixture(scope="module")
def methods(noisy):
    path = noisy.with_name("methods.toml")
    path.write_text(METHODS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(noisy, methods, tmp_path_factory):
    """A small benchmark, which tests must not change; copy it if they do."""
    path = tmp_path_factory.mktemp("benchmark") / "benchmark"
    return tercet.benchmark(str(noisy), out=path, methods=methods, progress=False, **SMALL)


def labelled(counts):
    """Rows of numbers, so many of each class; the first number tells the class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return read((np.stack([labels, np.arange(len(labels))], axis=1).astype(np.float32), labels.tolist()))


def request(**options):
    training = {key: value for key, value in options.items() if key in ("seed", "learning_rate", "epochs", "steps")}
    return Request(labelled([4] * 16), batch=BatchOptions(), training=TrainingOptions(**training))


# Classes.


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_the_first_half_of_the_classes_is_for_training(n):
    first, second = halves(labelled([2] * n))
    assert first.classes == tuple(map(str, range(n // 2)))
    assert second.classes == tuple(map(str, range(n // 2, n)))
    assert sorted({int(row[0]) for row in second.items}) == list(range(n // 2, n))


@pytest.mark.parametrize(("counts", "number"), [([2] * 8, 4), ([3, 1, 2, 5, 2, 1, 1, 4, 2, 2], 3), ([2, 7, 3, 2], 2)])
def test_folds_have_no_class_in_common_and_leave_none_out(counts, number):
    folds = folds_of(labelled(counts), number, seed=3)
    assert len(folds) == number
    for fold in folds:
        assert not set(fold.train.classes) & set(fold.held.classes)
        assert len(fold.train) + len(fold.held) == sum(counts)
        assert (np.bincount(fold.held.labels) > 1).sum() >= 2
        rows = np.concatenate([fold.train.items, fold.held.items])
        assert sorted(rows[:, 1]) == list(range(sum(counts)))
    held = [name for fold in folds for name in fold.held.classes]
    assert sorted(held, key=int) == [str(number) for number in range(len(counts))]


def test_folds_are_dealt_by_the_seed():
    classes = [[fold.held.classes for fold in folds_of(labelled([2] * 12), 3, seed)] for seed in (0, 0, 1)]
    assert classes[0] == classes[1] != classes[2]


def test_too_few_classes_are_refused():
    with pytest.raises(DataError, match=r"an array: 5 classes with two items are for training and validation; 3 folds "
                       r"need at least 6, two each\. Give fewer"):  # fmt: skip
        folds_of(labelled([2] * 5 + [1] * 4), 3, seed=0)
    with pytest.raises(DataError, match="an array has one class"):
        halves(labelled([2, 2]).take([0, 1]))
    with pytest.raises(DataError, match=r"the test set \(3 rows in 3 classes\) has 0 classes with two items"):
        check_test(labelled([1, 1, 1]))
    with pytest.raises(DataError, match="holds items, and a benchmark needs items with labels"):
        halves(read(np.zeros((4, 2), dtype=np.float32), labelled=False))


# Methods.


def method(table, trials=5, **options):
    return make_method("mine", table, request(**options), labelled([4] * 8), trials)


def test_a_loss_alone_is_tried_as_in_a_tuning():
    made = method({"loss": "contrastive"})
    assert made.space == {"margin": (0.25, 0.5, 0.75, 1.0), "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)}
    assert len(made.drawn) == 5
    assert len({tuple(one.values()) for one in made.drawn}) == 5
    assert made.request.loss.loss == "contrastive"


def test_what_is_common_is_not_tried():
    assert set(method({"loss": "supcon"}, learning_rate=0.01).space) == {"temperature"}


def test_values_and_ranges_of_any_option_are_tried():
    table = {"loss": "contrastive", "margin": 0.5, "try": {
        "weight_decay": [0.0, 0.1], "positive_margin": {"low": 0.1, "high": 0.3},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"},
    }}  # fmt: skip
    made = method(table, trials=40)
    assert made.space == {"weight_decay": (0.0, 0.1)}
    assert set(made.ranges) == {"positive_margin", "learning_rate"}
    assert len(made.drawn) == 40
    rates, margins = ([one[name] for one in made.drawn] for name in ("learning_rate", "positive_margin"))
    assert 1e-4 <= min(rates) < 1e-3 < max(rates) <= 1e-2
    assert 10 < sum(rate < 1e-3 for rate in rates) < 30  # evenly in the logarithm
    assert 0.1 <= min(margins) < 0.2 < max(margins) <= 0.3
    assert [one["weight_decay"] for one in made.drawn].count(0.1) == 20
    assert made.drawn == method(table, trials=40).drawn != method(table, trials=40, seed=1).drawn


def test_with_one_trial_a_method_is_taken_as_it_is():
    made = method({"loss": "contrastive", "margin": 0.3}, trials=1)
    assert (made.drawn, made.space, made.ranges) == (({},), {}, {})
    assert made.request.loss.margin == 0.3
    with pytest.raises(ConfigError, match="margin is to be tried, and with one trial nothing is"):
        method({"loss": "contrastive", "try": {"margin": [0.1, 0.2]}}, trials=1)
    with pytest.raises(ConfigError, match=r"method mine: margin is 0\.1, but it belongs to"):
        method({"loss": "supcon", "margin": 0.1}, trials=1)


def test_ranges_end_where_they_say():
    assert (Range(0.001, 0.1, True).at(0.5), Range(0.001, 0.1, True).at(1.0)) == (0.01, 0.1)
    assert (Range(1.0, 3.0, False).at(0.0), Range(1.0, 3.0, False).at(0.25)) == (1.0, 1.5)
    assert str(Range(0.001, 0.1, True)) == "0.001 to 0.1 (log)"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"loss": "triplet", "margn": 1}, "method mine: there is no option 'margn'. Did you mean 'margin'?"),
        ({"loss": "triplet", "steps": 5}, "steps is the same for all methods; give it to the benchmark: --steps."),
        ({"loss": "triplet", "try": {"samples_per_class": [2, 4]}}, "samples_per_class is the same for all methods"),
        ({"loss": "tripet"}, "loss is 'tripet'; .* Did you mean 'triplet'"),
        ({"loss": "supcon", "margin": 0.1}, "margin is 0.1, but it belongs to loss='triplet' or 'contrastive'"),
        ({"loss": "triplet", "margin": 0.1, "try": {"margin": [0.2]}}, "margin is given and is to be tried"),
        ({"try": {"loss": ["triplet", "supcon"]}}, "loss is what a method is, and cannot be tried"),
        ({"loss": "triplet", "try": {"margin": 0.2}}, "margin is to be tried as 0.2; give a list of values, or"),
        ({"loss": "triplet", "try": {"margin": []}}, "give a list of values, or a range"),
        ({"loss": "triplet", "try": {"margin": [0.1, 2.5]}}, "margins holds 2.5, and between these embeddings"),
        ({"loss": "triplet", "try": {"margin": ["a"]}}, "margin is 'a'; it must be a number"),
        ({"loss": "triplet", "try": {"margin": {"low": 0.1, "hi": 1}}}, "a range is { low = 0.0001, high = 0.01"),
        ({"loss": "triplet", "try": {"margin": {"low": 0.2, "high": 0.1}}}, "from 0.2 to 0.1; the first must be less"),
        ({"loss": "supcon", "try": {"temperature": {"low": 0, "high": 1, "scale": "log"}}}, "and above 0 on a log"),
        ({"loss": "triplet", "try": {"mining": {"low": 0, "high": 1}}}, "mining cannot be drawn from a range"),
        ({"loss": "triplet", "try": {"weight_decay": [0.1, -1.0]}}, "weight_decay is -1.0, it must be a finite number"),
        ({"loss": "triplet", "memory_warmup": 3}, "memory_warmup does nothing without memory"),
    ],
)  # fmt: skip
def test_methods_that_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        method(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no method; a method is a table"),
        ("loss = 'triplet'", "loss is 'triplet'; a method is a table, such as \\[loss\\]"),
        ("['a/b']\nloss = 'triplet'", "a method is called 'a/b', which names a folder"),
        ("[a]\ntry = 3", "a.try is 3; it must be a table"),
        ("[a", "is not valid TOML"),
    ],
)
def test_files_of_methods_that_are_refused(text, message, tmp_path):
    path = tmp_path / "methods.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        tables_of(BenchmarkOptions(methods=str(path)))


def test_options_out_of_range_are_told_together():
    said = (
        r"folds is 1, it must be a whole number, 2 or more; seeds is 0, it must be a whole number, 1 or more; "
        r"halving is 1.*losses names one twice; losses and methods both say what to compare"
    )
    with pytest.raises(ConfigError, match=said):
        BenchmarkOptions(folds=1, seeds=0, halving=1, losses=("triplet", "triplet"), methods="m.toml")
    with pytest.raises(ConfigError, match=r"losses is 'tripet'; allowed are .* Did you mean 'triplet'"):
        BenchmarkOptions(losses=("tripet",))


# The plan.


def test_the_plan_counts_every_training():
    options = BenchmarkOptions(losses=("triplet", "supcon"), folds=3, seeds=2, trials=9)
    plan = make_plan(request(steps=60), options, tables_of(options))
    assert plan.rungs == {"triplet": (Rung(9, 60),), "supcon": (Rung(9, 60),)}
    assert plan.trainings == 3 * (9 + 9 + 2 * 2)
    assert plan.total_steps == 60 * plan.trainings
    assert plan.seeds == (1, 2)
    assert plan.sentences()[-1] == ("66 trainings, 3,960 steps: 18 trials and 2 methods × 2 seeds, each on 3 folds")
    halved = make_plan(
        request(steps=60), BenchmarkOptions(losses=("supcon",), trials=9, halving=3), {"a": {"loss": "supcon"}}
    )
    assert halved.rungs == {"a": (Rung(9, 6), Rung(3, 20), Rung(1, 60))}
    assert halved.trainings == 4 * (9 + 3 + 1 + 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.2}, "margin is given, and it belongs to a method; write it into the file of --methods"),
        ({"holdout": 0.3}, "holdout is given, and the folds say what validates"),
        ({"epochs": 3}, "epochs is 3, and methods are compared after equal steps; give steps"),
        ({"fold": 3}, "option is 'fold'; allowed are .* Did you mean 'folds'"),
        ({"folds": 8}, "8 classes with two items are for training and validation; 8 folds need at least 16"),
        ({"losses": ["triplet"], "methods": {"a": {}}}, "losses and methods both say what to compare"),
    ],
)
def test_options_that_do_nothing_are_refused(options, message, noisy, tmp_path):
    with pytest.raises((ConfigError, DataError, tercet.errors.InputError), match=message):
        tercet.benchmark(str(noisy), out=tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()


# What the figures are of.


def plain_figures(vectors, labels):
    """MAP@R, R-precision and precision@1 by loops."""
    totals = np.zeros(3)
    for i in range(len(labels)):
        far = [np.linalg.norm(vectors[i] - vectors[j]) for j in range(len(labels))]
        order = [j for j in np.argsort(far, kind="stable") if j != i]
        hits = [labels[j] == labels[i] for j in order]
        r = sum(hits)
        totals += [sum(sum(hits[: k + 1]) / (k + 1) for k in range(r) if hits[k]) / r, sum(hits[:r]) / r, hits[0]]
    return dict(zip(("map_at_r", "r_precision", "recall_at_1"), totals / len(labels), strict=True))


def test_figures_are_those_of_the_runs(found, noisy):
    """Separate: the mean over the folds' models. Concatenated: their embeddings of length 1, side by side."""
    _, test = halves(read(noisy))
    labels = test.labels
    for scored, seed in itertools.product(found.methods, found.seeds):
        runs = sorted(found.path.glob(f"methods/{scored.name}/fold-*/trials/{scored.chosen:02d}/steps-6-seed-{seed}"))
        assert len(runs) == 2
        vectors = [tercet.load(run).embed(test.items) for run in runs]
        apart = [plain_figures(one, labels) for one in vectors]
        lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in vectors]
        joined = plain_figures(np.concatenate([a / b for a, b in zip(vectors, lengths, strict=True)], axis=1), labels)
        for name in joined:
            separate = np.mean([one[name] for one in apart])
            assert scored.test["separate"][name].values[seed] == pytest.approx(separate, abs=1e-9)
            assert scored.test["concatenated"][name].values[seed] == pytest.approx(joined[name], abs=1e-9)
    assert found.methods[0].test["separate"] != found.methods[0].test["concatenated"]


def test_embeddings_are_joined_at_length_one(monkeypatch):
    """A model with long embeddings counts as much as another."""
    generator = np.random.default_rng(5)
    rows = [generator.normal(size=(12, 3)) for _ in range(2)]
    labels = np.repeat(np.arange(4), 3)
    from tercet.training.benchmark import testing

    scaled = np.concatenate([one / np.linalg.norm(one, axis=1, keepdims=True) for one in rows], axis=1)
    rows[1] = rows[1] * 1000
    rows[0] = rows[0] * generator.uniform(0.1, 3, size=(12, 1))
    joined = np.concatenate([testing._of_length_one(one) for one in rows], axis=1)
    assert figures(joined, labels, "euclidean") == pytest.approx(plain_figures(scaled, labels))
    assert not testing._of_length_one(np.zeros((2, 3))).any()


def test_the_settings_with_the_best_mean_over_the_folds_are_chosen(found):
    triplet, supcon = found.methods
    assert [one.number for one in triplet.trials] == [1, 2]
    for one in triplet.trials:
        files = [found.path / f"methods/triplet/fold-{k}/trials/{one.number:02d}/steps-6-seed-0.json" for k in (1, 2)]
        values = [json.loads(path.read_text(encoding="utf-8"))["value"] for path in files]
        assert one.values == tuple(values)
        assert one.mean == pytest.approx(np.mean(values))
    assert triplet.chosen == max(triplet.trials, key=lambda one: one.mean).number
    assert triplet.settings == next(one.settings for one in triplet.trials if one.number == triplet.chosen)
    assert len({one.mean for one in triplet.trials}) == 2
    assert (supcon.chosen, supcon.settings, supcon.trials) == (1, {}, ())


def test_seeds_that_are_tested_had_no_part_in_the_choice(found):
    names = {path.parent.name for path in found.path.glob("methods/*/fold-*/trials/*/*/config.toml")}
    assert names == {"steps-6-seed-0", "steps-6-seed-1", "steps-6-seed-2"}
    kept = {path.parent.name for path in found.path.glob("methods/*/fold-*/trials/*/*/model.safetensors")}
    assert kept == {"steps-6-seed-1", "steps-6-seed-2"}


def test_what_is_written(found):
    content = json.loads((found.path / "benchmark.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(found.to_json()))
    assert len(content["differences"]) == 6
    with (found.path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        (one,) = (one for one in found.methods if one.name == row["method"])
        estimate = one.test[row["evaluation"]][row["metric"]]
        assert (float(row["mean"]), float(row["low"]), float(row["high"])) == (estimate.mean, *estimate.interval)
    text = (found.path / "results.md").read_text(encoding="utf-8")
    assert "| separate | MAP@R | R-precision | precision@1 |" in text
    assert f"| triplet | {found.methods[0].test['separate']['map_at_r'].mean:.3f} [" in text
    assert text.splitlines()[-1].lower() == found.sentence.lower()


# The test set has no part in anything but the test.


ONE = {"one": {"loss": "supcon", "temperature": 0.1, "try": {"learning_rate": [1e-7, 3e-2]}}}


@pytest.fixture(scope="module")
def watched(noisy, tmp_path_factory):
    """A benchmark of one method, and the order in which it trained and looked at the test set."""
    from tercet.training.benchmark import protocol

    events = []
    run, measure, readable = protocol.Trainer.run, TestSet.measure, TestSet._readable
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.Trainer, "run", lambda *given: (events.append("train"), run(*given))[1])
        patch.setattr(TestSet, "measure", lambda *given: (events.append("test"), measure(*given))[1])
        patch.setattr(TestSet, "_readable", lambda *given: (events.append("test"), readable(*given))[1])
        first, second = halves(read(noisy))
        out = tmp_path_factory.mktemp("watched") / "out"
        found = tercet.benchmark(sourced(first), out=out, test=sourced(second), methods=ONE, progress=False,
                                 **{**SMALL, "seeds": 1})  # fmt: skip
    return found, events


def sourced(records):
    """Records as what they might have been read from."""
    return records.items, [records.classes[code] for code in records.labels]


def test_the_test_set_is_embedded_after_the_last_training(watched):
    _, events = watched
    assert events.count("train") == 2 * 2 + 2
    assert "train" not in events[events.index("test") :]


def test_another_test_set_changes_no_training_and_no_choice(noisy, watched, tmp_path):
    before, _ = watched
    first, second = halves(read(noisy))
    other = (second.items[::-1] * 3, [f"other {code % 3}" for code in second.labels])
    found = tercet.benchmark(sourced(first), out=tmp_path / "out", test=other, methods=ONE, progress=False,
                             **{**SMALL, "seeds": 1})  # fmt: skip
    weights = [{name: value for name, value in digest(one.path).items() if name.endswith("model.safetensors")}
               for one in (before, found)]  # fmt: skip
    assert len(weights[0]) == 2
    assert weights[0] == weights[1]
    assert found.methods[0].trials == before.methods[0].trials
    assert found.methods[0].chosen == before.methods[0].chosen
    assert found.methods[0].test != before.methods[0].test


def test_a_test_set_with_known_classes_or_items_is_warned_of(noisy, tmp_path):
    options = {**SMALL, "seeds": 1, "steps": 1, "trials": 1}
    with pytest.warns(TercetWarning) as warned:
        tercet.benchmark(
            str(noisy), out=tmp_path / "out", test=str(noisy), losses=["supcon"], progress=False, **options
        )
    said = " ".join(str(one.message) for one in warned)
    assert "16 of 16 classes of the test set have the name of one that is trained on (kind00, kind01, kind02)" in said
    assert "96 of 96 items of the test data are also in the training data" in said


# Kills, and other settings.


@pytest.mark.slow
def test_a_killed_benchmark_goes_on_to_the_same_bytes(found, noisy, methods, tmp_path, command):
    """Killed in its last training, before the test; what Python began, the command ends."""
    out = without_results(shutil.copytree(found.path, tmp_path / "benchmark"))
    shutil.rmtree(out / "methods/supcon/fold-2/trials/01/steps-6-seed-2")
    (out / "methods/supcon/fold-2/trials/01/steps-6-seed-2.json").unlink()
    killed = killed_at(4, ["benchmark", str(noisy), "--methods", str(methods), "--out", str(out), "--resume", *FLAGS],
                       threads=1)  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / "methods/supcon/fold-2/trials/01/steps-6-seed-2/checkpoints").exists()
    assert not (out / "benchmark.json").exists()
    done = command("benchmark", "--out", out, "--resume")
    assert done.code == 0, done.err
    assert digest(out) == digest(found.path)
    assert found.sentence[1:] in done.out
    assert "12 trainings, 72 steps: 2 trials and 2 methods × 2 seeds, each on 2 folds" in done.err


def without_results(out):
    """A benchmark as it is before the test."""
    for path in (*out.glob("methods/*/seed-*.json"), *out.glob("results.*"), out / "benchmark.json"):
        path.unlink()
    return out


def test_equal_benchmarks_are_equal_bytes(watched, noisy, tmp_path):
    before, _ = watched
    first, second = map(sourced, halves(read(noisy)))
    again = tercet.benchmark(first, out=tmp_path / "out", test=second, methods=ONE, progress=False,
                             **{**SMALL, "seeds": 1})  # fmt: skip
    assert digest(again.path) == digest(before.path)


def test_finished_trainings_are_not_repeated(found, tmp_path, noisy, methods, monkeypatch):
    out = without_results(shutil.copytree(found.path, tmp_path / "benchmark"))
    shutil.rmtree(out / "methods" / "supcon" / "fold-2")
    from tercet.training.tuning import trials

    trained, run_session = [], trials.run_session
    monkeypatch.setattr(trials, "run_session", lambda *given: (trained.append(given[1]), run_session(*given))[1])
    tercet.benchmark(out=out, resume=True, progress=False)
    assert [path.relative_to(out).parts[:3] for path in trained] == [("methods", "supcon", "fold-2")] * 2
    assert digest(out) == digest(found.path)


def test_a_folder_made_with_other_settings_is_refused(found, noisy, methods, tmp_path):
    arguments = {"out": found.path, "resume": True, "progress": False}
    with pytest.raises(ConfigError, match=r"benchmark\.folds was 2 and is now 3; benchmark\.seeds was 2 and is now 5"):
        tercet.benchmark(folds=3, seeds=5, **arguments)
    with pytest.raises(ConfigError, match=r"by its own settings only: training\.steps was 6 and is now 7.*benchmark"):
        tercet.benchmark(steps=7, **arguments)
    with pytest.raises(ConfigError, match=r"methods\.supcon\.temperature was 0\.1 and is now 'left open'"):
        tercet.benchmark(methods={"supcon": {"loss": "supcon"}}, **arguments)
    with pytest.raises(ConfigError, match="its data, or what is held out of it, has changed since"):
        tercet.benchmark(str(write_noisy(tmp_path / "other.csv", classes=17)), **arguments)
    with pytest.raises(RunError, match=r"exists already\. If it is a benchmark, go on with it by adding --resume"):
        tercet.benchmark(str(noisy), out=found.path, progress=False, **SMALL)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "settings.toml").write_text("source = 'a'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="tuned is no benchmark"):
        tercet.benchmark(out=tmp_path / "tuned", resume=True, progress=False)


# Trials that fail.


def test_a_method_that_fails_leaves_the_others_alone(noisy, tmp_path):
    tables = {"wild": {"loss": "contrastive", "try": {"learning_rate": [1e20, 1e30]}, "margin": 0.5},
              "tame": {"loss": "contrastive", "learning_rate": 0.01, "margin": 0.5}}  # fmt: skip
    options = {**SMALL, "seeds": 1, "steps": 3}
    found = tercet.benchmark(str(noisy), out=tmp_path / "out", methods=tables, progress=False, **options)
    wild, tame = found.methods
    assert (wild.chosen, wild.test, wild.validation) == (None, {}, None)
    assert all("finite" in one.failure or "nan" in one.failure for one in wild.trials)
    assert tame.test["separate"]["map_at_r"].interval is None
    assert "| wild | every trial failed | - |" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "there is one method, and nothing to compare it with" in found.sentence
    del tables["tame"]
    with pytest.raises(TrainingError, match="every trial of every method failed: "):
        tercet.benchmark(str(noisy), out=tmp_path / "none", methods=tables, progress=False, **options)


# The command.


def test_the_command(command, noisy, methods, tmp_path):
    out = tmp_path / "out"
    words = ["benchmark", noisy, "--out", out, "--methods", methods, *FLAGS]
    done = command(*words, "--dry-run")
    assert done.code == 0, done.err
    assert "training and validation: 48 rows in 8 classes, in 2 folds without a class in common (4 classes" in done.out
    assert "triplet: trials 2 for 6 steps, of learning_rate 1e-07, 0.03" in done.out
    assert "supcon: nothing to choose" in done.out
    assert not out.exists()
    planned = json.loads(command(*words, "--dry-run", "--json").out)
    assert planned["trainings"] == 12
    assert planned["methods"]["supcon"] == ["as given"]
    assert [len(one) for one in planned["folds"]] == [4, 4]
    done = command("benchmark", noisy, "--out", out, "--losses", "tripet")
    assert done.code == 2
    done = command(*words, "--config", _config(tmp_path, "[loss]\nmargin = 0.3\n"))
    assert (done.code, out.exists()) == (2, False)
    assert "holds a loss, and losses are what a benchmark compares" in done.err
    config = _config(tmp_path, "[encoder]\nkind = 'tabular'\ndim = 3\n[training]\nsteps = 2\n")
    words = ["benchmark", noisy, "--out", out, "--methods", methods, "--config", config, "--seeds", "1", "--json"]
    done = command(*words, "--classes-per-batch", "4", "--folds", "2", "--trials", "2")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content == json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
    assert content["steps"] == 2
    text = next(out.glob("methods/supcon/fold-1/trials/*/*/config.toml")).read_text(encoding="utf-8")
    assert "dim = 3" in text


def _config(folder, text):
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_how_long_it_takes_is_said_after_the_first_training(command, noisy, tmp_path):
    done = command("benchmark", noisy, "--out", tmp_path / "out", "--losses", "supcon", *FLAGS[:-4],
                   "--seeds", "1", "--trials", "1")  # fmt: skip
    assert done.code == 0, done.err
    assert done.err.count("the first training took") == 1
    assert "the other 1 will take about" in done.err


def test_several_processes_are_refused(noisy, tmp_path, monkeypatch):
    from tercet.training.benchmark import protocol

    monkeypatch.setattr(protocol, "started_together", lambda: True)
    with pytest.raises(tercet.errors.InputError, match="a benchmark is one process"):
        tercet.benchmark(str(noisy), out=tmp_path / "out", progress=False, **SMALL)


# Comparisons.


def by_seed(*values):
    return dict(enumerate(values, start=1))


def test_an_estimate_is_a_mean_with_its_interval():
    found = Estimate.of(by_seed(0.5, 0.6, 0.9))
    ends = ttest_1samp([0.5, 0.6, 0.9], 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(2 / 3)
    assert found.interval == pytest.approx((ends.low, min(ends.high, 1.0)))
    assert Estimate.of({4: 0.5}).interval is None


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.15], [-0.1, 0.3], [0.01, -0.02, 0.03, 0.04]])
def test_p_is_that_of_a_paired_test(values):
    assert paired_p(values) == pytest.approx(ttest_1samp(values, 0).pvalue)


def test_p_of_differences_without_deviation():
    assert (paired_p([0.25, 0.25]), paired_p([0.0, 0.0]), paired_p([0.1]), paired_p([])) == (0.0, 1.0, None, None)


def test_differences_are_paired_and_corrected():
    values = {"a": [0.50, 0.61, 0.72, 0.56], "b": [0.45, 0.55, 0.68, 0.50], "c": [0.49, 0.50, 0.75, 0.54]}
    found = differences_of(
        "separate", "map_at_r", {name: Estimate.of(by_seed(*list_)) for name, list_ in values.items()}
    )
    assert [(one.better, one.worse) for one in found] == [("a", "c"), ("a", "b"), ("c", "b")]
    p = {}
    for one in found:
        apart = np.subtract(values[one.better], values[one.worse])
        test = ttest_1samp(apart, 0)
        ends = test.confidence_interval(0.95)
        assert one.mean == pytest.approx(apart.mean())
        assert one.interval == pytest.approx((ends.low, ends.high))
        assert one.p == pytest.approx(test.pvalue)
        p[one.better, one.worse] = test.pvalue
    running = 0.0
    for place, pair in enumerate(sorted(p, key=p.get)):  # Holm's steps, as he gives them
        running = max(running, min(1.0, (3 - place) * p[pair]))
        (one,) = (one for one in found if (one.better, one.worse) == pair)
        assert one.adjusted == pytest.approx(running)
        assert one.significant == (running < 0.05)
    assert sum(one.significant for one in found) == 1
    said = sentence_of(found, "MAP@R")
    assert said.startswith("on MAP@R a is better than b by 0.052 [0.037, 0.068]; not told apart are a and c, c and b")
    assert said.endswith("(4 seeds, paired t-tests at 5 %, corrected for 3 pairs)")


def test_only_seeds_that_both_have_are_compared():
    methods = {"a": Estimate.of({1: 0.5, 2: 0.6, 3: 0.9}), "b": Estimate.of({2: 0.5, 3: 0.6})}
    (one,) = differences_of("separate", "map_at_r", methods)
    assert (one.seeds, one.mean) == (2, pytest.approx(0.2))


def test_sentences_of_little():
    single = differences_of("separate", "map_at_r", {"a": Estimate.of({1: 0.5}), "b": Estimate.of({1: 0.4})})
    assert sentence_of(single, "MAP@R") == "on MAP@R 1 seed tells no method from another; give more --seeds"
    alike = differences_of("separate", "map_at_r", {name: Estimate.of(by_seed(0.4, 0.5)) for name in "ab"})
    assert sentence_of(alike, "MAP@R").startswith("on MAP@R no method can be told from another (2 seeds")


def test_the_embedding_of_a_module_of_ones_own_is_tested(noisy, tmp_path):
    module = torch.nn.Linear(8, 3)
    before = module.weight.detach().clone()
    found = tercet.benchmark(str(noisy), out=tmp_path / "out", encoder=module, losses=["supcon"], progress=False,
                             **{**SMALL, "seeds": 1, "trials": 1, "steps": 2})  # fmt: skip
    assert 0 < found.methods[0].test["separate"]["map_at_r"].mean <= 1
    assert torch.equal(module.weight, before)
