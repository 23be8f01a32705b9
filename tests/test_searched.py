"""`tercet evaluate` with a gallery, groups, exclusions, ks and a table of classes."""

import csv
import json

import numpy as np
import pytest

import tercet
from conftest import write_images, write_numbers
from tercet.errors import DataError, InputError


@pytest.fixture(scope="module")
def run(image_run, tmp_path_factory):
    """A copy of the small run, to evaluate into."""
    import shutil

    return tercet.load(shutil.copytree(image_run, tmp_path_factory.mktemp("runs") / "searched"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Queries and a gallery of the same classes, of which one is junk; files are called after two cameras."""
    folder = tmp_path_factory.mktemp("sets")
    for name, first in (("query", 0), ("gallery", 3)):
        write_images(folder / "all", range(20, 24)) if not (folder / "all").exists() else None
        for path in sorted((folder / "all").glob("*/*.png")):
            sample = int(path.stem)
            if first <= sample < first + 3:
                label = "-1" if path.parent.name == "class23" and name == "gallery" else path.parent.name
                target = folder / name / label / f"{sample:04d}_c{sample % 2 + 1}s1.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    return folder


def test_as_market(run, sets, command, tmp_path):
    table = tmp_path / "classes.csv"
    words = ["--data", sets / "query", "--gallery", sets / "gallery", "--group-from", r"_c(\d)", "--exclude",
             "group-and-label", "--ks", "1", "2", "--by-class", table]  # fmt: skip
    done = command("evaluate", run.path, *words)
    assert done.code == 0, done.err
    assert "recall_at_2" in done.out
    assert "mrr" in done.out
    assert "note: 3 items labelled -1 are junk, as in Market-1501: left out of the search." in done.out
    metrics = run.metrics
    assert metrics["test.n_items"] == 12
    assert metrics["test.n_gallery_items"] == 9
    assert metrics["test.n_pairs"] == 12 * 9
    queries, gallery = (run.read(str(sets / name)) for name in ("query", "gallery"))
    labels = [np.array(side.classes)[side.labels] for side in (queries, gallery)]
    found = tercet.evaluation.retrieval(
        run.embed(queries.items), labels[0], (1, 2), run.distance, gallery=run.embed(gallery.items),
        gallery_labels=labels[1], groups=[name[-7] for name in queries.names], exclude="group-and-label",
        gallery_groups=[name[-7] for name in gallery.names],
    )  # fmt: skip
    for name in ("recall_at_1", "map", "map_market", "cmc_at_2"):
        assert metrics[f"test.{name}"] == pytest.approx(found.figures()[name].mean())
        assert metrics[f"baseline.{name}"] is not None
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["name"] for row in rows] == ["class20", "class21", "class22", "class23", "1", "2"]
    assert [row["queries"] for row in rows[:4]] == ["3", "3", "3", "0"]
    evaluation = json.loads((run.path / "evaluations" / "test.json").read_text())
    shown = {one["right"] for one in evaluation["evaluation"]["mistakes"]["false_matches"]}
    assert all(position >= 12 for position in shown)
    names = {evaluation["items"][str(position)]["name"] for position in shown}
    assert names <= set(map(str, gallery.names))


def test_from_python_with_groups_given(run, sets):
    found = run.evaluate(sets / "query", groups=list(range(12)), exclude="group", ks=(3,), baseline=False, name="given")
    assert found.metrics["recall_at_3"] is not None
    assert len(found.groups) == 12
    assert [row["class"] for row in found.classes] == ["class20", "class21", "class22", "class23"]
    assert found.settings["exclude"] == "group"


def test_groups_from_a_column(tmp_path, numbers):
    table = tmp_path / "numbers.csv"
    rows = list(csv.reader(write_numbers(table, range(20, 27)).read_text().splitlines()))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([*row, "camera" if n == 0 else f"camera {n % 3}"] for n, row in enumerate(rows))
    columns = ["length", "width", "height", "weight"]
    run = tercet.train(
        str(numbers), out=tmp_path / "run", progress=False, steps=2, classes_per_batch=4, samples_per_class=3
    )
    found = run.evaluate(table, columns=columns, label="species", group="camera", exclude="group")
    assert [row["group"] for row in found.groups] == ["camera 1", "camera 2", "camera 0"]
    assert found.metrics["n_queries"] == 42


def test_messages(run, sets, command, tmp_path):
    data = ["evaluate", run.path, "--data", sets / "query"]
    for words, message in (
        (["--exclude", "group"], "exclude='group' leaves out by groups, and there are none; give groups."),
        (["--group", "a", "--group-from", "b"], "--group names a column and --group-from a pattern of file names"),
        (["--group-from", "c("], "--group-from 'c(' is not a regular expression"),
        (["--group-from", "c1"], "--group-from 'c1' has no parentheses around what the group is, such as _c(\\d)."),
        (["--group-from", "x(1)"], "12 of 12 names do not fit --group-from 'x(1)', the first is "),
        (["--group", "camera"], "--group names a column of a table, and "),
        (["--ks", "0"], "ks must be whole numbers of at least 1; given (0,)."),
    ):
        done = command(*data, *words)
        assert done.code == 2, done.out
        assert message in done.err
    with pytest.raises(InputError, match="group and group_from say where groups are"):
        run.evaluate(sets / "query", groups=[1, 2], group="camera")
    with pytest.raises(InputError, match="there are 12 items and 2 groups"):
        run.evaluate(sets / "query", groups=[1, 2])
    with pytest.raises(DataError, match="ks are for data with labels"):
        run.evaluate(_triplets(sets, tmp_path), ks=(3,))
    with pytest.raises(DataError, match="a gallery, groups, exclude and approximate are for data with labels"):
        run.evaluate(_triplets(sets, tmp_path), gallery=sets / "gallery")


def _triplets(sets, folder):
    paths = sorted(map(str, (sets / "query").glob("*/*.png")))
    table = folder / "triplets.csv"
    table.write_text("anchor,positive,negative\n" + f"{paths[0]},{paths[1]},{paths[5]}\n")
    return table
