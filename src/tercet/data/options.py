"""Settings of the data that configuration files and the command line give. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from tercet.errors import InputError, check_choice

_LIMITS = {"rotation_degrees": 90.0, "crop": 0.95, "hue": 0.5}
COLOURS = ("saturation", "hue", "grey")
"""The changes that need an image in colour."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; 0 turns a change off. Nothing is ever turned upside down."""

    mirror: bool = True
    """Swap left and right in half of the images."""
    rotation_degrees: float = 10.0
    """Turn by up to this many degrees, either way (at most 90)."""
    scale: float = 0.1
    """Enlarge or shrink by up to this share."""
    shift: float = 0.08
    """Move by up to this share of the width and of the height."""
    brightness: float = 0.2
    """Multiply the light by between 1 - this and 1 + this."""
    contrast: float = 0.2
    """Multiply the differences from the image's mean by between 1 - this and 1 + this."""
    erase: float = 0.0
    """Probability that a rectangle of 2 to 20 % of the image is replaced by the image's mean."""
    crop: float = 0.0
    """Keep a random rectangle, from all of the image to all but this share of its area, and enlarge it to the whole \
(at most 0.95)."""
    saturation: float = 0.0
    """Multiply the differences from grey by between 1 - this and 1 + this (images in colour)."""
    hue: float = 0.0
    """Turn the colours by up to this share of the colour circle, either way (images in colour; at most 0.5)."""
    grey: float = 0.0
    """Probability that an image in colour becomes grey."""
    blur: float = 0.0
    """Probability that the image is blurred, by up to 1 % of its longer side."""

    def __post_init__(self) -> None:
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            limit = _LIMITS.get(field.name, 1.0)
            if not (math.isfinite(value) and 0 <= value <= limit):
                raise InputError(f"{field.name} is {value}; allowed is a number from 0 to {limit:g}.")

    @property
    def changes_nothing(self) -> bool:
        """Whether every change is turned off."""
        return not any(getattr(self, field.name) for field in fields(self))


PRESETS: dict[str, dict[str, Any]] = {
    "faces": {"rotation_degrees": 8.0, "shift": 0.06, "brightness": 0.3, "contrast": 0.3, "erase": 0.1, "blur": 0.1},
    "products": {"scale": 0.2, "shift": 0.1, "crop": 0.4, "saturation": 0.2, "erase": 0.1},
    "documents": {"mirror": False, "rotation_degrees": 4.0, "shift": 0.05, "contrast": 0.3, "blur": 0.2},
    "icons": {"mirror": False, "scale": 0.2, "shift": 0.1},
    "photographs": {
        "rotation_degrees": 5.0, "scale": 0.0, "shift": 0.0, "brightness": 0.3, "contrast": 0.3, "crop": 0.6,
        "saturation": 0.3, "hue": 0.03, "grey": 0.1, "blur": 0.1,
    },
    "none": {
        "mirror": False, "rotation_degrees": 0.0, "scale": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0,
    },
}  # fmt: skip
"""What each preset sets; the rest are the defaults. docs/images.md says why."""


def preset(name: str, **explicit: Any) -> Augmentation:
    """The settings of a preset, of which those given win.

    Raises:
        InputError: there is no such preset, or a setting is not allowed.
    """
    check_choice("augmentation.preset", name, tuple(PRESETS))
    return Augmentation(**PRESETS[name] | explicit)


def without_idle_colours(settings: Augmentation, name: str | None, channels: int | None) -> Augmentation:
    """The settings without the changes of colour that a preset brought, where the encoder takes images in grey."""
    if name is None or channels != 1:
        return settings
    own = PRESETS[name]
    idle: dict[str, Any] = {one: 0.0 for one in COLOURS if one in own and getattr(settings, one) == own[one]}
    return replace(settings, **idle)
