"""Augmentation: random changes of a batch of images, drawn by (seed, step, row) and applied on any device.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from tercet.data.colour import blurred, coloured
from tercet.data.options import COLOURS, Augmentation
from tercet.data.randomness import keyed
from tercet.errors import InputError

__all__ = ["Augmentation", "augment", "check_channels", "draw"]

_COLUMNS = 12
_MIRROR, _ANGLE, _ZOOM, _RIGHT, _DOWN, _LIGHT, _CONTRAST, _ERASED, _TOP, _LEFT, _AREA, _ASPECT = range(_COLUMNS)
_FURTHER = 9  # of a stream of their own, so that they leave the draws of the others as they are
_WIDE, _TALL, _ACROSS, _ALONG, _SATURATION, _HUE, _GREY, _BLURRED, _SIGMA = range(_COLUMNS, _COLUMNS + _FURTHER)
_CROPPED_ASPECT = 4 / 3  # of a crop's sides, at most, either way (SimCLR's, Chen et al. 2020, appendix A)


def draw(settings: Augmentation, count: int, seed: int, step: int) -> torch.Tensor:
    """The changes of `count` images, float32 (count, 21); row i depends on (seed, step, i) alone."""
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
    further = _draw_further(settings, count, seed, step)
    return torch.from_numpy(np.concatenate([changes, further], axis=1).astype(np.float32))


def _draw_further(settings: Augmentation, count: int, seed: int, step: int) -> np.ndarray:
    """The crop, by its size and centre in a frame from -1 to 1, and the changes of colour and sharpness."""
    uniform = keyed(seed, "colour", step).random((count, _FURTHER)).T
    area, aspect = 1 - settings.crop * uniform[0], _CROPPED_ASPECT ** (2 * uniform[1] - 1)
    if not settings.crop:
        aspect = np.ones(count)
    wide, tall = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    either = 2 * uniform - 1
    return np.stack(
        [
            wide, tall, (1 - wide) * either[2], (1 - tall) * either[3],
            1 + settings.saturation * either[4], 2 * math.pi * settings.hue * either[5],
            uniform[6] < settings.grey, uniform[7] < settings.blur, 0.01 * uniform[8],
        ],
        axis=1,
    )  # fmt: skip


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
    if settings.rotation_degrees or settings.scale or settings.shift or settings.crop:
        pixels = _move(pixels, changes)
    if settings.brightness:
        pixels = pixels * _per_image(changes[:, _LIGHT])
    if settings.contrast:
        contrast = _per_image(changes[:, _CONTRAST])
        pixels = pixels * contrast + pixels.mean(dim=(1, 2, 3), keepdim=True) * (1 - contrast)
    if settings.saturation or settings.hue or settings.grey:
        pixels = coloured(pixels, changes[:, _SATURATION], changes[:, _HUE], changes[:, _GREY])
    if settings.blur:
        pixels = blurred(pixels, changes[:, _BLURRED], changes[:, _SIGMA])
    if settings.erase:
        pixels = _erase(pixels, changes)
    return pixels.clamp(0, 1)


def check_channels(settings: Augmentation, channels: int | None) -> None:
    """Raise InputError if changes of colour are asked for, and the encoder takes grey images."""
    idle = [name for name in COLOURS if getattr(settings, name)]
    if idle and channels == 1:
        raise InputError(
            f"{' and '.join(idle)} would do nothing: the encoder takes images in grey. Leave out what changes colours, "
            "or set the encoder's channels to 3."
        )


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def _move(pixels: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Turn, enlarge and shift about the centre, and keep the crop of that; what comes from outside repeats the border.

    The grid's coordinates run from -1 to 1 along each side, so a turn must undo and redo the aspect.
    """
    height, width = pixels.shape[-2:]
    cosine, sine = changes[:, _ANGLE].cos() / changes[:, _ZOOM], changes[:, _ANGLE].sin() / changes[:, _ZOOM]
    across = torch.stack([cosine, sine * (height / width), -2 * changes[:, _RIGHT]], dim=1)
    along = torch.stack([-sine * (width / height), cosine, -2 * changes[:, _DOWN]], dim=1)
    wide, tall, centre = changes[:, _WIDE], changes[:, _TALL], changes[:, [_ACROSS, _ALONG]]
    whole = [
        torch.stack([row[:, 0] * wide, row[:, 1] * tall, (row[:, :2] * centre).sum(1) + row[:, 2]], dim=1)
        for row in (across, along)
    ]
    grid = F.affine_grid(torch.stack(whole, dim=1), list(pixels.shape), align_corners=False)
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
