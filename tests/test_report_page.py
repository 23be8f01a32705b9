"""The page in a browser, and what it holds besides its figures: the map, the data's problems, CSV, several runs."""

import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest

from browser import look, needs_browser
from tercet.data.records import Records
from tercet.distances import resolve
from tercet.errors import InputError, MissingDependency, RunError
from tercet.report import render, render_comparison, write, write_comparison
from tercet.report.figures import class_size_figures, operating_figures, region_figures
from tercet.report.folder import read_folder
from tercet.report.layouts import layouts
from tercet.report.wording import percent
from tercet.training.assessment.assessment import Asked, assess
from tercet.training.folder.metrics import write_assessment
from tercet.training.health.regions import Triplets, write_triplets
from test_report import HOSTILE, Page, change, embeddings, folder, put  # noqa: F401  the fixture

pytestmark = pytest.mark.usefixtures("drawn_plots")
CONFIG = """format = 1
source = "pictures/"

[data]
kind = "image"

[loss]
loss = "triplet"
margin = 0.2
distance = "euclidean"
"""
LONG = "long" * 2500
TURNED = "שלום \u202e abc"


def pictures(noise=1.1, hostile=False):
    """Labelled pictures of 12 things, and embeddings that mistake some of them."""
    vectors, labels = embeddings(noise)
    items = [np.full((12, 12, 3), 20 * label, dtype=np.uint8) for label in labels]
    names = [f"c{labels[i]:02d}/{i}.png" for i in range(72)]
    classes = [f"c{code:02d}" for code in range(12)]
    if hostile:
        names[3:6], classes[:3] = [HOSTILE, LONG, TURNED], [HOSTILE, LONG, TURNED]
    return vectors, Records(
        kind="image", items=items, names=names, labels=labels, classes=tuple(classes), tuples=None, similar=None,
        columns=(), skipped=(), source="pictures-test/", description="",
    )  # fmt: skip


@pytest.fixture
def whole(folder):  # noqa: F811
    """A run with all that training and evaluation keep of it."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["command"]  # which earlier versions wrote
    put(folder, "summary.json", summary)
    fill(folder)
    return folder


def fill(target, **options):
    import tercet

    vectors, records = pictures(**options)
    write_assessment(target, "test", assess(vectors, records, resolve("euclidean"), Asked(threshold=2.0)), records, 0)
    put(target, "classes.json", {f"class {i}": 3 + i % 7 for i in range(40)})
    twice = [[{"name": "a.png", "class": "cat"}, {"name": "b.png", "class": "dog"}]]
    found = {"n_copies": 2, "n_contradictory": 1, "contradictory": twice}
    put(target, "copies.json", found)
    (target / "config.toml").write_text(CONFIG)
    rng = np.random.default_rng(0)
    import torch

    triplets = Triplets(torch.from_numpy(rng.random(50)), torch.from_numpy(rng.random(50)))
    write_triplets(target, 60, triplets, tercet.TripletLoss(), rng)
    rows = [json.loads(line) for line in (target / "history.jsonl").read_text().splitlines()]
    for row in rows:
        if "loss" in row:
            row |= {"hard_share": 0.25, "semihard_share": 0.25, "easy_share": 0.5}
    (target / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def table_of(figure):
    """The CSV of a figure, read back."""
    return list(csv.reader(io.StringIO(base64.b64decode(figure.csv.split(",")[1]).decode())))


def test_the_page_says_what_is_wrong_with_the_data_and_how_it_was_made(whole):
    text = Page(render(whole)).text
    for words in (
        "tercet train --config config.toml --out RUN",
        "72 images in 12 classes, from pictures-test/",
        "2 items of the training data are copies of others, byte for byte.",
        "1 thing is in several classes at once",
        "No item of “test” is in the training data too.",
        "a.png (cat), b.png (dog)",
        "40 classes of 3 to 9 items, half of them of at most 6",
        "items of “test” that were looked at lie amid one other class",
        "nearest are labelled",
        "Queries that go wrong",
        "✗ wrong",
        "All 72 items of “test”.",
        "The loss of one triplet (hinge, margin 0.2 (the left vertical line)) by d_ap - d_an, and all 50 triplets",
        "Hard 0.25 at step 1 and 0.25 at step 60",
    ):
        assert words in text, words
    (whole / "config.toml").write_text(CONFIG.replace("pictures/", "an array"))
    assert "tercet train" not in Page(render(whole)).text
    fill(whole, noise=0.7)
    assert "✓ right" in Page(render(whole)).text


def test_charts_hold_their_data_as_csv(whole):
    run = read_folder(whole)
    regions, penalty = region_figures(run)
    assert table_of(regions)[:2] == [["of", "step", "share of the triplets"], ["hard", "1", "0.25"]]
    assert len(table_of(regions)) == 1 + 3 * 60
    assert regions.n_rows == 180 > len(regions.rows) == 12
    kept = json.loads((whole / "triplets.json").read_text())
    rows = table_of(penalty)
    assert rows[0] == ["region", "d_ap", "d_an", "loss"]
    assert sorted(float(row[1]) for row in rows[1:]) == sorted(kept["d_ap"])
    for region, near, far, cost in rows[1:]:
        gap = float(far) - float(near)
        assert region == ("hard" if gap <= 0 else "semi-hard" if gap < 0.2 else "easy")
        assert float(cost) == pytest.approx(max(0, 0.2 - gap), abs=1e-5)
    (sizes,) = class_size_figures(run)
    assert table_of(sizes)[1:] == [[str(size), str(size), str(len(range(size - 3, 40, 7)))] for size in range(3, 10)]


def test_det_is_drawn_on_normal_deviates(whole):
    from scipy.stats import norm

    _, det = operating_figures(read_folder(whole), "test")
    assert [label for label, _ in det.legend] == ["after training", "before training"]
    points = [(float(far), float(frr)) for of, far, frr in table_of(det)[1:] if of == "after training"]
    curve = read_folder(whole).outcome("test")["roc"]
    expected = [(far, 1 - tar) for far, tar in zip(curve["far"], curve["tar"], strict=True) if 0 < far < 1 > tar > 0]
    assert points == pytest.approx(np.array(expected))
    drawn = [json.loads(column) for column in re.findall(r'\["x", (\[[^\]]*\])', det.item)]
    assert drawn[0] == pytest.approx(norm.ppf([far for far, _ in expected]).tolist())
    assert "5 %" in det.item


def test_every_chart_has_a_caption_a_table_and_a_file(whole):
    html = render(whole)
    names = re.findall(r'class="chart" id="chart-(\w+)"', html)
    expected = "histogram roc det classes loss active distances rate validation regions penalty"
    assert names == expected.split()
    for name in names:
        assert re.search(rf'<figcaption id="caption-{name}">.{{20,}}</figcaption>', html), name
        assert f'download="{name}.csv"' in html
    assert html.count('<a href="data:text/csv;charset=utf-8;base64,') == len(names) + 1
    assert 'download="by-class.csv"' in html
    assert html.count("<img") == len(re.findall(r"<img [^>]*alt=", html)) > 20


def test_text_of_users_is_text_on_the_map_too(whole):
    fill(whole, hostile=True)
    html = render(whole)
    assert HOSTILE not in html
    assert LONG not in html
    page = Page(html)
    assert page.tags.count("script") == len(re.findall(r"<script", html))
    held = json.loads(re.search(r'id="map-data">(.*?)</script>', html, re.DOTALL)[1])
    assert HOSTILE in {item["name"] for item in held["items"]}
    assert TURNED in {item["class"] for item in held["items"]}
    assert len(html.encode()) < 3_000_000


def test_runs_of_before_still_have_a_page(whole):
    for name in ("copies.json", "classes.json", "triplets.json"):
        (whole / name).unlink()
    shutil.rmtree(whole / "maps")
    kept = json.loads((whole / "evaluations/test.json").read_text())
    for key in ("mistaken", "suspects", "source"):
        del kept[key]
    put(whole, "evaluations/test.json", kept)
    text = Page(render(whole)).text
    assert "A map of the embedding" not in text
    assert "They were not looked for, as the evaluation has no labels or is of an earlier version." in text
    with pytest.raises(RunError) as caught:
        render(whole, "tsne")
    assert "holds no map of an evaluation, so there is nothing to lay out by tsne" in str(caught.value)


def test_equal_runs_give_equal_pages_by_tsne_too(whole):
    first = render(whole, "tsne")
    assert first == render(whole, "tsne")
    held = json.loads(re.search(r'id="map-data">(.*?)</script>', first, re.DOTALL)[1])
    assert [one["title"] for one in held["layouts"]] == ["t-SNE", "PCA"]
    laid = np.array([held["layouts"][0]["x"], held["layouts"][0]["y"]]).T
    nearest = [held["neighbours"][i][0] for i in range(72)]
    near = np.linalg.norm(laid - laid[nearest], axis=1)
    assert np.median(near) < 0.3 * np.median(np.linalg.norm(laid - laid[::-1], axis=1))
    assert '<option value="0">t-SNE</option>' in first


def test_layouts_that_cannot_be_had_say_why(whole, monkeypatch):
    with pytest.raises(InputError, match=r"map is 'tnse'; allowed are 'pca', 'tsne', 'umap'\. Did you mean 'tsne'\?"):
        render(whole, "tnse")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(MissingDependency, match=r"pip install 'tercet\[umap\]'"):
        render(whole, "umap")
    (whole / "maps/test.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"test\.safetensors cannot be read"):
        layouts(read_folder(whole), "test", "tsne")


def test_umap_lays_out_too(whole):
    pytest.importorskip("umap", reason="umap-learn is not installed", exc_type=ImportError)
    found = layouts(read_folder(whole), "test", "umap")
    assert list(found) == ["umap", "pca"]
    assert len(found["umap"]["x"]) == 72


def test_runs_are_compared(whole, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "run-b"
    shutil.copytree(whole, other)
    fill(other, noise=0.5)
    (other / "config.toml").write_text(CONFIG.replace("0.2", "0.5"))
    html = render_comparison([whole, other])
    text = Page(html).text
    names = f"{whole.name} ", "run-b "
    metrics = [json.loads((path / "metrics.json").read_text())["test.map_at_r"] for path in (whole, other)]
    assert metrics[1] > metrics[0]
    assert f"MAP@R on test: {names[0]}{percent(metrics[0])} (" in re.sub(r"\s+", " ", text).replace(" %", "\u202f%")
    row = re.search(r"MAP@R</bdi><span.*?</tr>", html, re.DOTALL)[0]
    assert [("best" in cell) for cell in row.split("<td>")[1:]] == [False, True]
    assert "loss.margin" in text
    assert re.search(r"loss\.margin</th><td class=\"wide\">0\.2</td><td class=\"wide\">0\.5</td>", html)
    assert html == render_comparison([whole, other])
    assert "of different data" not in text
    change(other, "evaluations/test.json", source="elsewhere/")
    assert "The evaluations called “test” are of different data" in Page(render_comparison([whole, other])).text
    shutil.rmtree(other / "evaluations")
    assert "These runs have no evaluation in common." in Page(render_comparison([whole, other])).text
    path = write_comparison([whole, other], other.parent / "both.html")
    assert path.read_text(encoding="utf-8") == render_comparison([whole, other])


def test_the_command_line_makes_and_compares_pages(whole, tmp_path, command):
    out = tmp_path / "page.html"
    assert command("report", whole, "--out", out).out.strip() == str(out)
    assert out.read_text(encoding="utf-8") == render(whole)
    for words, said in (
        (["report", whole, whole / "."], "say where it goes: --out comparison.html"),
        (["report", whole, whole, "--out", out], "is named twice"),
        (["report", whole, tmp_path / "nowhere", "--out", out], "is not a run folder"),
        (["report", whole, tmp_path, "--out", out, "--map", "tsne"], "--map lays out the map of one run"),
        (["report", whole, "--out", tmp_path / "page.png"], "does not end in .html"),
        (["report"], "no run was named"),
    ):
        done = command(*words)
        assert (done.code, said in done.err) == (2, True), done.err


MAP = """
const map = document.getElementById("map"), panel = document.getElementById("map-item");
const charts = await drawn([...document.querySelectorAll(".chart")]);
const title = document.title;
map.focus();
press(map, "ArrowRight");
const first = panel.querySelector("h3").textContent;
const near = [...panel.querySelectorAll("li")].map((one) => [one.querySelector("bdi").textContent,
  one.textContent.includes("✓ same class")]);
press(map, "ArrowRight");
const moved = panel.querySelector("h3").textContent;
panel.querySelector("li button").click();
const next = panel.querySelector("h3").textContent;
press(map, "Escape");
const none = panel.textContent;
let clicked = "";
for (let x = 5; x < map.clientWidth && !clicked; x += 7) {
  for (let y = 5; y < map.clientHeight && !clicked; y += 7) {
    point(map, "pointerdown", x, y);
    point(map, "pointerup", x, y);
    clicked = panel.querySelector("h3") ? panel.querySelector("h3").textContent : "";
  }
}
const pixels = () => map.toDataURL();
const before = pixels();
document.getElementById("map-in").click();
const zoomed = pixels() !== before;
press(map, "0");
point(map, "pointerdown", 50, 50); point(map, "pointermove", 90, 80); point(map, "pointerup", 90, 80);
const dragged = pixels() !== before;
const chosen = document.getElementById("map-class");
chosen.value = chosen.options[2].value;
chosen.dispatchEvent(new Event("change"));
const legend = document.getElementById("map-legend").textContent.trim();
let taken = "";
URL.createObjectURL = (blob) => { blob.text().then((text) => { taken = text; }); return "blob:none"; };
HTMLAnchorElement.prototype.click = () => {};
document.getElementById("map-csv").click();
await settled(.2);
const links = await Promise.all([...document.querySelectorAll("a[download]")].map(async (link) =>
  atob(link.href.split(",")[1]).split("\\n").length));
return {charts, title, first, near, moved, next, none, clicked, zoomed, dragged, legend, taken, links,
        classes: chosen.options.length, wide: document.documentElement.scrollWidth,
        paper: getComputedStyle(document.body).backgroundColor,
        tab: [...document.querySelectorAll("#map, .chart")].every((one) => one.tabIndex === 0)};
"""


@needs_browser
def test_browser_draws_every_chart_and_a_click_shows_neighbours(whole, tmp_path_factory):
    fill(whole, hostile=True)
    found, errors = look(write(whole), MAP, tmp_path_factory.mktemp("browser"))
    assert errors == []
    assert len(found["charts"]) == 11
    assert [name for name, is_drawn in found["charts"] if not is_drawn] == []
    assert found["title"] == "pictures"
    held = json.loads((whole / "maps/test.json").read_text())
    names = [item["name"] for item in held["items"]]
    chosen = names.index(found["first"])
    assert [name for name, _ in found["near"]] == [names[near] for near in held["neighbours"][chosen]]
    assert [right for _, right in found["near"]] == [flag == 1 for flag in held["right"][chosen]]
    assert found["moved"] in names
    assert found["moved"] != found["first"]
    assert found["next"] == names[held["neighbours"][names.index(found["moved"])][0]]
    assert "No item is chosen." in found["none"]
    assert found["clicked"] in names
    assert found["zoomed"]
    assert found["dragged"]
    assert found["classes"] == 13
    assert found["legend"] in {item["class"] for item in held["items"]}
    rows = list(csv.reader(io.StringIO(found["taken"])))
    assert rows[0] == ["name", "class", "x", "y"]
    assert [row[0] for row in rows[1:]] == names[:72]
    assert [float(row[2]) for row in rows[1:]] == held["x"]
    assert len(found["links"]) == 12
    assert min(found["links"]) > 2
    assert found["paper"] == "rgb(255, 255, 255)"
    assert found["tab"]


DARK = """
await drawn([...document.querySelectorAll(".chart")]);
return {paper: getComputedStyle(document.body).backgroundColor, wide: document.documentElement.scrollWidth,
        room: document.documentElement.clientWidth, map: inked(document.getElementById("map")),
        ink: [...Bokeh.documents[0].all_models].find((one) => one.type.endsWith("Axis")).major_label_text_color};
"""


@needs_browser
def test_browser_shows_the_page_dark_and_narrow(whole, tmp_path_factory):
    found, errors = look(write(whole), DARK, tmp_path_factory.mktemp("browser"), width=500, dark=True)
    assert errors == []
    assert found["paper"] == "rgb(20, 23, 27)"
    assert found["ink"] == "#a2abb6"
    assert found["wide"] <= found["room"]
    assert found["map"]


@needs_browser
def test_browser_draws_the_comparison(whole, tmp_path, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "b"
    shutil.copytree(whole, other)
    script = 'return await drawn([...document.querySelectorAll(".chart")]);'
    page = write_comparison([whole, other], tmp_path_factory.mktemp("page") / "both.html")
    charts, errors = look(page, script, tmp_path_factory.mktemp("browser"))
    assert errors == []
    assert len(charts) > 6
    assert all(is_drawn for _, is_drawn in charts)
