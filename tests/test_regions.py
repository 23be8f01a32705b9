"""Hard, semi-hard and easy triplets of a batch, what they cost, and copies among what a run was trained on."""

import json

import numpy as np
import pytest
import torch

import tercet
from tercet.data.randomness import keyed
from tercet.data.records import Records
from tercet.errors import TercetWarning
from tercet.training.folder.copies import copies
from tercet.training.health.regions import Triplets, all_triplets, loss_of_one, margin_of, region_shares, write_triplets
from tercet.training.intake import warn_of_duplicates
from tercet.training.reporter import Reporter


def sample(count=17, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(count, 3)))
    labels = torch.from_numpy(rng.integers(0, classes, count))
    return torch.cdist(rows, rows), labels


def listed(distances, labels):
    count = len(labels)
    return [
        (float(distances[a, p]), float(distances[a, n]))
        for a in range(count)
        for p in range(count)
        for n in range(count)
        if p != a and labels[a] == labels[p] and labels[a] != labels[n]
    ]


def triplets_of(distances, labels):
    same = labels[:, None] == labels[None]
    other = ~torch.eye(len(labels), dtype=torch.bool)
    return all_triplets(distances, same & other, ~same)


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_shares_are_those_of_plain_loops(margin):
    distances, labels = sample()
    found = listed(distances, labels)
    shares = region_shares(triplets_of(distances, labels), margin)
    hard = sum(far <= near for near, far in found) / len(found)
    easy = sum(far > near and far >= near + margin for near, far in found) / len(found)
    assert shares == pytest.approx({"hard_share": hard, "semihard_share": 1 - hard - easy, "easy_share": easy})


def test_triplets_are_those_of_plain_loops_and_none_of_one_class():
    distances, labels = sample()
    found = triplets_of(distances, labels)
    assert sorted(zip(found.d_ap.tolist(), found.d_an.tolist(), strict=True)) == sorted(listed(distances, labels))
    assert region_shares(triplets_of(distances, torch.zeros(17)), 0.2) == {}


def test_ties_are_hard():
    tied = Triplets(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]))
    assert region_shares(tied, 0.0) == {"hard_share": 0.5, "semihard_share": 0.0, "easy_share": 0.5}


@pytest.mark.parametrize(
    "loss",
    [
        tercet.TripletLoss(margin=0.3, reduction="sum"),
        tercet.TripletLoss(margin=0.3, penalty="squared-hinge", reduction="sum"),
        tercet.TripletLoss(margin=0.3, penalty="softplus", reduction="sum"),
        tercet.TripletLoss(margin=0.3, penalty="logsumexp", temperature=0.4, reduction="sum"),
        tercet.InfoNCE(temperature=0.3, distance="euclidean"),
        tercet.SupConLoss(temperature=0.3, distance="euclidean"),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_the_curve_is_the_loss_of_a_single_triplet(loss):
    rows = torch.tensor([[0.0, 0.0], [0.7, 0.0], [0.0, 0.9]], dtype=torch.float64)
    anchors, others = rows[:1], rows[1:]
    value = loss(anchors, [0], reference=others, reference_labels=[0, 1])
    expected = loss_of_one(loss, torch.tensor([0.7 - 0.9], dtype=torch.float64))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_some_triplets_are_written_and_the_same_again(tmp_path):
    distances, labels = sample(40)
    found, loss = triplets_of(distances, labels), tercet.TripletLoss(margin=0.3)
    write_triplets(tmp_path, 7, found, loss, keyed(1, "shown", 7))
    first = (tmp_path / "triplets.json").read_bytes()
    write_triplets(tmp_path, 7, found, loss, keyed(1, "shown", 7))
    assert (tmp_path / "triplets.json").read_bytes() == first
    kept = json.loads(first)
    assert (kept["step"], kept["of"], kept["margin"], kept["penalty"]) == (7, len(found.d_ap), 0.3, "hinge")
    assert len(kept["d_ap"]) == len(kept["d_an"]) == 400
    for near, far, cost in zip(kept["d_ap"], kept["d_an"], kept["loss"], strict=True):
        assert cost == pytest.approx(max(0, near - far + 0.3), abs=1e-4)


@pytest.mark.parametrize("loss", [tercet.ContrastiveLoss(), lambda rows, labels: rows.sum()])
def test_nothing_is_written_of_a_loss_that_is_no_function_of_the_difference(tmp_path, loss):
    distances, labels = sample()
    write_triplets(tmp_path, 7, triplets_of(distances, labels), loss, keyed(1, "shown", 7))
    assert list(tmp_path.iterdir()) == []
    assert margin_of(loss) == 0.0


def test_margins_by_class_have_no_regions():
    assert margin_of(tercet.TripletLoss(margin={0: 0.2, 1: 0.4})) is None


def test_a_run_has_regions_in_its_history_and_triplets_of_its_last_batch(image_run):
    rows = [json.loads(line) for line in (image_run / "history.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 6
    for row in steps:
        assert row["hard_share"] + row["semihard_share"] + row["easy_share"] == pytest.approx(1)
    kept = json.loads((image_run / "triplets.json").read_text())
    assert kept["step"] == 6
    hard = sum(near >= far for near, far in zip(kept["d_ap"], kept["d_an"], strict=True)) / len(kept["d_ap"])
    assert hard == pytest.approx(steps[-1]["hard_share"], abs=1e-9)  # 216 triplets: all of them


def test_full_statistics_count_the_same(images, tmp_path):
    run = tercet.train(str(images), out=tmp_path / "run", progress=False, steps=2, classes_per_batch=4,
                       samples_per_class=3, statistics="full")  # fmt: skip
    rows = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    for row in rows:
        if "loss" in row:
            total = row["n_hard"] + row["n_semihard"] + row["n_easy"]
            for kind in ("hard", "semihard", "easy"):
                assert row[f"{kind}_share"] == pytest.approx(row[f"n_{kind}"] / total, abs=0.01)


def test_given_triplets_have_regions_too(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["anchor,positive,negative"]
    lines += [f"a{i} {rng.integers(9)},b{i} {rng.integers(9)},c{i} {rng.integers(9)}" for i in range(40)]
    (tmp_path / "triplets.csv").write_text("\n".join(lines))
    run = tercet.train(str(tmp_path / "triplets.csv"), out=tmp_path / "run", progress=False, steps=2)
    row = json.loads((run.path / "history.jsonl").read_text().splitlines()[0])
    assert row["hard_share"] + row["semihard_share"] + row["easy_share"] == pytest.approx(1)
    assert json.loads((run.path / "triplets.json").read_text())["step"] == 2


def records(labels):
    return Records(
        kind="text", items=[""] * len(labels), names=[f"item {i}" for i in range(len(labels))],
        labels=np.array(labels), classes=("cat", "dog"), tuples=None, similar=None, columns=(), skipped=(), source="",
        description="",
    )  # fmt: skip


def test_a_run_tells_its_copies(image_run):
    kept = json.loads((image_run / "copies.json").read_text())
    assert kept == {"n_copies": 0, "n_contradictory": 0, "contradictory": []}


def test_copies_are_counted_and_contradictions_named():
    found = copies(records([0, 1, 0, 0, 1]), np.array([5, 7, 5, 7, 9]))
    assert found == {
        "n_copies": 2,
        "n_contradictory": 1,
        "contradictory": [[{"name": "item 1", "class": "dog"}, {"name": "item 3", "class": "cat"}]],
    }


@pytest.mark.parametrize("count", [0, 1, 2, 211])
def test_copies_are_those_of_plain_loops(count):
    generator = np.random.default_rng(count)
    labels, contents = generator.integers(0, 2, count), generator.integers(-40, 40, count)
    several = [np.flatnonzero(contents == one).tolist() for one in dict.fromkeys(contents.tolist())]
    differing = [group for group in several if len({int(labels[item]) for item in group}) > 1]
    found = copies(records(labels.tolist()), contents)
    assert found["n_copies"] == count - len(several)
    assert found["n_contradictory"] == len(differing)
    named = [[{"name": f"item {i}", "class": ("cat", "dog")[labels[i]]} for i in group] for group in differing]
    assert found["contradictory"] == named[:20]
    assert count < 100 or len(differing) > 20


def test_items_that_are_in_the_training_data_too_are_counted():
    known, asked = np.array([9, -3, 7, 7, 2**62]), np.array([7, 8, 2**63 - 1, -3, -4, 7])
    with pytest.warns(TercetWarning, match=r"3 of 6 items of the new data .* \(item 0, item 3, item 5\)"):
        assert warn_of_duplicates(known, records([0] * 6), asked, "new", Reporter()) == 3
    assert warn_of_duplicates(known[:0], records([0] * 6), asked, "new", Reporter()) == 0
    assert warn_of_duplicates(known, records([]), asked[:0], "new", Reporter()) == 0
