"""The doctor: names why a training fails, says nothing of healthy ones, and acts only where it was told to."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import sick_runs
import tercet
from conftest import digest
from sick_runs import COLLAPSE, EXPLODING, HEALTHY, IDLE, LONE_NEGATIVE, LONE_POSITIVE, MARGIN, NOISE, SICK
from tercet.data.randomness import keyed
from tercet.doctor import ILLNESSES, Case, diagnose
from tercet.errors import RunError, TercetWarning
from tercet.training.folder.history import read_history
from tercet.training.health.vitals import effective_rank, sample

COLLAPSING = {
    "steps": 100, "classes_per_batch": 12, "samples_per_class": 4, "mining": "hard", "margin": 1.0,
    "learning_rate": 0.05,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The batches are small: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def named(history, case):
    return [finding.illness for finding in diagnose(history, case).findings]


def history(steps=200, **figures):
    """A history whose figures are numbers, or functions of the step; a healthy triplet run where nothing is said."""
    healthy = {
        "loss": 0.15, "active_share": 0.1, "gradient_norm": 1.0, "distance_50": 1.2, "distance_95": 1.5,
        "raw_norm_50": 2.0, "effective_rank": 15.0, "n_items": 48, "n_classes": 12, "n_valid": 1000,
        "anchors_without_positive": 0, "anchors_without_negative": 0, "strange_share": 0.1, "adopted_share": 0.005,
    }  # fmt: skip
    rows = []
    for step in range(1, steps + 1):
        given = {name: value(step) if callable(value) else value for name, value in (healthy | figures).items()}
        rows.append({"step": step, **given})
        if step % 20 == 0:
            rows.append({"step": step, "validation.map_at_r": 0.6})
    return rows


CASE = Case(steps=200, loss="triplet", margin=0.2, largest=2.0, dim=32, batch=48, mining="all")


# From histories written by hand: each sign alone, and just short of it.


def test_a_healthy_history_shows_nothing():
    diagnosis = diagnose(history(), CASE)
    assert diagnosis.findings == ()
    assert diagnosis.looked_for == tuple(illness.name for illness in ILLNESSES)
    assert diagnosis.not_looked_for == ()


@pytest.mark.parametrize(
    ("illness", "figures", "short"),
    [
        (COLLAPSE, {"distance_50": 0.01, "distance_95": 0.019}, {"distance_50": 0.01, "distance_95": 0.021}),
        (
            sick_runs.DIMENSIONS,
            {"effective_rank": lambda step: 20.0 if step < 9 else 5.9},
            {"effective_rank": lambda step: 20.0 if step < 9 else 6.1},
        ),
        (sick_runs.DIMENSIONS, {"effective_rank": 2.7}, {"effective_rank": 2.8}),
        (
            sick_runs.DIMENSIONS,
            {"effective_rank": 2.9, "n_classes": 32},
            {"effective_rank": 3.1, "n_classes": 32},
        ),
        (IDLE, {"active_share": 0.0019}, {"active_share": 0.0021}),
        (
            LONE_NEGATIVE,
            {"n_valid": lambda step: step % 5 and 900, "anchors_without_negative": lambda step: 0 if step % 5 else 48},
            {"n_valid": lambda step: step % 6 and 900, "anchors_without_negative": lambda step: 0 if step % 6 else 48},
        ),
        (LONE_POSITIVE, {"anchors_without_positive": 24}, {"anchors_without_positive": 23}),
        (EXPLODING, {"loss": lambda step: 0.3 if step < 9 else 3.01}, {"loss": lambda step: 0.3 if step < 9 else 2.99}),
        (EXPLODING, {"loss": lambda step: 0.1 if step < 9 else 2.01}, {"loss": lambda step: 0.1 if step < 9 else 1.99}),
        (
            EXPLODING,
            {"raw_norm_50": lambda step: 1.0 if step < 9 else 1001.0},
            {"raw_norm_50": lambda step: 1.0 if step < 9 else 999.0},
        ),
        (
            EXPLODING,
            {"gradient_norm": lambda step: 1.0 if step < 9 else 1001.0},
            {"gradient_norm": lambda step: 1.0 if step < 9 else 999.0},
        ),
        (NOISE, {"adopted_share": 0.031}, {"adopted_share": 0.029}),
        (NOISE, {"adopted_share": 0.041, "strange_share": 0.5}, {"adopted_share": 0.039, "strange_share": 0.5}),
    ],
)
def test_each_illness_by_its_sign_alone_and_not_just_short_of_it(illness, figures, short):
    assert named(history(**figures), CASE) == [illness]
    assert named(history(**short), CASE) == []


def test_distances_and_norms_without_a_bound_explode_and_bounded_ones_spread():
    free = replace(CASE, largest=math.inf)
    for name in ("distance_50", "raw_norm_50"):
        for now, expected in ((31.0, [EXPLODING]), (29.0, [])):
            rows = history(**{name: lambda step, now=now: 1.0 if step < 9 else now})
            assert named(rows, free) == expected
            assert named(rows, CASE) == []
    packed = history(distance_50=lambda step: 0.01 if step < 9 else 5.9)
    assert named(packed, free) == []  # 590 times the start, and 29.5 times the margin


def test_a_margin_is_out_of_range_for_so_many_classes_and_only_while_triplets_stay_active():
    active = {"active_share": 0.95}
    for distance, reach in (("euclidean", math.sqrt(24 / 11)), ("squared-euclidean", 24 / 11), ("cosine", 12 / 11)):
        for margin, expected in ((1.001 * reach, [MARGIN]), (0.999 * reach, [])):
            case = Case(steps=200, loss="triplet", margin=margin, distance=distance, largest=4.0, dim=32)
            assert named(history(**active), case) == expected
            assert named(history(), case) == []
    unbounded = Case(steps=200, loss="triplet", margin=1e6, distance="euclidean")
    assert MARGIN not in named(history(**active), unbounded)


def test_the_bound_for_the_margin_is_the_simplex():
    """The mean squared distance of C unit vectors is at most 2C / (C - 1), and a simplex has it."""
    draw = np.random.default_rng(0)
    for count in (2, 3, 7):
        corners = np.eye(count) - 1 / count
        corners /= np.linalg.norm(corners, axis=1, keepdims=True)
        for points, equal in ((corners, True), (draw.normal(size=(count, 5)), False)):
            unit = points / np.linalg.norm(points, axis=1, keepdims=True)
            pairs = [np.sum((unit[i] - unit[j]) ** 2) for i in range(count) for j in range(count) if i != j]
            bound = 2 * count / (count - 1)
            assert np.mean(pairs) == pytest.approx(bound) if equal else np.mean(pairs) <= bound


@pytest.mark.parametrize("figures", [{"distance_50": 0.01, "distance_95": 0.015}, {"effective_rank": 1.5}])
def test_a_run_that_shrinks_first_and_spreads_then_is_healthy(figures):
    healthy = {"distance_50": 1.2, "distance_95": 1.5, "effective_rank": 15.0}
    shrunk = {
        name: lambda step, name=name, low=low: low if step < 90 else healthy[name] for name, low in figures.items()
    }
    rows = history(**shrunk)
    assert named(rows, CASE) == []
    assert named([row for row in rows if row["step"] <= 39], CASE) == []  # grace 20, persistence 20
    assert len(named([row for row in rows if row["step"] <= 60], CASE)) == 1


def test_a_packed_run_that_is_spreading_is_left_in_peace():
    growing = {"distance_50": lambda step: 1e-4 * 1.02**step, "distance_95": lambda step: 2e-4 * 1.02**step}
    still = {"distance_50": 0.002, "distance_95": 0.004}
    case = Case(steps=200, loss="triplet", margin=1.0, largest=2.0)
    assert named(history(100, **growing), case) == []
    assert named(history(100, **still), case) == [COLLAPSE]


def test_single_rows_are_exceptions():
    flicker = {
        "distance_50": lambda step: 0.01 if step % 5 else 1.0,
        "distance_95": lambda step: 0.01 if step % 5 else 1.0,
    }
    assert named(history(**flicker), CASE) == []
    rare = {
        "distance_50": lambda step: 0.01 if step % 19 else 1.0,
        "distance_95": lambda step: 0.01 if step % 19 else 1.0,
    }
    assert named(history(**rare), CASE) == [COLLAPSE]


def test_a_finding_says_since_when_and_with_what_figures():
    late = history(
        distance_50=lambda step: 1.2 if step < 70 else 0.005, distance_95=lambda step: 1.5 if step < 70 else 0.01
    )
    (finding,) = diagnose(late, CASE).findings
    assert (finding.since, finding.until, finding.sure, finding.fatal) == (70, 200, True, True)
    assert finding.sentence == (
        "collapse to a point, since step 70: half of all pairs are nearer than 0.005 and 95 % nearer than 0.01 (at the "
        "start 1.2 and 1.5), the loss is 0.15 and the margin 0.2, 10% of what was mined is active"
    )
    assert finding.remedies[0] == "lower --learning-rate, to a tenth at first"
    assert json.loads(json.dumps(finding.to_json()))["illness"] == COLLAPSE


def test_what_was_solved_is_not_called_idle():
    rows = history(active_share=0.0)
    solved = [row | ({"validation.map_at_r": 0.99} if "validation.map_at_r" in row else {}) for row in rows]
    assert named(solved, CASE) == []
    assert named([row for row in rows if "loss" in row], CASE) == []  # nothing is known of validation


def test_a_loss_that_is_not_finite_is_named_at_once():
    rows = [*history(3), {"step": 4, "loss": None}]
    (finding,) = diagnose(rows, CASE).findings
    assert finding.sentence == "exploding, since step 4: the loss or its gradient is not finite at step 4"


def test_a_collapse_is_not_told_twice():
    """All that a collapsed run also shows (its rank, its idle dimensions) has one cause."""
    assert named(history(distance_50=0.001, distance_95=0.002, effective_rank=1.0), CASE) == [COLLAPSE]


def test_what_cannot_be_looked_for_is_said():
    old = [{"step": step, "loss": 0.2, "active_share": 0.5} for step in range(1, 201)]
    said = dict(diagnose(old, CASE).not_looked_for)
    assert said[COLLAPSE] == "the history holds no distance_50 and no distance_95"
    assert said[NOISE] == "the history holds no adopted_share and no strange_share"
    assert dict(diagnose(history(30), CASE).not_looked_for)[COLLAPSE] == "it takes 40 steps to tell, and there are 30"
    few = dict(diagnose(history(n_classes=4), CASE).not_looked_for)[sick_runs.DIMENSIONS]
    assert few == "there is room for 3 dimensions only, by the classes and numbers of an embedding"
    assert dict(diagnose([], CASE).not_looked_for)[LONE_NEGATIVE] == "it takes 10 batches to tell, and there are 0"


# The vital signs, against plain definitions.


def test_the_effective_rank_is_the_exponential_of_the_entropy():
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = np.linalg.svd(rows.numpy() - rows.numpy().mean(0), compute_uv=False)
    shares = sigma / sigma.sum()
    assert effective_rank(rows) == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)))
    assert effective_rank(torch.ones(7, 3)) == 1
    line = torch.arange(9.0)[:, None] * torch.tensor([[1.0, 2.0, -1.0]])
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.eye(8)) == pytest.approx(7)


def test_the_sample_takes_up_to_four_of_a_class_and_is_keyed():
    labels = np.repeat(np.arange(50), [3, 9] * 25)
    chosen = sample(len(labels), labels, keyed(1, "vitals", 5))
    assert len(chosen) == 128
    assert len(np.unique(chosen)) == 128
    assert np.bincount(labels[chosen]).max() == 4
    assert np.array_equal(chosen, sample(len(labels), labels, keyed(1, "vitals", 5)))
    assert not np.array_equal(chosen, sample(len(labels), labels, keyed(1, "vitals", 6)))
    assert sorted(sample(7, None, keyed(1, "vitals", 5))) == list(range(7))
    assert sorted(sample(5, np.zeros(5, dtype=np.int64), keyed(1, "vitals", 5))) != []


@pytest.fixture(scope="module")
def healthy_run(tmp_path_factory):
    return HEALTHY[2].train(tmp_path_factory.mktemp("healthy") / "run")


def test_the_signs_of_a_step_are_what_plain_loops_find(tmp_path):
    """The first step is measured before the first update, so that an untrained network tells all of its figures."""
    from tercet.training.batches.supervision import Batch
    from tercet.training.health.vitals import VitalSigns

    class Seen:
        loss = tercet.TripletLoss(distance="manhattan")

    from tercet.encoders.base import Encoder
    from tercet.training.batches.supervision import Labelled

    class Twice(Encoder):
        def embed(self, batch):
            return 2 * batch

    encoder = Twice(normalize=True)
    supervision = object.__new__(Labelled)
    supervision.loss = tercet.TripletLoss(distance="manhattan")
    vitals = VitalSigns(encoder, supervision, supervision.loss.rule.distance, seed=0)
    rows = torch.randn(11, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    positions = np.array([5, 6, 7, 7, 1, 2, 3, 4, 8, 9, 10])  # one item was drawn twice
    with torch.no_grad():
        encoder(rows)  # the first pass of a gradient cache: not counted
    supervision.latest = encoder(rows), Batch(positions, labels)
    found = vitals.measure(step=3)
    unit = rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True)
    d = {(i, j): float(np.abs(unit[i] - unit[j]).sum()) for i in range(11) for j in range(11)}
    others = {i: [j for j in range(11) if positions[j] != positions[i]] for i in range(11)}
    pairs = [d[i, j] for i in range(11) for j in others[i] if i < j]
    positive = [d[i, j] for i in range(11) for j in others[i] if i < j and labels[i] == labels[j]]
    negative = [d[i, j] for i in range(11) for j in range(i) if labels[i] != labels[j]]
    norms = 2 * np.linalg.norm(rows.numpy(), axis=1)
    for name, values in (("raw_norm", norms), ("distance", pairs), ("positive", positive), ("negative", negative)):
        expected = np.percentile(np.asarray(values, dtype=np.float64), [5, 50, 95])
        assert [found[f"{name}_{q}"] for q in (5, 50, 95)] == pytest.approx(expected, rel=1e-5)
    strange = adopted = 0
    for i in range(11):
        near = [labels[j] for j in sorted(others[i], key=lambda j: d[i, j])[:3]]
        strange += near[0] != labels[i]
        adopted += near[0] != labels[i] and len(set(near)) == 1
    assert found["strange_share"] == pytest.approx(strange / 11)
    assert found["adopted_share"] == pytest.approx(adopted / 11)
    assert (found["n_items"], found["n_classes"], found["largest_class"]) == (11, 3, pytest.approx(4 / 11))
    vitals.forget()
    assert vitals.measure(4) == {}


# Trainings.


def test_every_row_of_a_training_holds_the_signs_and_a_healthy_one_is_called_so(healthy_run, command):
    rows = [row for row in read_history(healthy_run / "history.jsonl") if "loss" in row]
    signs = {"effective_rank", "n_items", "n_classes", "largest_class", "strange_share", "adopted_share"}
    signs |= {f"{name}_{q}" for name in ("distance", "raw_norm", "positive", "negative") for q in (5, 50, 95)}
    for row in rows:
        assert signs <= set(row)
        assert row["distance_5"] <= row["distance_50"] <= row["distance_95"] <= 2
    assert tercet.diagnose(healthy_run).findings == ()
    assert tercet.load(healthy_run).doctor() == tercet.diagnose(healthy_run)
    done = command("doctor", healthy_run)
    assert done.code == 0
    assert done.out.startswith("nothing was found\nlooked for: exploding, ")
    assert json.loads((healthy_run / "summary.json").read_text())["warnings"] == []
    assert "Nothing was found. Looked for: exploding," in (healthy_run / "report.html").read_text()


@pytest.mark.parametrize("trial", SICK[::7], ids=lambda trial: trial.name)
def test_trainings_that_fail_are_named(trial, tmp_path):
    with pytest.warns(TercetWarning):
        run = trial.train(tmp_path / "run")
    assert [finding.illness for finding in tercet.diagnose(run).findings][:1] == [trial.illness]


@pytest.mark.parametrize("trial", HEALTHY[4:9:4], ids=lambda trial: trial.name)
def test_healthy_trainings_are_left_in_peace(trial, tmp_path):
    assert tercet.diagnose(trial.train(tmp_path / "run")).findings == ()


def test_a_training_that_breaks_off_is_diagnosed_without_weights(tmp_path, command):
    rows, labels = sick_runs.numbers()
    np.savez(tmp_path / "data.npz", rows=rows)
    with pytest.raises(tercet.errors.TrainingError):
        tercet.train((rows, labels), out=tmp_path / "run", progress=False, steps=100, learning_rate=1e6,
                     encoder=sick_runs.FREE)  # fmt: skip
    assert not (tmp_path / "run" / "model.safetensors").exists()
    done = command("doctor", tmp_path / "run", "--json")
    assert done.code == 0
    (finding,) = json.loads(done.out)["findings"]
    assert finding["illness"] == EXPLODING
    assert "not finite" in finding["evidence"]


def test_a_collapse_is_warned_of_once_and_stands_in_the_summary_and_the_report(tmp_path):
    with pytest.warns(TercetWarning, match="collapse to a point, since step") as caught:
        run = tercet.train(sick_runs.hard_curves(), out=tmp_path / "run", progress=False, **COLLAPSING)
    assert sum("collapse to a point" in str(one.message) for one in caught) == 1
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["reason"] == "finished"
    assert summary["warnings"][0].startswith("collapse to a point, since step")
    page = (run.path / "report.html").read_text()
    assert "What the doctor says of it" in page
    assert "lower --learning-rate, to a tenth at first" in page


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows, labels = sick_runs.hard_curves()
    path = tmp_path_factory.mktemp("table") / "curves.csv"
    lines = [",".join([*(f"{value:.5f}" for value in row), label]) for row, label in zip(rows, labels, strict=True)]
    path.write_text("\n".join([",".join([*(f"x{i}" for i in range(rows.shape[1])), "label"]), *lines]) + "\n")
    return path


def test_stop_ends_the_run_with_a_checkpoint_and_an_exit_code_of_its_own(table, tmp_path, command):
    out = tmp_path / "run"
    flags = [word for name, value in COLLAPSING.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = command("train", table, "--out", out, *flags, "--on-collapse", "stop")
    assert done.code == 3, done.err
    assert "stopped: collapse to a point after" in done.err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["reason"] == "stopped: collapse to a point"
    assert 40 <= summary["steps"] < 100
    assert (out / "checkpoints" / f"step-{summary['steps']:08d}" / "state.safetensors").exists()
    assert tercet.diagnose(out).findings[0].illness == COLLAPSE
    before = digest(out)
    assert command("train", table, "--out", out, "--resume").code == 3
    assert digest(out) == before


def test_a_remedy_is_applied_said_written_and_survives_a_stop(tmp_path, monkeypatch):
    """The same bytes whether or not the run was interrupted between the remedy and the end."""
    from tercet.training import loop

    data = sick_runs.hard_curves()
    whole, part = tmp_path / "whole", tmp_path / "part"
    with pytest.warns(TercetWarning, match="collapse to a point"):
        tercet.train(data, out=whole, progress=False, on_collapse="remedy", **COLLAPSING)
    rows = read_history(whole / "history.jsonl")
    remedies = [row for row in rows if "remedy_against" in row]
    assert remedies[0] == {
        "step": remedies[0]["step"], "remedy_against": COLLAPSE, "learning_rate_factor": 0.1, "mining": "semihard",
    }  # fmt: skip
    rates = {row["step"]: row["learning_rate"] for row in rows if "loss" in row}
    at = remedies[0]["step"]
    assert rates[at + 1] < 0.11 * rates[at]

    class Broken(Exception):
        pass

    record = loop.Training._record

    def break_off(self, *arguments):
        if self.progress.step == at + 15:
            raise Broken
        record(self, *arguments)

    monkeypatch.setattr(loop.Training, "_record", break_off)
    with pytest.warns(TercetWarning), pytest.raises(Broken):
        tercet.train(data, out=part, progress=False, on_collapse="remedy", **COLLAPSING)
    monkeypatch.undo()
    with pytest.warns(TercetWarning, match="collapse to a point"):
        tercet.train(data, out=part, resume=True, progress=False, on_collapse="remedy")
    assert digest(part) == digest(whole)


def test_a_run_without_signs_and_what_is_no_run(healthy_run, tmp_path, command):
    old = shutil.copytree(healthy_run, tmp_path / "old")
    kept = ("step", "epoch", "loss", "active_share", "mean_positive", "mean_negative", "n_valid",
            "anchors_without_positive", "anchors_without_negative")  # fmt: skip
    rows = [{name: row[name] for name in kept if name in row} for row in read_history(old / "history.jsonl")]
    (old / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (old / "config.toml").read_text()
    (old / "config.toml").write_text(text.replace('on_collapse = "warn"\n', ""))
    done = command("doctor", old)
    assert done.code == 0
    assert "could not look for collapse to a point: the history holds no distance_50 and no distance_95" in done.out
    done = command("doctor", tmp_path / "nothing")
    assert done.code == 2
    assert f"there is no run at {tmp_path / 'nothing'}" in done.err
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.toml").write_text("[training]\nsteps = 5\n")
    with pytest.raises(RunError, match="names no distance, so it is not that of a run"):
        tercet.diagnose(tmp_path / "part")
    (old / "history.jsonl").unlink()
    with pytest.raises(RunError, match=r"holds no history\.jsonl with anything in it"):
        tercet.diagnose(old)


def test_a_misspelt_choice_is_refused(command, table, tmp_path):
    done = command("train", table, "--out", tmp_path / "run", "--on-collapse", "ignore")
    assert done.code == 2
    assert "on-collapse" in done.err
