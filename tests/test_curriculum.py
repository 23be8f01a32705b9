"""Curriculum: pacing by the paper's formulas, batches of the part in use, scores, and exact resume."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tercet
from conftest import QUICK, digest, write_numbers
from tercet.data.paced import PacedBatches, _fewest
from tercet.data.samplers import ClassBatches
from tercet.errors import ConfigError, DataError, InputError, RunError
from tercet.training.batches.curriculum import NOT_YET, Learned, anchor_losses
from tercet.training.batches.pacing import CurriculumOptions, pool_size, stages
from tercet.training.folder.history import read_history
from tercet.training.step.learner import Learner

PACINGS = ["log", "root", "linear", "quadratic", "exponential", "step"]


def options_of(pacing="linear", **others):
    return CurriculumOptions(pacing=pacing, order=others.pop("order", "random"), **others)


def by_the_paper(pacing, t, steps, n, a, b):
    x = t / (a * steps)
    grown = {
        "linear": n * (1 - b) * x,
        "quadratic": n * (1 - b) * x**2,
        "root": n * (1 - b) * math.sqrt(x),
        "step": n * math.floor(x),
        "exponential": n * (1 - b) / (math.exp(10) - 1) * (math.exp(10 * x) - 1),
        "log": n * (1 - b) * (1 + 0.1 * math.log(x + math.exp(-10))),
    }[pacing]
    return min(n, n * b + grown)


@pytest.mark.parametrize("pacing", PACINGS)
@pytest.mark.parametrize(("a", "b"), [(0.8, 0.2), (0.1, 0.0025), (1.6, 0.4), (0.37, 0.6)])
def test_the_part_grows_by_the_papers_formulas(pacing, a, b):
    options = options_of(pacing, full_at=a, start=b)
    for step in range(53):
        assert pool_size(options, step, 53, 1009) == pytest.approx(by_the_paper(pacing, step, 53, 1009, a, b))


@pytest.mark.parametrize("pacing", PACINGS)
@pytest.mark.parametrize("levels", [1, 3, 20])
def test_levels_are_just_below_the_formula(pacing, levels):
    options, n, steps = options_of(pacing, full_at=0.7, start=0.15, levels=levels), 997, 61
    found = stages(options, steps, n)
    assert found[0][0] == 0
    assert len(found) <= levels + 1
    for step in range(steps):
        count = [count for start, count in found if start <= step][-1]
        exact = pool_size(options, step, steps, n)
        assert count <= exact + 1e-6
        assert count > exact - n * 0.85 / levels - 1
    assert found[-1] == (math.ceil(0.7 * steps), n) if pacing != "log" else found[-1][1] == n


def test_a_part_is_never_empty_and_beyond_one_never_whole():
    assert stages(options_of(start=0.001), 10, 5)[0] == (0, 1)
    assert stages(options_of(full_at=2.0, start=0.5), 100, 1000)[-1][1] < 760


# Batches of the part in use.

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(7), [9, 8, 6, 5, 4, 2, 1]))


def paced(order=None, found=((0, 12), (5, 20), (11, 35)), seed=3, **others):
    order = np.random.default_rng(1).permutation(len(LABELS)) if order is None else order
    return PacedBatches(LABELS, order, list(found), 3, 3, seed, **others), order


@pytest.mark.parametrize("sampling", ["size", "class"])
def test_a_batch_is_of_the_first_items_of_the_order(sampling):
    sampler, order = paced(class_sampling=sampling)
    for step in range(40):
        count = 12 if step < 5 else 20 if step < 11 else 35
        assert sampler.pool(step) == count
        batch = sampler.next()
        assert set(batch.tolist()) <= set(order[:count].tolist())
        assert len(batch) <= 9


def test_a_stage_deals_all_that_it_holds_as_class_batches_do():
    sampler, order = paced(found=((0, 17), (9, 35)))
    places = np.sort(order[:17])
    plain, dealt = ClassBatches(LABELS[places], 3, 3, 3), []
    for _ in range(9):
        batch = sampler.next()
        dealt += batch.tolist()
        np.testing.assert_array_equal(batch, places[plain.next()])
    assert set(dealt) == set(places.tolist())


def test_a_stage_begins_an_epoch_of_its_own():
    sampler, _ = paced()
    epochs = []
    for _ in range(20):
        epochs.append(sampler.epoch)
        sampler.next()
    assert epochs == sorted(epochs)
    assert epochs[5] == epochs[4] + 1
    assert epochs[11] == epochs[10] + 1


@pytest.mark.parametrize("after", [0, 1, 4, 5, 10, 11, 23])
def test_a_restored_sampler_goes_on_the_same(after):
    one, other = paced()[0], paced()[0]
    for _ in range(after):
        one.next()
    other.restore(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
    for _ in range(20):
        np.testing.assert_array_equal(one.next(), other.next())


def test_a_state_of_other_stages_is_refused():
    one, other = paced()[0], paced(found=((0, 12), (3, 20)))[0]
    for _ in range(4):
        one.next()
    with pytest.raises(ConfigError, match="The state is at stage 0 with batch 4"):
        other.restore(one.state())


def test_two_classes_with_two_samples_are_always_there():
    order = np.argsort(LABELS, kind="stable")  # class after class: nine of the first, then eight of the second
    sampler, _ = paced(order, ((0, 3), (5, 10), (8, 35)))
    assert [sampler.pool(step) for step in (0, 5, 8)] == [11, 11, 35]
    assert "From 11 of 35 samples to 35 at step 8, in 3 stages; 3 were asked for, which are not two classes with two " \
        "samples" in sampler.summary()  # fmt: skip
    for labels, expected in (([0, 1, 0, 1, 1], 4), ([0, 0, 0, 1], 4), ([0, 1, 2], 3), ([5, 5, 2, 2], 4)):
        assert _fewest(np.array(labels)) == expected


def test_what_cannot_be_dealt_as_a_whole_is_refused():
    with pytest.raises(DataError, match="at least two are needed"):
        PacedBatches(np.zeros(5, dtype=np.int64), np.arange(5), [(0, 5)], 2, 2)


# Scores.


def test_an_item_alone_is_as_hard_as_can_be():
    vectors = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3])
    found = anchor_losses(tercet.TripletLoss(margin=0.7, reduction="mean"), vectors, labels)
    for a in range(9):
        terms = [
            max(0.0, float((vectors[a] - vectors[p]).norm() - (vectors[a] - vectors[n]).norm()) + 0.7)
            for p in range(9) if p != a and labels[p] == labels[a]
            for n in range(9) if labels[n] != labels[a]
        ]  # fmt: skip
        assert found[a] == (pytest.approx(np.mean(terms), abs=1e-5) if terms else math.inf)


def test_learned_is_since_the_last_time_that_it_held(monkeypatch):
    class Train:
        records = type("R", (), {"__len__": lambda self: 4, "fingerprints": lambda self: np.arange(4)})()

    learned, labels = Learned(Train(), None, None, None), np.array([0, 0, 1, 1])
    near = {0: [0.0, 0.1, 5.0, 5.1], 10: [0.0, 5.0, 0.1, 5.1], 20: [0.0, 0.1, 5.0, 9.0], 30: [0.0, 0.1, 5.0, 0.05]}
    expected = {0: [0, 0, 0, 0], 10: [-1] * 4, 20: [20, 20, 20, 20], 30: [-1, -1, -1, -1]}
    for step, places in near.items():
        learned.note(step, np.array(places, dtype=np.float32)[:, None], labels, "euclidean")
        right = [
            labels[min((abs(p - q), j) for j, q in enumerate(places) if j != i)[1]] == labels[i]
            for i, p in enumerate(places)
        ]
        assert [value != NOT_YET for value in learned.since.tolist()] == right
        if step != 30:
            assert learned.since.tolist() == expected[step]


# Runs.


def train(source, out, **options):
    settings = {**QUICK, "steps": 12, "evaluate_every": 4, "holdout_by": "row", **options}
    return tercet.train(str(source), out=out, progress=False, **settings)


@pytest.fixture(scope="module")
def reference(numbers, tmp_path_factory):
    return train(numbers, tmp_path_factory.mktemp("reference") / "run", record_learned=True)


def steps_of(run):
    return [row for row in read_history(run.path / "history.jsonl") if "loss" in row]


def dealt_in(monkeypatch):
    """The positions of the batches that steps are made of, as they are."""
    found, step = [], Learner.step

    def noted(self, fed, number):
        found.append(fed.batch.positions)
        return step(self, fed, number)

    monkeypatch.setattr(Learner, "step", noted)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scoring", ["loss", "learned"])
def test_easy_items_come_first_or_last_or_neither(numbers, reference, tmp_path, scoring, monkeypatch):
    dealt = dealt_in(monkeypatch)
    shown, scores = {}, None
    for order in ("curriculum", "anti", "random"):
        curriculum = CurriculumOptions(
            pacing="step", order=order, scoring=scoring, reference=str(reference.path), full_at=0.75, start=0.3
        )
        run = train(numbers, tmp_path / order, curriculum=curriculum)
        assert run.config.curriculum == curriculum
        assert (run.path / "curriculum.safetensors").exists() == (order != "random")
        if order == "curriculum":
            scores = load_file(run.path / "curriculum.safetensors")["scores"].numpy()
        pools = [row["pool"] for row in steps_of(run)]
        assert pools[:9] == [pools[0]] * 9
        assert pools[9:] == [len(scores)] * 3
        shown[order] = np.unique(np.concatenate(dealt[:9]))
        assert len(shown[order]) == pools[0] < 0.6 * len(scores)
        dealt.clear()
    left = np.setdiff1d(np.arange(len(scores)), shown["curriculum"])
    assert scores[shown["curriculum"]].max() <= scores[left].min()
    left = np.setdiff1d(np.arange(len(scores)), shown["anti"])
    assert scores[shown["anti"]].min() >= scores[left].max()
    assert set(shown["random"]) not in (set(shown["curriculum"]), set(shown["anti"]))


def test_a_column_scores_and_goes_with_the_items(tmp_path, monkeypatch):
    dealt = dealt_in(monkeypatch)
    lines = write_numbers(tmp_path / "plain.csv", range(7)).read_text().splitlines()
    hardness = np.random.default_rng(0).permutation(len(lines) - 1)
    rows = [f"{line},{score}" for line, score in zip(lines[1:], hardness, strict=True)]
    table = tmp_path / "numbers.csv"
    table.write_text("\n".join([lines[0] + ",hardness", *rows]) + "\n")
    columns = ("length", "width", "height", "weight")
    curriculum = CurriculumOptions(pacing="step", scoring="column", column="hardness", start=0.5, full_at=1.5)
    run = train(table, tmp_path / "run", columns=columns, curriculum=curriculum)
    scores = load_file(run.path / "curriculum.safetensors")["scores"].numpy()
    used = np.unique(np.concatenate(dealt))
    assert scores[used].max() == np.sort(scores)[len(scores) // 2 - 1]
    assert set(scores) < set(hardness)  # the rest is held out
    wrong = CurriculumOptions(pacing="step", scoring="column", column="hardnes")
    with pytest.raises(DataError, match=r"has no column 'hardnes' .*Did you mean 'hardness'"):
        train(table, tmp_path / "b", columns=columns, curriculum=wrong)
    table.write_text(table.read_text().replace(rows[3], rows[3].rsplit(",", 1)[0] + ",?"))
    with pytest.raises(DataError, match=r"item 4, column 'hardness': .* is not a number, and every item needs a score"):
        train(table, tmp_path / "c", columns=columns, curriculum=curriculum)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [4, 8])
def test_a_resumed_run_ends_in_the_same_bytes_without_its_reference(numbers, reference, tmp_path, kept, monkeypatch):
    """Killed in the middle, under the reference that is then gone."""
    other = tmp_path / "reference"
    shutil.copytree(reference.path, other)
    curriculum = CurriculumOptions(pacing="linear", scoring="loss", reference=str(other), levels=4)
    settings = {"curriculum": curriculum, "record_learned": True, "class_sampling": "class"}
    whole = train(numbers, tmp_path / "whole", **settings).path
    step = Learner.step

    def stop(self, fed, number):
        if number == kept + 1:
            raise KeyboardInterrupt
        return step(self, fed, number)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(numbers, tmp_path / "part", **settings)
    shutil.rmtree(other)
    tercet.train(str(numbers), out=tmp_path / "part", resume=True, progress=False)
    assert digest(tmp_path / "part") == digest(whole)


def test_scores_of_an_attempt_with_other_settings_are_not_taken(numbers, reference, tmp_path):
    """Killed after the scores and before config.toml, and started again with --resume and another scoring."""
    learned, by_loss = (
        CurriculumOptions(pacing="step", scoring=scoring, reference=str(reference.path))
        for scoring in ("learned", "loss")
    )
    train(numbers, tmp_path / "run", curriculum=learned, steps=1)
    kept = tmp_path / "run" / "curriculum.safetensors"
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(kept, again)
    train(numbers, again, curriculum=by_loss, steps=1, resume=True)
    fresh = train(numbers, tmp_path / "fresh", curriculum=by_loss, steps=1).path
    assert (again / kept.name).read_bytes() == (fresh / kept.name).read_bytes() != kept.read_bytes()


def test_a_run_records_what_it_has_learned(reference):
    stored = load_file(reference.path / "learned.safetensors")
    rows = [row for row in read_history(reference.path / "history.jsonl") if "learned_share" in row]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert set(stored["since"].tolist()) <= {-1, 4, 8, 12}
    assert rows[-1]["learned_share"] == pytest.approx((stored["since"] != -1).double().mean())


def test_what_is_missing_or_idle_is_refused_together(numbers, tmp_path):
    def refused(message, error=ConfigError, **options):
        with pytest.raises(error, match=message):
            train(numbers, tmp_path / "run", **options)
        assert not (tmp_path / "run" / "config.toml").exists()

    made = CurriculumOptions
    refused("curriculum.order, curriculum.start: nothing is paced without curriculum.pacing",
            curriculum=made(order="anti", start=0.1))  # fmt: skip
    refused("curriculum.start is 1.0, it must be between 0 and 1; curriculum.order is 'curriculum', which needs",
            curriculum=made(pacing="linear", start=1.0))  # fmt: skip
    refused("scoring is 'loss', which needs curriculum.reference", curriculum=made(pacing="log", scoring="loss"))
    refused("curriculum.column is 'x', but it belongs to curriculum.scoring='column'",
            curriculum=made(pacing="log", scoring="loss", reference="r", column="x"))  # fmt: skip
    refused("pacing is by steps, and epochs is given", curriculum=options_of(), steps=None, epochs=2)
    refused("pacing and mine_every both say which items", curriculum=options_of(), mine_every=1)
    refused("names nowhere, and there is no run", RunError,
            curriculum=made(pacing="log", scoring="loss", reference="nowhere"))  # fmt: skip
    plain = train(numbers, tmp_path / "plain").path
    refused("has not recorded what it learned when.*--record-learned", RunError,
            curriculum=made(pacing="log", scoring="learned", reference=str(plain)))  # fmt: skip
    table = tmp_path / "triplets.csv"
    table.write_text("anchor,positive,negative\n" + "".join(f"a{i},b{i},c{i}\n" for i in range(20)))
    for name, given in (
        ("curriculum.pacing", {"curriculum": options_of()}),
        ("record_learned", {"record_learned": True}),
    ):
        with pytest.raises(InputError, match=f"{name} is set, and the data holds triplets"):
            tercet.train(str(table), out=tmp_path / "t", progress=False, steps=2, **given)


def test_a_reference_must_know_the_items(numbers, reference, texts, tmp_path):
    curriculum = CurriculumOptions(pacing="log", scoring="learned", reference=str(reference.path))
    other = write_numbers(tmp_path / "other.csv", range(3, 10))
    with pytest.raises(DataError, match=r"training items have no score .* they are not in the record of"):
        train(other, tmp_path / "a", curriculum=curriculum)
    by_loss = CurriculumOptions(pacing="log", scoring="loss", reference=str(reference.path))
    with pytest.raises(InputError, match="which was trained on tabular data; this is text"):
        train(texts, tmp_path / "b", curriculum=by_loss, label="topic_label", columns=("sentence",), holdout_by="auto")


def test_on_the_command_line(numbers, reference, tmp_path, command):
    words = ["train", numbers, "--out", tmp_path / "run", "--steps", "6", "--holdout-by", "row", "--json"]
    words += ["--classes-per-batch", "4", "--samples-per-class", "3", "--curriculum.pacing", "root"]
    done = command(*words, "--curriculum.scoring", "loss", "--curriculum.reference", reference.path)
    assert done.code == 0, done.err
    text = (tmp_path / "run" / "config.toml").read_text()
    assert '[curriculum]\npacing = "root"\norder = "curriculum"\nscoring = "loss"' in text
    again = command("train", numbers, "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "anti",
                    "--curriculum.order", "anti", "--json")  # fmt: skip
    assert again.code == 0, again.err
    assert 'order = "anti"' in (tmp_path / "anti" / "config.toml").read_text()
