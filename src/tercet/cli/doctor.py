"""tercet doctor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from tercet.cli.console import Json, parse, show, show_json


@dataclass(frozen=True)
class Doctor:
    """Name what is wrong with a run's training: what was found, the evidence, and remedies known to work.

    The run may be finished, interrupted or failed; exit code 0 whatever is found.

    tercet doctor runs/faces
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Diagnose as the words say; the exit code."""
    command = parse(Doctor, words)
    from tercet.run import diagnose

    diagnosis = diagnose(command.run)
    if command.json:
        show_json(diagnosis.to_json())
    else:
        show("\n".join(diagnosis.lines()))
    return 0
