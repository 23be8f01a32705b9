"""tercet report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from tercet.cli.console import Json, parse, show, show_json


@dataclass(frozen=True)
class Report:
    """Write a run's report.html anew from what is in its folder: one file, which works offline.

    tercet report runs/faces
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Report as the words say; the exit code."""
    command = parse(Report, words)
    from pathlib import Path

    from tercet.report import write

    path = write(Path(command.run))
    if command.json:
        show_json({"report": str(path)})
    else:
        show(str(path))
    return 0
