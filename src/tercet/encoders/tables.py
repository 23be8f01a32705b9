"""Encoders of rows of a table: features by the training data, then an MLP or a linear map.

Shapes: B rows, F features, W numbers of a coded row.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tercet.encoders.base import Encoder
from tercet.encoders.features import Coded
from tercet.encoders.options import TabularOptions
from tercet.errors import InputError


class TableNetwork(Encoder):
    """(x - mean) / deviation, then linear layers with layer normalisation and GELU between them.

    The mean and the deviation are buffers, saved with the weights; until `fit` they are 0 and 1.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, options: TabularOptions, assets: dict[str, Any]) -> None:
        super().__init__(options.normalize)
        self.columns = tuple(assets["columns"])
        features = len(self.columns)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.layers = _layers(features, options)

    def fit(self, rows: torch.Tensor) -> None:
        """Set mean and deviation from the training rows; a constant column keeps a deviation of 1.

        A column counts as constant if what varies is lost in float32's rounding of its values.
        """
        exact = rows.double()
        mean, deviation = exact.mean(dim=0), exact.std(dim=0, correction=0)
        varies = deviation > torch.finfo(torch.float32).eps * exact.abs().amax(dim=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(varies, deviation, 1.0))

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Embeddings before normalisation."""
        if batch.ndim != 2 or batch.shape[1] != len(self.columns):
            raise InputError(
                f"Rows of shape {tuple(batch.shape)} were given; this encoder takes (B, "
                f"{len(self.columns)}), with the columns "
                f"{', '.join(self.columns[:5])}{' …' if len(self.columns) > 5 else ''}."
            )
        return self.layers((batch.float() - self.mean) / self.deviation)


class FeatureNetwork(Encoder):
    """Coded rows of columns of every kind, and with missing values, then layers as those of `TableNetwork`."""

    def __init__(self, options: TabularOptions, assets: dict[str, Any]) -> None:
        super().__init__(options.normalize)
        self.columns = tuple(assets["columns"])
        self.coded = Coded(assets["features"], options.one_hot)
        self.layers = _layers(self.coded.features, options)

    def fit(self, rows: torch.Tensor) -> None:
        """Learn what each column needs from the coded training rows, float64 (N, W)."""
        self.coded.fit(rows)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Embeddings before normalisation, of coded rows (B, W)."""
        return self.layers(self.coded(batch))


class NonNegative(nn.Module):
    """Rows made positive by log(1 + e^x), for distances such as Jaccard's that compare amounts."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Of shape (B, D), as given."""
        return F.softplus(rows)


def _layers(features: int, options: TabularOptions) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in pairwise((features, *options.hidden)):
        layers += [nn.Linear(inside, outside), nn.LayerNorm(outside), nn.GELU()]
    last = options.hidden[-1] if options.hidden else features
    layers.append(nn.Linear(last, options.dim))
    return nn.Sequential(*layers, *([NonNegative()] if options.non_negative else []))
