"""Graded scores: correlations against scipy, their intervals against leaving rows out, and tables of scored pairs."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

import tercet
from conftest import QUICK, text_of, write_texts
from tercet.data.readers import read
from tercet.errors import DataError, InputError
from tercet.evaluation import evaluate_scores
from tercet.evaluation.similarity import correlation_interval, item_variance, pearson, spearman


def values(seed=0, count=50, digits=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=count)
    y = 0.7 * x + 0.7 * rng.normal(size=count)
    return (x, y) if digits is None else (x.round(digits), y.round(digits))


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize(("ours", "theirs"), [(spearman, spearmanr), (pearson, pearsonr)])
def test_correlations_and_the_effect_of_a_row(ours, theirs, digits):
    x, y = values(count=1000, digits=digits)
    found, effects = ours(x, y)
    assert found == pytest.approx(theirs(x, y)[0])
    without = np.array([theirs(np.delete(x, row), np.delete(y, row))[0] for row in range(50)])
    assert effects.sum() == pytest.approx(0, abs=1e-12)
    assert effects[:50] == pytest.approx((found - without) * 999 / 1000, abs=0.03 * effects.std())


def test_coverage_of_spearman():
    truth = 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)
    held = 0
    for seed in range(300):
        x, y = values(seed, digits=1)
        low, high = correlation_interval(spearman(x, y)[0], item_variance(spearman(x, y)[1], disjoint(50)), 50)
        held += low < truth < high
    assert 0.9 < held / 300 < 0.99


def disjoint(count):
    return np.arange(2 * count).reshape(count, 2)


def test_rows_that_share_items_tell_less():
    rng = np.random.default_rng(0)
    effects, star = rng.normal(size=30), np.stack([np.zeros(30, dtype=int), np.arange(1, 31)], 1)
    effects -= effects.mean()
    assert item_variance(effects, disjoint(30)) == pytest.approx(np.square(effects).sum() * 30 / 29)
    by_hub = np.repeat(rng.normal(size=6), 5)
    hubs = np.stack([np.repeat(np.arange(6), 5), np.arange(6, 36)], 1)
    assert item_variance(by_hub - by_hub.mean(), hubs) > 3 * item_variance(by_hub - by_hub.mean(), disjoint(30))
    assert item_variance(effects, star) >= item_variance(effects, disjoint(30)) * 0.999


def test_an_evaluation_of_scores():
    rng = np.random.default_rng(1)
    embeddings, pairs = rng.normal(size=(80, 3)), disjoint(40)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = (unit[::2] * unit[1::2]).sum(1)
    scores = cosine + 0.3 * rng.normal(size=40)
    found = evaluate_scores(embeddings, pairs, scores)
    assert found.metrics["spearman"] == pytest.approx(spearmanr(cosine, scores)[0])
    assert found.metrics["pearson"] == pytest.approx(pearsonr(cosine, scores)[0])
    assert (found.metrics["n_pairs"], found.metrics["n_items"]) == (40, 80)
    for name in ("spearman", "pearson"):
        assert found.intervals[name][0] < found.metrics[name] < found.intervals[name][1]
    assert found.notes == []
    by_euclid = evaluate_scores(embeddings, pairs, scores, distance="euclidean").metrics
    near = -np.linalg.norm(embeddings[::2] - embeddings[1::2], axis=1)
    assert by_euclid["spearman"] == pytest.approx(spearmanr(near, scores)[0])
    assert evaluate_scores(embeddings, pairs % 20, scores).notes == [
        "Items are in several pairs; intervals are over items."
    ]
    assert evaluate_scores(embeddings, pairs, np.ones(40)).missing["spearman"] == "all scores are equal"
    assert evaluate_scores(np.ones((80, 3)), pairs, scores).missing["pearson"] == "all pairs are equally far apart"
    assert (
        evaluate_scores(embeddings, pairs[:1], scores[:1]).missing["spearman"] == "needs at least 2 pairs; there are 1"
    )
    assert evaluate_scores(embeddings, pairs, scores, intervals=False).intervals == {}
    with pytest.raises(InputError, match=r"given shapes \(40, 2\) and \(39,\)"):
        evaluate_scores(embeddings, pairs, scores[:39])
    with pytest.raises(InputError, match="scores must be finite; number 3 is not"):
        evaluate_scores(embeddings, pairs, np.where(np.arange(40) == 3, np.nan, scores))


def write_scored(path, scores, column="score"):
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["sentence1", "sentence2", column])
        rows.writerows([text_of(30 + i % 5, i), text_of(30 + i % 3, 50 + i), score] for i, score in enumerate(scores))
    return path


def test_a_table_with_scores_is_known(tmp_path):
    graded = [0.0, 1.5, 4.2, 5.0, 2.5, 1.0]
    records = read(write_scored(tmp_path / "sts.csv", graded))
    assert records.form == "scored-pairs"
    assert records.scores.tolist() == graded
    assert records.description == ("6 scored pairs of 12 texts (csv table, scored pairs in 'sentence1', 'sentence2')")
    assert records.take_tuples([3, 1]).scores.tolist() == [5.0, 1.5]
    marked = read(write_scored(tmp_path / "marks.csv", [0, 1, 1, 0, 0, 1]))
    assert marked.form == "marked-pairs"
    asked = read(write_scored(tmp_path / "marks.csv", [0, 1, 1, 0, 0, 1]), form="scored-pairs")
    assert asked.scores.tolist() == [0, 1, 1, 0, 0, 1]
    named = read(write_scored(tmp_path / "gold.csv", graded, "gold"), form="scored-pairs", label="gold")
    assert named.form == "scored-pairs"


def test_scores_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"row 2, column 'score': the score is missing or not finite\. Fill it in"):
        read(write_scored(tmp_path / "gap.csv", [0.5, "", 2.5]))
    with pytest.raises(
        DataError, match=r"no column of scores found; scored pairs need numbers.* say which with --label"
    ):
        read(write_scored(tmp_path / "gold.csv", [0.5, 2.5], "gold"), form="scored-pairs")
    with pytest.raises(DataError, match="the column 'score' holds no numbers; scored pairs need numbers"):
        read(write_scored(tmp_path / "words.csv", ["much", "little"]), form="scored-pairs")
    with pytest.raises(InputError, match="Did you mean 'scored-pairs'"):
        read(write_scored(tmp_path / "sts.csv", [0.5, 2.5]), form="scored_pairs")


@pytest.mark.slow
def test_a_run_is_evaluated_on_scores_and_not_trained(tmp_path, command):
    texts = write_texts(tmp_path / "texts.csv", range(7))
    run = tercet.train(str(texts), out=tmp_path / "run", progress=False, label="label", columns=["sentence"], **QUICK)
    sts = write_scored(tmp_path / "sts.csv", np.random.default_rng(0).uniform(0, 5, 40).round(1).tolist())
    words = ("--columns", "sentence1", "sentence2", "--label", "score", "--form", "scored-pairs")
    done = command("evaluate", run.path, "--data", sts, *words, "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert -1 <= figures["test.spearman"] <= 1
    assert figures["test.n_pairs"] == figures["baseline.n_pairs"] == 40
    assert len(figures["test.spearman_interval"]) == 2
    assert "spearman" in command("evaluate", run.path, "--data", sts, *words).out
    refused = command("train", sts, "--out", tmp_path / "refused")
    assert refused.code == 2
    assert "which can be evaluated on but not trained or validated on" in refused.err
    assert not (tmp_path / "refused").exists()
    odd = command("evaluate", run.path, "--data", sts, *words, "--clustering")
    assert "clustering is for items with labels" in odd.err
    assert "margin is for triplets" in command("evaluate", run.path, "--data", sts, *words, "--margin", "0.1").err
