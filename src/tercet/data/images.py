"""Images: decoding of whatever Pillow reads to uint8 arrays, the automatic size, and a cache in memory."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

from tercet.data.lazy import items_at
from tercet.errors import DataError, check_choice

FITS = ("crop", "pad", "stretch")
AREA = 64 * 64  # pixels that the automatic size aims at
STEP = 8  # each side of the automatic size is a multiple of this
SAMPLE = 64  # images looked at to find the automatic size
CHECKED = 256  # images that are given out for decoding at a time
BUDGET_BYTES = 2 * 1024**3
FORMATS = (
    "PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "ICO",
)  # fmt: skip
"""What is decoded, whatever a file's name ends in. Pillow hands others to programs of their own, as PostScript."""

Progress = Callable[[int, int], None]


def decode(item: Any, size: tuple[int, int], channels: int = 3, fit: str = "crop") -> np.ndarray:
    """A uint8 array of shape (channels, H, W) of a path, a Pillow image or a uint8 array.

    Turned upright by its EXIF tag; transparent parts over white; the first frame of an animation; 16 bits
    scaled to 8.

    Args:
        item: what to decode.
        size: (H, W) in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        fit: "crop" fills the frame and cuts off what is over, about the centre; "pad" shows all of the image
            on black; "stretch" ignores the proportions.

    Raises:
        DataError: it cannot be decoded as a whole; the message holds the path and the reason.
    """
    check_choice("fit", fit, FITS)
    image = open_image(item, draft=2 * max(size))
    return _fitted(image, size, channels, fit)


def open_image(item: Any, draft: int | None = None) -> Any:
    """A Pillow image in mode L or RGB, upright; JPEGs may decode at a fraction not smaller than `draft`.

    Raises:
        DataError: it cannot be decoded as a whole; the message holds the path and the reason.
    """
    from PIL import Image, ImageOps

    try:
        if isinstance(item, np.ndarray):
            return _plain(Image.fromarray(_squeezed(item)))
        if not isinstance(item, str | os.PathLike | bytes):
            return _plain(ImageOps.exif_transpose(item))
        with Image.open(_file_of(item), formats=_formats()) as image:
            _check_pixels(image)
            if draft is not None and image.format == "JPEG":
                image.draft(None, (draft, draft))
            return _plain(ImageOps.exif_transpose(image))
    except Exception as cause:  # decoders raise whatever their format's reader meets
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        if isinstance(cause, Image.UnidentifiedImageError):
            reason = "not an image, or of a type that Pillow does not read"
        raise DataError(f"{_called(item)}: {reason}") from None


def _called(item: Any) -> str:
    """What a message calls an image. Only asked for then: an array takes milliseconds to spell."""
    if isinstance(item, bytes):
        return "an image in a table"
    return item if isinstance(item, str) else repr(item)[:80]


def _file_of(item: str | os.PathLike[str] | bytes) -> Any:
    """What Pillow opens: the bytes of a file, or a path that is looked at first."""
    if isinstance(item, bytes):
        return io.BytesIO(item)
    _check_file(item)
    return item


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_file(path: str | os.PathLike[str]) -> None:
    """Raise for what is no file with contents; a pipe would have to be waited for, without end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("a folder" if stat.S_ISDIR(found.st_mode) else "not a file but a pipe or a device")
    if found.st_size == 0:
        raise ValueError("the file is empty")


def _squeezed(array: np.ndarray) -> np.ndarray:
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _check_pixels(image: Any) -> None:
    """Pillow only warns of images that may fill the memory; here they are refused."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels are more than the {limit:,} that are decoded")


def _plain(image: Any) -> Any:
    """The image in mode L or RGB."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_bytes(np.asarray(image), image.mode))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _to_bytes(pixels: np.ndarray, mode: str) -> np.ndarray:
    """16-bit whole numbers, or floats from 0 to 1, as uint8."""
    top = 1.0 if mode == "F" else 65535.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= top):
        raise ValueError(f"values from {low:g} to {high:g} in mode {mode}; allowed are 0 to {top:g}")
    return np.rint(pixels.astype(np.float64) * (255.0 / top)).astype(np.uint8)


def _fitted(image: Any, size: tuple[int, int], channels: int, fit: str) -> np.ndarray:
    from PIL import Image, ImageOps

    image = image.convert("L" if channels == 1 else "RGB")
    frame, smooth = (size[1], size[0]), Image.Resampling.BILINEAR
    if fit == "crop":
        image = ImageOps.fit(image, frame, smooth)
    elif fit == "pad":
        image = ImageOps.pad(image, frame, smooth)
    else:
        image = image.resize(frame, smooth)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def describe_images(items: Sequence[Any]) -> tuple[tuple[int, int], int]:
    """The automatic ((height, width), channels) of images, from up to 64 of them, evenly spaced.

    The aspect of the median image, an area of about 64 * 64, sides that are multiples of 8 (at least 16) and
    not larger than the median image's; 1 channel if all of them are grey, otherwise 3. Unreadable images do
    not count.

    Raises:
        DataError: none of them can be read.
    """
    places = np.unique(np.linspace(0, len(items) - 1, min(SAMPLE, len(items))).astype(np.int64))
    seen, reason = [], "there are no images"
    for place in places:
        try:
            image = open_image(items[place], draft=512)
        except DataError as cause:
            reason = str(cause)
            continue
        seen.append((image.height, image.width, _is_grey(image)))
    if not seen:
        raise DataError(f"None of the images that were tried can be read: {reason}")
    height, width = _median_shape([(height, width) for height, width, _ in seen])
    scale = (AREA / (height * width)) ** 0.5
    size = (_side(height, scale), _side(width, scale))
    return size, 1 if all(grey for _, _, grey in seen) else 3


def _median_shape(shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """The shape of the image whose aspect is the median one, at the median area."""
    ordered = sorted(shapes, key=lambda shape: (shape[1] / shape[0], shape))
    height, width = ordered[len(ordered) // 2]
    area = float(np.median([one * other for one, other in shapes]))
    factor = (area / (height * width)) ** 0.5
    return round(height * factor), round(width * factor)


def _side(pixels: int, scale: float) -> int:
    wanted = round(pixels * scale / STEP) * STEP
    own = pixels // STEP * STEP
    return max(2 * STEP, min(wanted, own))


def _is_grey(image: Any) -> bool:
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


class ImageCache:
    """Decoded images, kept in memory as uint8 where they fit the budget, otherwise decoded each time.

    `in_memory` says which. Decoding uses threads: Pillow frees the interpreter lock.
    """

    def __init__(
        self,
        items: Sequence[Any],
        size: tuple[int, int],
        channels: int = 3,
        fit: str = "crop",
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        check_choice("fit", fit, FITS)
        self.items = items
        self.size, self.channels, self.fit = size, channels, fit
        self.shape = (channels, *size)
        self.in_memory = len(items) * int(np.prod(self.shape)) <= budget_bytes
        self._held = np.zeros(len(items) if self.in_memory else 0, dtype=bool)
        self._pixels = np.empty((len(self._held), *self.shape), dtype=np.uint8)

    def check(self, progress: Progress | None = None) -> list[tuple[int, str]]:
        """Decode every image once; gives the positions that cannot be decoded, each with the reason."""
        bad = []
        with _threads() as pool:
            for place, (pixels, reason) in enumerate(self._tried(pool)):
                if pixels is None:
                    bad.append((place, reason))
                elif self.in_memory:
                    self._pixels[place], self._held[place] = pixels, True
                if progress is not None:
                    progress(place + 1, len(self.items))
        return bad

    def batch(self, positions: Sequence[int] | np.ndarray) -> torch.Tensor:
        """A uint8 tensor of shape (B, C, H, W).

        Raises:
            DataError: an image cannot be decoded.
        """
        places = np.asarray(positions, dtype=np.int64)
        if self.in_memory and self._held[places].all():
            return torch.from_numpy(self._pixels[places])
        pixels = np.empty((len(places), *self.shape), dtype=np.uint8)
        with _threads() as pool:
            for row, decoded in enumerate(pool.map(self._decode, items_at(self.items, places))):
                pixels[row] = decoded
        if self.in_memory:
            self._pixels[places], self._held[places] = pixels, True
        return torch.from_numpy(pixels)

    def _tried(self, pool: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray | None, str]]:
        """Every image, some at a time: what waits for its turn is in memory."""
        for start in range(0, len(self.items), CHECKED):
            places = range(start, min(start + CHECKED, len(self.items)))
            yield from pool.map(self._try, items_at(self.items, places))

    def _decode(self, item: Any) -> np.ndarray:
        return decode(item, self.size, self.channels, self.fit)

    def _try(self, item: Any) -> tuple[np.ndarray | None, str]:
        try:
            return self._decode(item), ""
        except DataError as cause:
            name = item if isinstance(item, str) else ""
            return None, str(cause).removeprefix(f"{name}: ")


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
