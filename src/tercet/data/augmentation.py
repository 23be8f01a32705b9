"""Augmentation: random changes of a batch of images, drawn by (seed, step, row) and applied on any device.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from tercet.data.options import Augmentation
from tercet.data.randomness import keyed

__all__ = ["Augmentation", "augment", "draw"]

_COLUMNS = 12
_MIRROR, _ANGLE, _ZOOM, _RIGHT, _DOWN, _LIGHT, _CONTRAST, _ERASED, _TOP, _LEFT, _AREA, _ASPECT = range(_COLUMNS)


def draw(settings: Augmentation, count: int, seed: int, step: int) -> torch.Tensor:
    """The changes of `count` images, float32 (count, 12); row i depends on (seed, step, i) alone."""
    uniform = keyed(seed, "augment", step).random((count, _COLUMNS))
    either = 2 * uniform - 1
    changes = np.empty_like(uniform)
    changes[:, _MIRROR] = settings.mirror & (uniform[:, _MIRROR] < 0.5)
    changes[:, _ANGLE] = math.radians(settings.rotation_degrees) * either[:, _ANGLE]
    changes[:, _ZOOM] = (1 + settings.scale) ** either[:, _ZOOM]
    changes[:, _RIGHT] = settings.shift * either[:, _RIGHT]
    changes[:, _DOWN] = settings.shift * either[:, _DOWN]
    changes[:, _LIGHT] = 1 + settings.brightness * either[:, _LIGHT]
    changes[:, _CONTRAST] = 1 + settings.contrast * either[:, _CONTRAST]
    changes[:, _ERASED] = uniform[:, _ERASED] < settings.erase
    changes[:, _TOP] = uniform[:, _TOP]
    changes[:, _LEFT] = uniform[:, _LEFT]
    changes[:, _AREA] = 0.02 + 0.18 * uniform[:, _AREA]
    changes[:, _ASPECT] = 2 ** either[:, _ASPECT]
    return torch.from_numpy(changes.astype(np.float32))


def augment(images: torch.Tensor, parameters: torch.Tensor, settings: Augmentation) -> torch.Tensor:
    """The changed images, float32 in [0, 1] of shape (B, C, H, W), on the images' device.

    With every setting at 0 this is exactly `images.float() / 255`.

    Args:
        images: uint8, or floats in [0, 1], of shape (B, C, H, W).
        parameters: the rows of `draw` that belong to these images.
        settings: what they were drawn with.
    """
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    changes = parameters.to(pixels.device)
    if settings.mirror:
        pixels = torch.where(_per_image(changes[:, _MIRROR]) > 0, pixels.flip(-1), pixels)
    if settings.rotation_degrees or settings.scale or settings.shift:
        pixels = _move(pixels, changes)
    if settings.brightness:
        pixels = pixels * _per_image(changes[:, _LIGHT])
    if settings.contrast:
        contrast = _per_image(changes[:, _CONTRAST])
        pixels = pixels * contrast + pixels.mean(dim=(1, 2, 3), keepdim=True) * (1 - contrast)
    if settings.erase:
        pixels = _erase(pixels, changes)
    return pixels.clamp(0, 1)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def _move(pixels: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Turn, enlarge and shift about the centre; what comes in from outside repeats the border.

    The grid's coordinates run from -1 to 1 along each side, so a turn must undo and redo the aspect.
    """
    height, width = pixels.shape[-2:]
    cosine, sine = changes[:, _ANGLE].cos() / changes[:, _ZOOM], changes[:, _ANGLE].sin() / changes[:, _ZOOM]
    across = torch.stack([cosine, sine * (height / width), -2 * changes[:, _RIGHT]], dim=1)
    along = torch.stack([-sine * (width / height), cosine, -2 * changes[:, _DOWN]], dim=1)
    grid = F.affine_grid(torch.stack([across, along], dim=1), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _erase(pixels: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Replace a rectangle of the drawn area, aspect and place by the image's mean."""
    height, width = pixels.shape[-2:]
    tall, wide = (
        (changes[:, _AREA] * changes[:, _ASPECT]).sqrt(),
        (changes[:, _AREA] / changes[:, _ASPECT]).sqrt(),
    )
    rows = (torch.arange(height, device=pixels.device) + 0.5) / height
    columns = (torch.arange(width, device=pixels.device) + 0.5) / width
    top, left = changes[:, _TOP] * (1 - tall), changes[:, _LEFT] * (1 - wide)
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # (B, H)
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # (B, W)
    erased = inside_rows[:, :, None] & inside_columns[:, None, :] & (changes[:, _ERASED] > 0)[:, None, None]
    return torch.where(erased[:, None], pixels.mean(dim=(1, 2, 3), keepdim=True), pixels)
