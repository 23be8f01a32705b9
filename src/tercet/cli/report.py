"""tercet report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from tercet.cli.console import Json, parse, show, show_json
from tercet.errors import InputError


@dataclass(frozen=True)
class Report:
    """Write a run's report anew from what is in its folder, or compare runs: one HTML file, which works offline.

    tercet report runs/faces

    tercet report runs/faces --map tsne

    tercet report runs/a runs/b --out comparison.html
    """

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """The run folder; of several, a comparison is written."""

    out: str | None = None
    """The file; of one run, report.html in its folder by default."""

    map: Literal["pca", "tsne", "umap"] | None = None
    """How the map of the embedding is laid out. pca is there at once; tsne takes some seconds; umap needs \
pip install 'tercet[umap]'."""

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Report as the words say; the exit code."""
    command = parse(Report, words)
    _check(command)
    from tercet.report import write, write_comparison

    if len(command.runs) == 1:
        path = write(command.runs[0], command.out, command.map or "pca")
    else:
        assert command.out is not None
        path = write_comparison(command.runs, command.out)
    if command.json:
        show_json({"report": str(path)})
    else:
        show(str(path))
    return 0


def _check(command: Report) -> None:
    if not command.runs:
        raise InputError("no run was named; give the folder of one: tercet report runs/faces.")
    if len(command.runs) == 1:
        return
    if command.out is None:
        raise InputError("a comparison of runs lies in no run's folder; say where it goes: --out comparison.html.")
    if command.map is not None:
        raise InputError("--map lays out the map of one run, and a comparison has none; leave it out.")
