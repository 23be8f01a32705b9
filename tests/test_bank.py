"""Memory: the newest embeddings are kept, serve as references, and survive a resume to the byte."""

import copy
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import tercet
from conftest import digest
from tercet import ContrastiveLoss, InfoNCE, SupConLoss, TripletLoss
from tercet.data.readers import read
from tercet.encoders.options import TabularOptions
from tercet.errors import ConfigError, InputError
from tercet.training.batches.supervision import Batch, Remembering
from tercet.training.folder.history import read_history
from tercet.training.step.bank import Bank, Memory, SlowCopy


def batches(*sizes):
    """Batches of rows that tell their item, numbered on."""
    start = 0
    for size in sizes:
        positions = torch.arange(start, start + size)
        yield positions[:, None] * torch.tensor([1.0, 10.0]), positions
        start += size


def test_a_bank_keeps_the_newest_rows_oldest_first():
    bank, seen = Bank(7), []
    for rows, positions in batches(3, 2, 4, 1, 9, 2):
        bank.add(rows.requires_grad_(), positions)
        seen = (seen + positions.tolist())[-7:]
        assert bank.positions.tolist() == seen
        assert torch.equal(bank.rows, bank.positions[:, None] * torch.tensor([1.0, 10.0]))
        assert not bank.rows.requires_grad
        assert len(bank) == len(seen)
    assert int(bank.batches) == 6


def test_a_bank_is_saved_and_restored_whatever_its_length():
    bank, other = Bank(5), Bank(5)
    for rows, positions in batches(2, 2):
        bank.add(rows, positions)
    other.load_state_dict(copy.deepcopy(bank.state_dict()))
    more = (torch.ones(3, 2), torch.tensor([7, 8, 9]))
    bank.add(*more)
    other.add(*more)
    assert all(torch.equal(bank.state_dict()[name], other.state_dict()[name]) for name in bank.state_dict())
    empty = Bank(5)
    empty.load_state_dict(Bank(5).state_dict())
    empty.add(*more)
    assert empty.positions.tolist() == [7, 8, 9]


def test_a_slow_copy_follows_by_the_moving_average():
    encoder = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    start = copy.deepcopy(encoder.state_dict())
    slow = SlowCopy(encoder, momentum=0.75)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += 1
    encoder(torch.randn(5, 3))
    slow.follow(encoder)
    own, new = slow.encoder.state_dict(), encoder.state_dict()
    for name in dict(encoder.named_parameters()):
        torch.testing.assert_close(own[name], 0.75 * start[name] + 0.25 * new[name])
    for name in dict(encoder.named_buffers()):
        assert torch.equal(own[name], new[name])
    assert not slow(torch.randn(5, 3)).requires_grad
    assert not any(weight.requires_grad for weight in slow.parameters())


def test_a_memory_starts_again_with_an_encoder_of_other_weights():
    encoder = nn.Linear(2, 2)
    memory = Memory(5, 1, encoder, momentum=0.9)
    for rows, positions in batches(3, 3):
        memory.bank.add(rows, positions)
    assert memory.in_use
    nn.init.zeros_(encoder.weight)
    memory.restart(encoder)
    assert not memory.in_use
    assert len(memory.bank) == 0
    assert not memory.slow.encoder.weight.any()
    for rows, positions in batches(2, 2):
        memory.bank.add(rows, positions)
    assert memory.in_use
    assert memory.bank.positions.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    "loss", [TripletLoss(0.3), InfoNCE(0.5), SupConLoss(), ContrastiveLoss(0.9)], ids=lambda loss: type(loss).__name__
)
def test_the_loss_is_that_of_the_batch_and_that_against_the_memory(loss, slow, warmup):
    """Kept by hand: the newest seven. No item is compared with itself; nothing counts before the warm-up is over."""
    labels = np.arange(12) % 4
    records = read((np.zeros((12, 1), np.float32), labels))
    supervision = Remembering(records, None, loss, Memory(7, warmup))
    generator, kept, used = torch.Generator().manual_seed(0), [], 0
    for number in range(5):
        positions = torch.randperm(12, generator=generator)[:5]
        rows = torch.randn(5, 3, generator=generator).requires_grad_()
        keys = torch.randn(5, 3, generator=generator)
        supervision.memory.keys = keys if slow else None
        value, statistics = supervision(rows, Batch(positions.numpy(), labels[positions]))
        if slow:
            kept = (kept + list(zip(keys, positions.tolist(), strict=True)))[-7:]
        expected = loss(rows, labels[positions], ids=positions)
        stats = loss.stats.to_dict()
        if kept and number + slow > warmup:
            used += 1
            reference, of = torch.stack([row for row, _ in kept]), torch.tensor([item for _, item in kept])
            further = loss(
                rows, labels[positions], ids=positions,
                reference=reference, reference_labels=labels[of], reference_ids=of,
            )  # fmt: skip
            expected = expected + further
            assert statistics()["memory_loss"] == pytest.approx(further.item(), rel=1e-6)
            assert statistics()["memory_rows"] == len(kept)
        else:
            assert statistics()["memory_rows"] == 0
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
        assert statistics()["loss"] == pytest.approx(float(expected.detach()))
        assert {name: statistics()[name] for name in stats} == stats  # those of the batch itself
        gradients = [torch.autograd.grad(given, rows, retain_graph=True)[0] for given in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
        if not slow:
            kept = (kept + list(zip(rows.detach(), positions.tolist(), strict=True)))[-7:]
    assert used >= 2


ROWS = np.random.default_rng(4).normal(size=(48, 4)).astype(np.float32)
DATA = (ROWS, np.arange(48) % 8)
SHORT = {"steps": 6, "evaluate_every": 3, "classes_per_batch": 4, "samples_per_class": 3, "progress": False}
SMALL = TabularOptions(dim=4, hidden=())


@pytest.mark.parametrize("options", [{"memory": 20}, {"memory": 20, "momentum": 0.9, "chunk": 5}], ids=["own", "slow"])
def test_a_run_with_a_memory_is_resumed_to_the_same_bytes(tmp_path, options):
    whole = tercet.train(DATA, out=tmp_path / "whole", encoder=SMALL, **SHORT, **options).path
    used = [row["memory_rows"] for row in read_history(whole / "history.jsonl") if "memory_rows" in row]
    assert used[0] == (12.0 if "momentum" in options else 0.0)
    assert used[-1] == 20.0
    for left in (["step-00000003"], []):
        part = shutil.copytree(whole, tmp_path / f"killed-{len(left)}")
        for checkpoint in (part / "checkpoints").glob("step-*"):
            if checkpoint.name not in left:
                shutil.rmtree(checkpoint)
        tercet.train(DATA, out=part, resume=True, progress=False)
        assert digest(part) == digest(whole)
    without = tercet.train(DATA, out=tmp_path / "without", encoder=SMALL, **SHORT).path
    assert digest(without)["model.safetensors"] != digest(whole)["model.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": -1}, "memory is -1"),
        ({"momentum": 0.9}, "momentum does nothing without memory"),
        ({"memory_warmup": 3}, "memory_warmup does nothing without memory"),
        ({"memory": 9, "momentum": 1.0}, "momentum is 1.0, it must be 0 or more and below 1"),
        ({"memory": 9, "loss": lambda embeddings, labels: embeddings.sum()}, "takes no reference set"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises((ConfigError, InputError), match=message):
        tercet.train(DATA, out=tmp_path / "run", encoder=SMALL, **SHORT | options)
    assert not (tmp_path / "run").exists()


def test_given_triplets_have_no_memory(tmp_path):
    table = tmp_path / "triplets.csv"
    table.write_text("anchor,positive,negative\n" + "a red one,a blue one,none of it\n" * 8)
    with pytest.raises(InputError, match="the data holds triplets"):
        tercet.train(str(table), out=tmp_path / "run", memory=9, progress=False)
