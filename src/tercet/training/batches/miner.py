"""The miner: every so many epochs it looks for the triplets of the whole training set that are worth a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tercet.collectives import ALONE, Ranks
from tercet.data.records import plural
from tercet.data.samplers import MinedBatches
from tercet.distances import Distance
from tercet.mining.options import MiningOptions
from tercet.mining.tables import suspects_csv
from tercet.mining.triplets import Mined, mine_triplets
from tercet.training.folder import files
from tercet.training.mined import DEFAULT_MARGIN
from tercet.training.model import Model, Readable
from tercet.training.reporter import Reporter
from tercet.training.step.shared import encode_whole, spread_tensors

SUSPECTS_FILE = "suspects.csv"


class Miner(nn.Module):
    """Embeds the training set with the weights at hand, mines triplets, and gives them to the sampler.

    Likely label errors are in no triplet; they are listed in the run's suspects.csv. Cost: see `mine_triplets`, and a
    pass of the encoder over the set.

    Args:
        sampler: what deals the batches.
        train: the training data, labelled.
        model: of the run.
        distance: gives the distance between embeddings, as it is by now.
        options: the rules.
        margin: that hard, semi-hard and easy triplets are told apart by.
        folder: of the run.
        reporter: hears what was found.
        ranks: which share the encoding; rank 0 mines, and tells the others.

    Attributes:
        rows: int64 (T, 3), the triplets in use, saved with the checkpoint.
        epoch: int64 (), of the last mining; -1 before it.
        figures: of the last mining, until they are taken.
    """

    rows: Tensor
    epoch: Tensor

    def __init__(
        self, sampler: MinedBatches, train: Readable, model: Model, distance: Callable[[], Distance],
        options: MiningOptions, margin: float | None, folder: Path, reporter: Reporter,
        ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sampler, self.train_data, self.model, self.distance = sampler, train, model, distance
        self.options, self.margin = options, DEFAULT_MARGIN if margin is None else margin
        self.folder, self.reporter, self.ranks = folder, reporter, ranks
        self.register_buffer("rows", torch.zeros(0, 3, dtype=torch.int64))
        self.register_buffer("epoch", torch.tensor(-1))
        self.contents = train.records.fingerprints()
        self.figures: dict[str, float] = {}

    @property
    def is_due(self) -> bool:
        """Whether it is time to mine, before the next batch."""
        return self.sampler.is_due

    def mine(self) -> None:
        """Mine with the weights at hand."""
        vectors = encode_whole(self.train_data, self.model, self.ranks, self.reporter, "mining")
        found = {"rows": self._mined(vectors)} if self.ranks.is_first else {}
        self.rows = spread_tensors(found, self.ranks)["rows"]
        self.epoch = torch.tensor(self.sampler.epoch)
        self.restore()

    def _mined(self, vectors: np.ndarray) -> Tensor:
        records, epoch = self.train_data.records, self.sampler.epoch
        assert records.labels is not None
        found = mine_triplets(
            vectors, [records.classes[code] for code in records.labels],
            dataclasses.replace(self.options, seed=(self.options.seed + epoch) % 2**63), distance=self.distance(),
            contents=self.contents,
        )  # fmt: skip
        files.write_text(self.folder / SUSPECTS_FILE, suspects_csv(found, [str(name) for name in records.names]))
        self._say(found, epoch)
        return torch.from_numpy(np.stack([found.anchors, found.positives, found.negatives], axis=1))

    def restore(self) -> None:
        """Give the sampler the triplets that are held, after a checkpoint was loaded."""
        self.sampler.give(self.rows.numpy(), int(self.epoch))

    def take_figures(self) -> dict[str, float]:
        """What the last mining found, once."""
        figures, self.figures = self.figures, {}
        return figures

    def _say(self, found: Mined, epoch: int) -> None:
        kinds = found.hardness(self.margin)
        self.figures = {"mined_triplets": float(len(found)), "label_errors": float(len(found.label_errors))}
        self.figures |= {f"mined_{kind}": float(count) for kind, count in kinds.items()}
        aside = f", {plural(len(found.label_errors), 'likely label error')} left out" if found.label_errors else ""
        if not len(found):
            self.reporter.warn(
                f"epoch {epoch}: no triplet was mined by these rules{aside}; the batches are of classes until the next "
                "mining. Widen the ranks and margins of --mine"
            )
            return
        hard, semihard, easy = (kinds[kind] for kind in ("hard", "semihard", "easy"))
        self.reporter.say(
            f"epoch {epoch}: mined {plural(len(found), 'triplet')}: {hard:,} hard, {semihard:,} semi-hard, {easy:,} "
            f"easy{aside}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        self.rows = torch.empty_like(state_dict[prefix + "rows"])  # whose length is that of the run
        super()._load_from_state_dict(state_dict, prefix, *arguments)
