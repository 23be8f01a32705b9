"""Pictures of icons by what they show, a folder a class: the same thing drawn for many icon sets.

    npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz
    pip install resvg_py==0.5.0
    python benchmarks/icons.py package/ icons/ --classes 80
    python benchmarks/icons.py package/ icons/ --least-families 8 --size 48
    python benchmarks/icons.py package/ merged/ --least-families 8 --size 48 --merge

An icon's class is its name without words of style (outline, filled, 24, ...). Of a set each class has one icon. Only
sets of one colour under licences that allow use and change are taken, and of the classes those with the most icons, or
all that so many design families have drawn. A file is named FAMILY.SET.png: sets of one family share drawings, so an
icon of the query's own family is to be left out of its neighbours (`--group-from '^([^.]+)' --exclude group`). Blank
and byte-identical drawings are left out. Icons of one thing differ in name too (home, house), so some classes are the
same thing; `--merge` makes one class of those that `SAME` lists. Others are left, so recall has a ceiling below 1.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-4.0", "OFL-1.1"}
GENERAL = ("UI ", "Material", "Thematic", "Archive")
FAMILIES = {
    "material": ("material", "ic", "mdi", "zmdi", "google"),
    "fontawesome": ("fa", "la", "fad"),
    "boxicons": ("bx", "bxs", "bxl", "boxicons"),
    "unicons": ("uil", "uim", "uit", "uis"),
    "lucide": ("lucide", "feather", "vadivam", "keyline"),
    "ionicons": ("ion", "famicons"),
    "heroicons": ("heroicons", "sidekickicons"),
    "wordpress": ("wordpress", "dashicons", "gridicons"),
    "mono": ("mi", "mono"),
    "majestic": ("majesticons", "pixelarticons"),
    "coreui": ("cil", "cib", "cif"),
    "remix": ("ri", "mingcute"),
}
"""Sets that copied, or are by the same hands, by the first word of their names without digits."""
SAME = """
home house | search magnifier magnifying-glass magnify loupe | settings cog gear setting | users people group
bell notification notifications | mail envelope email | user person account profile | image photo picture
check tick checkmark | close x times cross | plus add | cart shopping-cart | trash bin trash-can trash-bin dustbin
edit pencil pen | lock lock-closed padlock | unlock lock-open padlock-open | eye view visibility show
eye-off eye-slash view-off hide visibility-off eye-closed | log-out logout sign-out | log-in login sign-in
info information | help question question-mark | location map-pin map-marker place location-pin | phone call telephone
copy duplicate | save floppy-disk floppy diskette | printer print | thumbs-up thumb-up | thumbs-down thumb-down
clock time | star favorite | heart love | music music-note musical-note | microphone mic | video-camera videocam
globe world earth | bolt lightning flash thunder | fire flame | gift present | tag label | headphones headphone
paperclip attachment attach | airplane plane | car automobile | bicycle bike | file document | refresh reload
warning alert-triangle exclamation-triangle | terminal command-line | monitor desktop display | filter funnel
eye-dropper eyedropper color-picker | paint-brush paintbrush brush
"""
"""Names of one thing, for `--merge`; the class has the first."""
LEAST_CONTRAST = 3  # the standard deviation of the pixels of a drawing that is not blank
STYLE = re.compile(
    r"^(?:outline|outlined|solid|filled|fill|bold|light|thin|line|linear|sharp|rounded?|duotone|twotone|\d+(?:px)?)-"
    r"|-(?:outline|outlined|solid|filled|fill|bold|light|thin|line|linear|sharp|rounded?|duotone|twotone|\d+(?:px)?)$"
)


def class_of(name: str) -> str:
    """What an icon shows, by its name."""
    while (shorter := STYLE.sub("", name)) != name:
        name = shorter
    return name


def family_of(prefix: str) -> str:
    """The design family of a set: mdi-light and material-symbols are one."""
    first = re.sub(r"\d+", "", prefix.split("-")[0])
    return next((family for family, words in FAMILIES.items() if first in words), first)


def families(icons: Iterable[str]) -> int:
    """How many design families these sets are of."""
    return len({family_of(prefix) for prefix in icons})


def same() -> dict[str, str]:
    """The class of each name that `SAME` lists."""
    groups = [group.split() for group in SAME.replace("\n", " | ").split("|")]
    return {name: group[0] for group in groups for name in group}


def select(package: Path, size: int, merge: bool) -> dict[str, dict[str, str]]:
    """For each class its icons, an SVG for each set; the classes with the most icons first."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    merged = same() if merge else {}
    for prefix, about in json.loads((package / "collections.json").read_text(encoding="utf-8")).items():
        general = str(about.get("category", "Archive")).startswith(GENERAL)
        if about.get("palette") or about["license"].get("spdx") not in LICENCES or not general:
            continue
        icons = json.loads((package / "json" / f"{prefix}.json").read_text(encoding="utf-8"))
        for name in sorted(icons["icons"], key=lambda word: (len(word), word)):
            shown = class_of(name)
            if len(shown) > 1 and not shown.isdecimal() and not icons["icons"][name].get("hidden"):
                shown = merged.get(shown, shown)
                found[shown].setdefault(prefix, svg_of(icons, name, size))
    order = sorted(found, key=lambda shown: (-len(found[shown]), shown))
    return {shown: found[shown] for shown in order}


def svg_of(icons: dict, name: str, size: int) -> str:
    """An icon of a set as a whole SVG file, on a square."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = (icon.get(side, icons.get(side, 0)) for side in ("left", "top"))
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    body = icon["body"].replace("currentColor", "#000")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{box}">{body}</svg>'
    )


def drawn(icons: dict[str, str], seen: set[bytes]) -> dict[str, bytes]:
    """A PNG for each set, without those that are blank or were drawn before."""
    import resvg_py
    from PIL import Image, ImageStat

    found = {}
    for prefix, svg in icons.items():
        picture = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
        pixels = Image.open(io.BytesIO(picture)).convert("L")
        if ImageStat.Stat(pixels).stddev[0] > LEAST_CONTRAST and pixels.tobytes() not in seen:
            seen.add(pixels.tobytes())
            found[prefix] = picture
    return found


def main() -> None:
    """Select and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", type=int, help="so many, those with the most icons")
    parser.add_argument("--least-families", type=int, default=1, help="only classes that so many families have drawn")
    parser.add_argument("--size", type=int, default=32, help="of a picture in pixels")
    parser.add_argument("--merge", action="store_true", help="make one class of names for one thing")
    options = parser.parse_args()
    seen: set[bytes] = set()
    classes = pictures = 0
    for shown, icons in select(options.package, options.size, options.merge).items():
        if classes == options.classes:
            break
        if families(icons) < options.least_families:
            continue
        found = drawn(icons, seen)
        if families(found) < options.least_families:
            continue
        (options.out / shown).mkdir(parents=True, exist_ok=True)
        for prefix, picture in found.items():
            (options.out / shown / f"{family_of(prefix)}.{prefix}.png").write_bytes(picture)
        classes, pictures = classes + 1, pictures + len(found)
    print(f"{pictures:,} pictures of {classes:,} classes")


if __name__ == "__main__":
    main()
