"""What every encoder shares: pooled features, a head, and embeddings of length 1 on request.

Shapes: B items, F features, D the length of an embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tercet.errors import InputError


class Encoder(nn.Module):
    """A module whose forward gives float32 embeddings of shape (B, D).

    A subclass computes them in `embed`; they are scaled to length 1 here if `normalize` is set.
    """

    def __init__(self, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.scale = Scale(normalize)

    def embed(self, batch: Any) -> torch.Tensor:
        """Embeddings of shape (B, D) before normalisation."""
        raise NotImplementedError

    def forward(self, batch: Any) -> torch.Tensor:
        """Embeddings of shape (B, D), float32."""
        return self.scale(self.embed(batch).float())

    def save_assets(self, folder: Path) -> None:
        """Write the files, besides weights and assets, that `build` needs to make this encoder again."""


class Scale(nn.Module):
    """Rows scaled to length 1, or as they are: a module, so that a hook sees them before."""

    def __init__(self, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Of shape (B, D), as given."""
        return unit(rows) if self.normalize else rows


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; a row of zeros stays zero, with a gradient of 1 (F.normalize has 1e12)."""
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def make_head(kind: str, features: int, dim: int) -> nn.Module:
    """From F features to D: a linear map, an MLP of two layers, or nothing.

    The linear map starts with orthonormal rows, so that what is near stays near from the first step.

    Raises:
        InputError: the kind is "none" and F is not D.
    """
    if kind == "none":
        if features != dim:
            raise InputError(
                f"dim is {dim}, but without a head an embedding has {features} numbers; say dim={features}."
            )
        return nn.Identity()
    if kind == "mlp":
        return nn.Sequential(nn.Linear(features, features), nn.GELU(), nn.Linear(features, dim))
    linear = nn.Linear(features, dim)
    nn.init.orthogonal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Backbone(nn.Module):
    """A pretrained network; frozen, it takes no gradient and stays in evaluation mode."""

    def __init__(self, network: nn.Module, frozen: bool) -> None:
        super().__init__()
        self.network = network
        self.frozen = frozen
        network.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, unless it is frozen."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives, without a graph if it is frozen."""
        if not self.frozen:
            return self.network(*args, **kwargs)
        with torch.no_grad():
            return self.network(*args, **kwargs)
