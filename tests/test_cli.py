"""The command line as a newcomer meets it."""

import json
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import QUICK_FLAGS
from tercet.cli import COMMANDS


def test_help_lists_every_command(command):
    done = command("--help")
    assert done.code == 0
    for name, line in COMMANDS.items():
        assert f"{name}" in done.out
        assert line in done.out
    assert command().out == done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(command, name):
    done = command(name, "--help")
    assert done.code == 0
    assert f"usage: tercet {name}" in done.out
    assert "--json" in done.out


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_does_not_wait_for_torch(name):
    words = [name, "--help"] if name else ["--help"]
    code = (
        "import sys\n"
        "from tercet.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pyarrow', 'sklearn', 'bokeh', 'PIL', 'scipy', 'transformers', 'faiss'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_whole_way(command, images, unseen_images, tmp_path, drawn_plots):
    run, index = tmp_path / "run", tmp_path / "photos.index"
    done = command("train", images, "--out", run, *QUICK_FLAGS)
    assert done.code == 0, done.err
    assert "48 images in 8 classes" in done.err
    assert f"report  {run / 'report.html'}" in done.out

    done = command("evaluate", run, "--data", unseen_images)
    assert done.code == 0, done.err
    assert "baseline" in done.out
    assert "eer" in done.out

    done = command("embed", run, unseen_images, "--out", tmp_path / "e.parquet")
    assert done.code == 0, done.err
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["name", "label", "embedding"]
    assert table["name"][0].as_py() == "class20/0.png"
    vectors = np.array(table["embedding"].to_pylist())
    assert vectors.shape == (30, 128)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)

    done = command("index", run, unseen_images, "--out", index)
    assert done.code == 0, done.err
    query = unseen_images / "class22" / "3.png"
    done = command("search", index, query, "-k", 4)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 4
    assert done.out.splitlines()[0].split() == ["1", "0.0000", "class22/3.png", "class22"]

    same = command("verify", run, query, query)
    assert (same.code, same.out.split()[0]) == (0, "same")

    (run / "report.html").unlink()
    assert command("report", run).out.strip() == str(run / "report.html")
    assert '"root_id": "loss-0"' in (run / "report.html").read_text(encoding="utf-8"), "nothing drawn by Bokeh"


def test_json_is_json_and_nothing_else(command, image_run, unseen_images, images, tmp_path):
    done = command("train", images, "--out", tmp_path / "run", "--json", *QUICK_FLAGS)
    assert json.loads(done.out)["ended"] == "finished"
    assert json.loads(done.out)["metrics"]["validation.map_at_r"] > 0
    assert done.err == ""
    query = unseen_images / "class20" / "0.png"
    done = command("index", image_run, unseen_images, "--out", tmp_path / "i.index", "--json")
    assert json.loads(done.out)["items"] == 30
    found = json.loads(command("search", tmp_path / "i.index", query, "--json", "-k", 2).out)
    assert found[0].pop("distance") == pytest.approx(0, abs=1e-5)
    assert found[0] == {"name": "class20/0.png", "label": "class20", "position": 0}
    verdict = json.loads(command("verify", image_run, query, query, "--json").out)
    assert verdict["same"] is True
    assert verdict["distance"] == 0.0


def test_different_is_exit_code_one(command, image_run, unseen_images):
    from itertools import combinations

    pictures = [str(unseen_images / f"class{number}" / "0.png") for number in range(20, 25)]
    codes = {command("verify", image_run, a, b).code for a, b in combinations(pictures, 2)}
    assert 1 in codes
    assert codes <= {0, 1}


def test_an_index_refuses_the_vectors_of_another_model(command, image_run, images, unseen_images, tmp_path):
    command("index", image_run, unseen_images, "--out", tmp_path / "i.index")
    command("train", images, "--out", tmp_path / "other", "--seed", 5, *QUICK_FLAGS)
    done = command("search", tmp_path / "i.index", unseen_images / "class20" / "0.png", "--run", tmp_path / "other")
    assert done.code == 2
    assert "their distances mean nothing to each other" in done.err


def test_an_approximate_index_says_its_recall(command, image_run, unseen_images, tmp_path):
    pytest.importorskip("faiss")
    done = command("index", image_run, unseen_images, "--out", tmp_path / "i.index", "--approximate")
    assert done.code == 0, done.err
    assert "approximate, finds 100.0% of the 10 nearest (measured)" in done.out
    done = command("search", tmp_path / "i.index", unseen_images / "class20" / "0.png", "-k", 1)
    assert done.out.split()[1:3] == ["0.0000", "class20/0.png"]


def test_a_configuration_file_and_flags_over_it(command, images, tmp_path):
    (tmp_path / "mine.toml").write_text("[training]\nsteps = 5\nseed = 8\n[loss]\nmargin = 0.4\n[encoder]\ndim = 24\n")
    done = command("train", images, "--out", tmp_path / "run", "--config", tmp_path / "mine.toml", "--steps", 4)
    assert done.code == 0, done.err
    from tercet.training.config import read_config

    config = read_config(tmp_path / "run" / "config.toml")
    assert (config.training.steps, config.training.seed, config.loss.margin, config.encoder.dim) == (
        4,
        8,
        0.4,
        24,
    )
    again = command("train", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")
    assert again.code == 0, again.err  # a run's own configuration names its source
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()


def test_resume_needs_the_run_alone(command, image_run):
    done = command("train", "--resume", "--out", image_run)
    assert done.code == 0, done.err
    assert "going on from step 6" in done.err


def test_progress_is_seen_where_stderr_is_no_terminal(monkeypatch):
    from tercet.training.reporter import ConsoleReporter

    monkeypatch.setattr(ConsoleReporter, "SECONDS_BETWEEN_LINES", 0.0)
    said = []
    monkeypatch.setattr(ConsoleReporter, "say", lambda self, sentence: said.append(sentence))
    with ConsoleReporter().progress("training") as advance:
        time.sleep(0.001)
        advance(1, 3, "loss 0.5  active 20.0%")
    assert said == ["training 1/3  loss 0.5  active 20.0%"]


def test_a_loss_is_chosen_by_its_name(command, numbers, tmp_path):
    words = ("train", numbers, "--out", tmp_path / "run", *QUICK_FLAGS, "--loss", "supcon")
    done = command(*words, "--learn-temperature", "--json")
    assert done.code == 0, done.err
    config = (tmp_path / "run" / "config.toml").read_text()
    assert 'loss = "supcon"\n' in config
    assert "margin" not in config
    done = command("train", "--resume", "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    query = tmp_path / "run"
    assert command("verify", query, "1,2,3,4", "1,2,3,4").out.split()[0] == "same"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--loss", "supcon", "--margin", "0.3"),
         "margin is 0.3, but it belongs to loss='triplet' or 'contrastive' and the loss is 'supcon'."),
        (("--distance", "mahalanobis"), "distance is 'mahalanobis', whose map a word cannot give; from Python give the "
         "loss as an object: "
         "tercet.train(..., loss=tercet.TripletLoss(distance=tercet.Mahalanobis(learned=True, dim=128)))."),
        (("--implementation", "tritom"), "implementation is 'tritom'; allowed are 'auto', "),
        (("--margin", "-1", "--penalty", "lifted", "--mining", "hard"), "penalty 'lifted' goes with mining 'all'; "
         "given is mining 'hard'.\nmargin is -1.0; allowed is a finite number of at least 0."),
    ],
)  # fmt: skip
def test_losses_that_make_no_sense(command, numbers, tmp_path, flags, message):
    done = command("train", numbers, "--out", tmp_path / "run", "--json", *flags)
    assert done.code == 2
    assert done.err.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()
