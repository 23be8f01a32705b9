"""Minings that follow each other: how they are written, when each begins, and that a run keeps to it."""

import dataclasses
import json
import shutil

import pytest

import tercet
from conftest import QUICK, Scaled, digest
from tercet.data.readers import read
from tercet.doctor import Case
from tercet.errors import ConfigError, InputError
from tercet.training.config import TrainingOptions
from tercet.training.folder.history import read_history
from tercet.training.health.watch import Watch, diagnose_folder
from tercet.training.reporter import Reporter
from tercet.training.request import Request
from tercet.training.step.learner import Learner
from tercet.training.step.mining_schedule import parse_schedule
from tercet.training.tuning.options import TuningOptions
from tercet.training.tuning.space import space_of

SCHEDULE = "easy-positive:0,semihard:0.3,hard:0.7"


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 100, 333])
def test_a_stage_begins_at_its_share_of_the_steps(steps):
    schedule = parse_schedule(SCHEDULE)
    for step in range(steps):
        expected = "hard" if 10 * step >= 7 * steps else "semihard" if 10 * step >= 3 * steps else "easy-positive"
        assert schedule.at(step, steps) == expected


def test_shares_that_floats_miss_begin_on_time():
    schedule = parse_schedule("all:0,hard:0.07")
    assert (schedule.at(6, 100), schedule.at(7, 100)) == ("all", "hard")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hard", "'hard' is not a mining and a number; wanted are minings with the share of the run that each begins "
         "at, such as easy-positive:0,semihard:0.3,hard:0.7"),
        ("all:0,hard:half", "'hard:half' is not a mining and a number"),
        ("all:0,hard:nan", "'hard:nan' is not a mining and a number"),
        ("", "'' is not a mining and a number"),
        ("all:0,semi-hard:0.5", r"'semi-hard' is not one of all, hard, .* Did you mean 'semihard'\?"),
        ("all:0,distance-weighted:0.5", "'distance-weighted' is not one of"),
        ("all:0.1,hard:0.5", "the shares are 0.1, 0.5; they must rise from 0 to below 1"),
        ("all:0,hard:0.5,semihard:0.5", "the shares are 0, 0.5, 0.5; they must rise"),
        ("all:0,hard:1", "the shares are 0, 1; they must rise"),
    ],
)  # fmt: skip
def test_what_is_no_schedule(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_schedule(text)


def train(numbers, out, **options):
    settings = {**QUICK, "steps": 10, "evaluate_every": 2, "mining_schedule": SCHEDULE, **options}
    return tercet.train(str(numbers), out=out, progress=False, **settings)


def steps_of(run):
    return [row for row in read_history(run.path / "history.jsonl") if "loss" in row]


def test_the_history_says_what_a_step_mined(numbers, tmp_path):
    run = train(numbers, tmp_path / "run")
    assert [row["mining"] for row in steps_of(run)] == ["easy-positive"] * 3 + ["semihard"] * 4 + ["hard"] * 3
    assert run.config.loss.mining == "easy-positive"
    assert "mining" not in steps_of(train(numbers, tmp_path / "plain", mining_schedule=None))[0]


@pytest.mark.slow
def test_a_step_mines_what_the_schedule_says(numbers, tmp_path):
    """The first step of a stage has the loss of a run that was of that mining from the start, weights being equal."""
    tiny = {"learning_rate": 1e-12, "reduction": "mean", "margin": 1.0}
    found = steps_of(train(numbers, tmp_path / "run", **tiny))
    for mining, places in (("easy-positive", range(3)), ("semihard", range(3, 7)), ("hard", range(7, 10))):
        fixed = steps_of(train(numbers, tmp_path / mining, mining_schedule=None, mining=mining, **tiny))
        for place in places:
            assert found[place]["loss"] == pytest.approx(fixed[place]["loss"], rel=1e-5)
    assert len({round(row["loss"], 4) for row in found}) > 3


@pytest.mark.parametrize("kept", [2, 6])
def test_a_resumed_run_ends_in_the_same_bytes(numbers, tmp_path, kept, monkeypatch):
    whole = train(numbers, tmp_path / "whole").path
    step = Learner.step

    def stop_after(self, fed, number):
        if number == kept:
            raise KeyboardInterrupt
        return step(self, fed, number)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop_after)
        with pytest.raises(KeyboardInterrupt):
            train(numbers, tmp_path / "part")
    tercet.train(str(numbers), out=tmp_path / "part", resume=True, progress=False)
    assert digest(tmp_path / "part") == digest(whole)


def test_a_loss_object_is_left_as_it_was(numbers, tmp_path):
    loss = tercet.TripletLoss(mining="easy-positive", distance="cosine")
    for name in ("one", "two"):
        train(numbers, tmp_path / name, loss=loss)
        assert loss.settings["mining"] == "easy-positive"
    with pytest.raises(ConfigError, match="mining is 'all' and mining_schedule begins with 'easy-positive'"):
        train(numbers, tmp_path / "three", loss=tercet.TripletLoss())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mining": "hard"}, "mining is 'hard' and mining_schedule begins with 'easy-positive'; leave mining out"),
        ({"loss": "supcon"}, "mining_schedule belongs to loss='triplet' and the loss is 'supcon'"),
        ({"loss": Scaled()}, "mining_schedule belongs to loss='triplet' and the loss is conftest:Scaled"),
        ({"selection": "loss"}, "selection is 'loss', which mining_schedule makes another from stage to stage"),
        ({"mining_schedule": "hard:0.5"}, "mining_schedule is 'hard:0.5': the shares are 0.5; they must rise from 0"),
    ],
)
def test_what_a_schedule_does_not_go_with(numbers, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(numbers, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_every_stage_must_go_with_the_loss(numbers, tmp_path):
    with pytest.raises(InputError, match="comes to mining 'hard', and penalty 'lifted' goes with mining 'all'"):
        train(numbers, tmp_path / "a", mining_schedule="all:0,hard:0.5", penalty="lifted")
    train(numbers, tmp_path / "b", mining_schedule="semihard:0,hard:0.5", fallback="farthest")  # of the first stage
    table = tmp_path / "triplets.csv"
    table.write_text("anchor,positive,negative\n" + "".join(f"a{i},b{i},c{i}\n" for i in range(20)))
    with pytest.raises(InputError, match="mining_schedule is set, and the data holds triplets"):
        tercet.train(str(table), out=tmp_path / "c", progress=False, mining_schedule=SCHEDULE, steps=2)


def test_a_remedy_wins_from_then_on(numbers, tmp_path, monkeypatch):
    def look(self, rows, step):
        remedy = {"step": step, "remedy_against": "collapse", "learning_rate_factor": 0.5, "mining": "semihard"}
        if step == 8 and not self.notes["remedies"]:
            self.notes["remedies"].append(remedy)
            return remedy
        return None

    monkeypatch.setattr(Watch, "look", look)
    run = train(numbers, tmp_path / "run", on_collapse="remedy")
    assert [row["mining"] for row in steps_of(run)][-3:] == ["hard", "semihard", "semihard"]
    part = tmp_path / "part"
    shutil.copytree(run.path, part)
    shutil.rmtree(part / "checkpoints" / "step-00000010")
    tercet.train(str(numbers), out=part, resume=True, progress=False)
    assert digest(part) == digest(run.path)


def test_the_doctor_knows_the_mining_of_the_moment(numbers, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("tercet.training.health.watch.diagnose", lambda rows, case: seen.append(case.mining) or NOTHING)
    watch = Watch(Case(steps=4, mining="easy-positive"), "warn", Reporter(), {})
    watch.look([{"step": 1, "mining": "easy-positive"}, {"step": 2, "mining": "hard"}], 2)
    watch.look([{"step": 1, "loss": 1.0}], 2)
    assert seen == ["hard", "easy-positive"]
    monkeypatch.undo()
    run = train(numbers, tmp_path / "run")
    monkeypatch.setattr("tercet.training.health.watch.diagnose", lambda rows, case: seen.append(case.mining) or NOTHING)
    diagnose_folder(run.path)
    assert seen[-1] == "hard"


class NOTHING:
    findings = ()


def test_a_tuning_leaves_a_scheduled_mining_alone(numbers):
    request, data = Request(str(numbers)), read(str(numbers))
    assert "mining" in space_of(request, TuningOptions(), data)
    scheduled = dataclasses.replace(request, training=TrainingOptions(mining_schedule=SCHEDULE))
    assert "mining" not in space_of(scheduled, TuningOptions(), data)


def test_on_the_command_line(numbers, tmp_path, command):
    words = [
        "train",
        numbers,
        "--out",
        tmp_path / "run",
        "--steps",
        "4",
        "--mining-schedule",
        "all:0,hard:0.5",
        "--json",
    ]
    done = command(*words, "--classes-per-batch", "4", "--samples-per-class", "3")
    assert done.code == 0, done.err
    assert json.loads(done.out)["ended"] == "finished"
    assert 'mining_schedule = "all:0,hard:0.5"' in (tmp_path / "run" / "config.toml").read_text()
    wrong = command("train", numbers, "--out", tmp_path / "other", "--mining-schedule", "all:0,hrd:0.5")
    assert wrong.code == 2
    assert "Did you mean 'hard'?" in wrong.err
