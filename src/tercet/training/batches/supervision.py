"""Supervision: what says which items are alike, as batches to train on and the loss of each.

Labels, pairs and triplets differ only here; the loop above and the encoder below see items and embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tercet.data import indexed
from tercet.data.class_index import ClassIndex
from tercet.data.items import ItemBatches
from tercet.data.paced import PacedBatches
from tercet.data.records import Records
from tercet.data.samplers import ClassBatches, MinedBatches, SetBatches, TupleBatches
from tercet.data.sides import SIDES
from tercet.losses import ClipLoss, ContrastiveLoss, TripletLoss
from tercet.losses.base import BatchLoss
from tercet.losses.inputs import unit_rows
from tercet.training.config import BatchOptions
from tercet.training.health.regions import Triplets
from tercet.training.objective.loss import Loss, given_labels
from tercet.training.objective.loss_checks import check_supervision
from tercet.training.objective.loss_state import device_of, learned_figures
from tercet.training.step.bank import Memory

Statistics = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """The items of a step, by position, and what is known of them."""

    positions: np.ndarray  # int64 (B,), each item once, but for a class topped up to K samples; or all, view by view
    targets: np.ndarray  # labels (B,) or sets of them (B, L), or rows of positions in this batch (T, 2) or (T, 3)
    similar: np.ndarray | None = None  # bool (T,)
    views: int = 1  # of each item

    @property
    def ids(self) -> np.ndarray:
        """What is never compared with itself, (B,): an item; but each view of one is drawn anew, and is its own."""
        return self.positions if self.views == 1 else np.arange(len(self.positions))


class Sampler(Protocol):
    """Endless batches that can be taken up again where they were left."""

    epoch: int

    def __len__(self) -> int:
        """How many batches the current epoch has."""

    def next(self) -> np.ndarray:
        """The next batch, int64 positions."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the same batches."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""

    def summary(self) -> str:
        """What a batch and an epoch hold, said aloud."""


class Supervision:
    """Deals batches and computes the loss of their embeddings; `make_supervision` chooses the class."""

    def __init__(self, records: Records, sampler: Sampler, loss: Loss) -> None:
        self.records = records
        self.sampler = sampler
        self.loss = loss
        self.memory: Memory | None = None
        """Embeddings of earlier batches, where the loss looks at them too."""
        self.latest: tuple[Tensor, Batch] | None = None
        """The embeddings of the last call, without a graph, and its batch: for the vital signs."""

    def next(self) -> Batch:
        """The next batch."""
        return self.batch(self.sampler.next())

    def batch(self, chosen: np.ndarray) -> Batch:
        """The batch of these items, or of these rows of a table of pairs or triplets; int64 positions."""
        raise NotImplementedError

    def count_steps(self, epochs: int) -> int:
        """How many batches so many epochs hold; they differ where the classes' sizes are no multiples of K."""
        if isinstance(self.sampler, indexed.IndexedBatches):
            return sum(self.sampler.count(epoch) for epoch in range(epochs))
        before, steps = self.sampler.state(), 0
        while self.sampler.epoch < epochs:
            steps += len(self.sampler)
            for _ in range(len(self.sampler)):
                self.sampler.next()
        self.sampler.restore(before)
        return steps

    def __call__(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Callable[[], Statistics]]:
        """The loss of a batch, a 0-d tensor with a graph, and its statistics on request."""
        raise NotImplementedError


class Labelled(Supervision):
    """P classes × K samples, or positive pairs, whose items share a label; and any `loss(embeddings, labels)`.

    With views, a batch holds all of its items so many times; items without labels are a class each (Chen et al. 2020,
    SimCLR, section 2.1; with labels Khosla et al. 2020, section 3.2).
    """

    def __init__(self, records: Records, sampler: Sampler, loss: Loss, views: int = 1) -> None:
        super().__init__(records, sampler, loss)
        self.views = views
        self.labels = labels_of(records)
        self.given = given_labels(loss, records, self.labels)

    def batch(self, chosen: np.ndarray) -> Batch:
        """These items, or the items of these pairs, each once, with their labels."""
        once = chosen if self.records.tuples is None else np.unique(self.records.tuples[chosen])
        positions = np.tile(once, self.views)
        return Batch(positions, self.labels[positions], views=self.views)

    def __call__(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Callable[[], Statistics]]:
        """The loss on the batch's labels; a sample drawn twice is never compared with itself by Tercet's losses."""
        loss, self.latest = self.loss, (embeddings.detach(), batch)
        if not isinstance(loss, BatchLoss):
            value = loss(embeddings, torch.from_numpy(batch.targets).to(embeddings.device))
            return value, lambda: _means(loss=value)
        value = loss(embeddings, self.given[batch.positions], ids=torch.from_numpy(batch.ids))
        stats = loss.stats
        assert stats is not None
        return value, lambda: {**_means(loss=value), **stats.to_dict(), **learned_figures(loss)}


class Remembering(Labelled):
    """The same, and the batch against a memory of earlier ones: the sum of both losses (Wang et al. 2020, section 3.2).

    An item of the batch is not compared with itself as it was before.
    """

    def __init__(self, records: Records, sampler: Sampler, loss: Loss, memory: Memory, views: int = 1) -> None:
        super().__init__(records, sampler, loss, views)
        self.memory: Memory = memory

    def __call__(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Callable[[], Statistics]]:
        """Both losses, and the statistics of the first; the second is `memory_loss`."""
        value, statistics = super().__call__(embeddings, batch)
        bank, keys, positions = self.memory.bank, self.memory.keys, torch.from_numpy(batch.positions)
        if keys is not None:
            bank.add(keys, positions)
        rows = len(bank) if self.memory.in_use else 0
        further = self._against_memory(embeddings, positions) if rows else value.new_zeros(())
        if keys is None:
            bank.add(embeddings, positions)
        both = value + further
        return both, lambda: {**statistics(), **_means(loss=both, memory_loss=further), "memory_rows": float(rows)}

    def _against_memory(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        bank = self.memory.bank
        assert isinstance(self.loss, BatchLoss)
        stats = self.loss.stats
        known = bank.positions.cpu()
        value: Tensor = self.loss(
            embeddings, self.given[positions.numpy()], ids=positions,
            reference=bank.rows, reference_labels=self.given[known.numpy()], reference_ids=known,
        )  # fmt: skip
        self.loss.stats = stats  # those of the batch, which are told
        return value


class RememberingViews(Remembering):
    """Views against those of the batch and a memory together: MoCo's queue, where a slow copy fills it.

    He et al. 2020, section 3.2: the positives are in the batch, so a loss of the batch against the memory alone would
    often have none. What the memory holds of the batch's own items is left out. Both views are anchors, and the batch's
    other items are negatives too.
    """

    def __call__(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Callable[[], Statistics]]:
        """The loss against batch and memory; until the memory is in use, that of the batch."""
        memory, own = self.memory, embeddings if self.memory.keys is None else self.memory.keys
        rows = 0
        if not memory.in_use:
            value, statistics = Labelled.__call__(self, embeddings, batch)
        else:
            others = ~np.isin(memory.bank.positions.cpu().numpy(), batch.positions)
            rows = int(others.sum())
            value, statistics = self._against_both(embeddings, own, batch, others)
        memory.bank.add(own, torch.from_numpy(batch.positions))
        return value, lambda: {**statistics(), "memory_rows": float(rows)}

    def _against_both(
        self, embeddings: Tensor, own: Tensor, batch: Batch, others: np.ndarray
    ) -> tuple[Tensor, Callable[[], Statistics]]:
        loss, bank, self.latest = self.loss, self.memory.bank, (embeddings.detach(), batch)
        assert isinstance(loss, BatchLoss)
        known = np.concatenate([batch.positions, bank.positions.cpu().numpy()[others]])
        value: Tensor = loss(
            embeddings, self.given[batch.positions], ids=torch.from_numpy(batch.ids),
            reference=torch.cat([own, bank.rows[torch.from_numpy(others).to(bank.rows.device)].to(own)]),
            reference_labels=self.given[known], reference_ids=torch.arange(len(known)),
        )  # fmt: skip
        stats = loss.stats
        assert stats is not None
        return value, lambda: {**_means(loss=value), **stats.to_dict(), **learned_figures(loss)}


class TwoSided(Labelled):
    """Positive pairs of two sides: left against right and right against left, halved; never a side with itself.

    With InfoNCE and a learned temperature that is CLIP's loss (Radford et al. 2021, figure 3). Pairs that share an item
    count as one class, so that they are not each other's negatives.
    """

    def __init__(self, records: Records, sampler: Sampler, loss: Loss) -> None:
        super().__init__(records, sampler, loss)
        self.sides = records.items.sides

    def __call__(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Callable[[], Statistics]]:
        """The loss of both directions, and the statistics of the left items as anchors."""
        loss, self.latest = self.loss, (embeddings.detach(), batch)
        assert isinstance(loss, BatchLoss)
        count = int((self.sides[batch.positions] == 0).sum())
        left, right, targets = embeddings[:count], embeddings[count:], self.given[batch.positions]
        value: Tensor = loss(left, targets[:count], reference=right, reference_labels=targets[count:])
        stats = loss.stats
        assert stats is not None
        if not isinstance(loss, ClipLoss):  # which looks at both directions itself
            value = (value + loss(right, targets[count:], reference=left, reference_labels=targets[:count])) / 2
        loss.stats = stats
        return value, lambda: {**_means(loss=value), **stats.to_dict(), **learned_figures(loss)}


class Given(Supervision):
    """Ready-made triplets (the triplet margin loss) or pairs marked similar or not (the contrastive loss)."""

    def batch(self, chosen: np.ndarray) -> Batch:
        """These rows, their items encoded once however many rows use them."""
        assert self.records.tuples is not None
        positions, inverse = np.unique(self.records.tuples[chosen], return_inverse=True)
        similar = None if self.records.similar is None else self.records.similar[chosen]
        return Batch(positions, inverse.reshape(len(chosen), -1), similar)

    def __call__(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Callable[[], Statistics]]:
        """The loss of the batch's rows."""
        self.latest = embeddings.detach(), batch
        sides = [embeddings[torch.from_numpy(side)] for side in batch.targets.T]
        if batch.similar is not None:
            return self._contrastive(sides[0], sides[1], torch.from_numpy(batch.similar).to(embeddings.device))
        return self._triplet(*sides)

    def _triplet(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Callable[[], Statistics]]:
        assert isinstance(self.loss, TripletLoss)
        rule = self.loss.rule
        value = self.loss.triplets(anchor, positive, negative)

        def statistics() -> Statistics:
            near, far = self._distances(anchor, positive), self._distances(anchor, negative)
            active = (near + rule.margin > far).double()
            return _means(loss=value, active_share=active, n_active=active.sum(), mean_positive=near, mean_negative=far)

        return value, statistics

    def _contrastive(self, left: Tensor, right: Tensor, similar: Tensor) -> tuple[Tensor, Callable[[], Statistics]]:
        assert isinstance(self.loss, ContrastiveLoss)
        rule = self.loss.rule
        value = self.loss.pairs(left, right, similar)

        def statistics() -> Statistics:
            distance = self._distances(left, right)
            active = torch.where(similar, distance > rule.positive_margin, distance < rule.margin).double()
            figures = {"mean_positive": distance[similar], "mean_negative": distance[~similar]}
            present = {name: values for name, values in figures.items() if len(values)}
            return _means(loss=value, active_share=active, n_active=active.sum(), **present)

        return value, statistics

    def triplet_distances(self) -> Triplets | None:
        """The distances of the last batch's triplets; None of pairs."""
        if self.latest is None or self.latest[1].targets.shape[1] != 3:
            return None
        embeddings, batch = self.latest
        anchor, positive, negative = (embeddings[torch.from_numpy(side)] for side in batch.targets.T)
        return Triplets(self._distances(anchor, positive), self._distances(anchor, negative))

    @torch.no_grad()
    def _distances(self, left: Tensor, right: Tensor) -> Tensor:
        """Of N pairs of rows, as the loss compares them."""
        assert isinstance(self.loss, BatchLoss)
        sides = (unit_rows(rows) if self.loss.normalize else rows for rows in (left, right))
        return self.loss.rule.distance.pairs(*sides)


SUPERVISIONS: dict[str, type[Supervision]] = {
    "labels": Labelled,
    "label-sets": Labelled,
    "items": Labelled,
    "pairs": Labelled,
    "triplets": Given,
    "marked-pairs": Given,
}


def make_supervision(
    records: Records, options: BatchOptions, loss: Loss, seed: int, memory: Memory | None = None,
    mine_at_once: bool = False, paced: PacedBatches | None = None,
) -> Supervision:  # fmt: skip
    """The supervision that the data holds, with its sampler, and the memory if there is one.

    Args:
        records: the training data.
        options: of the batches.
        loss: of a batch.
        seed: of the run.
        memory: see `Remembering`.
        mine_at_once: where triplets are mined: before the first epoch too.
        paced: deals the batches, of a run with a curriculum.

    Raises:
        InputError: the loss does not go with data of this form, or with these classes.
    """
    check_supervision(loss, records)
    if paced is not None:
        sampler: Sampler = paced
    elif records.form == "items":
        sampler = ItemBatches(len(records), options.rows_per_batch, seed)
    elif records.tuples is not None:
        sampler = TupleBatches(len(records.tuples), options.rows_per_batch, seed)
    else:
        assert records.codes is not None
        settings = records.codes, options.classes_per_batch, options.samples_per_class, seed, options.singletons
        by = options.class_sampling
        if records.sets is not None:
            sampler = SetBatches(*settings, by)
        elif options.mine_every:
            sampler = MinedBatches(*settings, options.mine_every, mine_at_once, by)
        elif len(records) >= indexed.INDEXED_FROM:
            sampler = indexed.IndexedBatches(ClassIndex.build(settings[0]), *settings[1:], by)
        else:
            sampler = ClassBatches(*settings, by)
    if memory is not None:
        remembering = Remembering if options.views == 1 else RememberingViews
        return remembering(records, sampler, loss, memory, options.views)
    if records.tuples is None:
        return Labelled(records, sampler, loss, options.views)
    return _supervision_of(records)(records, sampler, loss)


def _supervision_of(records: Records) -> type[Supervision]:
    return TwoSided if records.kind == SIDES else SUPERVISIONS[records.form]


def whole_loss(records: Records, loss: Loss, vectors: np.ndarray) -> float:
    """The loss of all items, or of all rows of pairs or triplets, as one batch; vectors of shape (N, D)."""
    count = len(records) if records.tuples is None else len(records.tuples)
    supervision = _supervision_of(records)(records, TupleBatches(count, count), loss)
    batch = supervision.next()
    rows = torch.from_numpy(vectors[batch.positions]).to(device_of(loss))
    with torch.no_grad():
        return float(supervision(rows, batch)[0])


def labels_of(records: Records) -> np.ndarray:
    """The label of each item of labelled records or positive pairs, int64 (N,); of items without labels its number.

    Of sets of labels all of each item, (N, L), with -1 where there are fewer.

    Items that pairs join, directly or through others, share a label. Where every item is in one pair, that is the
    pair's number. Where an item is in several, numbering the pairs would make negatives of items that the table calls
    alike.
    """
    if records.labels is not None and records.forged is not None:  # a forgery is like nothing, not even another
        alone = len(records.classes) + np.arange(len(records), dtype=np.int64)
        return np.where(records.forged, alone, records.labels)
    if records.codes is not None:
        return records.codes
    if records.tuples is None:
        return np.arange(len(records), dtype=np.int64)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = records.tuples.T
    links = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(records), len(records)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _means(**figures: Tensor) -> Statistics:
    return {name: float(values.detach().double().mean()) for name, values in figures.items()}
