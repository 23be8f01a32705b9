"""tercet export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from tercet.cli.console import Json, parse, show, show_json
from tercet.errors import InputError, check_choice

if TYPE_CHECKING:
    from tercet.run import Run


@dataclass(frozen=True)
class Export:
    """Write a run's model for another program.

    tercet export runs/faces --to onnx faces.onnx
    tercet export runs/faces --to safetensors faces-model/
    tercet export runs/texts --to sentence-transformers exported/
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The file or folder to write; it must not exist yet."""

    to: str
    """onnx: a file for ONNX Runtime and others, checked against PyTorch (needs: pip install 'tercet[onnx]'). \
safetensors: a folder with weights, what rebuilds the encoder, and a model card. sentence-transformers: a folder of an \
encoder of texts that SentenceTransformer(OUT) loads, with pooling, head, normalisation and prompts."""

    side: str | None = None
    """sentence-transformers, of a run with two towers: which of them."""

    json: Json = False


def _to_onnx(run: Run, out: Path, side: str | None) -> str:
    from tercet.integrations.onnx_file import write_onnx

    _refuse_side(side)
    return f"differs from PyTorch by at most {write_onnx(run.model, out):.1e}"


def _to_safetensors(run: Run, out: Path, side: str | None) -> str:
    from tercet.integrations.model_card import write_model_folder

    _refuse_side(side)
    write_model_folder(run.path, run.config, out)
    return f"its card is {out / 'README.md'}"


def _to_sentence_folder(run: Run, out: Path, side: str | None) -> str:
    from tercet.integrations.model_card import model_card
    from tercet.integrations.sentence_folder import write_sentence_folder

    card = model_card(run.path, run.config, out.name, "sentence-transformers")
    write_sentence_folder(run.model, run.config, card, out, side)
    return f'load it with SentenceTransformer("{out}")'


def _refuse_side(side: str | None) -> None:
    if side is not None:
        raise InputError(f"side is {side!r}, which is of --to sentence-transformers; leave it out.")


FORMATS: dict[str, Callable[[Run, Path, str | None], str]] = {
    "onnx": _to_onnx,
    "safetensors": _to_safetensors,
    "sentence-transformers": _to_sentence_folder,
}
"""What can be written, by its word."""


def main(words: Sequence[str]) -> int:
    """Export as the words say; the exit code."""
    command = parse(Export, words)
    check_choice("--to", command.to, FORMATS)
    from tercet.run import load

    said = FORMATS[command.to](load(command.run, device="cpu"), Path(command.out), command.side)
    if command.json:
        show_json({"out": command.out, "to": command.to})
    else:
        show(f"{command.out}: {command.to}, {said}")
    return 0
