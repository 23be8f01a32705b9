"""A residual network for small images: blocks that add to what they are given, with group normalisation alone.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

GROUPS = 8  # of channels normalised together: no statistics of the batch, so a batch may be computed in parts


class ResidualBlock(nn.Module):
    """x + f(x), where f is twice normalisation, ReLU and a 3 x 3 convolution (He et al. 2016, figure 4e).

    The last convolution starts at zero, so the block starts as the identity and a deep network trains as a shallow
    one at first (as in Goyal et al. 2017, section 5.1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
        self.added = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, channels),
            nn.ReLU(),
            last,
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps of the shape given, (B, C, H, W)."""
        return maps + self.added(maps)


def residual_layers(channels: int, width: int, depth: int) -> nn.Sequential:
    """Layers from images to maps of 4 * `width` channels at an eighth of their size.

    Each of the three sizes has `depth` blocks; width 24 and depth 2 have 0.54 million parameters before the head.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 5, stride=2, padding=2)]
    layers += [ResidualBlock(width) for _ in range(depth)]
    for inside, outside in ((width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.GroupNorm(GROUPS, inside), nn.Conv2d(inside, outside, 3, stride=2, padding=1)]
        layers += [ResidualBlock(outside) for _ in range(depth)]
    return nn.Sequential(*layers, nn.GroupNorm(GROUPS, 4 * width), nn.ReLU())
