"""Two towers on drawn shapes and their captions: what is found across the sides among pairs never seen.

    python benchmarks/two_towers.py --seeds 0 1 2

Of 128 pairs (8 colours, 4 shapes, 4 places), a fifth is held out: combinations that no training pair shows.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import tercet
from tercet.data.options import Augmentation

COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "yellow": (230, 220, 40),
    "white": (240, 240, 240), "purple": (150, 40, 180), "orange": (240, 140, 20), "cyan": (30, 210, 220),
}  # fmt: skip
PLACES = {"left": (8, 2), "right": (8, 14), "top": (2, 8), "bottom": (14, 8)}
SHAPES = {
    "square": np.ones((8, 8), dtype=bool),
    "bar": np.repeat(np.isin(np.arange(8), (3, 4))[:, None], 8, axis=1),
    "column": np.repeat(np.isin(np.arange(8), (3, 4))[None], 8, axis=0),
}
SHAPES["cross"] = SHAPES["bar"] | SHAPES["column"]
METRICS = ("image_to_caption.recall_at_1", "caption_to_image.recall_at_1", "map_at_r", "eer")


def write_pairs(folder: Path) -> Path:
    """The images, and the table of pairs."""
    folder.mkdir()
    table = folder / "pairs.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for colour, shape, place in itertools.product(COLOURS, SHAPES, PLACES):
            row, column = PLACES[place]
            pixels = np.zeros((24, 24, 3), dtype=np.uint8)
            pixels[row : row + 8, column : column + 8][SHAPES[shape]] = COLOURS[colour]
            Image.fromarray(pixels).save(folder / f"{colour}-{shape}-{place}.png")
            rows.writerow([f"{colour}-{shape}-{place}.png", f"a {colour} {shape} at the {place}"])
    return table


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    print("seed  " + "  ".join(METRICS) + "  seconds")
    with tempfile.TemporaryDirectory() as folder:
        table = write_pairs(Path(folder) / "shapes")
        for seed in options.seeds:
            started = time.monotonic()
            run = tercet.train(
                table, out=Path(folder) / f"{seed}", seed=seed, steps=options.steps, loss="infonce",
                learn_temperature=True, augmentation=Augmentation(mirror=False), progress=False,
            )  # fmt: skip
            figures = [f"{run.metrics[f'validation.{name}']:<{len(name)}.3f}" for name in METRICS]
            print(f"{seed:<6}" + "  ".join(figures) + f"  {time.monotonic() - started:.0f}", flush=True)


if __name__ == "__main__":
    main()
