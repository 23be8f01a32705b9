"""What a training is fed: the same whoever loads it; what a failed step leaves behind; figures handed on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tercet
from conftest import QUICK, digest
from drawing_sets import Drawing
from tercet.data.augmentation import Augmentation
from tercet.data.loaders import TensorLoader
from tercet.data.readers import read
from tercet.errors import ConfigError, TercetWarning, TrainingError
from tercet.training.batches.feed import Feed
from tercet.training.batches.loading import Loading, load
from tercet.training.batches.supervision import make_supervision
from tercet.training.config import BatchOptions
from tercet.training.folder.history import read_history
from tercet.training.model import Readable

ENCODER = "encoder_factories:numbers_network"


def weights(path):
    return load_file(path / "model.safetensors")


def train(out, data=None, **options):
    return tercet.train(data or Drawing(), out=out, encoder=ENCODER, progress=False, **{**QUICK, **options}).path


def test_what_a_dataset_draws_follows_from_the_step_and_the_row():
    loader = TensorLoader(Stripped())
    one, again = load(loader, [3, 3, 5], 7, 2), load(loader, [3, 3, 5], 7, 2)
    assert torch.equal(one, again)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(load(loader, [5], 7, 2, first=2)[0], one[2])
    assert not torch.equal(load(loader, [3, 3, 5], 7, 3), one)
    assert not torch.equal(load(loader, [3, 3, 5], 8, 2), one)
    records = read(Drawing())
    alone, among = (TensorLoader(records.take([1, 3, 5]).items).batch(places) for places in ([1], [2, 1]))
    assert torch.equal(alone[0], among[1])
    assert np.array_equal(records.fingerprints(), records.fingerprints())


def test_loading_leaves_the_generators_alone():
    loader = TensorLoader(Stripped())
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(2), np.random.random(2)  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    load(loader, [1, 2], 0, 0)
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.random(2), expected[1])  # noqa: NPY002


class Stripped(Drawing):
    def __getitem__(self, place):
        return super().__getitem__(place)[0]


@pytest.mark.parametrize("stop", [0, 1, 4, 7])
def test_a_feed_goes_on_where_its_state_was_taken(stop):
    """Although batches beyond it had been dealt already."""
    records = read((np.arange(26, dtype=np.float32)[:, None], np.arange(26) % 5))
    options = BatchOptions(classes_per_batch=2, samples_per_class=2)

    class Slow:
        def batch(self, positions):
            time.sleep(0.001)
            return records.items[positions]

    def feed():
        supervision = make_supervision(records, options, tercet.TripletLoss(), 3)
        return Feed(supervision, Readable(records, Slow()), Augmentation(), 3)

    whole = feed()
    expected = [whole.next(step, 11) for step in range(12)]
    first, second = feed(), feed()
    for step in range(stop):
        first.next(step, 11)
    second.restore(json.loads(json.dumps(first.state())))
    for step in range(stop, 12):
        found = second.next(step, 11)
        assert found.epoch == expected[step].epoch
        assert np.array_equal(found.batch.positions, expected[step].batch.positions)
        assert np.array_equal(found.inputs, expected[step].inputs)
    assert second.state() == whole.state()
    assert not second._dealt  # none beyond the last step
    for one in (whole, first, second):
        one.close()


def test_a_feed_may_be_taken_back():
    records = read((np.arange(26, dtype=np.float32)[:, None], np.arange(26) % 5))
    options = BatchOptions(classes_per_batch=2, samples_per_class=2)
    feed = Feed(
        make_supervision(records, options, tercet.TripletLoss(), 3), Readable(records, TensorLoader(records.items)),
        Augmentation(), 3,
    )  # fmt: skip
    state, first = feed.state(), feed.next(0, 9)
    feed.next(1, 9)
    feed.restore(state)
    assert np.array_equal(feed.next(0, 9).batch.positions, first.batch.positions)


@pytest.mark.slow
def test_processes_load_what_one_would(tmp_path):
    for workers in (0, 2):
        train(tmp_path / str(workers), workers=workers)
    alone, shared = weights(tmp_path / "0"), weights(tmp_path / "2")
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


@pytest.mark.slow
def test_a_process_that_dies_is_told_of(tmp_path):
    with pytest.raises(TrainingError, match=r"2 processes that load the data .* has ended.*--resume"):
        train(tmp_path / "run", Drawing(dies=9), workers=2)
    train(tmp_path / "run", workers=0, resume=True)  # with another number of them


@pytest.mark.slow
def test_processes_end_with_a_training_that_is_killed(tmp_path):
    code = (
        "import os, signal, time\n"
        "from drawing_sets import Drawing\n"
        "from tercet.data.loaders import TensorLoader\n"
        "from tercet.training.batches.loading import Loading\n"
        "if __name__ == '__main__':\n"
        "    loading = Loading(TensorLoader(Drawing()), 0, workers=1)\n"
        "    loading.ask([1, 2], 0)\n"
        "    loading.take()\n"
        "    print(*loading._executor._processes, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.path.dirname(__file__), *sys.path]))},
    )  # fmt: skip
    (number,) = map(int, done.stdout.split())
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        if " Z " in Path(f"/proc/{number}/stat").read_text():  # ended, and nobody has asked how
            return
        time.sleep(0.1)
    pytest.fail("the process is still there")


def test_a_dataset_that_draws_is_resumed_to_the_same_bytes(tmp_path):
    import shutil

    train(tmp_path / "whole")
    part = shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "step-00000006")
    torch.rand(7)  # the caller's generators are elsewhere by now
    train(part, resume=True)
    assert digest(part) == digest(tmp_path / "whole")


def test_processes_for_data_in_memory_are_not_started(numbers, tmp_path):
    with pytest.warns(TercetWarning, match="workers is 3, and processes load a torch Dataset or images"):
        tercet.train(str(numbers), out=tmp_path / "run", progress=False, workers=3, **QUICK)
    with pytest.raises(ConfigError, match="workers is -1"):
        tercet.train(str(numbers), out=tmp_path / "other", progress=False, workers=-1, **QUICK)


def test_what_was_asked_for_can_be_dropped():
    loading = Loading(TensorLoader(Stripped()), 0)
    loading.ask([1], 0)
    loading.ask([2], 1)
    loading.forget()
    loading.ask([3], 2)
    assert torch.equal(loading.take(), load(loading.loader, [3], 0, 2))
    loading.close()


class Exploding(nn.Module):
    """Fails at the fourth call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, embeddings, labels):
        self.calls += 1
        return embeddings.sum() * (float("nan") if self.calls == 4 else 1.0)


@pytest.mark.parametrize("data", ["images", "texts", "numbers"])
def test_a_loss_that_is_no_number_leaves_its_batch_behind(data, tmp_path, request):
    source = str(request.getfixturevalue(data))
    with pytest.raises(TrainingError, match=r"at step 4 the loss is nan.*The batch is in .*failed-step"):
        tercet.train(source, out=tmp_path / "run", loss=Exploding(), progress=False, **QUICK)
    folder = tmp_path / "run" / "failed-step"
    told = json.loads((folder / "batch.json").read_text())
    tensors = load_file(folder / "batch.safetensors")
    assert told["step"] == 4
    assert "the loss is nan" in told["reason"]
    count = len(told["items"])
    assert count == len(tensors["embeddings"]) > 5
    assert all(one["name"] and one["class"] for one in told["items"])
    if data == "images":
        assert tensors["inputs.pixels"].dtype == torch.uint8
        assert len(tensors["inputs.changes"]) == count
    elif data == "texts":
        assert len(told["texts"]) == count
    else:
        assert tensors["inputs"].shape == (count, 4)
    assert read_history(tmp_path / "run" / "history.jsonl")[-1] == {"step": 4, "epoch": told["epoch"], "loss": None}


def test_a_tracker_is_told_each_row_of_the_history(numbers, tmp_path):
    told = []
    run = tercet.train(
        str(numbers), out=tmp_path / "run", progress=False, tracker=lambda step, figures: told.append((step, figures)),
        **QUICK,
    )  # fmt: skip
    rows = read_history(run.path / "history.jsonl")
    assert [{"step": step, **figures} for step, figures in told] == rows
    assert len(told) == 8


@pytest.mark.slow
def test_tensorboard_is_written_and_goes_on(numbers, tmp_path):
    import shutil

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tercet.train(str(numbers), out=tmp_path / "run", progress=False, tensorboard=True, **QUICK)
    shutil.rmtree(run.path / "checkpoints" / "step-00000006")
    tercet.train(str(numbers), out=tmp_path / "run", progress=False, resume=True)
    found = EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    rows = read_history(run.path / "history.jsonl")
    expected = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    written = [(event.step, event.value) for event in found.Scalars("training/loss")]
    assert [step for step, _ in written] == [step for step, _ in expected]
    assert [value for _, value in written] == pytest.approx([value for _, value in expected])
    assert [event.step for event in found.Scalars("validation/map_at_r")] == [3, 6]


def test_without_tensorboard_the_command_is_named(numbers, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(tercet.errors.MissingDependency, match=r"pip install 'tercet\[tensorboard\]'"):
        tercet.train(str(numbers), out=tmp_path / "run", progress=False, tensorboard=True, **QUICK)
