"""Time and memory of the losses, forward and backward, beside other libraries and beside three plain products.

    python benchmarks/losses.py                     # every row of the table in docs/measurements.md
    python benchmarks/losses.py --only all-1800-40  # one row, see --list
    python benchmarks/losses.py --alone             # without the other libraries

Each row is a process of its own, with D = 128, float32, unit rows in noisy classes. The `limit` is the time of three
torch.mm(X, X.T, out=buffer) into one buffer. All that a row compares runs in turns, in one process with the same
threads, and the medians are shown: the ratio of ours to the limit, and of each other to ours. Memory is the growth of
the peak resident size over that just before a first call, in a process for each. What takes over five seconds is called
once. Where a library cannot do it here, there is a dash.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

MEGABYTE = 10**6
DIM = 128
PML, ST, PLAIN = "PML", "sentence-transformers", "plain PyTorch"


@dataclass(frozen=True)
class Row:
    """One row of the table: a batch, our loss, and the others that compute the same."""

    rows: int
    class_size: int
    ours: str
    others: dict[str, str]


ALL = {ST: "batch_all"}
TABLE = {
    "all-4096-2": Row(4096, 2, "TripletLoss(margin=0.2)", ALL),
    "all-8192-4": Row(8192, 4, "TripletLoss(margin=0.2)", ALL),
    "all-1800-4": Row(1800, 4, "TripletLoss(margin=0.2)", ALL),
    "all-1800-40": Row(1800, 40, "TripletLoss(margin=0.2)", ALL),
    "all-2048-205": Row(2048, 205, "TripletLoss(margin=0.2)", ALL),
    "semihard-4096-4": Row(4096, 4, "TripletLoss(margin=0.2, mining='semihard')", {ST: "batch_semihard"}),
    "hard-4096-4": Row(4096, 4, "TripletLoss(margin=0.2, mining='hard')", {ST: "batch_hard", PML: "pml_hard"}),
    "infonce-8192-4": Row(8192, 4, "InfoNCE(temperature=0.1)", {PML: "pml_ntxent", PLAIN: "plain_infonce"}),
    "supcon-8192-4": Row(8192, 4, "SupConLoss(temperature=0.1)", {PML: "pml_supcon", PLAIN: "plain_supcon"}),
    "logsumexp-8192-4": Row(
        8192, 4, "TripletLoss(margin=0.2, penalty='logsumexp', reduction='mean')", {PLAIN: "plain_logsumexp"}
    ),
    "manhattan-2048-4": Row(2048, 4, "TripletLoss(margin=5.0, distance='manhattan')", {PLAIN: "cdist"}),
    "jaccard-2048-4": Row(2048, 4, "TripletLoss(margin=0.2, distance='jaccard')", {PLAIN: "cdist"}),
    "all-65536-4": Row(65536, 4, "TripletLoss(margin=0.2)", {}),
    "all-65536-6554": Row(65536, 6554, "TripletLoss(margin=0.2)", {}),
    "cosine-65536-4": Row(65536, 4, "TripletLoss(margin=0.2, distance='cosine')", {}),
}


def our_loss(row: Row) -> Callable:
    """The loss of a row, from the words that the table shows."""
    import tercet

    name, _, rest = row.ours.partition("(")
    arguments = dict(part.split("=") for part in rest.rstrip(")").split(", "))
    settings = {key: value.strip("'") if "'" in value else float(value) for key, value in arguments.items()}
    return getattr(tercet, name)(**settings)


class Given:
    """What sentence-transformers takes for a model: it gives back the embeddings that it is given."""

    def __call__(self, features: dict) -> dict:
        """The features, which are the embeddings already."""
        return features


def other_loss(word: str) -> Callable:
    """Another library's loss as a function of embeddings and labels."""
    import torch
    from torch.nn import functional

    if word.startswith("batch_"):
        from sentence_transformers.sentence_transformer import losses

        names = {"batch_all": "BatchAllTripletLoss", "batch_hard": "BatchHardTripletLoss"}
        loss = getattr(losses, names.get(word, "BatchSemiHardTripletLoss"))(model=Given(), margin=0.2)
        return lambda x, labels: loss([{"sentence_embedding": x}], labels)
    if word.startswith("pml_"):
        from pytorch_metric_learning import distances, miners
        from pytorch_metric_learning import losses as pml

        if word == "pml_hard":
            distance = distances.LpDistance(normalize_embeddings=False)
            miner, triplet = miners.BatchHardMiner(distance=distance), pml.TripletMarginLoss(0.2, distance=distance)
            return lambda x, labels: triplet(x, labels, miner(x, labels))
        return {"pml_ntxent": pml.NTXentLoss, "pml_supcon": pml.SupConLoss}[word](temperature=0.1)
    if word == "cdist":
        return lambda x, labels: torch.cdist(x, x, p=1.0).sum()

    def plain(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As one writes it down: whole matrices, and no more of them than it takes."""
        positive = labels[:, None] == labels
        positive.fill_diagonal_(False)
        if word == "plain_logsumexp":
            tau, margin = 0.1, 0.2
            score = -torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist")
        else:
            tau, margin = 0.1, 0.0
            unit = functional.normalize(x)
            score = unit @ unit.T
        score = score / tau
        same = positive.clone().fill_diagonal_(True)
        if word == "plain_supcon":
            everything = score.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf).logsumexp(1)
            return (everything - (score * positive).sum(1) / positive.sum(1)).mean()
        negatives = score.masked_fill(same, -torch.inf).logsumexp(1)
        i, j = positive.nonzero(as_tuple=True)
        cost = functional.softplus(negatives[i] - score[i, j] + margin / tau)
        return (tau * cost if word == "plain_logsumexp" else cost).mean()

    return plain


def batch(row: Row) -> tuple:
    """Unit rows around class centres, shuffled; non-negative, which Jaccard needs and the others do not mind."""
    import torch

    torch.manual_seed(0)
    labels = (torch.arange(row.rows) // row.class_size)[torch.randperm(row.rows)]
    centres = torch.randn(row.rows // row.class_size + 1, DIM)
    x = torch.nn.functional.normalize(0.6 * centres[labels] + torch.randn(row.rows, DIM))
    if "jaccard" in row.ours:
        x = x.abs()
    return x.requires_grad_(), labels


def run(loss: Callable, x: object, labels: object) -> None:
    """Forward and backward."""
    x.grad = None
    loss(x, labels).backward()


def warm_up(loss: Callable, row: Row) -> None:
    """A small batch of the same kind, so that nothing is loaded or compiled any more."""
    run(loss, *batch(Row(4 * min(row.class_size, 64), min(row.class_size, 64), row.ours, {})))


def peak_bytes() -> int:
    """The largest resident size of this process so far; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_times(row: Row, others: list[str], rounds: int) -> dict[str, float]:
    """Median seconds of the limit, of ours and of the others, which take turns."""
    import torch

    x, labels = batch(row)
    plain = x.detach()
    calls: dict[str, Callable[[], object]] = {}
    if row.rows <= 16384:
        buffer = torch.empty(row.rows, row.rows)
        calls["limit"] = lambda: [torch.mm(plain, plain.T, out=buffer) for _ in range(3)]
    for name, loss in [("ours", our_loss(row))] + [(name, other_loss(row.others[name])) for name in others]:
        warm_up(loss, row)
        calls[name] = lambda loss=loss: run(loss, x, labels)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in list(calls.items()):
            if seconds[name] and seconds[name][0] > 5:
                continue
            try:
                seconds[name].append(seconds_of(call))
            except RuntimeError:  # not enough memory
                del calls[name]
    return {name: statistics.median(found) for name, found in seconds.items() if found}


def measure_memory(row: Row, name: str) -> float:
    """Growth of the peak resident size in one call, beyond the gradient that every loss returns."""
    loss = our_loss(row) if name == "ours" else other_loss(row.others[name])
    warm_up(loss, row)
    x, labels = batch(row)
    x.grad = None
    before = peak_bytes()
    run(loss, x, labels)
    return peak_bytes() - before


def in_process(*arguments: str) -> dict | float | None:
    """The answer of this file run with some arguments; None if it failed."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        print("   ", " ".join(arguments), "failed:", done.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return None
    return json.loads(done.stdout)


def show(key: str, row: Row, given: argparse.Namespace) -> None:
    """Measure one row and print it."""
    names = [] if given.alone else list(row.others)
    times = in_process("--times", key, "--rounds", str(given.rounds), "--beside", *names)
    memory = {name: in_process("--memory", key, name) for name in ["ours", *names]}
    if times is None:
        return
    ratio = f"{times['ours'] / times['limit']:8.2f}" if "limit" in times else f"{'-':>8}"
    line = f"{key:18} {1000 * times['ours']:9.1f} ms {ratio} {memory['ours'] / MEGABYTE:8.1f} MB"
    for name in names:
        slower = f"{times[name] / times['ours']:.1f} times the time" if name in times else "-"
        larger = f", {memory[name] / max(memory['ours'], 1):.0f} times the memory" if memory[name] is not None else ""
        line += f"   {name}: {slower}{larger}"
    print(line, flush=True)


def main() -> None:
    """Measure the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TABLE, help="rows to measure")
    parser.add_argument("--alone", action="store_true", help="leave the other libraries out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--list", action="store_true", help="show the rows")
    for hidden in ("--times", "--memory", "--beside"):
        parser.add_argument(hidden, nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.times:
        print(json.dumps(measure_times(TABLE[given.times[0]], given.beside or [], given.rounds)))
    elif given.memory:
        print(json.dumps(measure_memory(TABLE[given.memory[0]], given.memory[1])))
    elif given.list:
        for key, row in TABLE.items():
            print(f"{key:18} {row.rows:6} rows in classes of {row.class_size:5}: {row.ours}")
    else:
        print(f"{'row':18} {'ours':>12} {'/ limit':>8} {'memory':>11}")
        for key in given.only or TABLE:
            show(key, TABLE[key], given)


if __name__ == "__main__":
    main()
