"""A run's embeddings of a whole source, written as shards by one process or several; and an index of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.collectives import Ranks, joined, local_device
from tercet.data.records import Records, Skipped
from tercet.distances import Mahalanobis
from tercet.errors import InputError, RunError, check_choice
from tercet.index.parallel import Work, in_processes
from tercet.index.shards import begin, conclude, open_shards, read_shards, side_of, write_shards
from tercet.index.store import Index
from tercet.neighbors.quantised import VECTORS
from tercet.training.config import read_config
from tercet.training.model import Model, choose_device, weights_hash
from tercet.training.objective.loss import LOSS_FILE, make_distance
from tercet.training.objective.loss_state import read_state
from tercet.training.reporter import Reporter, SilentReporter


@dataclass(frozen=True)
class Embedding:
    """What was written: the folder, how many embeddings of how many numbers, and what was left out."""

    folder: Path
    items: int
    dimensions: int
    shards: int
    skipped: tuple[Skipped, ...]


def embed_to_shards(
    model: Model, weights: str, read: Callable[[], Records], out: Path, shard_rows: int, vectors: str, resume: bool,
    reporter: Reporter, processes: int = 1, work: Work | None = None,
) -> Embedding:  # fmt: skip
    """Write the shards of what `read` gives; `work` is what each of several processes does. See `Run.embed_to`."""
    check_choice("vectors", vectors, VECTORS)
    with joined("cpu") as ranks:
        if processes != 1 and ranks.size > 1:
            raise InputError("processes and torchrun both share the work; use one of them.")
        records = read()
        settings = _settings(model, weights, records, shard_rows, vectors)
        if ranks.is_first:
            begin(out, settings, resume)
        ranks.wait()
        shards = open_shards(out)
        if processes == 1:
            quiet = reporter if ranks.is_first else SilentReporter()
            write_shards(shards, _placed(model, ranks), records, quiet, ranks.rank, ranks.size)
        elif work is None:
            raise InputError(f"processes is {processes}, and each reads the data for itself: give a path.")
        else:
            in_processes(work, shards, processes, reporter)
        ranks.wait()
        skipped = conclude(shards, records.skipped) if ranks.is_first else records.skipped
    count = settings["items"] - len(skipped) + len(records.skipped)
    return Embedding(out, count, settings["dimensions"], shards.count, tuple(skipped))


def index_of_shards(run: Path, folder: Path) -> Index:
    """An index of a folder of shards, which must be of this run; its model is not loaded.

    Raises:
        RunError: shards that are not finished, or of other weights.
    """
    shards = open_shards(folder)
    vectors, names, labels = read_shards(shards)
    if not (run / "config.toml").exists():
        raise RunError(f"{run} is not a run folder: it holds no config.toml.")
    distance = make_distance(read_config(run / "config.toml").loss, read_state(run / LOSS_FILE))
    index = Index(
        vectors.restored(), names, labels, str(run.resolve()), shards.settings["weights"], distance.name,
        components=distance.components.numpy() if isinstance(distance, Mahalanobis) else None,
        side=shards.settings["side"], kind=vectors.kind,
    )  # fmt: skip
    index.check_weights(weights_hash(run))
    return index


def _settings(model: Model, weights: str, records: Records, shard_rows: int, vectors: str) -> dict[str, Any]:
    """What decides the shards' bytes, as far as it can be told without reading the items."""
    dim = model.cut_to or getattr(model.options, "dim", None)
    return {
        "weights": weights, "source": records.source, "items": len(records), "shard_rows": shard_rows,
        "vectors": vectors, "dimensions": _length(model, records) if dim is None else dim, "side": side_of(records),
        "form": records.form, "columns": list(records.columns),
    }  # fmt: skip


def _length(model: Model, records: Records) -> int:
    """How long an embedding of the user's own encoder is, by that of the first item that can be read."""
    for place in range(len(records)):
        found = model.embed(records.take([place]).items)
        if len(found.positions):
            return int(found.vectors.shape[1])
    return 0


def _placed(model: Model, ranks: Ranks) -> Model:
    """The model on this rank's device."""
    if ranks.size == 1:
        return model
    device = choose_device(local_device("auto", ranks))
    return Model(model.options, model.assets, model.encoder.to(device), device, model.cut_to)
