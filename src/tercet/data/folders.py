"""Reads folders with a subfolder for each class, single images, and files with a text a line."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tercet.data.label_column import at_level
from tercet.data.labels import NO_LABELS, Labels
from tercet.data.records import Records, Skipped, listed, plural, shorten
from tercet.data.wishes import IMAGE_SUFFIXES, Wishes
from tercet.errors import DataError, InputError

GENUINE = ("genuine", "real", "original")
FORGED = ("forged", "forgery", "forgeries", "fake")
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


def read_folder(folder: Path, source: str, wishes: Wishes) -> Records:
    """Records of a folder: a subfolder is a class, and whatever lies below it belongs to it."""
    _check_form(source, wishes)
    found, skipped = _find(folder, wishes.kind)
    kind = wishes.kind or ("text" if found and found[0].suffix.lower() == ".txt" else "image")
    what = "image" if kind == "image" else ".txt file"
    if not found:
        seen = f" {listed(skipped)}" if skipped else ""
        raise DataError(f"{source} holds no {what}s.{seen}")
    loose = [path for path in found if path.parent == folder]
    nested = [path for path in found if path.parent != folder]
    if wishes.labelled and not nested:
        raise DataError(_no_subfolders(source, plural(len(loose), what), found))
    labelled = bool(nested) and (wishes.labelled or not loose) and wishes.form != "items"
    if labelled:
        skipped += [Skipped(path.name, "not in the subfolder of a class") for path in loose]
        found = nested
    names = [path.relative_to(folder).as_posix() for path in found]
    forged = find_forged(names) if labelled else None
    items = [str(path) for path in found] if kind == "image" else [_read_text(path) for path in found]
    labels = Labels.of([_class_of(name, wishes.label_level) for name in names]) if labelled else NO_LABELS
    if wishes.labelled:
        _check_classes(source, labels.classes)
    if forged is not None:
        records = _records(kind, items, names, labels, skipped, source, "")
        how = "folder with a subfolder for each writer, and in it one of genuine items and one of forged ones"
        return replace(records, forged=forged).described(how)
    how = (
        f"folder with a subfolder for each class{' of .txt files' if kind == 'text' else ''}" if labelled else "folder"
    )
    return _records(kind, items, names, labels, skipped, source, how)


def find_forged(names: Sequence[str]) -> np.ndarray | None:
    """Which files are forgeries, by the folders in those of their classes; None where these say nothing of it.

    They do where there are no others but those of genuine and of forged items, and both.
    """
    kinds = [name.lower().split("/")[1:-1] for name in names]
    if any(len(kind) != 1 or kind[0] not in (*GENUINE, *FORGED) for kind in kinds):
        return None
    forged = np.array([kind[0] in FORGED for kind in kinds])
    return forged if 0 < forged.sum() < len(forged) else None


def _class_of(name: str, level: int | None) -> str:
    """The subfolder that an item is in; at a level of several parts, the folders within it too."""
    return at_level(name.rpartition("/")[0], level or 1)


def read_image(path: Path, source: str, wishes: Wishes) -> Records:
    """Records of one image."""
    if wishes.labelled:
        raise DataError(f"{source} is a single image, which has no labels; give a folder or a table.")
    return _records("image", [str(path)], [path.name], NO_LABELS, [], source, "one file")


def read_lines(path: Path, source: str, wishes: Wishes) -> Records:
    """Records of a .txt file: a text a line; blank lines at its end do not count."""
    if wishes.labelled:
        raise DataError(
            f"{source} is a file with a text a line, which has no labels; give a table with a text and a "
            f"label column, or a folder with a subfolder of .txt files for each class. Training without labels takes "
            f"--views 2."
        )
    lines = _read_text(path, allow_empty=True).rstrip().splitlines()
    if not lines:
        raise DataError(f"{source} is empty.")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(f"{source}:{number}: the line is empty; remove it.")
    return _records("text", lines, [shorten(line) for line in lines], NO_LABELS, [], source, "a text a line")


def decode_utf8(content: bytes, source: str) -> str:
    """Bytes of a file as text; an error names the line that is not UTF-8."""
    content = content.removeprefix(codecs.BOM_UTF8)  # by hand: decoding utf-8-sig counts an error's place without it
    try:
        return content.decode()
    except UnicodeDecodeError as cause:
        line = content.count(b"\n", 0, cause.start) + 1
        raise not_utf8(f"{source}:{line}", content[cause.start]) from None


def not_utf8(place: str, byte: int) -> DataError:
    """The error for a file in which a byte is that of another encoding."""
    return DataError(f"{place}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8.")


def _records(
    kind: str,
    items: list[str],
    names: list[str],
    labels: Labels,
    skipped: list[Skipped],
    source: str,
    how: str,
) -> Records:
    records = Records(kind, items, names, None, (), None, None, (), tuple(skipped), source, "")
    return records.labelled(labels).described(how)


def _check_form(source: str, wishes: Wishes) -> None:
    if wishes.kind == "tabular":
        raise InputError(f"--kind is 'tabular', but {source} is a folder; rows of numbers come from a table.")
    if wishes.form not in (None, "labels", "items"):
        raise InputError(f"--form is {wishes.form!r}, but {source} is a folder; triplets and pairs come from a table.")


def _check_classes(source: str, classes: Sequence[str]) -> None:
    if len(classes) > 1 and {name.lower() for name in classes} <= _SPLITS:
        raise DataError(
            f"{source} holds the subfolders {', '.join(classes)}, which look like parts of a data set, not "
            f"classes. Give one of them, such as {source.rstrip('/')}/{classes[0]}."
        )
    if len(classes) < 2:
        raise DataError(f"{source} holds a single class, {classes[0]!r}; at least two are needed to tell apart.")


def _no_subfolders(source: str, count: str, found: list[Path]) -> str:
    one, other = found[0].name, found[-1].name
    base = source.rstrip("/")
    return (
        f"{source} holds {count} but no subfolders, so nothing says which belong together. Expected is a "
        f"subfolder for each class ({base}/first/{one}, {base}/second/{other}), or a table with a column of "
        f"paths and a column of labels. tercet train takes it as it is with --views 2."
    )


def _find(folder: Path, kind: str | None) -> tuple[list[Path], list[Skipped]]:
    """Files of the wanted kind, in a stable order, and what was passed over; texts only if no images."""
    files, skipped = [], []
    for path, reason in _walk(folder):
        if reason:
            skipped.append(Skipped(path.relative_to(folder).as_posix(), reason))
        else:
            files.append(path)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    found = texts if kind == "text" or (kind is None and not images) else images
    reason = "not a .txt file" if found is texts and texts else "not an image"
    chosen = set(found)
    skipped += [Skipped(path.relative_to(folder).as_posix(), reason) for path in files if path not in chosen]
    return found, skipped


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Everything below a folder, sorted, each with the reason to pass it over or ""; links are followed."""
    for where, folders, files in os.walk(folder, followlinks=True):
        here = Path(where)
        if here.is_symlink() and any(above.samefile(here) for above in here.parents):
            yield here, "a link to a folder above it"
            folders.clear()
            continue
        for name in sorted(name for name in folders if name.startswith(".")):
            yield here / name, "hidden"
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            yield here / name, "hidden" if name.startswith(".") else ""


def _read_text(path: Path, allow_empty: bool = False) -> str:
    text = decode_utf8(path.read_bytes(), str(path))
    if not text.strip() and not allow_empty:
        raise DataError(f"{path} is empty.")
    return text
