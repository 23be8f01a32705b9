"""The command line: one file a command, each a short call into the library.

A command's module is imported when it is called, and imports torch when it runs, so that help appears at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from tercet import __version__
from tercet.errors import TercetError, suggest

INTERRUPTED = 130

COMMANDS = {
    "train": "train an embedding on a folder of classes or a table",
    "tune": "try margin, mining and learning rate on validation, and say what was found",
    "benchmark": "compare losses on classes never seen, each at its best, with intervals",
    "evaluate": "measure a run on data it never saw",
    "compare": "is one run better than another, and more than chance explains?",
    "embed": "write the embeddings of items to a Parquet file or shards",
    "export": "write the model for other programs: onnx, safetensors, sentence-transformers",
    "index": "make items searchable",
    "search": "find the items nearest to a query",
    "mine": "find the nearest wrong neighbours of a set, as triplets to train on",
    "verify": "same or different: two items, one answer; or a table of pairs",
    "calibrate": "choose another threshold for same or different, and see what it does",
    "report": "write the run's HTML report anew",
    "doctor": "name what is wrong with a training, with evidence and remedies",
    "demo": "all of it on real photographs, in about two minutes",
}

EXAMPLES = """\
a first run:
  tercet demo                                      needs: pip install 'tercet[demo]'
  tercet train faces/ --out runs/faces             faces/ has a subfolder for each person
  tercet evaluate runs/faces --data faces-test/
  tercet verify runs/faces a.png b.png

'tercet COMMAND --help' tells more. Exit codes: 0 success; 1 verify says different; 2 wrong input, nothing lost;
3 train --on-collapse stop ended a training that was failing; 4 verify --pairs left out items that it could not read;
130 stopped by Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    _open_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        return _write(_help())
    if words[0] == "--version":
        return _write(f"tercet {__version__}")
    if words[0] not in COMMANDS:
        return _fail(f"there is no command {words[0]!r}.{suggest(words[0], COMMANDS)} Commands: {', '.join(COMMANDS)}.")
    try:
        module = importlib.import_module(f"tercet.cli.{words[0]}")
        return module.main(words[1:])
    except TercetError as error:
        return error.exit_code if error.quiet else _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; a training that had begun goes on with --resume.", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        sys.stderr.close()
        return 0
    except Exception as error:  # a fault of ours, or a damaged file that no check foresaw; never exit code 1
        if os.environ.get("TERCET_TRACEBACK"):
            raise
        return _fail(f"{_described(error)} Set TERCET_TRACEBACK=1 to see where.")


def _open_streams() -> None:
    """Streams to nowhere in the place of those that whoever started us has closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process lives


def _described(error: Exception) -> str:
    """What the machine refused, such as space or permission; anything else is a fault of ours."""
    if isinstance(error, OSError) and error.strerror:
        where = "the output" if error.filename is None else error.filename  # a stream has no name
        return f"could not read or write {where}: {error.strerror}."
    return f"unexpected {type(error).__name__}: {error}."


def _help() -> str:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return f"usage: tercet COMMAND ...\n\nEmbeddings learned with triplets.\n\ncommands:\n{listed}\n\n{EXAMPLES}"


def _write(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code
