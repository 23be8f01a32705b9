"""Views: an item changed in several ways, which are alike, while other items are not; so no label is needed.

Chen, Kornblith, Norouzi and Hinton 2020, "A simple framework for contrastive learning of visual representations"
(SimCLR), for images; Gao, Yao and Chen 2021, "SimCSE", for texts, whose views differ by dropout alone; Bahri et al.
2022 (SCARF) for rows of numbers. `Feed` makes the views of a batch; here is what they need, and how they are validated.

Shapes: N held-out items, D the length of an embedding.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tercet.data.augmentation import augment, draw
from tercet.data.corruption import DEFAULT_SHARE, corrupt
from tercet.data.records import Records
from tercet.errors import InputError
from tercet.training.assessment.assessment import Assessment
from tercet.training.batches.loading import load
from tercet.training.config import BatchOptions, Config
from tercet.training.model import EMBED_BATCH, Model, Readable
from tercet.training.reporter import Reporter
from tercet.training.step.dropout import KeyedDraws
from tercet.training.step.gradient_cache import BATCH_STATISTICS, buffers_as_now

HELD_VIEWS = 2
HELD_STEP = 2**48
"""A step that no training reaches: the draws of the held-out views are keyed by it, and so are the same each time."""
NOTE = (
    "These figures are of views: how often the other view of an item is found among all views of all items, and told "
    "from them. They say how far training has come, not how well the embedding serves labels; data with labels would."
)
TRIED = 4  # items whose views are compared, to see whether an encoder draws
ROUNDING = 1e-4  # equal inputs in two rows of a batch may differ by less


def as_items(records: Records) -> Records:
    """The records without labels that tell nothing apart: those of a single class."""
    if records.form != "labels" or len(records.classes) > 1:
        return records
    return dataclasses.replace(records, labels=None, classes=()).described("of a single class, whose name is not used")


def with_views(batch: BatchOptions, records: Records) -> BatchOptions:
    """The options of a batch with the corruption that views of these records need.

    Raises:
        InputError: views mean nothing for these records, or corruption does.
    """
    if batch.views == 1:
        return batch
    if records.form not in ("labels", "items"):
        raise InputError(
            f"views is {batch.views}, and the data holds {records.form.replace('-', ' ')}, which "
            "say what is alike; leave views out."
        )
    if records.kind != "tabular":
        if batch.corruption is not None:
            raise InputError(
                f"corruption is {batch.corruption}, which changes rows of numbers, and the data is {records.kind}; "
                "leave it out."
            )
        return batch
    if records.items.shape[1] < 2 and batch.corruption != 0:
        raise InputError(
            f"{records.source} has a single column of features, and nothing would be left of a row with that "
            "corrupted; views need two columns or more."
        )
    return dataclasses.replace(batch, corruption=DEFAULT_SHARE if batch.corruption is None else batch.corruption)


def check_views(config: Config, model: Model, train: Readable) -> None:
    """Raise InputError where nothing would make the views of an item differ, with the option that would."""
    views, kind = config.batch.views, train.records.kind
    if views == 1:
        return
    changed = (kind == "image" and not config.augmentation.changes_nothing) or (
        bool(config.batch.corruption) and bool(np.ptp(train.records.items, axis=0).any())
    )
    if changed or _differs_by_itself(model, train):
        return
    raise InputError(f"views is {views}, and nothing makes the views of an item differ: {_REMEDIES[kind]}.")


_REMEDIES = {
    "image": "every augmentation is off and the encoder draws nothing. Give --augmentation.crop 0.9, for example",
    "text": "the encoder of texts has no dropout. Give --text.dropout 0.1, or with --text.weights a transformer with "
    "dropout that is not frozen",
    "tabular": "corruption is 0, or all rows are equal, and the encoder draws nothing. Give --corruption 0.6, for "
    "example",
    "tensor": "the dataset gives an item twice the same and the encoder draws nothing. Let the dataset change what it "
    "gives at random, or give the encoder dropout",
}


def _differs_by_itself(model: Model, data: Readable) -> bool:
    """Whether items that are loaded and encoded twice, as in training, come out different."""
    positions = np.tile(np.arange(min(TRIED, len(data.records))), 2)
    batch = load(data.loader, positions, seed=0, step=0)
    rows = _encoded_as_in_training(model, batch, slice(0, len(positions)), seed=0)
    first, second = rows.float().chunk(2)
    return bool((first - second).abs().max() > ROUNDING * rows.abs().max())


@dataclass(frozen=True)
class HeldViews(Readable):
    """Two views of each held-out item, as records of 2N rows whose labels are the items.

    Retrieval then asks of each view whether the item's other view is nearest among all others, and verification
    whether two views are of one item.

    Attributes:
        items: what was held out, N records without labels.
        config: of the run, which says how views are made.
    """

    items: Records
    config: Config

    @classmethod
    def of(cls, held: Readable, config: Config) -> HeldViews:
        """The views of what is held out."""
        return cls(_doubled(held.records), held.loader, held.records, config)

    def count(self) -> str:
        """How much there is, in words."""
        return f"{HELD_VIEWS} views of each of {self.items.count()}, which no label tells apart"

    def told(self, assessment: Assessment) -> Assessment:
        """The assessment, which says that it is of views."""
        found = assessment.evaluation
        marked = dataclasses.replace(found, metrics=found.metrics | {"n_views": HELD_VIEWS}, notes=[NOTE, *found.notes])
        return dataclasses.replace(assessment, evaluation=marked, data=self.count())

    def encode(self, model: Model, reporter: Reporter, title: str = "embedding") -> np.ndarray:
        """Embeddings of the views, float32 of shape (2N, D), made as in training, dropout included.

        Each evaluation of a run draws the same.
        """
        seed, positions = self.config.training.seed, np.tile(np.arange(len(self.items)), HELD_VIEWS)
        changes = draw(self.config.augmentation, len(positions), seed, HELD_STEP)
        chunks = []
        with reporter.progress(title) as advance:
            for start in range(0, len(positions), EMBED_BATCH):
                rows = slice(start, min(start + EMBED_BATCH, len(positions)))
                if self.config.batch.corruption:
                    batch = self._corrupted(rows)
                else:
                    batch = load(self.loader, positions[rows], seed, HELD_STEP, rows.start)
                if self.items.kind == "image":
                    batch = augment(batch, changes[rows], self.config.augmentation)
                chunks.append(_encoded_as_in_training(model, batch, rows, seed).float().cpu().numpy())
                advance(rows.stop, len(positions))
        return np.concatenate(chunks)

    def _corrupted(self, rows: slice) -> Tensor:
        both, share = np.tile(self.items.items, (HELD_VIEWS, 1)), self.config.batch.corruption
        assert share is not None
        seed, spared = self.config.training.seed, len(self.items)
        return corrupt(torch.from_numpy(both), self.items.items, share, seed, HELD_STEP, spared)[rows]


def _doubled(items: Records) -> Records:
    """Records of all first views and then all second ones, labelled by the item."""
    count = len(items)
    single = dataclasses.replace(items, labels=np.arange(count, dtype=np.int64), classes=tuple(items.names))
    doubled = single.take(np.tile(np.arange(count), HELD_VIEWS))
    names = [f"{name} (view {view + 1})" for view in range(HELD_VIEWS) for name in items.names]
    return dataclasses.replace(doubled, names=names)


@torch.no_grad()
def _encoded_as_in_training(model: Model, batch: object, rows: slice, seed: int) -> Tensor:
    """Embeddings with the encoder's own draws, keyed by row, and its running statistics as they are."""
    encoder = model.encoder
    was_training, put_back = encoder.training, buffers_as_now(encoder)
    encoder.train()
    for layer in encoder.modules():
        if isinstance(layer, BATCH_STATISTICS):
            layer.eval()
    try:
        with torch.random.fork_rng(), KeyedDraws(seed, HELD_STEP, rows):
            return model.forward(batch)
    finally:
        put_back()
        encoder.train(was_training)
