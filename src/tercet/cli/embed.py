"""tercet embed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, parse, reporter, show, show_json
from tercet.errors import InputError

ELSEWHERE = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".npy", ".npz", ".h5", ".feather", ".pq", ".safetensors")
"""Endings of files that are not written: a folder of such a name is no one's wish."""


@dataclass(frozen=True)
class Embed:
    """Write the embeddings of items to a Parquet file: columns name, label (where known) and embedding.

    tercet embed runs/faces photos/ --out photos.parquet

    Or to a folder of Parquet shards, for any number of items: what is finished is kept, and --resume goes on.

    tercet embed runs/texts texts.jsonl --out vectors/ --resume
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder of images (or of classes), an image, a table, or a .txt file with a text a line."""

    out: str
    """The Parquet file to write, which must not exist yet; or, without this ending, a folder of shards."""

    shard_rows: int | None = None
    """Items of a shard of a folder; 100,000 when left open, or as it was begun. No more than that is ever in \
memory."""

    resume: FlagCreatePairsOff[bool] = False
    """Go on with the folder in --out: finished shards are kept."""

    lance: str | None = None
    """Beside the shards, a new LanceDB database of them, a folder (needs: pip install 'tercet[lance]')."""

    processes: int = 1
    """How many processes of this machine share the shards of a folder, each on a GPU of its own where there are some. \
torchrun does as well, on several machines that see the folder."""

    vectors: Literal["float32", "int8", "binary"] = "float32"
    """A float, a byte or a bit for each number. What that costs is measured by: tercet evaluate --vectors"""

    side: str | None = None
    """A run with two towers: which of them, by the name of the column that it was trained on. Found from the data \
where one holds images and the other texts. Or a run with a prompt for each role: query or document."""

    dim: int | None = None
    """How many numbers of each embedding to take, from its start (for runs trained with --matryoshka); all when left \
open."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Embed as the words say; the exit code."""
    command = parse(Embed, words)
    from tercet.data.records import plural
    from tercet.index.parquet import check_parquet_path, write_parquet
    from tercet.run import load

    out = Path(command.out)
    if out.suffix != ".parquet":
        return _to_shards(command, out)
    _check_no_shards(command)
    check_parquet_path(out)
    batch = load(command.run, dim=command.dim).embed_records(
        command.data, side=command.side, reporter=reporter(command.json), **dataclasses.asdict(command.read)
    )
    write_parquet(out, batch.vectors, batch.names, batch.labels, command.vectors)
    if command.json:
        show_json({"out": str(out), "items": len(batch.names), "dimensions": batch.vectors.shape[1],
                   "skipped": [dataclasses.asdict(one) for one in batch.skipped]})  # fmt: skip
    else:
        show(f"{plural(len(batch.names), 'embedding')} of {batch.vectors.shape[1]} dimensions in {out}")
    return 0


def _to_shards(command: Embed, out: Path) -> int:
    from tercet.data.records import plural
    from tercet.index.shards import is_shards, open_shards
    from tercet.integrations.lance import TABLE, check_new, write_lance
    from tercet.run import load

    if out.suffix in ELSEWHERE:
        raise InputError(f"--out is {command.out!r}; embeddings go to a .parquet file, or to a folder of such shards.")
    if command.lance is not None:
        check_new(Path(command.lance), command.vectors)
    rows = {} if command.shard_rows is None else {"shard_rows": command.shard_rows}
    if not rows and command.resume and is_shards(out):  # as it was begun
        rows = {"shard_rows": open_shards(out).settings["shard_rows"]}
    found = load(command.run, dim=command.dim).embed_to(
        command.data, out, vectors=command.vectors, resume=command.resume, processes=command.processes,
        side=command.side, reporter=reporter(command.json), **rows, **dataclasses.asdict(command.read),
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")):
        return 0
    if command.lance is not None:
        write_lance(out, Path(command.lance))
    if command.json:
        show_json({"out": str(out), "items": found.items, "dimensions": found.dimensions, "shards": found.shards,
                   "skipped": [dataclasses.asdict(one) for one in found.skipped]})  # fmt: skip
        return 0
    left_out = f"; {len(found.skipped):,} left out, see {out / 'skipped.csv'}" if found.skipped else ""
    show(
        f"{plural(found.items, 'embedding')} of {found.dimensions} dimensions in {plural(found.shards, 'shard')} in "
        f"{out}{left_out}"
    )
    if command.lance is not None:
        show(f"the same in the table {TABLE!r} of {command.lance}")
    return 0


def _check_no_shards(command: Embed) -> None:
    """Options of shards do nothing to one file."""
    given = {"--shard-rows": command.shard_rows is not None, "--resume": command.resume,
             "--processes": command.processes != 1, "--lance": command.lance is not None}  # fmt: skip
    named = [option for option, is_given in given.items() if is_given]
    if named:
        raise InputError(f"{' and '.join(named)}: only for a folder of shards, so give --out a name without .parquet.")
