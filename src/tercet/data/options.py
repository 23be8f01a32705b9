"""Settings of the data that configuration files and the command line give. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from tercet.errors import InputError


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

    def __post_init__(self) -> None:
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            limit = 90.0 if field.name == "rotation_degrees" else 1.0
            if not (math.isfinite(value) and 0 <= value <= limit):
                raise InputError(f"{field.name} is {value}; allowed is a number from 0 to {limit:g}.")
