"""The probability of same, and LFW's folds, against loops over the definitions."""

import json

import numpy as np
import pytest

from tercet.errors import InputError, RunError
from tercet.evaluation import Probability, all_pairs, by_folds, evaluate_tuples, fit_probability, in_order
from tercet.evaluation.pairs import given_pairs
from tercet.evaluation.probability import FEWEST_FOR_ISOTONIC, at_prior, brier_score, calibration_error, reliability


def marked(n_pairs=300, seed=0, apart=1.0, share=0.3):
    """Given pairs on a line, the different ones farther apart on average."""
    rng = np.random.default_rng(seed)
    same = rng.random(n_pairs) < share
    gaps = np.abs(np.where(same, 0.5, 0.5 + apart) + 0.4 * rng.normal(size=n_pairs)).astype(np.float32)
    rows = np.zeros((2 * n_pairs, 1), dtype=np.float32)
    rows[1::2, 0] = gaps
    return given_pairs(rows, np.arange(2 * n_pairs).reshape(-1, 2), same), rows, same


def test_folds_are_those_of_the_definition():
    pairs, rows, same = marked()
    folds = np.random.default_rng(1).integers(3, size=300)
    found, missing = by_folds(pairs, folds)
    accuracies = []
    for fold in range(3):
        others = folds != fold
        candidates = [-1.0, *sorted(pairs.distance[others].astype(float))]
        right = [sum((pairs.distance[others] <= value) == same[others]) for value in candidates]
        place = int(np.argmax(right))
        threshold = (candidates[place] + candidates[place + 1]) / 2
        judged = [(float(pairs.distance[row]) <= threshold) == same[row] for row in np.flatnonzero(~others)]
        accuracies.append(sum(judged) / len(judged))
    assert found["n_folds"] == 3
    assert found["accuracy_folds"] == pytest.approx(np.mean(accuracies))
    error = (sum((value - np.mean(accuracies)) ** 2 for value in accuracies) / 2 / 3) ** 0.5
    assert found["accuracy_folds_error"] == pytest.approx(error)
    assert 0.7 < found["accuracy_folds"] < 0.97
    assert found["val_at_far_0.001_folds"] is None
    assert missing["val_at_far_0.001_folds"].startswith("needs at least 1,000 different pairs outside each fold")
    whole = evaluate_tuples(rows, np.arange(600).reshape(-1, 2), same, folds=folds, intervals=False)
    assert whole.metrics["accuracy_folds"] == found["accuracy_folds"]
    assert whole.missing["far_at_far_0.001_folds_error"] == missing["far_at_far_0.001_folds_error"]


def test_val_at_far_is_that_of_the_other_folds():
    pairs, _, same = marked(6000, share=0.5)
    folds = in_order(6000, 4)
    found, missing = by_folds(pairs, folds)
    assert not missing
    values, fars = [], []
    for fold in range(4):
        inside = folds == fold
        nearest = np.sort(pairs.distance[~inside & ~same].astype(float))
        allowed = int(0.001 * len(nearest))  # so many different pairs may be accepted
        accepted = [value for value in pairs.distance[~inside].astype(float) if value < nearest[allowed]]
        threshold = (max(accepted) + min(v for v in pairs.distance[~inside].astype(float) if v > max(accepted))) / 2
        values.append((pairs.distance[inside & same] <= threshold).mean())
        fars.append((pairs.distance[inside & ~same] <= threshold).mean())
    assert found["val_at_far_0.001_folds"] == pytest.approx(np.mean(values))
    assert found["far_at_far_0.001_folds"] == pytest.approx(np.mean(fars))
    assert 0.02 < np.mean(values) < 0.9


def test_folds_in_order_are_even():
    assert np.bincount(in_order(11, 3)).tolist() == [4, 4, 3]
    assert (np.diff(in_order(11, 3)) >= 0).all()
    assert in_order(6000, 10)[599:601].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pairs: in_order(5, 6), "folds is 6, and there are 5 pairs; it must be from 2 to their number."),
        (lambda pairs: by_folds(pairs, [1, 2]), "folds must be one for each of the 300 pairs; given shape (2,)."),
        (
            lambda pairs: by_folds(pairs, ["a"] * 300),
            "there is one fold, ['a']; a threshold is chosen on others, so it takes two.",
        ),
        (
            lambda pairs: by_folds(pairs, pairs.same),
            "in fold 'False' there are 0 same and 224 different pairs; each fold needs both kinds.",
        ),
        (
            lambda pairs: fit_probability(pairs.part(np.arange(12))),
            "a probability is fitted on 10 pairs of either kind or more; there are 4 same and 8 different.",
        ),
        (
            lambda pairs: at_prior(np.zeros(1), 1.0),
            "prior is 1.0; it is the share of all pairs that are the same, between 0 and 1.",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(InputError) as caught:
        call(marked()[0])
    assert str(caught.value) == message


def test_a_prior_is_restated_by_bayes():
    p = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    assert at_prior(p, 0.5) == pytest.approx(p)
    for prior in (0.01, 0.7):
        odds = [prior / (1 - prior) * value / (1 - value) for value in p[:-1]]
        assert at_prior(p[:-1], prior) == pytest.approx([one / (1 + one) for one in odds])
    assert at_prior(p, 0.01)[2] == pytest.approx(0.01)


def normal_pairs(n_same, n_different, seed=0):
    """Same pairs at N(0, 1), different ones at N(2, 1), shifted: P(same | d) of even kinds is a logistic curve of d."""
    rng = np.random.default_rng(seed)
    distance = 10 + np.concatenate([rng.normal(0, 1, n_same), rng.normal(2, 1, n_different)])
    rows = np.stack([np.zeros(len(distance)), distance], axis=1).reshape(-1, 1)
    same = np.arange(len(distance)) < n_same
    return given_pairs(rows, np.arange(2 * len(distance)).reshape(-1, 2), same)


def test_the_probability_is_that_of_even_kinds_whatever_there_was():
    fitted = fit_probability(normal_pairs(3000, 9000))
    at = np.array([9.0, 10.5, 11.0, 12.5])
    truth = 1 / (1 + np.exp(2 * (at - 11)))
    assert fitted(at) == pytest.approx(truth, abs=0.04)
    few = fit_probability(normal_pairs(200, 1400))
    assert few.kind == "logistic"
    assert few(at) == pytest.approx(truth, abs=0.08)
    assert few.brier is None
    assert fitted.brier == pytest.approx(brier_score(fitted, *arrays(normal_pairs(20_000, 20_000, seed=1))), abs=0.01)


def arrays(pairs):
    return pairs.distance.astype(float), pairs.same


def test_a_step_line_is_taken_where_it_fits_better():
    rng = np.random.default_rng(0)
    distance = rng.random(6000)
    same = rng.random(6000) < np.where(distance < 0.5, 0.7, 0.3)  # one step: no logistic curve
    rows = np.stack([np.zeros(6000), distance], axis=1).reshape(-1, 1)
    pairs = given_pairs(rows, np.arange(12000).reshape(-1, 2), same)
    fitted = fit_probability(pairs)
    assert fitted.kind == "isotonic"
    assert fitted(np.array([0.1, 0.3, 0.7])) == pytest.approx([0.7, 0.7, 0.3], abs=0.06)
    values = fitted(np.linspace(-1, 2, 500))
    assert (np.diff(values) <= 0).all()
    assert 0 < values.min() < values.max() < 1
    assert fit_probability(pairs) == fitted
    assert min(same.sum(), (~same).sum()) > 3 * FEWEST_FOR_ISOTONIC


def test_kinds_that_never_overlap_leave_doubt():
    apart = fit_probability(separable())
    assert 0 < apart(9.0) < apart(1.0) < 1
    assert np.isfinite(apart(np.array([-1e9, 1e9]))).all()


def separable():
    rows = np.stack([np.zeros(80), np.r_[np.linspace(1, 2, 40), np.linspace(8, 9, 40)]], axis=1).reshape(-1, 1)
    return given_pairs(rows, np.arange(160).reshape(-1, 2), np.arange(80) < 40)


def test_brier_and_reliability_equal_their_definitions():
    pairs = normal_pairs(70, 210)
    fitted = Probability("logistic", (-1.2,), (13.0,))
    distance, same = arrays(pairs)
    said = [1 / (1 + np.exp(1.2 * d - 13.0)) for d in distance]
    weight = [0.5 / 70 if s else 0.5 / 210 for s in same]
    expected = sum(w * (p - s) ** 2 for w, p, s in zip(weight, said, same, strict=True))
    assert brier_score(fitted, distance, same) == pytest.approx(expected)
    rows = reliability(fitted, distance, same)
    assert sum(row["n_pairs"] for row in rows) == 280
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    total = 0.0
    for row in rows:
        own = [i for i, p in enumerate(said) if row["low"] <= p < row["high"]]
        mass = sum(weight[i] for i in own)
        assert row["same"] == pytest.approx(sum(weight[i] * same[i] for i in own) / mass)
        assert row["probability"] == pytest.approx(sum(weight[i] * said[i] for i in own) / mass)
        total += mass * abs(row["same"] - row["probability"])
    assert calibration_error(rows) == pytest.approx(total)
    assert total > 0.02


def test_a_probability_comes_back_from_json():
    for fitted in (fit_probability(normal_pairs(1500, 9000)), Probability("isotonic", (1.0, 2.0), (0.9, 0.1), 0.2)):
        again = Probability.from_json(json.loads(json.dumps(fitted.to_json())), "here")
        assert again == fitted
    for broken in (None, {}, {"kind": "isotonic", "x": [1], "y": [1, 2]}, {"kind": "other", "x": [1], "y": [1]}):
        with pytest.raises(RunError, match="here holds no calibration that can be read"):
            Probability.from_json(broken, "here")


def test_classes_are_never_on_both_sides_of_the_choice():
    from tercet.evaluation.probability import _parts

    labels = np.arange(60) % 12
    pairs = all_pairs(np.random.default_rng(0).normal(size=(60, 3)), labels)
    inside, outside = _parts(pairs, 0)
    fitted_on = set(labels[pairs.left[inside]]) | set(labels[pairs.right[inside]])
    compared_on = set(labels[pairs.left[outside]]) | set(labels[pairs.right[outside]])
    assert not fitted_on & compared_on
    assert (len(fitted_on), len(compared_on)) == (8, 4)
