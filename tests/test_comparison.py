"""Comparing runs: the variance of a difference against its definition, Holm's correction, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest

import tercet
from conftest import QUICK, write_numbers
from tercet.errors import DataError, InputError, RunError
from tercet.evaluation.comparison import Difference, compare_groups, holm, measure_labelled, measure_tuples, verdicts


def two_runs(seed=0, n_classes=20, worse=1.5):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), 4)
    items = 2 * rng.normal(size=(n_classes, 4))[labels]
    return [items + size * rng.normal(size=items.shape) for size in (1.0, worse)], labels


def test_the_variance_of_a_difference_is_that_of_its_contributions():
    """Of triplets it is that of the paired differences: Student's paired test, save for its one class a row."""
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(4)
    tuples = np.arange(150).reshape(50, 3)
    one, other = rng.normal(size=(2, 150, 2))
    first, second = (measure_tuples(rows, tuples, None, "euclidean") for rows in (one, other))
    (found,) = [of for of in compare_groups({"a": [first], "b": [second]}) if of.metric == "triplet_accuracy"]
    right = [
        [np.linalg.norm(rows[a] - rows[p]) < np.linalg.norm(rows[a] - rows[n]) for a, p, n in tuples]
        for rows in (one, other)
    ]
    expected = ttest_rel(*np.array(right[::-1], dtype=float))
    assert found.values == pytest.approx((np.mean(right[0]), np.mean(right[1])))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_what_is_better_is_told_from_chance():
    (good, bad), labels = two_runs(worse=2.5)
    measured = [measure_labelled(rows, labels, "euclidean") for rows in (good, bad)]
    found = {one.metric: one for one in compare_groups({"good": [measured[0]], "bad": [measured[1]]})}
    assert set(found) == {"recall_at_1", "map_at_r", "r_precision", "auc", "eer"}
    for name, one in found.items():
        assert one.significant, name
        assert (one.difference > 0) == (name == "eer")
        assert one.interval[0] < one.difference < one.interval[1]
    backwards = {one.metric: one for one in compare_groups({"bad": [measured[1]], "good": [measured[0]]})}
    assert backwards["auc"].difference == -found["auc"].difference
    assert backwards["auc"].p == pytest.approx(found["auc"].p)


def test_pairing_tells_more_than_two_intervals():
    (good, bad), labels = two_runs(worse=1.2)
    one, other = (measure_labelled(rows, labels, "euclidean") for rows in (good, bad))
    (found,) = [of for of in compare_groups({"a": [one], "b": [other]}) if of.metric == "map_at_r"]
    widths = [ends[1] - ends[0] for ends in (one.interval("map_at_r"), other.interval("map_at_r"))]
    assert found.interval[1] - found.interval[0] < 0.8 * np.hypot(*widths)


def test_equal_runs_do_not_differ():
    (good, _), labels = two_runs()
    same = measure_labelled(good, labels, "euclidean")
    for one in compare_groups({"a": [same], "b": [measure_labelled(good, labels, "euclidean")]}):
        assert (one.difference, one.p, one.significant) == (0, 1, False)
        assert one.in_words().startswith("a and b have the same ")


def test_seeds_add_their_variance():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(20), 4)
    items = 2 * rng.normal(size=(20, 4))[labels] + 0.5 * rng.normal(size=(80, 4))
    runs = [measure_labelled(items + size * rng.normal(size=items.shape), labels, "euclidean")
            for size in (0.2, 1.6, 0.4, 1.4, 0.3, 1.5)]  # fmt: skip
    (alone,) = [one for one in compare_groups({"a": runs[:1], "b": runs[1:2]}) if one.metric == "map_at_r"]
    (several,) = [one for one in compare_groups({"a": runs[:3], "b": runs[3:]}) if one.metric == "map_at_r"]
    assert alone.significant
    assert not several.significant
    values = [run.figures["map_at_r"][0] for run in runs]
    assert several.values == pytest.approx((np.mean(values[:3]), np.mean(values[3:])))
    least = np.sqrt(np.var(values[:3], ddof=1) / 3 + np.var(values[3:], ddof=1) / 3)
    assert several.interval[1] - several.difference > 2 * least  # Student's with few degrees of freedom


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    (good, bad), labels = two_runs(worse=1.1)
    groups = {str(i): [measure_labelled(rows, labels, "euclidean")] for i, rows in enumerate((good, bad, good + bad))}
    found = [one for one in compare_groups(groups) if one.metric == "auc"]
    assert [one.p_holm for one in found] == holm([one.p for one in found])
    assert [(one.one, one.other) for one in found] == [("0", "1"), ("0", "2"), ("1", "2")]


def test_sentences():
    found = Difference("map_at_r", "A", "B", (0.5, 0.521), 0.021, (0.004, 0.038), 0.012, 0.012)
    assert found.in_words() == (
        "B has a MAP@R 0.021 higher than A (0.004 to 0.038), more than chance explains (p = 0.012)."
    )
    eer = Difference("eer", "A", "B", (0.1, 0.12), 0.02, (-0.01, 0.05), 0.2, 0.2)
    assert eer.in_words() == "A has an EER 0.020 lower than B (-0.010 to 0.050), which chance may explain (p = 0.2)."
    assert verdicts([eer]) == []
    assert verdicts([eer, found]) == [found.in_words()]


@pytest.fixture(scope="module")
def runs(numbers, tmp_path_factory):
    """Two seeds of two methods."""
    folder = tmp_path_factory.mktemp("compared")
    for name, seed, rate in (("a/0", 0, 0.001), ("a/1", 1, 0.001), ("b/0", 0, 0.01), ("b/1", 1, 0.01)):
        tercet.train(str(numbers), out=folder / name, progress=False, seed=seed, learning_rate=rate, **QUICK)
    return folder


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Other kinds."""
    return write_numbers(tmp_path_factory.mktemp("unseen") / "unseen.csv", range(30, 36))


def test_the_command(runs, unseen, command, tmp_path):
    out = tmp_path / "compared.json"
    done = command("compare", runs / "a/0", runs / "b/0", "--data", unseen, "--out", out)
    assert done.code == 0, done.err
    assert "This holds for these runs on data like this, not for the methods" in done.out
    assert "recall_at_1" in done.out
    found = json.loads(out.read_text())
    assert found["groups"] == {str(runs / name): [str(runs / name)] for name in ("a/0", "b/0")}
    assert len(found["verdicts"]) == 2
    told = command("compare", runs / "a/0", runs / "b/0", "--data", unseen, "--json")
    assert json.loads(told.out) == found
    run = tercet.load(runs / "a/0")
    evaluated = evaluated_without_writing(run, unseen)
    assert found["figures"][str(runs / "a/0")]["map_at_r"] == pytest.approx(evaluated["map_at_r"])


def evaluated_without_writing(run, data):
    from tercet.evaluation import evaluate_embeddings

    records = run.read(str(data))
    return evaluate_embeddings(run.embed(records), records.labels, distance=run.distance).metrics


def test_methods_over_seeds(runs, unseen, command):
    by_folder = command("compare", runs / "a", runs / "b", "--data", unseen, "--json")
    found = json.loads(by_folder.out)
    assert found["groups"] == {str(runs / m): [str(runs / m / s) for s in "01"] for m in "ab"}
    assert found["verdicts"][-1].startswith("This holds for the methods")
    names = [runs / "a/0", runs / "a/1", "--against", runs / "b/0", runs / "b/1"]
    by_names = json.loads(command("compare", *names, "--data", unseen, "--json").out)
    assert [one["difference"] for one in by_names["differences"]] == [one["difference"] for one in found["differences"]]
    assert list(by_names["groups"]) == [f"{runs / 'a/0'} and 1 more", f"{runs / 'b/0'} and 1 more"]


def test_what_cannot_be_compared(runs, numbers, unseen, command, tmp_path):
    one, two = runs / "a/0", runs / "b/0"
    with pytest.raises(InputError, match=r"^comparing takes two runs at least; given 1\.$"):
        tercet.compare([one], str(unseen))
    with pytest.raises(InputError, match="is given more than once; a run is not compared with itself"):
        tercet.compare([one, one], str(unseen))
    with pytest.raises(InputError, match="is a single run and others are several"):
        tercet.compare([one, runs / "a/1"], str(unseen), against=[two])
    with pytest.raises(InputError, match="is a folder of runs, which is a group already"):
        tercet.compare([runs / "a"], str(unseen), against=[runs / "b"])
    with pytest.raises(RunError, match=r"was trained on .* of the 42 items of .*, which favours it"):
        tercet.compare([one, two], str(numbers))
    with pytest.raises(DataError, match="does not exist"):
        tercet.compare([one, two], str(tmp_path / "nothing"))
    few = write_numbers(tmp_path / "few.csv", range(40, 42))
    assert tercet.compare([one, two], str(few)).verdicts == [
        "There are 2 classes here; to tell a difference from chance takes three or more."
    ]
    assert command("compare", one, two, "--data", few).code == 0
    assert "must end in .json" in command("compare", one, two, "--data", few, "--out", "x.txt").err
    assert command("compare", one, Path("nowhere"), "--data", few).code == 2


def test_runs_of_other_data_are_refused(runs, unseen, image_run):
    with pytest.raises(InputError, match=r"cannot embed the same items: .* has an encoder of"):
        tercet.compare([runs / "a/0", image_run], str(unseen))
