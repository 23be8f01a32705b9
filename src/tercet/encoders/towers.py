"""Two towers: an encoder for each side of pairs, whose embeddings share a space.

Radford et al. 2021, "Learning transferable visual models from natural language supervision" (CLIP), section 2.4, for
images and texts; Karpukhin et al. 2020 (DPR), section 3.1, for queries and documents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from tercet.encoders.base import Encoder
from tercet.encoders.options import TowersOptions


class TwoSidedBatch(Protocol):
    """What the towers are given: the inputs of each side, None where there are none."""

    @property
    def left(self) -> Any:
        """Inputs of the left tower."""

    @property
    def right(self) -> Any:
        """Inputs of the right tower."""


class TwoTowers(Encoder):
    """Embeddings of the left side by one encoder, followed by those of the right side by the other."""

    def __init__(self, options: TowersOptions, left: Encoder, right: Encoder) -> None:
        super().__init__(options.normalize)
        self.left, self.right = left, right

    def embed(self, batch: TwoSidedBatch) -> torch.Tensor:
        """Embeddings before normalisation, those of the left side first."""
        sides = ((self.left, batch.left), (self.right, batch.right))
        return torch.cat([tower.embed(inputs).float() for tower, inputs in sides if inputs is not None])

    def save_assets(self, folder: Path) -> None:
        """Write each tower's files to a folder of its own."""
        for name, tower in (("left", self.left), ("right", self.right)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            tower.save_assets(folder / name)
