"""Colour and sharpness of a batch of images, changed by an amount for each image.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

_LUMA = (0.299, 0.587, 0.114)  # how light red, green and blue look (ITU-R BT.601)


def coloured(pixels: torch.Tensor, saturation: torch.Tensor, hue: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    """Images with the colours changed; those without red, green and blue as they are.

    The hue is turned about the axis of greys, which leaves greys and the mean of the channels alone.

    Args:
        pixels: of shape (B, C, H, W).
        saturation: what the differences from grey are multiplied by, (B,).
        hue: by how much the colours are turned, in radians, (B,).
        grey: above 0 where nothing but grey is left, (B,).
    """
    if pixels.shape[1] != 3:
        return pixels
    light = (pixels * pixels.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    amount = torch.where(grey > 0, 0.0, saturation)[:, None, None, None]
    vivid = light + (pixels - light) * amount
    return torch.einsum("bij,bjhw->bihw", _turns(hue), vivid)


def _turns(angles: torch.Tensor) -> torch.Tensor:
    """Rotations about (1, 1, 1) by these angles, of shape (B, 3, 3) (Rodrigues' formula)."""
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    third = torch.full((3, 3), 1 / 3, device=angles.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angles.device) / math.sqrt(3)
    return cosine * torch.eye(3, device=angles.device) + sine * cross + (1 - cosine) * third


def blurred(pixels: torch.Tensor, chosen: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Images blurred by a Gaussian; the border is repeated.

    Args:
        pixels: of shape (B, C, H, W).
        chosen: above 0 where an image is blurred, (B,).
        deviation: the Gaussian's standard deviation as a share of the longer side, at most 0.01, (B,).
    """
    count, channels, height, width = pixels.shape
    longer = max(height, width)
    radius = math.ceil(3 * 0.01 * longer)
    places = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    weights = torch.exp(-0.5 * (places / (deviation[:, None] * longer).clamp(min=1e-3)) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)  # (B * C, 2 * radius + 1)
    rows = F.pad(pixels, (radius, radius, radius, radius), mode="replicate").flatten(0, 1)[None]
    rows = F.conv2d(rows, weights[:, None, None, :], groups=count * channels)
    rows = F.conv2d(rows, weights[:, None, :, None], groups=count * channels)
    return torch.where(chosen[:, None, None, None] > 0, rows.view_as(pixels), pixels)
