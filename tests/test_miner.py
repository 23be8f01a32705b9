"""Mining inside training, and starting from another run."""

import shutil

import numpy as np
import pytest

import tercet
from conftest import QUICK, digest, write_numbers
from tercet.data.readers import read
from tercet.data.samplers import ClassBatches, MinedBatches
from tercet.errors import ConfigError, InputError, RunError, TercetWarning
from tercet.mining.options import MiningOptions
from tercet.training.folder.history import read_history

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3])
TRIPLETS = np.array([[0, 1, 4], [4, 5, 7], [7, 8, 12], [0, 2, 7]])


def test_before_triplets_are_given_batches_are_of_classes():
    plain, mined = ClassBatches(LABELS, 2, 3, seed=4), MinedBatches(LABELS, 2, 3, seed=4)
    for _ in range(9):
        assert np.array_equal(plain.next(), mined.next())


def test_with_triplets_a_batch_holds_their_items_and_an_epoch_is_as_long():
    plain, mined = ClassBatches(LABELS, 2, 3, seed=4), MinedBatches(LABELS, 2, 3, seed=4)
    mined.give(TRIPLETS, 0)
    allowed = [set(np.concatenate([one, other]).tolist()) for one in TRIPLETS for other in TRIPLETS]
    for epoch in range(3):
        assert len(mined.deal(epoch)) == len(plain.deal(epoch))
        for batch in mined.deal(epoch):
            assert set(batch.tolist()) in allowed  # 2 * 3 / 3 = 2 triplets
            assert len(set(batch.tolist())) == len(batch)
        if len(mined.deal(epoch)) >= 2:
            used = np.unique(np.concatenate(mined.deal(epoch)[:2]))
            assert np.array_equal(used, np.unique(TRIPLETS))  # all four before any comes again
    mined.give(TRIPLETS[:0], 1)
    assert all(np.array_equal(a, b) for a, b in zip(mined.deal(1), plain.deal(1), strict=True))


@pytest.mark.parametrize(("every", "at_once", "expected"), [(1, False, [1, 2, 3]), (2, False, [2]), (2, True, [0, 2])])
def test_when_triplets_are_due(every, at_once, expected):
    sampler, due = MinedBatches(LABELS, 2, 3, seed=1, every=every, at_once=at_once), []
    while sampler.epoch < 4:
        if sampler.is_due:
            due.append(sampler.epoch)
            sampler.give(TRIPLETS, sampler.epoch)
            assert not sampler.is_due
        sampler.next()
    assert due == expected


def train(source, out, **options):
    settings = {**QUICK, "steps": 12, "evaluate_every": 4, "mine_every": 1, **options}
    return tercet.train(str(source), out=out, progress=False, **settings)


def test_batches_are_of_what_the_weights_at_hand_find_hard(numbers, tmp_path, monkeypatch):
    """At the beginning of each epoch but the first; each batch after it is of the triplets found then."""
    from tercet.training.batches import miner
    from tercet.training.batches.supervision import Labelled

    found, batches, mine, batch = [], [], miner.mine_triplets, Labelled.batch

    def mined(vectors, *arguments, **named):
        found.append((len(batches), vectors.copy(), mine(vectors, *arguments, **named)))
        return found[-1][2]

    def dealt(self, chosen):
        batches.append(chosen)
        return batch(self, chosen)

    monkeypatch.setattr(miner, "mine_triplets", mined)
    monkeypatch.setattr(Labelled, "batch", dealt)
    run = train(numbers, tmp_path / "run")
    rows = [row for row in read_history(run.path / "history.jsonl") if "loss" in row]
    firsts = [i for i in range(1, 12) if rows[i]["epoch"] != rows[i - 1]["epoch"]]
    assert [at for at, _, _ in found] == firsts
    assert [i for i, row in enumerate(rows) if "mined_triplets" in row] == firsts
    for (at, vectors, one), end in zip(found, [*firsts[1:], 12], strict=True):
        assert rows[at]["mined_triplets"] == len(one) > 0
        triplets = {frozenset(row) for row in np.stack([one.anchors, one.positives, one.negatives], 1).tolist()}
        for items in batches[at:end]:
            assert set(items.tolist()) == set().union(*(t for t in triplets if t <= set(items.tolist())))
        assert not np.allclose(vectors, found[0][1]) or at == found[0][0]
    assert (run.path / "suspects.csv").read_text().startswith("item,reason,label")


@pytest.mark.parametrize("kept", [4, 8])
def test_mined_triplets_are_resumed_to_the_same_bytes(numbers, tmp_path, kept):
    whole = train(numbers, tmp_path / "whole", memory=8, chunk=5).path
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    for step in {8, 12} - {kept}:
        shutil.rmtree(part / "checkpoints" / f"step-{step:08d}")
    if kept == 4:
        shutil.rmtree(part)
        train(numbers, part, memory=8, chunk=5, steps=12, evaluate_every=4)
        for step in (8, 12):
            shutil.rmtree(part / "checkpoints" / f"step-{step:08d}")
    tercet.train(str(numbers), out=part, resume=True, progress=False)
    assert digest(part) == digest(whole)


def test_rules_count_and_are_kept(numbers, tmp_path):
    one = train(numbers, tmp_path / "one")
    other = train(numbers, tmp_path / "other", mine=MiningOptions(rank_from=3, rank_to=5, positives="hard"))
    last = "checkpoints/step-00000012/state.safetensors"
    assert digest(one.path)[last] != digest(other.path)[last]
    assert other.config.mine.rank_from == 3
    again = tercet.train(str(numbers), out=tmp_path / "again", config=other.path / "config.toml", progress=False)
    assert digest(again.path)[last] == digest(other.path)[last]


def test_rules_that_let_nothing_through_are_told_of(numbers, tmp_path):
    with pytest.warns(TercetWarning, match="no triplet was mined by these rules.*batches are of classes"):
        run = train(numbers, tmp_path / "run", mine=MiningOptions(absolute_from=5.0))
    plain = train(numbers, tmp_path / "plain", mine_every=0)
    assert digest(run.path)["model.safetensors"] == digest(plain.path)["model.safetensors"]


def test_rules_without_mining_and_mining_without_labels_are_refused(numbers, tmp_path):
    with pytest.raises(ConfigError, match="nothing is mined without mine_every"):
        train(numbers, tmp_path / "a", mine_every=0, mine=MiningOptions(rank_from=3))
    with pytest.raises(ConfigError, match="mine_every is -1"):
        train(numbers, tmp_path / "b", mine_every=-1)
    table = tmp_path / "triplets.csv"
    table.write_text("anchor,positive,negative\n" + "".join(f"a{i},b{i},c{i}\n" for i in range(20)))
    with pytest.raises(InputError, match="mine_every is set, and the data holds triplets"):
        tercet.train(str(table), out=tmp_path / "c", progress=False, mine_every=1, steps=2)


# Starting from another run.


def test_a_run_starts_from_another(numbers, tmp_path):
    first = train(numbers, tmp_path / "first", mine_every=0)
    other = write_numbers(tmp_path / "other.csv", range(20, 28))
    second = tercet.train(str(other), out=tmp_path / "second", progress=False, init=str(first.path),
                          learning_rate=1e-12, **QUICK)  # fmt: skip
    items = read(str(other)).items
    assert np.allclose(first.embed(items), second.embed(items), atol=1e-6)
    third = tercet.train(str(other), out=tmp_path / "third", progress=False, init=str(first.path), **QUICK)
    assert not np.allclose(first.embed(items), third.embed(items), atol=1e-3)
    fresh = tercet.train(str(other), out=tmp_path / "fresh", progress=False, **QUICK)
    assert not np.allclose(fresh.embed(items), third.embed(items), atol=1e-3)


def test_a_text_run_keeps_the_vocabulary_of_the_one_it_starts_from(texts, tmp_path):
    first = tercet.train(str(texts), out=tmp_path / "first", progress=False, **QUICK)
    (tmp_path / "other.csv").write_text(
        "text,label\n" + "".join(f"entirely other words {i % 5} here,topic {i % 5}\n" for i in range(30))
    )
    second = tercet.train(str(tmp_path / "other.csv"), out=tmp_path / "second", progress=False, init=str(first.path),
                          **QUICK)  # fmt: skip
    assert second.model.assets == first.model.assets


def test_mining_begins_at_once_where_the_weights_know_something(numbers, tmp_path):
    first = train(numbers, tmp_path / "first", mine_every=0)
    second = train(numbers, tmp_path / "second", init=str(first.path), mine_every=2)
    rows = [row for row in read_history(second.path / "history.jsonl") if "loss" in row]
    assert "mined_triplets" in rows[0]


def test_what_does_not_fit_the_run_to_start_from_is_refused(numbers, texts, tmp_path):
    first = train(numbers, tmp_path / "first", mine_every=0)
    with pytest.raises(RunError, match="there is no run"):
        train(numbers, tmp_path / "a", init=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="trained with an encoder of tabular data; this data takes an encoder of text"):
        train(texts, tmp_path / "b", init=str(first.path))
    from tercet.encoders.options import TabularOptions

    with pytest.raises(InputError, match="other options for the encoder"):
        train(numbers, tmp_path / "c", init=str(first.path), encoder=TabularOptions(dim=7))
    lines = numbers.read_text().replace("length", "depth")
    (tmp_path / "renamed.csv").write_text(lines)
    with pytest.raises(InputError, match="whose columns are length, width"):
        train(tmp_path / "renamed.csv", tmp_path / "d", init=str(first.path))


def test_a_run_goes_on_from_what_it_started_from_whatever_became_of_that(texts, tmp_path):
    """The other run may be gone, or trained anew: the one that started from it has kept what it took."""
    first = tercet.train(str(texts), out=tmp_path / "first", progress=False, **QUICK)
    settings = {**QUICK, "steps": 9, "init": str(first.path), "progress": False}
    whole = tercet.train(str(texts), out=tmp_path / "whole", **settings).path
    for step, part in ((6, tmp_path / "late"), (0, tmp_path / "early")):
        shutil.copytree(whole, part)
        shutil.rmtree(part / "checkpoints" / "step-00000009")
        if step == 0:  # killed before its first checkpoint
            shutil.rmtree(part / "checkpoints" / "step-00000006")
            (part / "model.safetensors").unlink()
    shutil.rmtree(first.path)
    for name in ("late", "early"):
        tercet.train(str(texts), out=tmp_path / name, resume=True, progress=False)
        assert digest(tmp_path / name) == digest(whole)


def test_a_run_too_short_to_mine_is_told_of(numbers, tmp_path):
    with pytest.warns(TercetWarning, match="mine_every is 50, and nothing will be mined"):
        train(numbers, tmp_path / "run", mine_every=50)
