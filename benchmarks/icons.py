"""Pictures of icons by what they show, a folder a class: the same thing drawn for many icon sets.

    npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz
    pip install resvg_py==0.5.0
    python benchmarks/icons.py package/ icons/ --classes 80

An icon's class is its name without words of style (outline, filled, 24, ...). Of a set each class has one icon. Only
sets of one colour under licences that allow use and change are taken, and of the classes those with the most icons.
Icons of one thing differ in name too (home, house), so some classes are the same thing: recall has a ceiling below 1.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-4.0", "OFL-1.1"}
GENERAL = ("UI ", "Material", "Thematic", "Archive")
STYLE = re.compile(
    r"^(?:outline|outlined|solid|filled|fill|bold|light|thin|line|linear|sharp|rounded?|duotone|twotone|\d+(?:px)?)-"
    r"|-(?:outline|outlined|solid|filled|fill|bold|light|thin|line|linear|sharp|rounded?|duotone|twotone|\d+(?:px)?)$"
)


def class_of(name: str) -> str:
    """What an icon shows, by its name."""
    while (shorter := STYLE.sub("", name)) != name:
        name = shorter
    return name


def select(package: Path, classes: int) -> dict[str, dict[str, str]]:
    """For each class its icons, an SVG for each set; the classes with the most icons, as many as asked for."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for prefix, about in json.loads((package / "collections.json").read_text(encoding="utf-8")).items():
        general = str(about.get("category", "Archive")).startswith(GENERAL)
        if about.get("palette") or about["license"].get("spdx") not in LICENCES or not general:
            continue
        icons = json.loads((package / "json" / f"{prefix}.json").read_text(encoding="utf-8"))
        for name in sorted(icons["icons"], key=lambda word: (len(word), word)):
            shown = class_of(name)
            if len(shown) > 1 and not shown.isdecimal() and not icons["icons"][name].get("hidden"):
                found[shown].setdefault(prefix, svg_of(icons, name))
    order = sorted(found, key=lambda shown: (-len(found[shown]), shown))
    return {shown: found[shown] for shown in order[:classes]}


def svg_of(icons: dict, name: str) -> str:
    """An icon of a set as a whole SVG file, on a square."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = (icon.get(side, icons.get(side, 0)) for side in ("left", "top"))
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    body = icon["body"].replace("currentColor", "#000")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="32" height="32" viewBox="{box}">{body}</svg>'
    )


def main() -> None:
    """Select and draw."""
    import resvg_py

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", type=int, default=80)
    options = parser.parse_args()
    for shown, icons in select(options.package, options.classes).items():
        (options.out / shown).mkdir(parents=True, exist_ok=True)
        for prefix, svg in icons.items():
            picture = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
            (options.out / shown / f"{prefix}.png").write_bytes(bytes(picture))
        print(f"{shown:<24} {len(icons)}")


if __name__ == "__main__":
    main()
