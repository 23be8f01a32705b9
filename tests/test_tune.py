"""Tuning: what is tried, how it climbs, what is said of it, and that a kill changes nothing."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import tomllib
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import tercet
from conftest import Scaled, digest, killed_at
from tercet.data.readers import read
from tercet.encoders.options import CustomOptions, ImageOptions, TabularOptions
from tercet.errors import ConfigError, DataError, InputError, RunError, TercetWarning, TrainingError
from tercet.training.config import LossOptions, TrainingOptions
from tercet.training.request import Request
from tercet.training.tuning.comparison import effects_of, finalists_of, mean_interval, ranked, verdict_of
from tercet.training.tuning.options import VALUES, Metric, Mining, TuningOptions
from tercet.training.tuning.space import draw, rungs_of, space_of, with_penalty
from tercet.training.tuning.trials import Trial

BATCH = {"classes_per_batch": 8, "samples_per_class": 3, "evaluate_every": 3}
SMALL = {
    **BATCH, "steps": 9, "trials": 6, "finalists": 2, "seeds": 2,
    "learning_rates": [1e-7, 3e-2], "minings": ["all", "semihard"],
}  # fmt: skip
FLAGS = [
    "--classes-per-batch", "8", "--samples-per-class", "3", "--evaluate-every", "3",
    "--steps", "9", "--trials", "6", "--finalists", "2", "--seeds", "2",
    "--learning-rates", "1e-7", "3e-2", "--minings", "all", "semihard",
]  # fmt: skip


def write_noisy(path, classes=24, samples=6):
    """Two columns that tell the classes, among six of noise, which an encoder has to learn to leave out."""
    generator = np.random.default_rng(7)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"x{column}" for column in range(8)), "label"])
        for number in range(classes):
            centre = generator.normal(0, 3, 2)
            for _ in range(samples):
                values = np.concatenate([centre + generator.normal(0, 0.6, 2), generator.normal(0, 1, 6)])
                rows.writerow([*(f"{value:.4f}" for value in values), f"kind{number:02d}"])
    return path


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return write_noisy(tmp_path_factory.mktemp("noisy") / "noisy.csv")


@pytest.fixture(scope="module")
def tuned(noisy, tmp_path_factory):
    """A small tuning, which tests must not change; copy it if they do."""
    path = tmp_path_factory.mktemp("tuned") / "tuned"
    return tercet.tune(str(noisy), out=path, progress=False, **SMALL)


# What is tried.


@pytest.mark.parametrize(
    ("trials", "halving", "finalists", "steps", "expected"),
    [
        (27, 3, 3, 500, [(27, 55), (9, 166), (3, 500)]),
        (12, 3, 3, 90, [(12, 30), (4, 90)]),
        (9, 3, 2, 60, [(9, 20), (3, 60)]),
        (16, 2, 1, 80, [(16, 5), (8, 10), (4, 20), (2, 40), (1, 80)]),
        (17, 4, 3, 9, [(17, 2), (4, 9)]),
        (2, 3, 3, 9, [(2, 9)]),
    ],
)
def test_rungs(trials, halving, finalists, steps, expected):
    options = TuningOptions(halving=halving, finalists=finalists)
    assert [(rung.trials, rung.steps) for rung in rungs_of(options, trials, steps)] == expected


def test_rungs_without_a_step_are_refused():
    with pytest.raises(ConfigError, match="steps is 8, and the first of 3 rungs would have none: it must be 9 or more"):
        rungs_of(TuningOptions(), 27, 8)


def test_trials_are_drawn_without_repeats_by_seed():
    space = {"margin": (0.1, 0.2), "mining": ("all", "hard"), "learning_rate": (1.0, 2.0, 3.0)}
    drawn = draw(space, 7, seed=3)
    assert len({tuple(one.items()) for one in drawn}) == 7
    assert drawn == draw(space, 7, seed=3)
    assert drawn[:4] == draw(space, 4, seed=3)
    assert drawn != draw(space, 7, seed=4)
    everything = draw(space, 100, seed=3)
    assert len({tuple(one.items()) for one in everything}) == len(everything) == 12


def request(loss=None, source="unread", **options):
    encoders = {"tabular": TabularOptions(normalize=options.pop("normalize", True), dim=options.pop("dim", 16))}
    training = TrainingOptions(**{name: options.pop(name) for name in ("learning_rate",) if name in options})
    return Request(source, loss=LossOptions(loss=loss, **options), training=training, encoders=encoders)


def labelled():
    return read((np.arange(40, dtype=np.float32).reshape(20, 2), list(range(10)) * 2))


RATES = (1e-4, 3e-4, 1e-3, 3e-3)
MININGS = ("all", "semihard", "hard")
TEMPERATURES = {"temperature": (0.02, 0.05, 0.1, 0.2)}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(), {"margin": (0.05, 0.1, 0.2, 0.4), "mining": MININGS, **TEMPERATURES}),
        (
            request("triplet", distance="squared-euclidean"),
            {"margin": (0.1, 0.2, 0.4, 0.8), "mining": MININGS, **TEMPERATURES},
        ),
        (request("triplet", penalty="hinge"), {"margin": (0.05, 0.1, 0.2, 0.4), "mining": MININGS}),
        (
            request("triplet", distance="manhattan", penalty="hinge"),
            {"margin": (0.2, 0.4, 0.8, 1.6), "mining": MININGS},
        ),
        (
            request("triplet", distance="manhattan", penalty="hinge", normalize=False),
            {"margin": (0.05, 0.1, 0.2, 0.4), "mining": MININGS},
        ),
        (request("triplet", margin=0.3), {"mining": MININGS}),
        (request("triplet", margin=0.3, mining="hard"), {}),
        (
            request("triplet", fallback="farthest", penalty="hinge"),
            {"margin": (0.05, 0.1, 0.2, 0.4), "mining": ("semihard",)},
        ),
        (
            request("triplet", penalty="logsumexp"),
            {"margin": (0.05, 0.1, 0.2, 0.4), "mining": MININGS, **TEMPERATURES},
        ),
        (
            request("triplet", penalty="lifted", margin=0.1),
            {"mining": ("all",), "temperature": (0.2, 0.5, 1.0, 2.0)},
        ),
        (request("contrastive"), {"margin": (0.25, 0.5, 0.75, 1.0)}),
        (request("infonce"), TEMPERATURES),
        (request("supcon", learn_temperature=True), TEMPERATURES),
    ],
)  # fmt: skip
def test_what_is_tried_when_left_open(asked, expected):
    asked = with_penalty(asked, (), "labels")
    assert space_of(asked, TuningOptions(), labelled()) == {**expected, "learning_rate": RATES}


@pytest.mark.parametrize(
    ("asked", "tried", "form", "penalty"),
    [
        (request(), (), "labels", "logsumexp"),
        (request("triplet"), ("temperature",), "pairs", "logsumexp"),
        (request(), ("margin",), "labels", "hinge"),
        (request(), ("mining",), "labels", "hinge"),
        (request(margin=0.3), (), "labels", "hinge"),
        (request(mining="hard"), (), "labels", "hinge"),
        (request(penalty="softplus"), (), "labels", "softplus"),
        (request(), (), "triplets", None),
        (request(), (), "marked-pairs", None),
        (request("supcon"), (), "labels", None),
    ],
)
def test_all_trials_have_the_penalty_that_training_would_take(asked, tried, form, penalty):
    assert with_penalty(asked, tried, form).loss.penalty == penalty


def test_a_rate_that_is_given_is_kept_and_pretrained_encoders_take_small_ones():
    assert "learning_rate" not in space_of(request(learning_rate=0.01), TuningOptions(), labelled())
    images = dataclasses.replace(labelled(), kind="image")
    tuned = Request("unread", encoders={"image": ImageOptions(weights="folder")})
    assert space_of(tuned, TuningOptions(), images)["learning_rate"] == (5e-6, 1.5e-5, 5e-5, 1.5e-4)
    frozen = Request("unread", encoders={"image": ImageOptions(weights="folder", frozen=True)})
    assert space_of(frozen, TuningOptions(), images)["learning_rate"] == RATES


def test_given_triplets_have_nothing_to_mine_and_marked_pairs_are_contrastive():
    triplets = dataclasses.replace(labelled(), labels=None, classes=(), tuples=np.array([[0, 1, 2], [3, 4, 5]]))
    assert space_of(request(), TuningOptions(), triplets)["mining"] == ("all",)
    with pytest.raises(InputError, match="nothing is left to mine"):
        space_of(request(), TuningOptions(minings=("all", "hard")), triplets)
    marked = dataclasses.replace(triplets, tuples=np.array([[0, 1], [2, 3]]), similar=np.array([True, False]))
    assert set(space_of(request(), TuningOptions(), marked)) == {"margin", "learning_rate"}


def test_beside_a_loss_of_ones_own_only_the_rate_is_tried():
    own = dataclasses.replace(request(), custom_loss=Scaled())
    assert space_of(own, TuningOptions(), labelled()) == {"learning_rate": RATES}
    with pytest.raises(ConfigError, match="margins is given, and so is a loss as an object"):
        space_of(own, TuningOptions(margins=(0.1, 0.2)), labelled())


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (request("infonce"), {"margins": (0.1, 0.2)}, "margin is 0.1, but it belongs to loss='triplet' or"),
        (request("contrastive"), {"minings": ("all", "hard")}, "mining is 'all', but it belongs to loss='triplet'"),
        (
            request("triplet", penalty="hinge"),
            {"temperatures": (0.1,)},
            "temperature is 0.1, but it belongs to penalty='logsumexp'",
        ),
        (request("triplet", penalty="lifted"), {"minings": ("all", "hard")}, "penalty 'lifted' goes with mining 'all'"),
        (request(), {"margins": (0.1, 2.0)}, "margins holds 2, and between these embeddings the euclidean distance is "
         "at most 2, so nothing could satisfy it. Choose margins well below, such as 0.05, 0.1, 0.2, 0.4"),
        (request("contrastive", distance="cosine"), {"margins": (3.0,)}, "the cosine distance is at most 2"),
        (request("infonce", temperature=0.1, learning_rate=0.1), {}, "there is nothing to choose from"),
        (request("triplet", margin=0.1, mining="all"), {"learning_rates": (0.1,)}, "there is nothing to choose from"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_refused(asked, options, message):
    with pytest.raises((ConfigError, InputError)) as raised:
        space_of(asked, TuningOptions(**options), labelled())
    assert message in str(raised.value)


def test_a_margin_without_a_bound_is_taken():
    space = space_of(request(normalize=False), TuningOptions(margins=(0.1, 20.0)), labelled())
    assert space["margin"] == (0.1, 20.0)
    unknown = Request("unread", loss=LossOptions(distance="manhattan"),
                      encoders={"custom": CustomOptions(factory="a:b", normalize=True)})  # fmt: skip
    assert space_of(unknown, TuningOptions(margins=(0.1, 20.0)), labelled())["margin"] == (0.1, 20.0)


def test_every_fault_of_the_options_is_named():
    with pytest.raises(ConfigError) as raised:
        TuningOptions(
            trials=1, halving=1, finalists=0, seeds=0, margins=(), learning_rates=(0.1, 0.1), temperatures=(0.0,)
        )
    message = str(raised.value)
    for part in (
        "trials is 1, it must be a whole number, 2 or more", "halving is 1, it must be a whole number, 2 or more",
        "finalists is 0, it must be", "seeds is 0, it must be", "margins is empty",
        "learning_rates holds a value twice: 0.1, 0.1", "temperatures is 0, each must be a finite number, above 0",
    ):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minings": ["semihrad"]}, "Did you mean 'semihard'"),
        ({"metric": "map_at_k"}, "Did you mean 'map_at_r'"),
        ({"margins": 0.1}, r"margins is 0\.1; it must be a list, such as \[0\.1\]"),
        ({"margins": ["0.1"]}, "each must be a finite number"),
    ],
)
def test_misspelt_options_suggest_the_right_one(given, message):
    with pytest.raises(ConfigError, match=message):
        TuningOptions.of(given)


def test_whole_numbers_and_numpy_are_taken():
    options = TuningOptions.of({"margins": np.array([0.5, 1.0]), "learning_rates": [1, 0.5], "minings": ["all"]})
    assert (options.margins, options.learning_rates, options.minings) == ((0.5, 1.0), (1.0, 0.5), ("all",))


def test_the_words_are_those_of_training():
    hints = get_type_hints(LossOptions)
    assert get_args(Mining) == get_args(get_args(hints["mining"])[0])
    selections = get_args(get_args(get_type_hints(TrainingOptions)["selection"])[0])
    assert {*get_args(Metric), "loss"} == set(selections)
    assert set(VALUES.values()) <= {entry.name for entry in dataclasses.fields(TuningOptions)}


# What is said of it.


def trial(number, value, seed=0, **settings):
    failure = "stopped: exploding" if value is None else None
    return Trial(number, settings, 10, seed, value, None, failure, f"trials/{number}/{seed}")


def test_ranks_are_of_the_metric_and_ties_of_the_order():
    trials = [trial(1, 0.3), trial(2, None), trial(3, 0.5), trial(4, 0.3)]
    assert [one.number for one in ranked(trials, "map_at_r")] == [3, 1, 4]
    assert [one.number for one in ranked(trials, "eer")] == [1, 4, 3]


def test_intervals_are_students():
    assert mean_interval([0.4]) is None
    low, high = mean_interval([0.4, 0.5, 0.6])
    assert (low, high) == pytest.approx((0.5 - 4.302653 * 0.1 / 3**0.5, 0.5 + 4.302653 * 0.1 / 3**0.5), abs=1e-6)
    assert mean_interval([0.0, 1.0])[1] - 0.5 == pytest.approx(12.706205 * 0.5, abs=1e-5)  # of two values, t is 12.7
    assert mean_interval([0.7, 0.7, 0.7]) == pytest.approx((0.7, 0.7))


def test_finalists_are_compared_in_pairs_of_a_seed():
    """Seeds that move both alike do not hide which is better."""
    one = [trial(1, 0.30, 0), trial(1, 0.60, 1), trial(1, 0.90, 2)]
    two = [trial(2, 0.25, 0), trial(2, 0.56, 1), trial(2, 0.84, 2)]
    best, second = finalists_of([two, one], "map_at_r")
    assert (best.number, second.number) == (1, 2)
    assert best.mean == pytest.approx(0.6)
    assert best.interval == (0.0, 1.0)  # of the metric, which is a share
    assert second.difference == pytest.approx(0.05)
    assert second.difference_interval == pytest.approx(
        (0.05 - 4.302653 * 0.01 / 3**0.5, 0.05 + 4.302653 * 0.01 / 3**0.5)
    )
    assert second.distinguishable
    assert verdict_of([best, second]).startswith(
        "trial 1 is better than the runner-up, trial 2, by 0.050 [0.025, 0.075]"
    )


def test_what_cannot_be_told_apart_is_said():
    one = [trial(1, 0.5, 0), trial(1, 0.7, 1), trial(1, 0.6, 2)]
    two = [trial(2, 0.6, 0), trial(2, 0.5, 1), trial(2, 0.6, 2)]
    found = finalists_of([one, two], "map_at_r")
    assert not found[1].distinguishable
    assert "trial 1 cannot be told from the runner-up, trial 2: the difference is 0.033 [" in verdict_of(found)
    single = finalists_of([one[:1], two[:1]], "map_at_r")
    assert verdict_of(single).startswith("trial 2 is best by 0.100 on one seed, which does not tell it")
    assert "nothing to compare" in verdict_of(found[:1])


def test_smaller_errors_are_better_and_a_failed_seed_comes_last():
    one = [trial(1, 0.30, 0), trial(1, 0.20, 1)]
    two = [trial(2, 0.10, 0), trial(2, None, 1)]
    three = [trial(3, 0.20, 0), trial(3, 0.15, 1)]
    found = finalists_of([one, two, three], "eer")
    assert [finalist.number for finalist in found] == [3, 1, 2]
    assert found[1].difference == pytest.approx(0.075)
    assert found[2].difference == pytest.approx(-0.1)  # of the one seed that both have
    assert found[2].difference_interval is None


def test_effects_are_means_over_the_trials_with_a_value():
    trials = [
        trial(1, 0.2, margin=0.1, mining="all"), trial(2, 0.6, margin=0.2, mining="all"),
        trial(3, None, margin=0.2, mining="all"), trial(4, 0.5, margin=0.1, mining="all"),
    ]  # fmt: skip
    effects = effects_of(trials, {"margin": (0.1, 0.2, 0.4), "mining": ("all",)}, "map_at_r")
    assert set(effects) == {"margin"}
    rows = [dataclasses.astuple(one) for one in effects["margin"]]
    assert rows[0] == (0.1, 2, 0, pytest.approx(0.35), 0.5)
    assert rows[1:] == [(0.2, 2, 1, 0.6, 0.6), (0.4, 0, 0, None, None)]


# The whole way.


def test_the_good_rate_wins(tuned):
    assert tuned.best.training.learning_rate == 3e-2
    assert [len(rung) for rung in tuned.rungs] == [6, 2]
    assert [rung[0].steps for rung in tuned.rungs] == [3, 9]
    first = tuned.effects["learning_rate"]
    assert first[1].mean > first[0].mean + 0.1
    assert tuned.rungs[0][0].interval is not None
    assert sum(one.trials for one in first) == 6
    finalist = tuned.finalists[0]
    assert sorted(finalist.values) == [0, 1]
    assert finalist.interval[0] < finalist.mean < finalist.interval[1]
    kept = {one.number for one in ranked(tuned.rungs[0], "map_at_r")[:2]}
    assert {one.number for one in tuned.rungs[1]} == kept
    assert len(tuned.trials) == 6 + 2 + 2 == len({one.run for one in tuned.trials})


def test_what_is_written(tuned):
    written = json.loads((tuned.path / "tuning.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(tuned.to_json()))
    assert written["best"] == {"trial": tuned.finalists[0].number, "settings": tuned.finalists[0].settings}
    assert "optimistic" in written["note"]
    best = tomllib.loads((tuned.path / "best.toml").read_text(encoding="utf-8"))
    assert best["training"]["on_collapse"] == "warn"
    for name, value in tuned.finalists[0].settings.items():
        assert best["training" if name == "learning_rate" else "loss"][name] == value


def test_only_the_last_rung_keeps_its_weights(tuned):
    last = {one.run for one in (*tuned.rungs[1], *tuned.finalists[0].runs, *tuned.finalists[1].runs)}
    for one in tuned.trials:
        assert (tuned.path / one.run / "model.safetensors").exists() == (one.run in last)
        assert (tuned.path / one.run / "history.jsonl").exists()
        assert not (tuned.path / one.run / "checkpoints").exists()


def test_all_trials_are_measured_on_the_same_data(tuned):
    hashes = {digest(tuned.path / one.run)["fingerprints.safetensors"] for one in tuned.trials}
    shown = {
        json.loads((tuned.path / one.run / "evaluations" / "validation.json").read_text(encoding="utf-8"))["data"]
        for one in tuned.trials
    }
    assert len(hashes) == len(shown) == 1
    seeds = {
        tomllib.loads((tuned.path / one.run / "config.toml").read_text())["training"]["seed"] for one in tuned.trials
    }
    assert seeds == {0, 1}


def test_training_with_the_best_gives_the_run_that_was_found(command, tuned, noisy, tmp_path):
    done = command("train", noisy, "--config", tuned.path / "best.toml", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    found = digest(tuned.path / tuned.finalists[0].runs[0].run)
    mine = digest(tmp_path / "run")
    assert mine["model.safetensors"] == found["model.safetensors"]
    assert mine["metrics.json"] == found["metrics.json"]


def test_the_command_says_what_it_found(command, tuned, noisy, tmp_path):
    """Of a tuning that Python began: flags and options mean the same."""
    out = shutil.copytree(tuned.path, tmp_path / "tuned")
    (out / "tuning.json").unlink()
    done = command("tune", noisy, "--out", out, "--resume", *FLAGS)
    assert done.code == 0, done.err
    assert "6 of 16 combinations; trained are 6 for 3, then 2 for 9 steps, then 2 more for 9 with further" in done.err
    assert "rung 1 of 2: 6 trials of 3 steps" in done.out
    assert "learning_rate, in the first rung" in done.out
    assert "finalists, over seeds" in done.out
    assert tuned.verdict in done.out
    assert "optimistic" in done.out
    assert done.out.splitlines()[-1] == f"next    tercet train {noisy} --config {out / 'best.toml'} --out runs/best"
    assert digest(out) == digest(tuned.path)
    done = command("tune", "--out", out, "--resume", "--json")  # settings.toml has all the rest
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((tuned.path / "tuning.json").read_text(encoding="utf-8"))


# Trials that fail.


def test_trials_that_explode_are_recorded_and_drop_out(noisy, tmp_path):
    found = tercet.tune(str(noisy), out=tmp_path / "tuned", progress=False, steps=6, trials=4, finalists=1, seeds=1,
                        learning_rates=[1e20, 1e30, 3e-2], margin=0.2, mining="all", **BATCH)  # fmt: skip
    failed = {one.settings["learning_rate"]: one.failure for one in found.rungs[0] if one.failure}
    assert set(failed) == {1e20, 1e30}
    assert all("finite" in reason or "nan" in reason for reason in failed.values())
    assert [one.settings["learning_rate"] for one in found.rungs[-1]] == [3e-2]
    assert [one.failed for one in found.effects["learning_rate"]] == [1, 1, 0]


def test_a_collapse_ends_a_trial_and_is_no_result(noisy, tmp_path, monkeypatch):
    from tercet.training.health.watch import Watch

    look = Watch.look

    def collapsing(self, rows, step):
        if max(row["learning_rate"] for row in rows if "learning_rate" in row) > 0.05 and step == 2:
            self.notes["stopped"] = "collapse to a point"
        return look(self, rows, step)

    monkeypatch.setattr(Watch, "look", collapsing)
    found = tercet.tune(str(noisy), out=tmp_path / "tuned", progress=False, steps=6, trials=2, finalists=1, seeds=1,
                        learning_rates=[0.1, 3e-2], margin=0.2, mining="all", **BATCH)  # fmt: skip
    assert [one.failure for one in found.rungs[0] if one.failure] == ["stopped: collapse to a point"]
    assert found.best.training.learning_rate == 3e-2


def test_where_every_trial_fails_the_reasons_are_said(noisy, tmp_path):
    with pytest.raises(TrainingError, match=r"every trial failed: .*(finite|nan).*trials holds their histories"):
        tercet.tune(str(noisy), out=tmp_path / "tuned", progress=False, steps=6, trials=2, finalists=2,
                    learning_rates=[1e20, 1e25], margin=0.2, mining="all", **BATCH)  # fmt: skip


def test_more_finalists_than_trials_are_said(numbers, tmp_path):
    with pytest.warns(TercetWarning, match=r"finalists is 3, and there are 2 trials, so all are finalists"):
        found = tercet.tune(str(numbers), out=tmp_path / "tuned", progress=False, steps=4, trials=2, finalists=3,
                            seeds=1, learning_rates=[1e-3, 2e-3], margin=0.1, mining="all", **BATCH)  # fmt: skip
    assert len(found.finalists) == 2


def test_what_no_trial_could_do_ends_the_tuning_and_leaves_nothing(command, noisy, tmp_path):
    done = command("tune", noisy, "--out", tmp_path / "tuned", "--image.dim", "7", *FLAGS)
    assert done.code == 2
    assert "options for the image encoder were given, and the data is tabular" in done.err
    assert not (tmp_path / "tuned").exists()


def test_equal_figures_are_said_to_decide_nothing(numbers, tmp_path):
    with pytest.warns(TercetWarning, match=r"trials have the same map_at_r, 1\.000, so that the order they were drawn"):
        tercet.tune(str(numbers), out=tmp_path / "tuned", progress=False, steps=4, trials=4, finalists=1, seeds=1,
                    learning_rates=[1e-3, 2e-3], margins=[0.1, 0.2], mining="all", **BATCH)  # fmt: skip


# Kills, resumption, refusals.


def stopped_before(tuned, place, path):
    """A copy of the tuning as it was before its trial at this place began."""
    part = shutil.copytree(tuned.path, path)
    for one in tuned.trials[place:]:
        shutil.rmtree(part / one.run)
        (part / f"{one.run}.json").unlink()
    for name in ("tuning.json", "best.toml"):
        (part / name).unlink()
    return part


@pytest.mark.slow
@pytest.mark.parametrize(("place", "step"), [(5, 1), (9, 7)])
def test_a_killed_tuning_goes_on_to_the_same_bytes(tuned, noisy, tmp_path, place, step):
    """SIGKILL in the first rung before a trial's first checkpoint, and among the further seeds after one."""
    part = stopped_before(tuned, place, tmp_path / "part")
    done = killed_at(step, ["tune", str(noisy), "--out", str(part), "--resume", *FLAGS])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (part / tuned.trials[place].run / "model.safetensors").exists() == (step > 3)
    assert not (part / "tuning.json").exists()
    tercet.tune(str(noisy), out=part, resume=True, progress=False, **SMALL)
    assert digest(part) == digest(tuned.path)


def test_finished_trials_are_not_trained_again(tuned, noisy, tmp_path, monkeypatch):
    """As if killed before the last trial began, and while its folder was being made."""
    part, last = stopped_before(tuned, 9, tmp_path / "part"), tuned.trials[9].run
    (part / last / "encoder").mkdir(parents=True)
    trained = []
    import tercet.training.tuning.trials as trials

    whole = trials.run_session
    monkeypatch.setattr(trials, "run_session", lambda *given: trained.append(given[1]) or whole(*given))
    tercet.tune(str(noisy), out=part, resume=True, progress=False, **SMALL)
    assert trained == [part / last]
    assert digest(part) == digest(tuned.path)


def test_an_interrupted_tuning_goes_on(command, tuned, noisy, tmp_path, monkeypatch):
    from tercet.training.folder.history import History

    add, out = History.add, stopped_before(tuned, 9, tmp_path / "tuned")
    last = out / tuned.trials[9].run

    def interrupt(self, step, figures):
        add(self, step, figures)
        if step == 4 and "loss" in figures:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(History, "add", interrupt)
    done = command("tune", noisy, "--out", out, "--resume", *FLAGS)
    assert done.code == 130
    assert "--resume" in done.err
    assert (last / "checkpoints").exists()
    assert not last.with_name(last.name + ".json").exists()
    monkeypatch.setattr(History, "add", add)
    assert command("tune", noisy, "--out", out, "--resume", *FLAGS).code == 0
    assert [one["step"] for one in map(json.loads, (last / "history.jsonl").read_text().splitlines())][-1] == 9


def test_other_settings_are_refused(tuned, noisy, tmp_path):
    copy = shutil.copytree(tuned.path, tmp_path / "copy")
    with pytest.raises(ConfigError) as raised:
        tercet.tune(str(noisy), out=copy, resume=True, progress=False, **{**SMALL, "steps": 27, "trials": 7})
    assert str(raised.value) == (
        f"{copy} can be gone on with by its own settings only: training.steps was 9 and is now 27; tuning.trials was 6 "
        "and is now 7. Leave these out, or start a new tuning."
    )
    assert digest(copy) == digest(tuned.path)


def test_other_data_is_refused(tuned, tmp_path):
    copy = shutil.copytree(tuned.path, tmp_path / "copy")
    other = write_noisy(tmp_path / "noisy.csv", classes=25)
    with pytest.raises(ConfigError, match="its data, or what is held out of it, has changed since"):
        tercet.tune(str(other), out=copy, resume=True, progress=False, **SMALL)
    with pytest.raises(DataError, match="does not exist"):
        tercet.tune(str(tmp_path / "none.csv"), out=copy, resume=True, progress=False, **SMALL)


def test_a_folder_in_the_way_is_refused(command, tuned, noisy, tmp_path):
    with pytest.raises(RunError, match=r"exists already\. If it is a tuning, go on with it by adding --resume"):
        tercet.tune(str(noisy), out=tuned.path, progress=False, **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert command("tune", noisy, "--out", tmp_path / "other", "--resume", *FLAGS).code == 2
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--margin", "0.3", "--margins", "0.1", "0.2"], "margin is 0.3 and margins is (0.1, 0.2); give one of them"),
        (["--epochs", "3"], "epochs is 3, and a tuning counts in steps"),
        (["--trials", "1"], "trials is 1, it must be a whole number, 2 or more"),
        (
            ["--metric", "triplet_accuracy"],
            "metric is 'triplet_accuracy', and the validation data (30 rows in 5 classes) "
            "tells map_at_r, recall_at_1, auc, eer; choose one of these",
        ),
        (["--loss", "infonce", "--minings", "all", "hard"], "mining is 'all', but it belongs to loss='triplet'"),
    ],
)
def test_refusals_on_the_command_line(command, noisy, tmp_path, words, message):
    done = command("tune", noisy, "--out", tmp_path / "tuned", "--classes-per-batch", "4", *words)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())
    assert not (tmp_path / "tuned").exists()


def test_values_to_try_overrule_what_a_file_says(command, tuned, noisy, tmp_path):
    """And a value of the file counts as given where there are none."""
    out = tmp_path / "tuned"
    words = ["--trials", "2", "--finalists", "2", "--seeds", "1", "--steps", "4", "--margins", "0.1", "0.3"]
    done = command("tune", noisy, "--config", tuned.path / "best.toml", "--out", out, *words)
    assert done.code == 0, done.err
    assert "to try: margin 0.1, 0.3\n" in done.err
    assert command("tune", noisy, "--config", tuned.path / "best.toml", "--out", out, "--resume", *words).code == 0
    done = command("tune", noisy, "--config", tuned.path / "best.toml", "--out", tmp_path / "none", "--trials", "2")
    assert done.code == 2
    assert "there is nothing to choose from" in done.err


# What is the user's own.


class Linear(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.map = nn.Linear(8, width)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.map(rows)


def test_an_encoder_and_a_loss_of_ones_own_are_copied_for_each_trial(noisy, tmp_path):
    encoder, loss = Linear(), Scaled()
    before = {name: value.clone() for name, value in (*encoder.state_dict().items(), *loss.state_dict().items())}
    found = tercet.tune(str(noisy), out=tmp_path / "tuned", encoder=encoder, loss=loss, progress=False, steps=6,
                        trials=2, finalists=2, seeds=1, learning_rates=[1e-4, 1e-2], **BATCH)  # fmt: skip
    for name, value in (*encoder.state_dict().items(), *loss.state_dict().items()):
        assert torch.equal(value, before[name])
    assert {one.settings["learning_rate"] for one in found.rungs[0]} == {1e-4, 1e-2}
    assert len({digest(tmp_path / "tuned" / one.run)["model.safetensors"] for one in found.rungs[0]}) == 2


def test_python_objects_and_seeds(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 5)
    rows = (generator.normal(0, 1, (12, 3))[labels] + generator.normal(0, 0.6, (60, 3))).astype(np.float32)
    options = dict(out=tmp_path / "tuned", validation=(rows[:25], labels[:25]), loss="supcon", progress=False, steps=4,
                   trials=2, finalists=2, seeds=2, seed=5, metric="eer", **BATCH)  # fmt: skip
    with pytest.warns(TercetWarning, match="are also in the training data"):
        found = tercet.tune((rows, labels), **options)
    assert found.metric == "eer"
    assert set(found.space) == {"temperature", "learning_rate"}
    assert sorted(found.finalists[0].values) == [5, 6]
    assert found.finalists[0].mean <= found.finalists[1].mean
    resumed = tercet.tune((rows, labels), resume=True, **options)
    assert resumed.to_json() == found.to_json()
    with pytest.raises(InputError, match=r"option is 'trails'.* Did you mean 'trials'"):
        tercet.tune((rows, labels), out=tmp_path / "other", trails=3)
