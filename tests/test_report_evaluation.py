"""What the page shows of an evaluation: how sure it is, operating points, folds, forgeries, classes, the search."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest

from browser import look, needs_browser
from tercet.evaluation import (
    all_pairs,
    evaluate_across,
    evaluate_embeddings,
    evaluate_scores,
    evaluate_tuples,
    fit_probability,
    pairs_across,
)
from tercet.evaluation.forgeries import evaluate_forgeries
from tercet.report import operating, render, render_comparison, write
from tercet.report.breakdown import MOST_BYTES, breakdown
from tercet.report.certainty import certainty_figures
from tercet.report.conditions import conditions
from tercet.report.folder import read_folder
from tercet.report.tables import comparison
from tercet.report.wording import compared_metrics, number, percent
from test_report import HOSTILE, Page, change, content, embeddings, folder, put  # noqa: F401  the fixture

pytestmark = pytest.mark.usefixtures("drawn_plots")
SECTIONS = ("How sure?", "Class by class", "Group by group", "Against forgeries", "folds", "What thresholds can do")


@pytest.fixture
def bare(tmp_path):
    """A run of which nothing is known but what `put_evaluation` puts there."""
    (tmp_path / "config.toml").write_text("format = 1\n")
    return tmp_path


def put_evaluation(target, evaluation, name="test", **more):
    found = evaluation if isinstance(evaluation, dict) else evaluation.to_json()
    put(target, f"evaluations/{name}.json", {"name": name, "data": "things", "evaluation": found, **more})
    return read_folder(target)


def texts_of(table):
    """A table as the title of each row and what its cells say."""
    return {row["title"]: [cell["text"] for cell in row["cells"]] for row in table["rows"]}


def read_csv(uri):
    return list(csv.reader(io.StringIO(base64.b64decode(uri.split(",")[1]).decode())))


def judged(noise=0.9):
    """Pairs, a probability that was fitted on other ones, and the evaluation that judges it."""
    vectors, labels = embeddings(0.8, seed=1)
    probability = fit_probability(all_pairs(vectors, labels))
    vectors, labels = embeddings(noise)
    return all_pairs(vectors, labels), probability, evaluate_embeddings(vectors, labels, probability=probability)


def test_the_charts_of_how_sure_it_is_hold_what_was_said_and_what_was(bare):
    pairs, probability, evaluation = judged()
    reliability, said = certainty_figures(put_evaluation(bare, evaluation), "test")
    tenths = [min(int(10 * p), 9) for p in probability(pairs.distance.astype(float))]
    counts = {tenth: tenths.count(tenth) for tenth in tenths}
    rows = read_csv(reliability.csv)
    assert rows[0] == ["probability from", "to", "pairs", "said on average", "share that was same"]
    assert {round(10 * float(row[0])): int(row[2]) for row in rows[1:]} == counts
    for kind, is_same in (("same pairs", True), ("different pairs", False)):
        own = [tenth for tenth, same in zip(tenths, pairs.same, strict=True) if same == is_same]
        found = [float(row[3]) for row in read_csv(said.csv)[1:] if row[0] == kind]
        assert found == pytest.approx([own.count(tenth) / len(own) for tenth in range(10)])
    metrics = evaluation.metrics
    assert f"of {number(len(tenths))} pairs" in reliability.caption
    assert f"Brier score {number(metrics['brier'])}" in reliability.caption
    assert f"calibration error {number(metrics['calibration_error'])}" in reliability.caption
    assert '"Slope"' in reliability.item
    assert len(reliability.rows) == len(rows) - 1


def test_points_are_those_that_the_pairs_can_tell(bare):
    _, _, evaluation = judged()
    put_evaluation(bare, evaluate_embeddings(*embeddings(1.6)), "baseline")
    run = put_evaluation(bare, evaluation)
    table = operating.points(run, "test")
    found = texts_of(table)
    assert list(found) == [f"True accepts at {rate} % false accepts" for rate in (10, 1, 0.1)] + ["d′"]
    metrics, before = evaluation.metrics, run.outcome("baseline")["metrics"]
    assert found["True accepts at 0.1 % false accepts"] == [
        percent(one["tar_at_far_0.001"]) for one in (before, metrics)
    ]
    assert found["d′"] == [f"{one['d_prime']:.4f}" for one in (before, metrics)]
    assert table["note"] == (
        "At 0.01 % false accepts and less they cannot be told: needs at least 10,000 different pairs; there are 2,376."
    )
    text = Page(render(bare)).text
    assert table["note"] in text
    assert text.count("True accepts at 0.1 % false accepts") == 1  # and not in the table of before and after as well


def test_folds_have_their_standard_errors(bare):
    rng = np.random.default_rng(0)
    similar = np.arange(90) % 2 == 0
    left = rng.normal(size=(90, 4))
    right = left + np.where(similar, 0.8, 1.1)[:, None] * rng.normal(size=(90, 4))
    rows = np.concatenate([left, right])
    tuples = np.stack([np.arange(90), np.arange(90, 180)], axis=1)
    evaluation = evaluate_tuples(rows, tuples, similar, folds=np.arange(90) % 5 // 1)
    run = put_evaluation(bare, evaluation)
    table = operating.folds(run, "test")
    assert table["columns"] == ["After training"]
    cells = {row["title"]: row["cells"][0] for row in table["rows"]}
    metrics = evaluation.metrics
    assert cells["Accuracy"]["text"] == percent(metrics["accuracy_folds"])
    assert cells["Accuracy"]["interval"] == f"standard error {percent(metrics['accuracy_folds_error'])}"
    assert cells["Threshold"]["text"] == f"{metrics['threshold_folds']:.4f}"
    assert "needs at least 1,000 different pairs outside each fold" in cells["False accepts that came of it"]["reason"]
    text = Page(render(bare)).text
    assert "In 5 folds" in text
    assert "Small figures are 95 % intervals over pairs." in text
    assert operating.folds(put_evaluation(bare, evaluate_tuples(rows, tuples, similar)), "test") == {}


def forged_evaluation(noise):
    """12 writers with 4 genuine items and 2 forgeries each, as an assessment has them."""
    vectors, writers = embeddings(noise)
    forged = np.arange(72) % 6 >= 4
    names = np.array([f"w{writer} {i}" if forged[i] else f"w{writer}" for i, writer in enumerate(writers)])
    found = evaluate_embeddings(vectors, names, threshold=2.0).to_json()
    metrics, missing = evaluate_forgeries(vectors, writers, forged, "euclidean", 2.0)
    return found | {"metrics": found["metrics"] | metrics, "missing": found["missing"] | missing}


def test_forgeries_are_told_apart(bare):
    before, found = forged_evaluation(1.6), forged_evaluation(0.8)
    put_evaluation(bare, before, "baseline")
    run = put_evaluation(bare, found)
    table, metrics = operating.forgeries(run, "test"), found["metrics"]
    assert table["columns"] == ["Skilled forgeries", "Random forgeries"]
    assert texts_of(table) == {
        title: [percent(metrics[f"{kind}_{key}"]) for kind in ("skilled", "random")]
        for title, key in (
            ("Equal error rate, by one threshold", "eer"), ("Equal error rate, by writer", "eer_by_writer"),
            ("False accepts at the run's threshold", "far"),
        )
    }  # fmt: skip
    assert metrics["skilled_eer"] > metrics["random_eer"]
    was = before["metrics"]["skilled_eer"]
    assert table["rows"][0]["cells"][0]["interval"] == f"before training {percent(was)}"
    html = render(bare)
    text = Page(html).text
    assert "12 evaluated (test), with 24 forgeries" in text
    assert "intervals over writers, each forgery counting by itself" in text
    assert "Writer by writer" in text
    assert "12 writers by MAP@R" in text
    listed = read_csv(re.search(r'href="([^"]*)" download="by-writer.csv"', html)[1])
    assert [row[0] for row in listed[1:]] == [f"w{writer}" for writer in range(12)]  # and no forgery among them
    assert operating.forgeries(put_evaluation(bare, judged()[2]), "test") == {}


def row_of(name, queries, map_at_r, recall=1.0):
    return {"class": name, "items": queries, "queries": queries, "recall_at_1": recall, "map_at_r": map_at_r}


def titles(found):
    return {one["title"]: [row["title"] for row in one["rows"]] for one in found["lists"]}


def test_classes_are_ranked_by_the_stated_rule():
    rng = np.random.default_rng(3)
    rows = [row_of(f"c{i}", int(rng.integers(0, 4)), float(rng.integers(0, 6)) / 5) for i in range(61)]
    asked = [row for row in rows if row["queries"]]
    assert len(asked) > 41
    found = breakdown("class", rows)
    expected, left = [], list(asked)
    while left and len(expected) < 20:
        worst = left[0]
        for row in left[1:]:
            if (row["map_at_r"], -row["queries"]) < (worst["map_at_r"], -worst["queries"]):
                worst = row
        left.remove(worst)
        expected.append(worst)
    assert titles(found)["The worst"] == [row["class"] for row in expected if row["map_at_r"] < 1]
    best = titles(found)["The best"]
    assert len(best) == 20
    assert not set(best) & set(titles(found)["The worst"])
    ranks = [next((-row["map_at_r"], -row["queries"]) for row in rows if row["class"] == name) for name in best]
    assert ranks == sorted(ranks)
    assert ranks[-1] <= min((-row["map_at_r"], -row["queries"]) for row in asked if row["class"] not in best)
    perfect, without = sum(row["map_at_r"] == 1 for row in asked), len(rows) - len(asked)
    assert found["told"] == (
        f"{len(asked)} classes by MAP@R; of equal ones, those with more queries come first. {perfect} are without a "
        f"mistake. {without} more have no queries."
    )
    assert read_csv(found["csv"])[0] == ["class", "items", "queries", "recall_at_1", "map_at_r"]
    assert [row[0] for row in read_csv(found["csv"])[1:]] == [row["class"] for row in rows]


def test_few_perfect_and_many_classes():
    few = [row_of("a", 3, 0.5), row_of("b", 3, 0.25, 0.5), row_of("c", 9, 0.5)]
    found = breakdown("class", few)
    assert titles(found) == {"All, worst first": ["b", "c", "a"]}
    assert found["columns"] == ["Queries", "MAP@R", "Recall@1"]
    assert [cell["text"] for cell in found["lists"][0]["rows"][0]["cells"]] == ["3", percent(0.25), percent(0.5)]
    mostly = breakdown("class", [row_of(f"p{i}", 2, 1.0) for i in range(50)] + [row_of("bad", 2, 0.5)])
    assert titles(mostly)["The worst"] == ["bad"]
    assert titles(mostly)["The best"] == [f"p{i}" for i in range(20)]
    assert breakdown("class", [row_of(f"p{i}", 2, 1.0) for i in range(50)])["lists"] == []
    alike = breakdown("class", [row_of(f"p{i}", 2, 0.5) for i in range(30)])
    assert titles(alike) == {title: [f"p{i}" for i in range(first, first + 15)]
                             for title, first in (("The worst", 0), ("The best", 15))}  # fmt: skip
    unknown = [row | {"map_at_r": None} for row in few]  # as an approximate search leaves them
    assert breakdown("class", unknown)["columns"] == ["Queries", "Recall@1"]
    assert titles(breakdown("class", unknown)) == {"All, worst first": ["b", "c", "a"]}
    assert "by Recall@1" in breakdown("class", unknown)["told"]
    for nothing in ([], few[:1], [row_of("a", 0, None, None)] * 3, [row_of("a", 2, None, None)] * 3):
        assert breakdown("class", nothing) == {}


def test_so_many_classes_that_their_csv_would_fill_the_page(bare):
    evaluation = judged()[2].to_json()
    rows = [row_of(f"class number {i} of them all", 2, i / 20_000) for i in range(20_000)]
    assert sum(len(row["class"]) for row in rows) > MOST_BYTES
    put_evaluation(bare, evaluation | {"classes": rows})
    html = render(bare)
    assert "by-class.csv" not in html
    assert "--by-class FILE.csv</code> writes all." in html
    assert len(html) < 2_500_000


def test_names_of_classes_stay_text(bare):
    vectors, labels = embeddings(1.6)
    names = np.array([HOSTILE + str(label) for label in labels])
    put_evaluation(bare, evaluate_embeddings(vectors, names))
    html = render(bare)
    assert HOSTILE not in html
    assert re.sub(r"\s+", " ", HOSTILE) in Page(html).text


def gallery_evaluation():
    vectors, labels = embeddings(1.2)
    options = {"groups": np.arange(36) % 3, "gallery_groups": np.arange(36) % 3, "exclude": "group-and-label"}
    return evaluate_embeddings(vectors[::2], labels[::2], gallery=vectors[1::2], gallery_labels=labels[1::2], **options)


def across_evaluation():
    vectors, labels = embeddings(1.2)
    sides = np.arange(72) % 2
    pairs = pairs_across(vectors, labels, sides)
    return evaluate_across(vectors, labels, sides, pairs, ("image", "text"), distance="cosine")


def rows_of(n_columns):
    return np.random.default_rng(0).integers(72, size=(40, n_columns))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: evaluate_embeddings(*embeddings(1.2)),
         ["Distances are euclidean.", "Each item is searched for among all the others.",
          "Small figures are 95 % intervals over classes."]),
        (gallery_evaluation,
         ["Distances are euclidean.", "Each item is searched for in a gallery of 36 items.",
          "What shares both the group and the label of an item is left out of its search.",
          "Small figures are 95 % intervals over classes."]),
        (across_evaluation,
         ["Distances are cosine.",
          "Each item of “image” is searched for among those of “text”, and the other way round.",
          "Small figures are 95 % intervals over what belongs together in the search, and over pairs elsewhere."]),
        (lambda: evaluate_tuples(embeddings(1.2)[0], rows_of(3), margin=0.25),
         ["Distances are euclidean.", "The margin of the triplets is 0.25.",
          "Small figures are 95 % intervals over triplets."]),
        (lambda: evaluate_scores(embeddings(1.2)[0], rows_of(2), np.arange(40.0)),
         ["Distances are cosine.",
          "Small figures are 95 % intervals over rows, and over items where these are in several rows."]),
        (lambda: evaluate_embeddings(*embeddings(1.2), intervals=False),
         ["Distances are euclidean.", "Each item is searched for among all the others."]),
    ],
)  # fmt: skip
def test_the_conditions_are_said_in_words(bare, make, said):
    run = put_evaluation(bare, make())
    assert conditions(run, "test") == said
    assert all(sentence in Page(render(bare)).text for sentence in said)


def test_an_approximate_search_and_items_without_labels_are_said(bare):
    found = judged()[2].to_json()
    approximate = found | {
        "settings": {"distance": "cosine", "approximate": True},
        "metrics": found["metrics"] | {"search_recall": 0.987},
    }
    said = conditions(put_evaluation(bare, approximate), "test")
    assert said[2:4] == ["The search is approximate.", f"It finds {percent(0.987)} of the exact nearest."]
    views = found | {"metrics": found["metrics"] | {"n_views": 2}}
    assert conditions(put_evaluation(bare, views), "test")[-1].endswith("over items.")
    assert "Class by class" not in Page(render(bare)).text
    assert conditions(put_evaluation(bare, found | {"classes": []}), "test")[-1].endswith("pairs that belong together.")


def test_the_main_table_has_correlations_margins_and_clusters(bare):
    scored = evaluate_scores(embeddings(1.2)[0], rows_of(2), -np.arange(40.0))
    assert scored.metrics["spearman"] < 0 or scored.metrics["pearson"] < 0
    found = texts_of({"rows": comparison(put_evaluation(bare, scored), "test")})
    written = {name: [f"{scored.metrics[name]:.4f}".replace("-", "−")] for name in ("spearman", "pearson")}
    assert found == {"Spearman correlation": written["spearman"], "Pearson correlation": written["pearson"]}
    assert "Spearman correlation" in Page(render(bare)).text.split("This")[0]
    triplets = evaluate_tuples(embeddings(1.2)[0], rows_of(3), margin=0.25)
    found = texts_of({"rows": comparison(put_evaluation(bare, triplets), "test")})
    assert found["Triplet accuracy with margin"] == [percent(triplets.metrics["triplet_accuracy_margin"])]
    names = [metric.name for metric in compared_metrics({"ari", "nmi", "ami", "map_at_r"})]
    assert names == ["map_at_r", "nmi", "ami", "ari"]


def test_both_directions_stand_together_in_the_order_of_the_table(bare):
    rows = comparison(put_evaluation(bare, across_evaluation()), "test")
    searched = ["Recall@1", "Recall@5", "Recall@10", "R-precision", "MAP@R"]
    directions = ("mean of both", "image to text", "text to image")
    assert [row["title"] for row in rows[-15:]] == [f"{one}, {way}" for way in directions for one in searched]


def test_a_note_of_several_evaluations_is_said_once(folder):  # noqa: F811
    for name in ("test", "baseline", "validation"):
        evaluation = json.loads((folder / f"evaluations/{name}.json").read_text())["evaluation"]
        own = ["only here"] if name == "test" else []
        change(folder, f"evaluations/{name}.json", evaluation=evaluation | {"notes": ["everywhere", *own]})
    text = Page(render(folder)).text
    assert "baseline, test, validation: everywhere" in text
    assert "test: only here" in text
    assert text.count("everywhere") == 1


def test_evaluations_of_before_leave_out_what_they_do_not_know(bare):
    found = forged_evaluation(0.8) | {"groups": [{**row_of("g", 3, 0.5), "group": name} for name in "ab"]}
    new = ("reliability", "classes", "groups", "settings", "spectrum")
    kept = ("eer", "auc", "map_at_r", "recall_at_1", "n_items", "n_queries")
    put_evaluation(bare, judged()[2].to_json() | {"groups": found["groups"]})
    assert all(section in Page(render(bare)).text for section in ("How sure?", "Class by class", "Group by group"))
    old = {key: value for key, value in found.items() if key not in new}
    put_evaluation(bare, old | {"metrics": {name: found["metrics"][name] for name in kept}})
    text = Page(render(bare)).text
    assert [section for section in SECTIONS if section in text] == []
    assert "Equal error rate" in text


def test_runs_that_did_not_search_alike_do_not_compare(bare, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "config.toml").write_text("format = 1\n")
    for target in (bare, other):
        put_evaluation(target, evaluate_embeddings(*embeddings(1.2)))
    told = "The evaluations called “test” did not search alike, so their figures do not compare."
    text = Page(render_comparison([bare, other])).text
    assert told not in text
    assert "Small figures are 95 % intervals over classes, of each run by itself." in text
    put_evaluation(other, gallery_evaluation())
    assert told in Page(render_comparison([bare, other])).text


PHONE = """
const charts = await drawn([...document.querySelectorAll(".chart")]);
const frame = document.createElement("iframe");
frame.style = "width: 360px; height: 800px; border: 0";
const copy = document.documentElement.cloneNode(true);
copy.querySelectorAll("script").forEach((script) => script.remove());
frame.srcdoc = "<!DOCTYPE html>" + copy.outerHTML;
document.body.append(frame);
await new Promise((go) => { frame.onload = go; });
const page = frame.contentDocument;
return {charts, width: page.documentElement.clientWidth, wide: page.documentElement.scrollWidth,
        cut: [...page.querySelectorAll(".scroll")].filter((one) => !one.closest("details"))
          .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.getAttribute("aria-label")),
        tables: page.querySelectorAll(".scroll").length,
        unnamed: [...page.querySelectorAll("table th:not([scope])")].length};
"""


@needs_browser
@pytest.mark.parametrize("form", ["forgeries", "across"])
def test_browser_fits_every_table_on_a_phone(bare, form, tmp_path_factory):
    make = {"forgeries": forged_evaluation, "across": lambda noise: across_evaluation().to_json()}[form]
    put_evaluation(bare, make(1.6), "baseline")
    reliability = judged()[2].to_json()["reliability"]
    put_evaluation(bare, make(0.8) | {"reliability": reliability})
    found, errors = look(write(bare), PHONE, tmp_path_factory.mktemp("browser"))
    assert errors == []
    assert [name for name, _ in found["charts"]] == [
        f"chart-{name}" for name in ("histogram", "roc", "det", "reliability", "said")
    ]
    assert all(is_drawn for _, is_drawn in found["charts"])
    assert found["tables"] > 5
    assert (found["cut"], found["unnamed"]) == ([], 0)
    assert found["wide"] <= found["width"] <= 360
