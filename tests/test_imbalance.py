"""Imbalanced classes: how often each is sampled, and what is measured of the rare and of the common."""

import json
import math
import shutil
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tercet
from conftest import QUICK, digest
from tercet.data.samplers import ClassBatches, MinedBatches
from tercet.errors import InputError, TercetWarning
from tercet.evaluation import evaluate_embeddings
from tercet.evaluation.thirds import _third_of

LONG_TAIL = [60, 31, 17, 9, 8, 5, 4, 3, 2, 1]
SAMPLINGS = ["size", "root", "class"]


def labels_of(sizes, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def groups_of(sampler, labels, epoch):
    """The groups of an epoch as lists of positions, class by class, by cutting the batches up."""
    sizes, size = np.bincount(labels), sampler.samples_per_class
    found = {c: [] for c in range(len(sizes))}
    for batch in sampler.deal(epoch):
        start = 0
        while start < len(batch):
            c = int(labels[batch[start]])
            end = start + (1 if sizes[c] == 1 else size)
            found[c].append(batch[start:end].tolist())
            start = end
    return found


def rates_by_loops(sizes, size, sampling):
    """Groups an epoch of each class, from the words of the docstring."""
    whole = {c: max(n / size, 1.0) for c, n in enumerate(sizes) if n > 1}
    total, rates = sum(whole.values()), []
    for c, n in enumerate(sizes):
        if n == 1:
            rates.append(1.0)
        elif sampling == "size":
            rates.append(whole[c])
        elif sampling == "root":
            rates.append(max(1.0, total * math.sqrt(n) / sum(math.sqrt(m) for m in sizes if m > 1)))
        else:
            rates.append(total / len(whole))
    return rates


sizes_drawn = st.lists(st.integers(1, 40), min_size=2, max_size=8).filter(lambda s: sum(n > 1 for n in s) > 1)


@settings(max_examples=60, deadline=None)
@given(sizes_drawn, st.integers(2, 4), st.integers(2, 7), st.sampled_from(SAMPLINGS), st.integers(0, 99))
def test_each_class_has_the_groups_that_its_rate_gives(sizes, per_batch, size, sampling, seed):
    labels = labels_of(sizes, seed)
    sampler = ClassBatches(labels, per_batch, size, seed, class_sampling=sampling)
    rates, total = rates_by_loops(sizes, size, sampling), Counter()
    for epoch in range(6):
        for c, groups in groups_of(sampler, labels, epoch).items():
            total[c] += len(groups)
            assert len(groups) >= 1
            assert abs(total[c] - (epoch + 1) * rates[c]) < 1 + 1e-9
            assert total[c] <= (epoch + 1) * rates[c] + 1e-9
    if sampling == "class":
        assert len({total[c] for c, n in enumerate(sizes) if n > 1}) == 1


@settings(max_examples=60, deadline=None)
@given(sizes_drawn, st.integers(2, 7), st.sampled_from(["root", "class"]), st.integers(0, 99))
def test_a_class_uses_its_own_samples_equally_often(sizes, size, sampling, seed):
    labels = labels_of(sizes, seed)
    sampler, used = ClassBatches(labels, 3, size, seed, class_sampling=sampling), Counter()
    for epoch in range(7):
        for c, groups in groups_of(sampler, labels, epoch).items():
            n = sizes[c]
            for group in groups:
                used.update(group)
                assert len(set(group)) == min(n, len(group))
            counts = [used[int(i)] for i in np.flatnonzero(labels == c)]
            if n >= size:
                assert max(counts) - min(counts) <= 1
            elif n > 1:  # topped up: every sample of a group size // n times or once more
                rounds = sum(counts) // size
                assert min(counts) >= size // n * rounds
                assert max(counts) <= math.ceil(size / n) * rounds


def test_an_epoch_is_as_long_whatever_the_sampling():
    labels = labels_of(LONG_TAIL)
    lengths = {}
    for sampling in SAMPLINGS:
        sampler = ClassBatches(labels, 4, 4, seed=2, class_sampling=sampling)
        groups = [g for epoch in range(40) for g in groups_of(sampler, labels, epoch).values()]
        lengths[sampling] = sum(map(len, groups)) / 40
    assert lengths["size"] == pytest.approx(36, abs=0.5)
    assert lengths["root"] == pytest.approx(lengths["size"], abs=0.5)
    assert lengths["class"] == pytest.approx(lengths["size"], abs=0.5)


def test_class_gives_a_class_of_two_as_many_groups_as_one_of_sixty():
    labels = labels_of(LONG_TAIL)
    counts = {
        sampling: [len(g) for g in groups_of(ClassBatches(labels, 4, 4, class_sampling=sampling), labels, 0).values()]
        for sampling in SAMPLINGS
    }
    assert counts["size"] == [15, 7, 4, 2, 2, 1, 1, 1, 1, 1]
    assert counts["root"] == [8, 6, 4, 3, 3, 2, 2, 2, 1, 1]
    assert counts["class"] == [3] * 9 + [1]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_restored_sampler_goes_on_the_same(sampling):
    labels = labels_of(LONG_TAIL)
    one, other = (ClassBatches(labels, 3, 4, 7, class_sampling=sampling) for _ in range(2))
    for _ in range(41):
        one.next()
    other.restore(json.loads(json.dumps(one.state())))
    for _ in range(30):
        np.testing.assert_array_equal(one.next(), other.next())


def test_rates_are_exact_so_that_no_group_is_lost_to_rounding():
    labels = labels_of([49, 49, 49])
    sampler = ClassBatches(labels, 2, 7, class_sampling="class")
    assert sampler._rates == [Fraction(7)] * 3
    assert sum(len(groups) for groups in groups_of(sampler, labels, 48).values()) == 21


def test_what_is_sampled_is_said():
    labels = labels_of(LONG_TAIL)
    assert "Classes are sampled by" not in ClassBatches(labels, 4, 4).summary()
    assert (
        "Classes are sampled by class: in an epoch a sample of the smallest class is drawn 7.89 times and one of the "
        "largest 0.263 times, on average."
    ) in ClassBatches(labels, 4, 4, class_sampling="class").summary()
    assert "by the root of their size" in ClassBatches(labels, 4, 4, class_sampling="root").summary()


def test_a_misspelt_sampling_is_refused():
    with pytest.raises(InputError, match=r"class_sampling is 'roots'; allowed are .* Did you mean 'root'\?"):
        ClassBatches(labels_of([4, 4]), 2, 2, class_sampling="roots")


def test_mined_batches_take_it_too():
    labels = labels_of(LONG_TAIL)
    plain, mined = (
        kind(labels, 3, 4, 5, class_sampling="class") for kind in (ClassBatches, MinedBatches)
    )  # before it is given any triplets
    for _ in range(9):
        np.testing.assert_array_equal(plain.next(), mined.next())


# What is measured by size of class.


def test_classes_of_one_size_are_in_one_third():
    assert _third_of(np.array([2, 3, 5, 8, 13, 21])).tolist() == [0, 0, 1, 1, 2, 2]
    assert _third_of(np.array([9, 2, 5])).tolist() == [2, 0, 1]
    assert _third_of(np.array([2, 2, 2, 9])).tolist() == [1, 1, 1, 2]
    assert _third_of(np.array([2, 7, 7, 7, 7])).tolist() == [0, 1, 1, 1, 1]
    for seed in range(30):
        sizes = np.random.default_rng(seed).integers(1, 7, 11)
        expected = [math.floor(3 * (sum(sizes < n) + sum(sizes == n) / 2) / 11) for n in sizes]
        assert _third_of(sizes).tolist() == expected


def skewed(seed=0):
    sizes = [20, 12, 7, 6, 3, 2, 2, 1]
    labels = labels_of(sizes, seed)
    centres = np.random.default_rng(seed).normal(0, 1.2, (len(sizes), 5))
    return centres[labels] + np.random.default_rng(seed + 1).normal(0, 1, (len(labels), 5)), labels


def test_figures_of_thirds_are_means_over_their_queries():
    vectors, labels = skewed()
    found = evaluate_embeddings(vectors, labels)
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    hit = labels[distances.argmin(axis=1)] == labels
    for name, classes in (("rare", [5, 6]), ("middle", [2, 3, 4]), ("common", [0, 1])):
        assert found.metrics[f"recall_at_1_{name}"] == pytest.approx(hit[np.isin(labels, classes)].mean()), name
        part = next(part for part in found.thirds if part["name"] == name)
        sizes = np.bincount(labels)[classes]
        assert part == {"name": name, "smallest": sizes.min(), "largest": sizes.max(), "classes": len(classes),
                        "queries": sizes.sum()}  # fmt: skip
    assert "recall_at_1_middle" in found.intervals
    assert "recall_at_1_rare" not in found.intervals  # two classes are too few to draw from
    assert (
        "Thirds of the classes by how many items of each are in the evaluated data: rare 2, middle 3 to 7, common 12 "
        "to 20." in found.notes
    )


def test_sizes_of_the_training_data_count_where_they_are_given():
    vectors, labels = skewed()
    trained = np.array([2, 3, 4, 5, 60, 70, 80, 90])
    found = evaluate_embeddings(vectors, labels, class_sizes=trained[labels])
    assert [(part["smallest"], part["largest"]) for part in found.thirds] == [(2, 3), (4, 60), (70, 80)]
    assert "in the training data: rare 2 to 3" in " ".join(found.notes)


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [4, 8, 5], [3, 3], [1, 1]])
def test_of_like_sizes_nothing_is_said(sizes):
    labels = labels_of(sizes)
    vectors = np.random.default_rng(0).normal(size=(len(labels), 3))
    found = evaluate_embeddings(vectors, labels)
    assert found.thirds == []
    assert not [name for name in found.metrics if name.endswith(("_rare", "_middle", "_common"))]


@pytest.fixture(scope="module")
def long_tail(tmp_path_factory):
    """A table of numbers whose classes have 30 to 4 rows, and one of held-out rows of the same classes."""
    folder, sizes = tmp_path_factory.mktemp("tail"), [30, 20, 14, 9, 6, 5, 4]
    generator = np.random.default_rng(3)
    for name, counts in (("train", sizes), ("held", [4] * len(sizes))):
        rows = ["a,b,c,label"]
        for c, n in enumerate(counts):
            centre = np.random.default_rng([7, c]).normal(0, 2, 3)
            rows += [",".join(f"{x:.4f}" for x in centre + generator.normal(0, 1, 3)) + f",kind{c}" for _ in range(n)]
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return folder


def train(folder, out, **options):
    settings = {**QUICK, "validation": str(folder / "held.csv"), **options}
    return tercet.train(str(folder / "train.csv"), out=out, progress=False, **settings)


@pytest.mark.slow
def test_a_run_reports_by_the_sizes_of_its_training_data(long_tail, tmp_path, command):
    run = train(long_tail, tmp_path / "run", class_sampling="class")
    assert json.loads((run.path / "classes.json").read_text()) == {
        f"kind{c}": n for c, n in enumerate([30, 20, 14, 9, 6, 5, 4])
    }
    stored = json.loads((run.path / "evaluations" / "validation.json").read_text())["evaluation"]
    assert [(part["smallest"], part["largest"]) for part in stored["thirds"]] == [(4, 5), (6, 14), (20, 30)]
    assert run.metrics["validation.recall_at_1_rare"] == stored["metrics"]["recall_at_1_rare"]
    assert "Rare and common classes" in (run.path / "report.html").read_text()
    done = command("evaluate", run.path, "--data", long_tail / "held.csv")
    assert done.code == 0
    assert "recall_at_1_rare" in done.out
    assert "map_at_r_common" in done.out
    assert "in the training data: rare 4 to 5" in done.out
    (tmp_path / "other.csv").write_text((long_tail / "train.csv").read_text().replace("kind", "other"))
    with pytest.warns(TercetWarning, match="88 of 88 items"):
        found = run.evaluate(str(tmp_path / "other.csv"), name="other")
    assert "in the evaluated data" in " ".join(found.notes)


def test_the_sampling_changes_a_run_and_resumes_to_the_same_bytes(long_tail, tmp_path):
    plain = train(long_tail, tmp_path / "plain")
    whole = train(long_tail, tmp_path / "whole", class_sampling="root").path
    name = "checkpoints/step-00000006/state.safetensors"
    assert digest(plain.path)[name] != digest(whole)[name]
    shutil.copytree(whole, tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "step-00000006")
    tercet.train(str(long_tail / "train.csv"), out=tmp_path / "part", resume=True, progress=False)
    assert digest(tmp_path / "part") == digest(whole)


def test_data_without_labels_has_no_classes_to_sample(tmp_path):
    table = tmp_path / "triplets.csv"
    table.write_text("anchor,positive,negative\n" + "".join(f"a{i},b{i},c{i}\n" for i in range(20)))
    with pytest.raises(InputError, match="class_sampling is set, and the data holds triplets"):
        tercet.train(str(table), out=tmp_path / "run", progress=False, class_sampling="class", steps=2)
