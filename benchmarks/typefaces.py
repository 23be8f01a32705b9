"""Typefaces as stand-ins for hands: a class is a font, an item a word of it, and a forgery the same words in another.

    apt download fonts-lato fonts-junicode ... && dpkg-deb -x FILE.deb fonts/
    python benchmarks/typefaces.py draw fonts/ typefaces/ --fonts 150
    tercet train typefaces/train --out runs/typefaces --holdout-by class --augmentation.preset documents --steps 300
    tercet evaluate runs/typefaces --data typefaces/test

`draw` writes typefaces/train and typefaces/test with other fonts and other words in each, as FONT/genuine and
FONT/forged. A font's forgeries are its own words in the font that is most like it in weight and in width of those that
are drawn for the same part: a stand-in for an imitation, and weaker than a skilled one. One font of each family is
taken, so that no part has a sibling of a font of the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = (32, 96)  # height and width
WORDS = {
    "train": (
        "morning", "river", "table", "seven", "window", "garden", "paper", "stone", "hunter", "letter", "bridge",
        "winter", "sailor", "copper",
    ),
    "test": (
        "harbour", "candle", "forest", "silver", "thunder", "meadow", "lantern", "pocket", "journey", "blanket",
        "feather", "market",
    ),
}  # fmt: skip
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def families(folder: Path) -> list[Path]:
    """A file of each family below a folder: the shortest name, of those that draw every letter apart."""
    found: dict[str, Path] = {}
    for path in sorted([*folder.rglob("*.ttf"), *folder.rglob("*.otf")], key=lambda path: (len(path.name), str(path))):
        try:
            name = ImageFont.truetype(str(path), 20).getname()[0]
        except OSError:
            continue
        if name and name not in found and draws_letters(path):
            found[name] = path
    return [found[name] for name in sorted(found)]


def draws_letters(path: Path) -> bool:
    """Whether the font draws all letters, and not one box for each."""
    try:
        drawn = {drawing(path, letter).tobytes() for letter in ALPHABET}
    except (OSError, ValueError):
        return False
    return len(drawn) > 24


def drawing(path: Path, word: str) -> np.ndarray:
    """A word in a font, black on white, as large as it fits."""
    height, width = SIZE
    large = ImageFont.truetype(str(path), 64)
    left, top, right, bottom = large.getbbox(word)
    if right <= left or bottom <= top:
        raise ValueError(word)
    image = Image.new("L", (right - left + 8, bottom - top + 8), 255)
    ImageDraw.Draw(image).text((4 - left, 4 - top), word, fill=0, font=large)
    image.thumbnail((width, height))
    page = Image.new("L", (width, height), 255)
    page.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return np.asarray(page)


def look(path: Path) -> np.ndarray:
    """How dark and how wide a font is."""
    large = ImageFont.truetype(str(path), 64)
    return np.array([255 - drawing(path, "another").mean(), large.getlength(ALPHABET) / 20])


def write(part: str, fonts: list[Path], folder: Path) -> None:
    """Draw the words of a part in its fonts, and again in the font most like each."""
    looks = np.stack([look(font) for font in fonts])
    far = np.linalg.norm((looks[:, None] - looks[None]) / looks.std(axis=0), axis=2)
    np.fill_diagonal(far, np.inf)
    for font, like in zip(fonts, far.argmin(axis=1), strict=True):
        for kind, source, words in (("genuine", font, WORDS[part]), ("forged", fonts[like], WORDS[part][::2])):
            target = folder / part / font.stem / kind
            target.mkdir(parents=True, exist_ok=True)
            for word in words:
                Image.fromarray(drawing(source, word)).save(target / f"{word}.png")


def main() -> None:
    """Draw what the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["draw"])
    parser.add_argument("fonts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fonts", dest="count", type=int, default=150)
    options = parser.parse_args()
    fonts = families(options.fonts)
    chosen = [fonts[i] for i in np.random.default_rng(0).permutation(len(fonts))[: options.count]]
    half = len(chosen) // 2
    write("train", chosen[:half], options.out)
    write("test", chosen[half:], options.out)
    print(f"{half} fonts to train on and {len(chosen) - half} unseen ones in {options.out}, of {len(fonts)} families")


if __name__ == "__main__":
    main()
