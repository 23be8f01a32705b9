"""The report: from whatever a run folder holds to one page that needs nothing else."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tercet.errors import RunError
from tercet.evaluation import all_pairs, calibrate, evaluate_embeddings, evaluate_tuples
from tercet.report import render, write
from tercet.report.chart import _own_ids
from tercet.report.figures import operating_figures, training_figures
from tercet.report.folder import read_folder
from tercet.report.tables import comparison
from tercet.report.wording import number, percent

pytestmark = pytest.mark.usefixtures("drawn_plots")
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)
HOSTILE = '</script><script>document.title="taken"</script><b>&\'"'


def embeddings(noise, seed=2):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(12), 6)
    return rng.normal(size=(12, 8))[labels] + noise * rng.normal(size=(72, 8)), labels


def content(name, noise, threshold, items=None, **more):
    vectors, labels = embeddings(noise)
    evaluation = evaluate_embeddings(vectors, labels, threshold=threshold)
    shown = {str(i): {"name": f"c{labels[i]}/{i}.png", "class": f"c{labels[i]}", "thumbnail": PIXEL} for i in range(72)}
    data = f"72 pictures of 12 things ({name})"
    return {
        "name": name,
        "data": data,
        "evaluation": evaluation.to_json(),
        "items": items or shown,
        "duplicates": 0,
        "skipped": [],
        **more,
    }


@pytest.fixture
def folder(tmp_path):
    """A run as training and evaluation leave it."""
    vectors, labels = embeddings(0.7, seed=1)
    threshold = calibrate(all_pairs(vectors, labels))
    put(tmp_path, "evaluations/validation.json", content("validation", 0.7, threshold))
    put(tmp_path, "evaluations/test.json", content("test", 0.7, threshold, duplicates=3))
    put(tmp_path, "evaluations/baseline.json", content("baseline", 1.6, None))
    metrics = {}
    for name in ("validation", "test", "baseline"):
        evaluation = json.loads((tmp_path / f"evaluations/{name}.json").read_text())["evaluation"]
        metrics |= {f"{name}.{key}": value for key, value in evaluation["metrics"].items()}
        metrics |= {f"{name}.{key}_interval": ends for key, ends in evaluation["intervals"].items()}
    put(tmp_path, "metrics.json", metrics)
    put(
        tmp_path,
        "summary.json",
        {
            "title": "pictures",
            "train": "300 pictures of 40 things",
            "validation": "60 pictures of 10 things",
            "steps": 60,
            "best_step": 50,
            "selection": "map_at_r",
            "parameters": 1234567,
            "skipped": [{"name": f"broken{i}.png", "reason": "is no image"} for i in range(60)],
            "warnings": ["the margin is large"],
            "versions": {"tercet": "0.1.0"},
            "command": "tercet train pictures/ --out runs/pictures",
        },
    )
    rows = []
    for step in range(1, 61):
        rows.append({"step": step, "epoch": 0, "loss": 1 / step, "active_share": 0.5, "mean_positive": 0.25})
        rows[-1] |= {"mean_negative": 0.75, "gradient_norm": None, "learning_rate": 0.001}
        if step % 10 == 0:
            rows.append({"step": step, "validation.map_at_r": step / 100, "validation.eer": 0.1})
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.toml").write_text('format = 1\n\n[loss]\nmargin = 0.2\nmining = "<all>"\n')
    return tmp_path


def put(folder, name, values):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def change(folder, name, **values):
    put(folder, name, json.loads((folder / name).read_text()) | values)


class Page(HTMLParser):
    """What the page shows as text, which addresses it names, and which elements it has."""

    def __init__(self, html):
        super().__init__()
        self.parts, self.addresses, self.tags, self.scripts = [], [], [], []
        self.styles, self.inside = "", None
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = tag if tag in ("script", "style") else None
        self.addresses += [value for key, value in attributes if key in ("src", "href", "data", "action")]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside == "style":
            self.styles += data
        else:
            self.parts.append(data)


def captions(html):
    found = re.findall(r'<figcaption id="caption-(\w+)">(.*?)</figcaption>', html, flags=re.DOTALL)
    return {name: text.replace("\u202f", " ") for name, text in found}


def test_page_says_the_numbers_of_the_run(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    text = Page(render(folder)).text
    after, before = percent(metrics["test.eer"]), percent(metrics["baseline.eer"])
    assert metrics["test.eer"] < metrics["baseline.eer"]
    low, high = (percent(end) for end in metrics["test.eer_interval"])
    interval = f"{low.split(chr(0x202F))[0]} to {high}".replace("\u202f", " ")
    plain = text.replace("\u202f", " ")
    after, before = after.replace("\u202f", " "), before.replace("\u202f", " ")
    assert (
        f"Equal error rate {after} ({interval}) on 72 pictures of 12 things (test); without training {before}." in plain
    )
    points = f"{100 * (metrics['test.eer'] - metrics['baseline.eer']):+.1f}".replace("-", "−")
    assert f"{points} points better" in plain
    for words in (
        "Trained on 300 pictures of 40 things",
        "Weights kept from step 50, the best by validation MAP@R",
        "Parameters 1,234,567",
        "the margin is large",
        "test: 3 items are in the training data too.",
        "60 could not be used; the first 50 are shown",
        'mining = "<all>"',
        f"At the threshold {number(metrics['test.threshold'])}",
        "Different, but near",
        "Same, but far",
        "taken for different, wrongly",
    ):
        assert words in plain, words
    assert "broken49.png" in plain
    assert "broken50.png" not in plain


def test_captions_tell_the_figures_to_those_who_cannot_see_them(folder):
    found = captions(render(folder))
    assert found["loss"] == "Loss 1 at step 1 and 0.01667 at step 60."
    assert found["distances"] == (
        "To positives 0.25 at step 1 and 0.25 at step 60; to negatives 0.75 at step 1 and 0.75 at step 60."
    )
    assert found["validation"] == (
        "MAP@R 0.1 at step 10 and 0.6 at step 60; Equal error rate 0.1 at step 10 and 0.1 at step 60. "
        "The weights of step 50 were kept (the vertical line)."
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert found["histogram"].startswith("Distances of 180 same and 2,376 different pairs")
    assert f"accepts {100 * (1 - metrics['test.frr']):.1f} % of the same" in found["histogram"]
    assert f"After training, AUC {metrics['test.auc']:.4f} and" in found["roc"]
    assert f"before training, AUC {metrics['baseline.auc']:.4f}" in found["roc"]
    assert "gradient" not in found  # all its values are null


def test_page_needs_nothing_else(folder):
    html = render(folder)
    page = Page(html)
    assert len(page.addresses) > 10  # the pictures
    assert [address for address in page.addresses if not address.startswith("data:")] == []
    ours = "".join(script for script in page.scripts if len(script) < 1_000_000)  # less the Bokeh bundle
    assert "embed_item" in ours
    assert len(ours) < len(html) / 3
    pattern = r"(src|href|url)\s*[=(]\s*['\"]?\s*(https?:)?//|@import|fetch\("
    assert not re.search(pattern, ours + page.styles + re.sub(r"(?s)<script.*?</script>", "", html))
    # Bokeh's own code can load fonts and formulas from elsewhere; the policy of the page forbids it
    assert "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in html
    assert len(html.encode()) < 3_000_000


def test_names_and_texts_of_users_stay_text(folder):
    items = {
        str(i): {"name": HOSTILE, "class": HOSTILE, "text": HOSTILE, "thumbnail": "https://elsewhere/x.png"}
        for i in range(72)
    }
    put(folder, "evaluations/test.json", content("test", 0.7, 2.0, items=items, data=HOSTILE))
    change(folder, "summary.json", title=HOSTILE, train=HOSTILE, warnings=[HOSTILE], selection=HOSTILE)
    (folder / "config.toml").write_text(f"# {HOSTILE}\n")
    steps = [{"step": i, f"validation.{HOSTILE}": 0.5} for i in range(3)]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, steps)))
    html = render(folder)
    assert HOSTILE not in html
    assert "https://elsewhere" not in html
    plain = Page(html)
    assert plain.text.count(re.sub(r"\s+", " ", HOSTILE)) > 5
    assert "img" not in plain.tags
    assert "b" not in plain.tags


def test_equal_folders_give_equal_pages(folder):
    assert render(folder) == render(folder)
    path = write(folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8") == render(folder)
    assert [file.name for file in folder.iterdir() if "partial" in file.name] == []


def test_config_alone_is_enough(tmp_path):
    (tmp_path / "config.toml").write_text("format = 1\n")
    text = Page(render(tmp_path)).text
    assert "This run has no evaluation yet." in text
    for words in (
        "There is no metrics.json: figures may be missing below.",
        "There is no history.jsonl: the curves of training are left out.",
        "There is no summary.json: what was trained on what may be missing below.",
        "There are no evaluations: distances, ROC and hardest pairs are left out.",
    ):
        assert words in text
    assert len(render(tmp_path)) < 50_000  # nothing is drawn, so nothing that draws


@pytest.mark.parametrize(
    ("missing", "gone", "stays"),
    [
        ("history.jsonl", "How training went", "Before and after"),
        ("metrics.json", "This run has no evaluation", "Before and after"),  # the evaluations hold them too
        ("evaluations/baseline.json", "Before and after", "How good it is"),
        ("evaluations/test.json", "Evaluated on (test)", "Evaluation “validation”"),
        ("summary.json", "Trained on", "Evaluated on (test)"),
    ],
)
def test_missing_files_leave_their_sections_out(folder, missing, gone, stays):
    (folder / missing).unlink()
    text = Page(render(folder)).text
    assert gone not in text
    assert stays in text


def test_metric_that_is_missing_has_a_dash_and_the_reason(folder):
    vectors, labels = embeddings(0.7)
    small = evaluate_embeddings(vectors[5:14], labels[5:14])
    assert small.metrics["tar_at_far_0.01"] is None
    change(folder, "evaluations/test.json", evaluation=small.to_json())
    (folder / "metrics.json").unlink()
    text = Page(render(folder)).text
    n_different = small.metrics["n_different_pairs"]
    assert f"– needs at least 100 different pairs; there are {n_different}" in text
    assert "– there are only 8 other items" in text
    assert "test: 1 item is alone in a class" in text
    assert "There is no calibrated threshold." in text
    assert "There are no figures at a threshold: none was calibrated." in text
    assert "no threshold to judge by" in text
    assert "not measured" not in text


@pytest.mark.parametrize(
    ("before", "after", "text", "verdict", "colour"),
    [
        ((0.2, [0.15, 0.25]), (0.1, [0.05, 0.14]), "−10.0 points", "better", "good"),
        ((0.1, [0.05, 0.14]), (0.2, [0.15, 0.25]), "+10.0 points", "worse", "bad"),
        ((0.2, [0.15, 0.25]), (0.1, [0.05, 0.16]), "−10.0 points", "better, intervals overlap", ""),
        ((0.1, None), (0.2, [0.15, 0.25]), "+10.0 points", "worse", ""),
        ((0.1, [0.1, 0.1]), (0.1, [0.1, 0.1]), "+0.0 points", "the same", ""),
        ((None, None), (0.2, [0.15, 0.25]), "–", "", ""),
    ],
)
def test_change_of_an_error_rate(folder, before, after, text, verdict, colour):
    values = {"baseline.eer": before[0], "test.eer": after[0]}
    change(folder, "metrics.json", **values | {"baseline.eer_interval": before[1], "test.eer_interval": after[1]})
    for name in ("baseline", "test"):
        evaluation = json.loads((folder / f"evaluations/{name}.json").read_text())["evaluation"]
        evaluation["intervals"] = {}
        change(folder, f"evaluations/{name}.json", evaluation=evaluation)
    row = next(row for row in comparison(read_folder(folder), "test") if row["metric"].name == "eer")
    assert row["change"] == {"text": text, "verdict": verdict, "colour": colour}


def test_triplets_and_other_names(folder):
    rng = np.random.default_rng(0)
    triplets = rng.integers(72, size=(50, 3))
    shown = content("mine", 0.7, None)
    shown["evaluation"] = evaluate_tuples(embeddings(0.7)[0], triplets).to_json()
    put(folder, "evaluations/mine.json", shown)
    shown["evaluation"] = evaluate_tuples(embeddings(1.6)[0], triplets).to_json()
    put(folder, "evaluations/mine-baseline.json", shown)
    for name in ("test", "baseline"):
        (folder / f"evaluations/{name}.json").unlink()
    text = Page(render(folder)).text
    assert text.count("Triplet accuracy") >= 3
    assert "Evaluation “mine”" in text
    assert "without training" in text


def test_long_histories_are_averaged_and_said(folder):
    rows = [{"step": step, "loss": float(step)} for step in range(1, 1802)]
    rows.append({"step": 1802, "loss": float("nan")})
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 18')
    run = read_folder(folder)
    (figure,) = training_figures(run)
    assert figure.caption == ("Loss 2.5 at step 2.5 and 1,801 at step 1,801. A point is the mean of 4 logged steps.")
    assert run.absent == ["Line 1803 of history.jsonl cannot be read and is left out."]


def test_logarithmic_axis_gets_no_zero(folder):
    run = read_folder(folder)
    assert run.outcome("test")["roc"]["far"].count(0.0) > 1
    figure = operating_figures(run, "test")[0]
    drawn = [json.loads(column) for column in re.findall(r'\["x", (\[[^\]]*\])', figure.item)]
    assert len(drawn) == 2
    assert min(map(min, drawn)) > 0
    assert max(map(max, drawn)) == 1


def test_no_text_in_a_figure_can_close_its_script():
    assert json.loads(_own_ids('["</script>", "p1", "p2", "p1"]', "roc")) == [
        "</script>",
        "roc-0",
        "roc-1",
        "roc-0",
    ]
    assert "<" not in _own_ids('"</script>"', "roc")


def test_damaged_folders_say_what_to_do(folder, tmp_path):
    with pytest.raises(RunError) as caught:
        render(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"{tmp_path / 'nowhere'} is not a run folder: it holds no config.toml. Give the folder that was made "
        "by tercet train SOURCE --out FOLDER."
    )
    (folder / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json cannot be read: Expecting property name"):
        render(folder)
    (folder / "metrics.json").write_text("[]")
    with pytest.raises(RunError, match=r"metrics\.json should hold a JSON object; it holds a list\."):
        render(folder)
    (folder / "config.toml").write_text("format = ")
    with pytest.raises(RunError, match=r"config\.toml cannot be read: "):
        render(folder)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0831, "8.3 %"), (0.00831, "0.83 %"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.00999, "1.0 %")],
)
def test_percent(value, words):
    assert percent(value).replace("\u202f", " ") == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (1234567, "1,234,567"), (0.123456, "0.1235"), (12.0, "12"), ("eer", "eer")],
)
def test_number(value, words):
    assert number(value) == words
