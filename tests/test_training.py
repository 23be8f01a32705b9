"""Training: it learns, repeats itself to the byte, and goes on as if it had never been stopped."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tercet
from conftest import QUICK, QUICK_FLAGS, Scaled, digest, killed_at, text_of, write_images, write_texts
from tercet.data.options import Augmentation
from tercet.data.readers import read
from tercet.encoders.options import ImageOptions
from tercet.errors import ConfigError, DataError, InputError, RunError, TercetWarning, TrainingError
from tercet.training.folder.checkpoint import Progress
from tercet.training.folder.fingerprints import changed_data, hash_of_all, read_fingerprints, write_fingerprints
from tercet.training.folder.history import read_history
from tercet.training.loop import Training, _keep_best


def test_a_run_folder_holds_all_that_is_promised(image_run):
    names = {str(path.relative_to(image_run)) for path in image_run.rglob("*") if path.is_file()}
    assert names == {
        "model.safetensors", "config.toml", "metrics.json", "calibration.json", "history.jsonl", "report.html",
        "summary.json",
        "classes.json", "fingerprints.safetensors", "encoder/assets.json", "evaluations/validation.json",
        "maps/validation.json", "maps/validation.safetensors", "copies.json", "triplets.json",
        "checkpoints/step-00000003/state.safetensors", "checkpoints/step-00000003/progress.json",
        "checkpoints/step-00000006/state.safetensors", "checkpoints/step-00000006/progress.json",
    }  # fmt: skip


def test_the_history_holds_each_step_and_each_evaluation(image_run):
    rows = read_history(image_run / "history.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    for row in steps:
        assert {"epoch", "loss", "active_share", "mean_positive", "mean_negative", "learning_rate"} <= set(row)
        assert 0 <= row["active_share"] <= 1
    assert [row["step"] for row in rows if "validation.map_at_r" in row] == [3, 6]


def test_training_learns_classes_that_it_never_saw(images, unseen_images, tmp_path):
    """Not a matter of chance: patterns of unseen classes are told apart much better than by the untrained network."""
    run = tercet.train(
        str(images), out=tmp_path / "run", progress=False, **{**QUICK, "steps": 30, "evaluate_every": 30}
    )
    found = run.evaluate(str(unseen_images))
    assert found.metrics["map_at_r"] > 0.9
    assert run.metrics["test.auc"] == found.metrics["auc"]
    losses = [row["loss"] * row["active_share"] for row in read_history(run.path / "history.jsonl") if "loss" in row]
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:5])


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(images, tmp_path):
    runs = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(runs, (3, 3, 4), strict=True):
        tercet.train(str(images), out=path, seed=seed, progress=False, **QUICK)
    assert digest(runs[0]) == digest(runs[1])
    assert digest(runs[0])["model.safetensors"] != digest(runs[2])["model.safetensors"]


def test_training_leaves_the_callers_random_state_alone(images, tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  the caller's own
    expected = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    tercet.train(str(images), out=tmp_path / "run", progress=False, **QUICK)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1])  # noqa: NPY002


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 4])
def test_a_killed_run_goes_on_to_the_same_bytes(images, tmp_path, number):
    """SIGKILL before the first checkpoint (step 1) and after it (step 4)."""
    whole = tmp_path / "whole"
    tercet.train(str(images), out=whole, progress=False, **QUICK)
    part = tmp_path / "part"
    done = killed_at(number, ["train", str(images), "--out", str(part), *QUICK_FLAGS])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (part / "model.safetensors").exists() == (number > 3)
    tercet.train(str(images), out=part, resume=True, progress=False)
    assert digest(part) == digest(whole)


def test_a_run_that_was_killed_while_its_first_files_were_written_starts_again(images, image_run, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(image_run / "encoder", part / "encoder")
    (part / ".fingerprints.safetensors.partial").write_bytes(b"half")
    with pytest.raises(RunError, match="exists already"):
        tercet.train(str(images), out=part, progress=False, **QUICK)
    tercet.train(str(images), out=part, resume=True, progress=False, **QUICK)
    assert digest(part)["model.safetensors"] == digest(image_run)["model.safetensors"]
    (tmp_path / "other" / "encoder").mkdir(parents=True)
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        tercet.train(str(images), out=tmp_path / "other", resume=True, progress=False, **QUICK)


def test_the_validation_data_decides_what_chooses_the_checkpoint(numbers, tmp_path):
    """Training on triplets with labelled validation data: triplet accuracy is no figure of that."""
    text = "".join(f'"{text_of(i % 5, i)}","{text_of(i % 5, i + 50)}","{text_of((i + 1) % 5, i)}"\n' for i in range(30))
    (tmp_path / "triplets.csv").write_text("anchor,positive,negative\n" + text)
    (tmp_path / "labels.csv").write_text(
        "text,label\n" + "".join(f'"{text_of(i % 5, 900 + i)}",{i % 5}\n' for i in range(30))
    )
    given = {"validation": str(tmp_path / "labels.csv"), "progress": False, "steps": 4, "evaluate_every": 1}
    run = tercet.train(str(tmp_path / "triplets.csv"), out=tmp_path / "run", **given)
    assert run.config.training.selection == "map_at_r"
    summary = json.loads((run.path / "summary.json").read_text())
    found = [row["validation.map_at_r"] for row in read_history(run.path / "history.jsonl") if "loss" not in row]
    assert summary["best_value"] == max(found)
    with pytest.raises(InputError, match=r"selection is 'triplet_accuracy', and the validation data holds labels"):
        tercet.train(str(tmp_path / "triplets.csv"), out=tmp_path / "no", selection="triplet_accuracy", **given)
    assert not (tmp_path / "no").exists()


def test_embeddings_beyond_comparison_end_the_training_in_words(numbers, tmp_path):
    huge = nn.Linear(4, 3)
    with torch.no_grad():
        huge.weight.mul_(1e17)
    with pytest.raises(TrainingError, match=r"at step 3 the largest number .*: training explodes"):
        tercet.train(str(numbers), out=tmp_path / "run", encoder=huge, progress=False, **QUICK,
                     loss=lambda embeddings, labels: (embeddings * 1e-20).sum())  # fmt: skip


def test_resume_where_there_is_nothing_yet_starts(images, tmp_path):
    run = tercet.train(str(images), out=tmp_path / "new", resume=True, progress=False, **QUICK)
    assert run.metrics["validation.map_at_r"] > 0


def test_resume_of_a_finished_run_changes_nothing(image_run, images, tmp_path):
    copy = shutil.copytree(image_run, tmp_path / "copy")
    tercet.train(str(images), out=copy, resume=True, progress=False)
    assert digest(copy) == digest(image_run)


def test_resume_with_other_settings_is_refused(image_run, images, tmp_path):
    copy = shutil.copytree(image_run, tmp_path / "copy")
    with pytest.raises(ConfigError) as raised:
        tercet.train(str(images), out=copy, resume=True, progress=False, margin=0.3, steps=7)
    assert str(raised.value) == (
        f"{copy} can be resumed with its own settings only: loss.margin was 0.1 and is now 0.3; training.steps was 6 "
        "and is now 7. Leave these out, or start a new run."
    )
    assert digest(copy) == digest(image_run)


def test_resume_on_other_data_is_refused(tmp_path):
    folder = write_images(tmp_path / "train", range(8))
    tercet.train(str(folder), out=tmp_path / "run", progress=False, **QUICK)
    before = digest(tmp_path / "run")
    write_images(folder, range(8, 9))
    with pytest.raises(ConfigError, match="cannot be resumed: its training data has changed since"):
        tercet.train(str(folder), out=tmp_path / "run", resume=True, progress=False)
    assert digest(tmp_path / "run") == before


def test_resume_on_the_same_items_in_another_order_or_with_other_labels_or_pairs_is_refused(tmp_path):
    texts = [text_of(row % 7, row) for row in range(42)]
    given = {
        "labels": [f"{text},{row % 7}" for row, text in enumerate(texts)],
        "triplets": [f"{texts[row]},{texts[row + 7]},{texts[row + 3]}" for row in range(30)],
        "pairs": [f"{texts[row]},{texts[row + 7]},{row % 2}" for row in range(30)],
    }
    other = {
        "labels": [f"{text},{(row + row // 20) % 7}" for row, text in enumerate(texts)],
        "triplets": [f"{texts[row]},{texts[row + 3]},{texts[row + 7]}" for row in range(30)],
        "pairs": [f"{texts[row]},{texts[row + 7]},{(row + row // 20) % 2}" for row in range(30)],
    }
    headers = {"labels": "text,label", "triplets": "anchor,positive,negative", "pairs": "left,right,similar"}
    for form, rows in given.items():
        path, out = tmp_path / f"{form}.csv", tmp_path / form
        settings = {"steps": 2, "evaluate_every": 1, "progress": False, "holdout_by": "row"}

        def write_rows(rows, path=path, header=headers[form]):
            path.write_text("\n".join([header, *rows, ""]))

        write_rows(rows)
        with warnings.catch_warnings(action="ignore", category=TercetWarning):
            tercet.train(path, out=out, **settings)
            before = digest(out)
            for changed in (other[form], [*rows[1:], rows[0]]):
                write_rows(changed)
                with pytest.raises(ConfigError, match="has changed since, or its order or its labels have"):
                    tercet.train(path, out=out, resume=True, **settings)
            write_rows(rows)
            tercet.train(path, out=out, resume=True, **settings)
        assert digest(out) == before


def test_resume_on_other_validation_data_is_refused(tmp_path):
    """Of the figures of two sets the best would mean nothing."""
    texts = {
        "train": write_texts(tmp_path / "train.csv", range(6)),
        "held": write_texts(tmp_path / "held.csv", range(6, 9)),
    }
    settings = {"validation": str(texts["held"]), "out": tmp_path / "run", "progress": False, **QUICK}
    tercet.train(str(texts["train"]), **settings)
    before = digest(tmp_path / "run")
    write_texts(tmp_path / "held.csv", range(7, 10))
    with pytest.raises(ConfigError, match="cannot be resumed: its validation data has changed since"):
        tercet.train(str(texts["train"]), **settings, resume=True)
    assert digest(tmp_path / "run") == before


def test_all_that_is_known_of_the_data_counts_for_whether_it_is_the_same():
    known = np.arange(6)
    labelled = read((["a", "b", "c", "d", "e", "f"], ["x", "y", "x", "y", "x", "y"]))
    paired = dataclasses.replace(labelled, labels=None, classes=(), tuples=known.reshape(3, 2))
    marked = dataclasses.replace(paired, similar=np.array([True, False, True]))
    different = [
        hash_of_all(records, hashes)
        for records, hashes in [
            (labelled, known), (labelled, known[::-1]),
            (dataclasses.replace(labelled, labels=1 - labelled.labels), known),
            (dataclasses.replace(labelled, classes=("x", "z")), known),
            (dataclasses.replace(labelled, classes=("x", "xy")), known),
            (dataclasses.replace(labelled, classes=("xx", "y")), known),
            (dataclasses.replace(labelled, forged=known == 2), known), (paired, known),
            (dataclasses.replace(paired, tuples=known.reshape(2, 3)), known),
            (dataclasses.replace(paired, tuples=known[::-1].reshape(3, 2)), known), (marked, known),
            (dataclasses.replace(marked, similar=~marked.similar), known),
            (dataclasses.replace(paired, scores=np.array([0.1, 0.2, 0.3])), known),
            (dataclasses.replace(paired, sets=known[:, None] % 2, tuples=None), known),
            (dataclasses.replace(paired, sets=known[:, None] % 3, tuples=None), known),
        ]
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert hash_of_all(labelled, known) == different[0]


def test_fingerprints_tell_which_data_has_changed_and_nothing_of_its_order(tmp_path):
    known, whole = np.array([3, -1, 2]), {"training": bytes(range(16)), "validation": bytes(16)}
    write_fingerprints(tmp_path, known)
    assert read_fingerprints(tmp_path).tolist() == [-1, 2, 3]
    assert changed_data(tmp_path, whole) == ["training", "validation"]
    write_fingerprints(tmp_path, known, whole)
    assert changed_data(tmp_path, whole) == []
    assert changed_data(tmp_path, whole | {"validation": bytes(range(16))}) == ["validation"]


def test_settings_of_the_wrong_type_are_refused_before_anything_is_done(images, tmp_path):
    with pytest.raises(ConfigError, match=r"steps is 2\.5; it must be a whole number"):
        tercet.train(str(images), out=tmp_path / "run", steps=2.5, progress=False)
    assert not (tmp_path / "run").exists()
    run = tercet.train(str(images), out=tmp_path / "run", progress=False, **{**QUICK, "steps": np.int64(3)})
    assert run.config.training.steps == 3


def test_validation_without_same_pairs_leaves_a_run_without_a_threshold(images, tmp_path):
    held = write_images(tmp_path / "held", range(30, 36), samples=1)
    with pytest.warns(TercetWarning, match="no threshold for same or different was calibrated"):
        run = tercet.train(str(images), out=tmp_path / "run", validation=str(held), progress=False, **QUICK)
    with pytest.raises(RunError, match="has no calibrated threshold"):
        run.verify(str(held / "class30" / "0.png"), str(held / "class31" / "0.png"))


def test_a_large_seed(images, tmp_path):
    run = tercet.train(str(images), out=tmp_path / "run", seed=2**62, progress=False, **QUICK)
    assert tercet.load(run.path).config.training.seed == 2**62


def test_a_damaged_checkpoint_gives_way_to_the_one_before(images, tmp_path):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    tercet.train(str(images), out=whole, progress=False, **QUICK)
    shutil.copytree(whole, damaged)
    newest = damaged / "checkpoints" / "step-00000006" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(TercetWarning, match=r"step-00000006 cannot be read .* the one before it is used"):
        tercet.train(str(images), out=damaged, resume=True, progress=False)
    own = digest(damaged)
    assert own["model.safetensors"] == digest(whole)["model.safetensors"]
    assert own["history.jsonl"] == digest(whole)["history.jsonl"]


def test_a_full_disk_leaves_the_last_good_checkpoint(images, tmp_path, monkeypatch):
    from tercet.training.folder import files

    path = tmp_path / "run"
    write = files.save_file

    def fail_at_the_second(tensors, name, metadata=None):
        if "step-00000006" in str(name):
            raise OSError(28, "No space left on device")
        write(tensors, name, metadata=metadata)

    monkeypatch.setattr(files, "save_file", fail_at_the_second)
    with pytest.raises(tercet.errors.StorageError, match="No space left on device"):
        tercet.train(str(images), out=path, progress=False, **QUICK)
    assert os.listdir(path / "checkpoints") == ["step-00000003"]
    monkeypatch.undo()
    run = tercet.train(str(images), out=path, resume=True, progress=False)
    assert run.embed([str(next(images.rglob("*.png")))]).shape == (1, 128)


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_run(images, unseen_images, tmp_path):
    path = tmp_path / "run"
    words = ["train", str(images), "--out", str(path), "--steps", "100000", "--evaluate-every", "50000"]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys, tercet.cli; sys.exit(tercet.cli.main({words!r}))"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    history = path / "history.jsonl"
    while not (history.exists() and len(history.read_text().splitlines()) >= 1):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    run = tercet.load(path)
    assert run.threshold > 0
    assert run.evaluate(str(unseen_images)).metrics["auc"] is not None
    assert (path / "report.html").exists()


@pytest.mark.parametrize("interim", [0.9, 0.1], ids=["best", "not the best"])
@pytest.mark.parametrize("stopped", [2, 5])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(images, tmp_path, monkeypatch, interim, stopped):
    """Neither the evaluation of the interruption nor its weights are left, be they the best or the first or not."""
    measured = Training._measured
    values = {3: 0.5, 6: 0.4, stopped: interim}

    def measured_so(training, vectors):
        return measured(training, vectors) | {training.selection: values[training.progress.step]}

    monkeypatch.setattr(Training, "_measured", measured_so)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {**QUICK, "loss": "infonce", "learn_temperature": True}
    tercet.train(str(images), out=whole, progress=False, **options)

    def stop(step, figures):
        if step == stopped and "loss" in figures:
            os.kill(os.getpid(), signal.SIGINT)

    tercet.train(str(images), out=parts, progress=False, tracker=stop, **options)
    summary = json.loads((parts / "summary.json").read_text())
    assert (summary["reason"], summary["steps"]) == ("interrupted", stopped)
    assert summary["best_step"] == (stopped if stopped < 3 or interim > 0.5 else 3)
    tercet.train(str(images), out=parts, progress=False, resume=True)
    assert not (parts / "checkpoints" / "aside").exists()
    of_all = ["checkpoints/step-00000003", f"checkpoints/step-0000000{stopped}"]  # the last two are kept, of either
    left, expected = (
        {name: value for name, value in digest(run).items() if not name.startswith(tuple(of_all))}
        for run in (parts, whole)
    )
    assert left == expected


def test_early_stopping(images, tmp_path):
    """With a learning rate of next to nothing no evaluation beats the first."""
    run = tercet.train(
        str(images), out=tmp_path / "run", progress=False, learning_rate=1e-12, patience=2,
        **{**QUICK, "steps": 60, "evaluate_every": 1},
    )  # fmt: skip
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["reason"], summary["steps"]) == ("stopped early", 3)


def test_a_tie_keeps_the_later_weights_but_counts_against_patience():
    progress = Progress(step=1)
    kept = []
    for step, value in enumerate([0.5, 0.5, 0.4, 0.6, None], start=1):
        progress.step = step
        kept.append((_keep_best(progress, "auc", value), progress.best_step, progress.stale_evaluations))
    assert kept == [(True, 1, 0), (True, 2, 1), (False, 2, 2), (True, 4, 0), (False, 4, 1)]


def test_the_smaller_eer_is_the_better():
    progress = Progress(step=1)
    assert _keep_best(progress, "eer", 0.3)
    assert not _keep_best(progress, "eer", 0.4)
    assert _keep_best(progress, "eer", 0.1)


def test_epochs_count_batches_exactly(images, tmp_path):
    """Six classes of six are trained on, in groups of four: 6, then 12 groups in turn of epochs, by two a batch."""
    run = tercet.train(str(images), out=tmp_path / "run", progress=False, epochs=2, classes_per_batch=2,
                       samples_per_class=4)  # fmt: skip
    rows = [row for row in read_history(run.path / "history.jsonl") if "loss" in row]
    assert [row["epoch"] for row in rows] == [0] * 3 + [1] * 6


# What may be brought along from Python.


class Flat(nn.Module):
    """A user's own encoder."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.linear = nn.Linear(12, width)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.linear(batch.float())


class Points(torch.utils.data.Dataset):
    """A user's own map-style dataset of 12 numbers and a label."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, place: int):
        generator = torch.Generator().manual_seed(place)
        centre = torch.randn(12, generator=torch.Generator().manual_seed(1000 + place % 6))
        return centre + 0.1 * torch.randn(12, generator=generator), place % 6


def test_any_dataset_and_any_module(tmp_path):
    run = tercet.train(Points(), out=tmp_path / "run", encoder=Flat(7), encoder_arguments={"width": 7}, progress=False,
                       **QUICK)  # fmt: skip
    assert run.metrics["validation.n_classes"] == 2
    again = tercet.load(run.path)  # made again from test_training:Flat and its arguments
    rows = torch.stack([Points()[place][0] for place in range(4)])
    assert again.embed(list(rows)).shape == (4, 7)
    assert np.array_equal(again.embed(list(rows)), run.embed(list(rows)))


def test_a_factory_named_by_words(tmp_path):
    run = tercet.train(Points(), out=tmp_path / "run", encoder="test_training:Flat", encoder_arguments={"width": 3},
                       progress=False, **QUICK)  # fmt: skip
    assert run.embed([Points()[0][0]]).shape == (1, 3)


def test_a_module_that_cannot_be_made_again_is_handed_over(tmp_path):
    module = Flat(4)
    run = tercet.train(Points(), out=tmp_path / "run", encoder=module, progress=False, **QUICK)  # arguments not said
    with pytest.raises(RunError, match=r"do not fit the encoder of its config\.toml"):
        tercet.load(run.path)
    assert tercet.load(run.path, encoder=Flat(4)).embed([Points()[0][0]]).shape == (1, 4)


def test_any_loss_and_its_parameters_are_trained_and_saved(images, tmp_path):
    loss = Scaled()
    run = tercet.train(str(images), out=tmp_path / "run", loss=loss, progress=False, distance="cosine", **QUICK)
    assert float(loss.scale.detach()) != 1.0
    state = load_file(run.path / "checkpoints" / "step-00000006" / "state.safetensors")
    assert float(state["modules.loss.scale"]) != 1.0
    assert float(load_file(run.path / "loss.safetensors")["scale"]) == float(loss.scale.detach())
    assert run.config.custom_loss.endswith("Scaled")
    assert run.distance.name == "cosine"
    rows = [row for row in read_history(run.path / "history.jsonl") if "loss" in row]
    assert "active_share" not in rows[0]


def test_a_triplet_loss_is_written_to_the_configuration(images, tmp_path):
    loss = tercet.TripletLoss(margin=0.35, mining="semihard", distance=tercet.Minkowski(p=4), fallback="farthest")
    run = tercet.train(str(images), out=tmp_path / "run", loss=loss, progress=False, **QUICK)
    written = tercet.load(run.path).config.loss
    assert (written.margin, written.mining, written.distance, written.p, written.fallback, written.reduction) == (
        0.35, "semihard", "minkowski", 4.0, "farthest", "mean",
    )  # fmt: skip


def test_texts_tables_triplets_and_pairs(texts, numbers, tmp_path):
    run = tercet.train(str(texts), out=tmp_path / "texts", columns=("sentence",), progress=False, **QUICK)
    assert run.embed([text_of(0, 0), "unseen words"]).shape == (2, 128)
    run = tercet.train(str(numbers), out=tmp_path / "numbers", progress=False, **QUICK)
    assert run.embed([[1.0, 2.0, 3.0, 4.0]]).shape == (1, 32)
    assert run.model.assets["columns"] == ["length", "width", "height", "weight"]


def test_triplets(tmp_path):
    lines = ["anchor,positive,negative"]
    lines += [f"{text_of(i % 5, i)},{text_of(i % 5, i + 50)},{text_of((i + 1) % 5, i)}" for i in range(40)]
    (tmp_path / "triplets.csv").write_text("\n".join(lines) + "\n")
    run = tercet.train(str(tmp_path / "triplets.csv"), out=tmp_path / "run", progress=False, rows_per_batch=8, steps=40)
    assert run.config.data.form == "triplets"
    assert run.metrics["validation.triplet_accuracy"] > 0.5
    row = read_history(run.path / "history.jsonl")[0]
    assert {"active_share", "mean_positive", "mean_negative"} <= set(row)


def test_pairs_that_share_items_share_a_label(tmp_path):
    lines = ["left,right", "a one,a two", "a two,a three", "b one,b two", "c one,c two", "d one,d two", "e one,e two",
             "f one,f two"]  # fmt: skip
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    from tercet.data import read
    from tercet.training.batches.supervision import labels_of

    records = read(str(tmp_path / "pairs.csv"))
    labels = dict(zip(records.items, labels_of(records).tolist(), strict=True))
    assert labels["a one"] == labels["a two"] == labels["a three"]
    assert len(set(labels.values())) == 6
    run = tercet.train(str(tmp_path / "pairs.csv"), out=tmp_path / "run", progress=False, rows_per_batch=4, steps=3)
    assert run.config.data.form == "pairs"


def test_marked_pairs_train_the_contrastive_loss(tmp_path):
    lines = ["left,right,similar"]
    for i in range(60):
        other = i % 5 if i % 2 else (i + 1) % 5
        lines.append(f"{text_of(i % 5, i)},{text_of(other, i + 70)},{i % 2}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    run = tercet.train(str(tmp_path / "pairs.csv"), out=tmp_path / "run", progress=False, rows_per_batch=16, steps=30)
    assert run.config.data.form == "marked-pairs"
    assert (run.config.loss.loss, run.config.loss.margin, run.config.loss.mining) == ("contrastive", 0.5, None)
    assert run.metrics["validation.auc"] is not None
    with pytest.raises(InputError, match=r"needs labels or positive pairs, and the data holds marked-pairs"):
        tercet.train(str(tmp_path / "pairs.csv"), out=tmp_path / "other", loss=lambda e, y: e.sum(), progress=False)


# What goes wrong.


def test_a_loss_that_is_not_finite_stops_with_a_reason(images, tmp_path):
    calls = []

    def loss(embeddings, labels):
        calls.append(1)
        return embeddings.sum() * (float("nan") if len(calls) == 5 else 1.0)

    with pytest.raises(TrainingError, match=r"at step 5 the loss is nan .* smaller --learning-rate"):
        tercet.train(str(images), out=tmp_path / "run", loss=loss, progress=False, **QUICK)
    assert (tmp_path / "run" / "model.safetensors").exists()  # of step 3


def test_an_unknown_option_suggests_the_likely_one(images, tmp_path):
    with pytest.raises(InputError, match=r"unknown option 'step'\. Did you mean 'steps'\?"):
        tercet.train(str(images), out=tmp_path / "run", step=3)


def test_options_of_another_kind_are_refused(numbers, tmp_path):
    with pytest.raises(InputError, match="options for image augmentation were given, and the data is tabular"):
        tercet.train(str(numbers), out=tmp_path / "run", augmentation=Augmentation(mirror=False), progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="options for the image encoder were given, and the data is tabular"):
        tercet.train(str(numbers), out=tmp_path / "run", encoder=ImageOptions(dim=3), progress=False)


def test_a_margin_that_no_triplet_can_satisfy_is_warned_of(images, tmp_path):
    with pytest.warns(TercetWarning, match=r"the margin is 2\.5, .* euclidean distance is at most 2: no triplet"):
        tercet.train(str(images), out=tmp_path / "run", margin=2.5, progress=False, **QUICK)


def test_validation_data_of_another_kind_is_refused(images, numbers, tmp_path):
    with pytest.raises(DataError, match="is not like the training data"):
        tercet.train(str(images), out=tmp_path / "run", validation=str(numbers), progress=False, **QUICK)
    assert not (tmp_path / "run").exists()


def test_duplicates_across_train_and_validation_are_warned_of(images, tmp_path):
    held = write_images(tmp_path / "held", range(30, 33))
    shutil.copy(images / "class00" / "0.png", held / "class30" / "copy.png")
    with pytest.warns(TercetWarning, match=r"1 of 19 items of the validation data are also in the training data "
                                           r"\(class30/copy\.png\): figures on them flatter the model"):  # fmt: skip
        tercet.train(str(images), out=tmp_path / "run", validation=str(held), progress=False, **QUICK)
