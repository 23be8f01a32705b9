"""tercet export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from tercet.cli.console import Json, parse, show, show_json

if TYPE_CHECKING:
    from tercet.run import Run


@dataclass(frozen=True)
class Export:
    """Write a run's model in the format of another library.

    tercet export runs/texts --to sentence-transformers exported/
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    out: Annotated[Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """What to write; it must not exist yet."""

    to: Literal["sentence-transformers"]
    """The format. sentence-transformers: a folder of an encoder of texts that SentenceTransformer(FOLDER) loads, with \
pooling, head, normalisation and prompts, to the same vectors."""

    side: str | None = None
    """A run with two towers: which of them."""

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Export as the words say; the exit code."""
    command = parse(Export, words)
    from tercet.run import load

    said = FORMATS[command.to](load(command.run, device="cpu"), Path(command.out), command)
    if command.json:
        show_json({"out": command.out, "format": command.to})
    else:
        show(said)
    return 0


def _sentence_folder(run: Run, out: Path, command: Export) -> str:
    from tercet.integrations.sentence_folder import model_card, write_sentence_folder
    from tercet.training.folder.metrics import read_summary

    card = model_card(run.config, run.metrics, read_summary(run.path), out.name)
    write_sentence_folder(run.model, run.config, card, out, command.side)
    return f'{out}: load it with SentenceTransformer("{out}")'


FORMATS: dict[str, Callable[[Run, Path, Export], str]] = {"sentence-transformers": _sentence_folder}
"""What can be written, by its word."""
