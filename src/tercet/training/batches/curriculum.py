"""Curriculum: how hard each training item is, in which order they come, and the batches of it (Wu et al. 2021).

What is scored is kept in the run, so that it goes on without the run that scored; and by the contents of the items, so
that neither names nor order count.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tercet.collectives import ALONE, Ranks
from tercet.data.groups import read_column
from tercet.data.paced import PacedBatches
from tercet.data.randomness import keyed
from tercet.data.readers import read
from tercet.data.records import Records
from tercet.errors import ConfigError, DataError, InputError, RunError
from tercet.losses.base import BatchLoss
from tercet.neighbors import nearest
from tercet.training.batches.pacing import CurriculumOptions, stages
from tercet.training.config import Config, named_run, read_config
from tercet.training.folder import files
from tercet.training.model import Model, Readable, read_all
from tercet.training.objective.loss import LOSS_FILE, make_distance, make_loss
from tercet.training.objective.loss_state import restore_state
from tercet.training.reporter import Reporter
from tercet.training.step.shared import encode_whole

SCORES_FILE = "curriculum.safetensors"  # in a run: what its training items scored
LEARNED_FILE = "learned.safetensors"  # in a run: since when each training item is learned
NOT_YET = -1


class Learned(nn.Module):
    """Records from which step on each training item is learned: its nearest neighbour among them is of its class.

    Of an item that is learned, forgotten and learned again the last time counts (the learned iteration of Wu et al.
    2021, of neighbours for want of a classifier). Cost of a look: a pass of the encoder over the training set, and the
    search for the nearest of N, O(N² D).

    Attributes:
        since: int64 (N,), the step of the first look of those in which the item was learned without a break up to the
            last; -1 for one that was not learned then. Saved with the checkpoint.
    """

    since: Tensor

    def __init__(self, train: Readable, model: Model, folder: Path, reporter: Reporter, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.ranks = ranks
        self.train_data, self.model, self.folder, self.reporter = train, model, folder, reporter
        self.register_buffer("since", torch.full((len(train.records),), NOT_YET, dtype=torch.int64))
        self.contents = train.records.fingerprints()

    def look(self, step: int, config: Config, state: dict[str, Tensor]) -> float:
        """Embed the training set, update, and write what is known into the run; the share that is learned."""
        records = self.train_data.records
        vectors = encode_whole(self.train_data, self.model, self.ranks, self.reporter, "recording")
        self.note(step, vectors, records.labels, make_distance(config.loss, state))
        tensors = {"fingerprints": torch.from_numpy(self.contents), "since": self.since.cpu()}
        if self.ranks.is_first:
            files.write_tensors(self.folder / LEARNED_FILE, tensors)
        return float((self.since != NOT_YET).double().mean())

    def note(self, step: int, vectors: np.ndarray, labels: np.ndarray | None, distance: object) -> None:
        """Update by embeddings of shape (N, D) and labels (N,)."""
        assert labels is not None
        _, found = nearest(vectors, vectors, 1, distance, exclude_self=True)
        right = torch.from_numpy(labels[found[:, 0].cpu().numpy()] == labels).to(self.since.device)
        begun = torch.where(self.since == NOT_YET, step, self.since)
        self.since = torch.where(right, begun, NOT_YET)


def keep_scores(config: Config, train: Readable, folder: Path, resuming: bool, reporter: Reporter) -> None:
    """Score the training items where the curriculum asks for it, and keep that in the run, also for its resumptions.

    Raises:
        ConfigError, DataError, InputError, RunError: they cannot be scored; the message says what to do.
    """
    options, path = config.curriculum, folder / SCORES_FILE
    if options.pacing is None or options.order == "random" or (resuming and path.exists()):
        return
    if options.scoring == "loss":
        scores = losses_by(_reference(options), train.records, config.training.device, reporter)
    elif options.scoring == "learned":
        scores = learned_by(_reference(options), train.records)
    else:
        scores = scores_in_column(config, train.records)
    reporter.say(f"the curriculum's scores are {scores.min():.4g} to {scores.max():.4g}, the easiest first")
    files.write_tensors(path, {"scores": torch.from_numpy(scores)})


def kept_scores(folder: Path) -> dict[str, Tensor]:
    """What `keep_scores` has kept, "scores" float64 (N,); nothing where it kept nothing."""
    path = folder / SCORES_FILE
    return load_file(path) if path.exists() else {}


def paced_batches(config: Config, records: Records, kept: Mapping[str, Tensor]) -> PacedBatches | None:
    """The sampler of a run with a curriculum, from its kept scores; None of one without.

    Equal scores are in random order.
    """
    options, batch, training = config.curriculum, config.batch, config.training
    if options.pacing is None:
        return None
    assert records.labels is not None
    assert training.steps is not None
    shuffled = keyed(training.seed, "curriculum").permutation(len(records))
    if options.order == "random":
        order = shuffled
    else:
        order = np.lexsort((shuffled, kept["scores"].numpy()))
        order = order[::-1] if options.order == "anti" else order
    return PacedBatches(
        records.labels, order, stages(options, training.steps, len(records)), batch.classes_per_batch,
        batch.samples_per_class, training.seed, batch.singletons, batch.class_sampling,
    )  # fmt: skip


def losses_by(folder: Path, records: Records, device: str, reporter: Reporter) -> np.ndarray:
    """Each item's loss by a run: the mean of its terms as an anchor, the training set as one batch; float64 (N,).

    The rule is that run's, but the mean is over all terms, since the mean over active ones grows when easy triplets are
    satisfied. An item alone in its class is no anchor; nothing says that it is easy, so its score is infinite. Cost: a
    pass of the encoder over the set, and the loss of a batch of N.
    """
    config = read_config(folder / "config.toml")
    if config.custom_loss is not None or config.loss.loss is None:
        raise ConfigError(
            f"curriculum.reference names {folder}, whose loss its config.toml cannot make again: {config.custom_loss}. "
            "Name a run with a loss of Tercet's by its name, or score by learned or column."
        )
    kind = None if records.kind == "tensor" else records.kind
    if config.data.kind != kind:
        raise InputError(
            f"curriculum.reference names {folder}, which was trained on {config.data.kind} data; this is "
            f"{records.kind}."
        )
    model = Model.load(config.encoder, folder, device)
    columns = tuple(model.assets.get("columns", ()))
    if columns and records.columns and columns != records.columns:
        raise InputError(
            f"curriculum.reference names {folder}, whose columns are {', '.join(columns)}; here they are "
            f"{', '.join(records.columns)}. Name them with --columns."
        )
    options = config.loss
    if options.loss in ("triplet", "contrastive"):
        options = dataclasses.replace(options, reduction="mean")
    loss = make_loss(options)
    restore_state(loss, folder / LOSS_FILE)
    readable = read_all(model.options, records, reporter, "training")
    vectors = model.encode(readable.loader, np.arange(len(records)), reporter, "scoring")
    return anchor_losses(loss.to(model.device), torch.from_numpy(vectors).to(model.device), records.labels)


def anchor_losses(loss: BatchLoss, vectors: Tensor, labels: np.ndarray | None) -> np.ndarray:
    """The value of each anchor, float64 (N,); infinite for one without a positive. Vectors are of shape (N, D)."""
    assert labels is not None
    values = loss.per_anchor(vectors, torch.from_numpy(labels)).double().cpu().numpy()
    return np.where(np.bincount(labels)[labels] > 1, values, math.inf)


def learned_by(folder: Path, records: Records) -> np.ndarray:
    """The step from which on a run had learned each item, float64 (N,); infinite for one that it never did.

    Of items with equal contents the latest counts.
    """
    path = folder / LEARNED_FILE
    if not path.exists():
        raise RunError(
            f"curriculum.reference names {folder}, which has not recorded what it learned when: it holds no "
            f"{LEARNED_FILE}. Train it with --record-learned."
        )
    stored = load_file(path)
    since = stored["since"].double().numpy()
    return _by_content(
        stored["fingerprints"].numpy(), np.where(since == NOT_YET, math.inf, since), records,
        f"the record of {folder}. Train it on the same data, with the same --seed where a part is held out",
    )  # fmt: skip


def scores_in_column(config: Config, records: Records) -> np.ndarray:
    """The numbers in a column of the table that was trained on, float64 (N,); of equal contents the largest."""
    assert config.curriculum.column is not None
    column, data = config.curriculum.column, config.data
    whole = read(records.source, kind=data.kind, form=data.form, label=data.label, columns=data.columns, root=data.root)
    cells = read_column(records.source, column, whole, "--curriculum.column")
    scores = np.array([_number(cell, column, place, records.source) for place, cell in enumerate(cells)])
    return _by_content(whole.fingerprints(), scores, records, f"{records.source}, which has changed meanwhile")


def _number(cell: str | None, column: str, place: int, source: str) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise DataError(
            f"{source}, item {place + 1}, column {column!r}: {cell!r} is not a number, and every item needs a score. "
            "Fill it in, or remove the row."
        )
    return value


def _by_content(known: np.ndarray, scores: np.ndarray, records: Records, where: str) -> np.ndarray:
    """The score of each record by its contents, the largest of several."""
    largest: dict[int, float] = {}
    for content, score in zip(known.tolist(), scores.tolist(), strict=True):
        largest[content] = max(score, largest.get(content, -math.inf))
    wanted = records.fingerprints().tolist()
    missing = [name for name, content in zip(records.names, wanted, strict=True) if content not in largest]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(records):,} training items have no score ({missing[0]}, ...): they are not in "
            f"{where}."
        )
    return np.array([largest[content] for content in wanted])


def check_reference(options: CurriculumOptions) -> None:
    """Raise RunError where a run is to score and is not there."""
    if options.pacing is not None and options.order != "random" and options.scoring != "column":
        _reference(options)


def _reference(options: CurriculumOptions) -> Path:
    assert options.reference is not None
    return named_run("curriculum.reference", options.reference)
