"""Several processes train one run as one process does, and end together when one of them fails. Over gloo.

Starting processes is what costs the seconds, so each start goes through many trainings; the tests below look at what
they left behind.
"""

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tercet
from conftest import Scaled, digest, outlined, write_images, write_numbers
from tercet.cli import main as command_line
from tercet.collectives import ALONE, Ranks, joined, local_device
from tercet.encoders.options import ImageOptions
from tercet.errors import DataError, InputError, StorageError, TercetWarning
from tercet.kernels import implementations
from tercet.kernels.compiled import tiles
from tercet.report.chart import Chart
from tercet.training import loop
from tercet.training.folder.checkpoint import save_checkpoint
from tercet.training.folder.history import read_history
from tercet.training.step import shared
from tercet.training.step.learner import Learner
from tercet.training.step.shared import average_gradients, told, warning_of_shares

STEPS = 20
SETTINGS = {"steps": STEPS, "evaluate_every": 10, "classes_per_batch": 4, "samples_per_class": 3, "margin": 1.0}
NO_CLASSES = {"classes_per_batch": None, "samples_per_class": None}
WITHIN_SECONDS = 60  # of the end of one rank, all have ended
pytestmark = pytest.mark.slow


class Dropping(nn.Module):
    """Draws, counts, and has a parameter that is never used."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 8, bias=False)
            self.idle = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        self.seen += 1
        return self.last(nn.functional.dropout(self.first(batch).tanh(), 0.3, self.training))


class Counting(Scaled):
    """A loss of the user's own that changes with each call, also when the validation data is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, embeddings, labels):
        self.calls += 1
        return super().forward(embeddings, labels) + self.calls / 10 * embeddings.amax(0).sum()


def rows_of_numbers():
    rows = np.random.default_rng(6).normal(size=(9, 7, 4)) + np.random.default_rng(7).normal(0, 2, (9, 1, 4))
    return rows.reshape(63, 4).astype(np.float32)


class OneByOne:
    """A torch Dataset of rows of numbers with labels."""

    def __init__(self):
        self.rows = torch.from_numpy(rows_of_numbers())

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.rows[place], place // 7


def table_of(folder, name, columns, rows):
    """A table of pairs or triplets of texts."""
    path = folder / f"{name}.csv"
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def text(number, sample):
    return f"topic{number} word{(number * 5 + sample) % 11} word{sample} other{(number + sample) % 3}"


def make_data(folder):
    """What all cases train on."""
    folder.mkdir()
    write_images(folder / "images", range(8))
    write_numbers(folder / "numbers.csv", range(9), 7)
    triplets = [
        (text(n, 3 * s), text(n, 3 * s + 1), text((n + s) % 7 + 1, 3 * s + 2)) for n in range(8) for s in range(5)
    ]
    table_of(folder, "triplets", ["anchor", "positive", "negative"], triplets)
    marked = [(text(n, 2 * s), text(n if s % 2 else (n + 1) % 8, 2 * s + 1), s % 2) for n in range(8) for s in range(5)]
    table_of(folder, "marked", ["left", "right", "similar"], marked)
    (folder / "done").touch()


CASES = {}


def case(function):
    """Enter a training among those that one process and several are compared on."""
    CASES[function.__name__] = function
    return function


@case
def numbers(folder, ranks):
    return {"source": str(folder / "numbers.csv")}


@case
def softmax_in_chunks(folder, ranks):
    return {
        "source": str(folder / "numbers.csv"), "loss": "supcon", "learn_temperature": True, "margin": None, "chunk": 2,
        "selection": "loss",
    }  # fmt: skip


@case
def augmented_images(folder, ranks):
    return {"source": str(folder / "images"), "encoder": ImageOptions(size=(16, 16)), "chunk": 5}


@case
def dropout(folder, ranks):
    """Each rank's module starts with other weights: those of rank 0 are taken."""
    module = Dropping(ranks.rank)
    return {"source": OneByOne(), "encoder": module, "encoder_arguments": {"seed": 0}, "learning_rate": 3e-3}


@case
def dropout_in_chunks(folder, ranks):
    return {**dropout(folder, ranks), "chunk": 4, "mining": "hard"}


@case
def a_loss_of_ones_own(folder, ranks):
    return {"source": str(folder / "numbers.csv"), "loss": Counting(), "margin": None, "selection": "loss"}


@case
def a_learned_map(folder, ranks):
    distance = tercet.Mahalanobis(components=torch.eye(32)[:16] * 2, learned=True)
    loss = tercet.TripletLoss(margin=1.0, distance=distance, penalty="logsumexp", learn_temperature=True)
    return {"source": str(folder / "numbers.csv"), "loss": loss, "margin": None}


@case
def draws_of_the_loss(folder, ranks):
    return {"source": str(folder / "numbers.csv"), "mining": "distance-weighted", "selection": "loss"}


@case
def memory(folder, ranks):
    return {"source": str(folder / "numbers.csv"), "memory": 30, "memory_warmup": 2, "mining": "semihard"}


@case
def memory_of_a_slow_copy(folder, ranks):
    return {"source": str(folder / "numbers.csv"), "memory": 30, "memory_warmup": 2, "momentum": 0.9, "chunk": 3}


@case
def triplets(folder, ranks):
    return {"source": str(folder / "triplets.csv"), "rows_per_batch": 7, **NO_CLASSES}


@case
def pairs_fewer_than_ranks(folder, ranks):
    """Batches of two rows, and of one where they do not come out even: two items."""
    return {"source": str(folder / "marked.csv"), "rows_per_batch": 2, "margin": None, "holdout": 0.3, **NO_CLASSES}


WITH_THREE = ("augmented_images", "dropout_in_chunks", "pairs_fewer_than_ranks", "memory_of_a_slow_copy")


def cases_of(size):
    return [name for name in CASES if size < 3 or name in WITH_THREE]


def train_case(name, data, out, ranks):
    options = {**SETTINGS, **CASES[name](data, ranks)}
    given = {key: value for key, value in options.items() if value is not None}
    return tercet.train(given.pop("source"), out=out, progress=False, **given)


def weights_of(run, step=STEPS):
    return load_file(run / f"checkpoints/step-{step:08d}/state.safetensors")


def rank_here():
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


# --- what each process does ----------------------------------------------------------------------------------


def main(what, folder):
    """One of the processes."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", TercetWarning)
    warnings.simplefilter("error", FutureWarning)
    Chart._item = outlined  # as in the process of the tests
    importlib.import_module("sklearn.metrics")  # takes seconds, which rank 0 alone would wait for in the middle
    ranks, folder = rank_here(), Path(folder)
    done = {}
    for name, function in {"cases": case_by_case, "faults": fault_by_fault}[what](folder, ranks):
        began = time.monotonic()
        try:
            done[name] = function()
        except BaseException:
            done[name] = traceback.format_exc()
        done[f"{name} took"] = time.monotonic() - began
        (folder / f"{what}-{ranks.rank}.json").write_text(json.dumps(done), encoding="utf-8")


def case_by_case(folder, ranks):
    data = folder.parent / "data"
    for name in cases_of(ranks.size):
        out = folder / "runs" / name if ranks.rank == 0 else folder / "not-there" / str(ranks.rank)

        def train(name=name, out=out):
            run = train_case(name, data, out, ranks)
            assert run.metrics  # the copy of another rank is whole
            assert (run.path == out) == (ranks.rank == 0)
            return run.embed(np.zeros((1, 4), np.float32)).tolist() if name == "numbers" else ""

        yield name, train
    yield "the work is divided", lambda: count_tiles(data, folder, ranks)
    yield "killed", lambda: train_till_killed(data, folder, ranks)


def count_tiles(data, folder, ranks):
    """How many tiles this rank has visited in a step, of the 6 of 12 rows in blocks of 5."""
    visited, visit = [], tiles.Tiles._visit

    def count(self, *arguments):
        visited.append(arguments[-1])
        return visit(self, *arguments)

    loss = tercet.TripletLoss(margin=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles.Tiles, "_visit", count)
        patch.setattr(implementations, "COMPILED_TILE", 5)
        options = {**SETTINGS, "steps": 1, "evaluate_every": 1, "loss": loss}
        del options["margin"]
        tercet.train(str(data / "numbers.csv"), out=folder / f"tiles-{ranks.rank}", progress=False, **options)
    return [loss.plan.ranks, len(visited)]


def train_till_killed(data, folder, ranks):
    """A rank is killed, without a word, before step 14, after the checkpoint of step 10: rank 1, or of three rank 0."""
    victim = 1 if ranks.size == 2 else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", at_step(13, victim, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        train_case("numbers", data, folder / "killed", ranks)


def at_step(number, rank, action):
    """A patched `Learner.step` that does something before a step on one rank."""
    step = Learner.step

    def acting(self, fed, done):
        if done == number and rank_here().rank == rank:
            action()
        return step(self, fed, done)

    return acting


def raises(error):
    def action(*arguments):
        raise error

    return action


def fault_by_fault(folder, ranks):
    data = folder.parent / "data"
    words = ["train", data / "numbers.csv", "--steps", 12, "--evaluate-every", 4, "--classes-per-batch", 4]

    def run(name, *more, patches=(), out=None):
        def call():
            said, log = sys.stderr, folder / f"{name}-{ranks.rank}.log"
            with log.open("w") as sys.stderr, pytest.MonkeyPatch.context() as patch:
                for target, attribute, value in patches:
                    patch.setattr(target, attribute, value)
                try:
                    return command_line([str(word) for word in (*words, "--out", folder / (out or name), *more)])
                finally:
                    sys.stderr = said

        return name, call

    unreadable = at_step(5, 1, raises(DataError("photo.png cannot be read.")))
    surprising = at_step(5, 1, raises(ZeroDivisionError("by nothing")))
    full = raises(StorageError("could not write: no space left on device.")) if ranks.rank == 0 else save_checkpoint
    asked = at_step(5, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    other = folder / "other.csv"
    if ranks.rank == 1:
        write_numbers(other, range(9), 6)
    yield run("unreadable", patches=[(Learner, "step", unreadable)])
    yield run("surprising", patches=[(Learner, "step", surprising)])
    yield run("full", patches=[(loop.checkpoint, "save_checkpoint", full)])
    yield run("settings", "--margin", 0.1 + 0.1 * ranks.rank)
    words[1] = other if ranks.rank == 1 else words[1]
    yield run("data", "--seed", 1)
    words[1] = data / "numbers.csv"
    yield run("not finite", "--learning-rate", 1e30, "--clip-norm", 0)
    (folder / "unreadable").mkdir(exist_ok=True)
    yield run("in the way", out="unreadable")
    yield run("stopped", patches=[(Learner, "step", asked)])
    yield run("resumed", "--resume", out="stopped")

    def resume():
        options = {**SETTINGS, **CASES["numbers"](data, ranks)}
        out = folder / "killed and resumed"
        tercet.train(options.pop("source"), out=out, resume=True, progress=False, **options)

    yield "killed and resumed", resume


# --- the processes -------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(size, command, **more):
    """So many processes, which are told who they are as torchrun does."""
    shared = {
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)], text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **more,
        )
        for rank in range(size)
    ]  # fmt: skip


def ended(processes, seconds):
    """The exit codes, and what was said, of processes that have so much time."""
    until = time.monotonic() + seconds
    try:
        said = [process.communicate(timeout=max(1, until - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    make_data(folder / "data")
    return folder


@pytest.fixture(scope="session")
def trained(work):
    """For a number of ranks, the folder of the runs of all cases, and what each rank wrote down."""

    @cache
    def run(size):
        folder = work / f"size-{size}"
        folder.mkdir()
        if size == 1:
            torch.set_num_threads(1)
            try:
                for name in CASES:
                    train_case(name, work / "data", folder / "runs" / name, ALONE)
            finally:
                torch.set_num_threads(2)
            return folder, []
        run(1)  # first, so that the loops are compiled once and not by every rank
        _, said = ended(start(size, [__file__, "cases", folder]), 240)
        return folder, reports(folder, "cases", size, said)

    return run


def reports(folder, what, size, said):
    paths = [folder / f"{what}-{rank}.json" for rank in range(size)]
    return [json.loads(path.read_text()) if path.exists() else {"said": said} for path in paths]


# --- one result, however many processes ----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "name"), [(size, name) for size in (2, 3) for name in cases_of(size)])
def test_several_processes_train_as_one(trained, size, name):
    folder, written = trained(size)
    for rank, done in enumerate(written):
        assert "Traceback" not in str(done.get(name, f"Traceback of none: {done}")), f"rank {rank}: {done.get(name)}"
    one = trained(1)[0] / "runs" / name
    expected, found = weights_of(one), weights_of(folder / "runs" / name)
    start_weights = weights_of(one, 10)
    assert found.keys() == expected.keys()
    moved = 0.0
    for key, value in expected.items():
        if key.startswith("modules.") and value.is_floating_point() and not key.endswith(("bank.rows", ".seen")):
            moved = max(moved, float((value - start_weights[key]).abs().max()))
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5, msg=lambda said, key=key: f"{key}: {said}")
    assert moved > 1e-3, "vacuous: nothing was learned"
    rows, others = (read_history(run / "history.jsonl") for run in (folder / "runs" / name, one))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_the_copies_of_the_run_on_other_ranks_are_the_run(trained):
    folder, (first, second) = trained(2)
    assert first["numbers"] == second["numbers"]
    assert not (folder / "not-there").exists()


def test_the_work_is_divided(trained):
    _, written = trained(2)
    assert [done["the work is divided"] for done in written] == [[2, 3], [2, 3]]


# --- one end ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def faults(work, trained):
    folder = work / "faults"
    shutil.copytree(trained(2)[0] / "killed", folder / "killed and resumed")
    _, said = ended(start(2, [__file__, "faults", folder]), 200)
    return folder, reports(folder, "faults", 2, said)


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("unreadable", 2, "error: photo.png cannot be read."),
        ("surprising", 2, "error: unexpected ZeroDivisionError: by nothing."),
        ("full", 2, "error: could not write: no space left on device."),
        ("settings", 2, "rank 1 was given other settings than rank 0: margin = 0.2 instead of margin = 0.1. Give all"),
        ("data", 2, "rank 1 has read other training or validation data than rank 0"),
        ("not finite", 2, "training cannot go on. Earlier checkpoints, if any, are unharmed"),
        ("in the way", 2, "exists already. Go on with it by adding --resume"),
        ("stopped", 130, "interrupted after 6 steps"),
        ("resumed", 0, "going on from step 6"),
    ],
)
def test_what_fails_on_one_rank_ends_all(faults, name, code, message):
    folder, written = faults
    said = [(folder / f"{name}-{rank}.log").read_text() for rank in range(2)]
    assert [done.get(name, done) for done in written] == [code, code], said
    assert "".join(said).count(message) == 1, said
    assert max(done[f"{name} took"] for done in written) < WITHIN_SECONDS


def test_where_a_rank_is_killed_the_others_end_and_say_which(trained):
    (first, second), (_, *survivors) = trained(2)[1], trained(3)[1]
    assert "killed" not in second
    said = [done["killed"].strip().splitlines()[-1] for done in (first, *survivors)]
    assert "RankError: rank 1 has ended without a word: killed, out of memory, or the machine is gone. Go on" in said[0]
    # Where rank 0 is killed, in which the ranks met, the step and the thread that listens find out at the same time.
    found_out = ("RankError: another rank cannot be reached", "RankError: the place where the ranks met has gone")
    assert all(any(words in one for words in found_out) for one in said[1:])
    for one in said:
        assert "Go on from the last checkpoint with the same command and --resume; the number of ranks may be" in one
    assert max(done["killed took"] for done in (first, *survivors)) < WITHIN_SECONDS


def test_what_a_killed_rank_left_goes_on_with_two_ranks_and_with_one(faults, trained, work):
    (folder, written), (runs, _) = faults, trained(2)
    assert not (runs / "killed" / "checkpoints" / f"step-{STEPS:08d}").exists()
    assert [done["killed and resumed"] for done in written] == [None, None]
    assert digest(folder / "killed and resumed") == digest(runs / "runs" / "numbers")
    options = {**SETTINGS, **CASES["numbers"](work / "data", ALONE)}
    alone = shutil.copytree(runs / "killed", folder / "alone")
    tercet.train(options.pop("source"), out=alone, resume=True, progress=False, **options)
    for key, value in weights_of(runs / "runs" / "numbers").items():
        torch.testing.assert_close(weights_of(alone)[key], value, rtol=0, atol=1e-5)


def test_torchrun_trains_writes_and_speaks_once(work, tmp_path):
    flags = ["--steps", 4, "--evaluate-every", 2, "--classes-per-batch", 4, "--json"]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "tercet"]
    words = [*command, "train", work / "data" / "numbers.csv", "--out", tmp_path / "run", *flags]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ended"] == "finished"
    steps = [row["step"] for row in read_history(tmp_path / "run" / "history.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["ranks"] == 2


# --- without other processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE is 2, and RANK, MASTER_ADDR, MASTER_PORT is not set\. Start .* torchrun"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE is 'two' in the environment; it must be a whole number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            r"RANK is 2 and WORLD_SIZE is 2; a rank is 0 or more and below",
        ),
    ],
)
def test_a_wrong_environment_is_refused(monkeypatch, given, message):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message), joined():
        pass


def test_one_process_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert ranks is ALONE
    parameter = nn.Parameter(torch.ones(2))
    average_gradients([parameter], ALONE)
    assert parameter.grad is None
    assert told({"a": 1.5}, ALONE) == {"a": 1.5}


def test_what_ranks_do_to_batch_normalisation_is_said(monkeypatch):
    two, encoder = Ranks(0, 2, 2), nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert warning_of_shares(encoder, None, ALONE) is None
    assert warning_of_shares(encoder[0], None, two) is None
    said = warning_of_shares(encoder, 4, two)
    assert said.startswith(
        "the encoder has batch normalisation (1 layer, such as 1), which normalises each rank's part"
    )
    assert "the number of ranks (2) is part of the result" in said
    waiting = nn.Sequential(nn.SyncBatchNorm(3))
    assert warning_of_shares(waiting, None, two) is not None
    with pytest.raises(
        InputError, match=r"SyncBatchNorm, whose ranks wait for each other.* Leave chunk and batch_size"
    ):
        warning_of_shares(waiting, 4, two)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_averaged_where_any_rank_has_one(monkeypatch, frozen):
    """With the sum over ranks put in place of another rank that has no gradient of its own, and sends zeros."""
    monkeypatch.setattr(Ranks, "sum", lambda self, tensor: tensor)
    monkeypatch.setattr(shared, "BUCKET_BYTES", 20)
    given = [nn.Parameter(torch.arange(size, dtype=torch.float32)) for size in (3, 1, 7, 2)]
    given[1].requires_grad_(not frozen)
    for parameter in (given[0], given[2]):
        parameter.grad = parameter.detach() + 1
    average_gradients(given, Ranks(0, 2))
    assert torch.equal(given[0].grad, torch.tensor([0.5, 1.0, 1.5]))
    assert torch.equal(given[2].grad, torch.arange(1, 8) / 2)
    assert given[1].grad is given[3].grad is None


def test_each_rank_takes_its_own_gpu(monkeypatch):
    two = Ranks(1, 2, 2)
    assert local_device("cpu", two) == "cpu"
    assert local_device("cuda", ALONE) == "cuda"
    with pytest.raises(InputError, match=r"device is 'cuda:0', and 2 ranks share this machine: say cuda or auto"):
        local_device("cuda:0", two)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("auto", two) == local_device("cuda", two) == "cuda:1"
    assert chosen == [1, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"2 ranks were started on this machine, which has 2 GPUs: start one for each"):
        local_device("auto", two)


if __name__ == "__main__":
    main(*sys.argv[1:])
