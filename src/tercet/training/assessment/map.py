"""The map of an evaluation: a sample of its embeddings, laid out in a plane, with what a click on a point shows.

In the run folder maps/NAME.json holds points, neighbours and pictures, and maps/NAME.safetensors the points'
embeddings, from which `tercet report --map tsne` makes another layout. Shapes: N items, M points, D dimensions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercet.data.records import Records
from tercet.distances import Distance
from tercet.training.assessment.neighbours import SHOWN_NEIGHBOURS, Neighbours
from tercet.training.assessment.shown import contents, named
from tercet.training.folder import files

FOLDER = "maps"
MOST_POINTS = 2000
PICTURE_PIXELS = 56
ITEM_BYTES = 5_500_000  # of names, texts and pictures together: the page, with all else, stays within 10 MB
NAME_LENGTH = 60
TEXT_LENGTH = 160


@dataclass(frozen=True, eq=False)
class Map:
    """What is drawn (JSON), and the embeddings of the points (M, D)."""

    content: dict[str, Any]
    vectors: np.ndarray

    def write(self, folder: Path, name: str) -> None:
        """Write the map of an evaluation into a run folder."""
        content = json.dumps(self.content, ensure_ascii=False, sort_keys=True, allow_nan=False)
        files.write_text(
            folder / FOLDER / f"{name}.json", content + "\n"
        )  # a number a line would be four times as long
        files.write_tensors(folder / FOLDER / f"{name}.safetensors", {"vectors": torch.from_numpy(self.vectors)})


def remove_map(folder: Path, name: str) -> None:
    """Remove the map of an evaluation, if there is one."""
    for ending in ("json", "safetensors"):
        (folder / FOLDER / f"{name}.{ending}").unlink(missing_ok=True)


def make_map(vectors: np.ndarray, records: Records, distance: Distance, found: Neighbours) -> Map:
    """The map of embeddings of shape (N, D): up to 2,000 points, drawn at random where there are more items.

    The plane is that of the principal components of all items (of unit length where the distance is cosine).
    Pictures and texts are those of the points, then those of their neighbours, as far as 5.5 MB reach.
    """
    points = np.sort(found.queries[:MOST_POINTS])
    places = {row: place for place, row in enumerate(found.queries.tolist())}
    of_points = np.array([places[row] for row in points.tolist()], dtype=np.int64)
    near = found.indices[of_points, :SHOWN_NEIGHBOURS]
    listed = list(dict.fromkeys([*points.tolist(), *near[near >= 0].tolist()]))
    number = {row: place for place, row in enumerate(listed)}
    plane, shares = principal_plane(_unit(vectors) if distance.name == "cosine" else vectors, points)
    content: dict[str, Any] = {
        "of": len(records),
        "points": len(points),
        "shares": [round(share, 4) for share in shares],
        "x": _rounded(plane[:, 0]),
        "y": _rounded(plane[:, 1]),
        "items": _items(records, listed),
        "neighbours": [[number[row] for row in rows if row >= 0] for rows in near.tolist()],
        "distances": [
            _rounded(far[rows >= 0])
            for far, rows in zip(found.distances[of_points, :SHOWN_NEIGHBOURS], near, strict=True)
        ],
    }
    if found.labels is not None:
        right = found.are_right()[of_points, :SHOWN_NEIGHBOURS]
        content["right"] = [[int(flag) for flag in flags[rows >= 0]] for flags, rows in zip(right, near, strict=True)]
    return Map(content, vectors[points].astype(np.float32))


def principal_plane(vectors: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Coordinates of some rows along the two directions of most variance of all, (M, 2), and the variance's shares.

    The sign of a direction is that of its largest component, so that equal embeddings give equal maps. Fewer than two
    dimensions, or rows that are all one, give zeros.
    """
    rows = vectors.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    values = values.clip(min=0)
    plane, shares = np.zeros((len(points), 2)), [0.0, 0.0]
    for axis in range(min(2, len(values))):
        direction = directions[:, -1 - axis]
        sign = 1.0 if direction[np.abs(direction).argmax()] >= 0 else -1.0
        plane[:, axis] = centred[points] @ (sign * direction)
        shares[axis] = float(values[-1 - axis] / values.sum()) if values.sum() > 0 else 0.0
    return plane, shares


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _rounded(values: np.ndarray) -> list[float]:
    """To four digits that count: a map is looked at, and half the size opens sooner."""
    return [float(f"{value:.4g}") for value in values.tolist()]


def _items(records: Records, listed: list[int]) -> list[dict[str, str]]:
    """What is shown of each item: its name in any case, and a picture or text as long as there is room."""
    found = [_short(named(records, row)) for row in listed]
    room = ITEM_BYTES - sum(len(text.encode()) for shown in found for text in shown.values())
    for shown, row in zip(found, listed, strict=True):
        if room <= 0:
            break
        more = contents(records, row, PICTURE_PIXELS, 70, TEXT_LENGTH)
        room -= sum(len(text.encode()) for text in more.values())
        shown |= more
    return found


def _short(shown: dict[str, str]) -> dict[str, str]:
    return {key: text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…" for key, text in shown.items()}
