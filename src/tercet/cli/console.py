"""What every command shares: its parser, and where its words go."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from tercet.data.wishes import LayoutName

if TYPE_CHECKING:
    from tercet.training.reporter import Reporter

T = TypeVar("T")

BY_THIRDS = tuple(f"{name}_{third}" for name in ("recall_at_1", "map_at_r") for third in ("rare", "middle", "common"))
"""Figures that are there where classes are of unlike sizes."""

Json = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Print the result as JSON on stdout; then only warnings go to stderr."),
]


def parse(command: type[T], words: Sequence[str], default: T | None = None) -> T:
    """The command's arguments; a wrong one ends the process with exit code 2 and the likely one suggested."""
    name = f"tercet {command.__name__.lower()}"
    if default is None:
        return tyro.cli(command, prog=name, args=list(words))
    return tyro.cli(command, prog=name, args=list(words), default=default)


def reporter(quiet: bool) -> Reporter:
    """Sentences and progress on stderr, or, with --json, only warnings."""
    from tercet.training.reporter import ConsoleReporter, QuietReporter

    return QuietReporter() if quiet else ConsoleReporter()


@dataclass(frozen=True)
class ReadOptions:
    """How to read the data, where it is a table or leaves something open."""

    kind: Literal["image", "text", "tabular"] | None = None
    """What the items are; as in training when left open."""

    label: str | None = None
    """The column of a table that holds the labels; as in training, or found out."""

    label_level: int | None = None
    """Of labels such as animal/dog/poodle, how many parts count; as in training when left open."""

    label_separator: str | None = None
    """What stands between the labels of an item in a table's cell, such as ; or |; as in training when left open."""

    columns: tuple[str, ...] | None = None
    """The columns of a table that hold the items; as in training, or found out."""

    root: str | None = None
    """The folder that paths in a table start from; the table's own folder when left open."""

    layout: LayoutName | None = None
    """The data set that a folder is of; found out, where labels are needed, when left open."""

    part: str | None = None
    """With the folder of a data set: the part of it, such as test or query."""


def show(text: str) -> None:
    """Print a result to stdout."""
    sys.stdout.write(text + "\n")


def show_json(content: Any) -> None:
    """Print a result to stdout as JSON."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def figure(value: float | None, interval: Sequence[float] | None = None) -> str:
    """`0.083 [0.061, 0.109]`, or a dash for what the data cannot tell."""
    if value is None:
        return "-"
    ends = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{value:.3f}{ends}"
