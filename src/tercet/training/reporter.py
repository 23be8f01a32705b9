"""What a long piece of work says while it runs: sentences, warnings, and progress.

The library talks to a Reporter and knows nothing of terminals. The base class is quiet, save that warnings become
Python warnings; ConsoleReporter shows all of it on stderr, so that stdout stays free for results.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from tercet.errors import TercetWarning

Advance = Callable[..., None]
"""Called as advance(done, total, note=""), with `note` for the live figures."""


class Reporter:
    """Says nothing, warns through `warnings`, and keeps what was warned of for the report."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, sentence: str) -> None:
        """One sentence about what is going on."""

    def warn(self, sentence: str) -> None:
        """One sentence about what is probably not wanted."""
        self.warnings.append(sentence)
        warnings.warn(sentence, TercetWarning, stacklevel=3)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        """A progress bar for as long as the block runs."""
        yield lambda done, total, note="": None


class SilentReporter(Reporter):
    """Keeps warnings to itself: rank 0 speaks for all ranks."""

    def warn(self, sentence: str) -> None:
        """Keep the sentence."""
        self.warnings.append(sentence)


class QuietReporter(Reporter):
    """Warnings alone, as plain lines on stderr."""

    def warn(self, sentence: str) -> None:
        """Print the sentence, marked as a warning."""
        self.warnings.append(sentence)
        sys.stderr.write(f"warning: {sentence}\n")


class ConsoleReporter(Reporter):
    """Sentences and live progress bars on stderr; plain lines where stderr is not a terminal."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, sentence: str) -> None:
        """Print the sentence."""
        self.console.print(sentence, markup=False, soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Print the sentence, marked as a warning."""
        self.warnings.append(sentence)
        self.console.print("warning: " + sentence, style="yellow", markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        """A bar with the time left on a terminal; elsewhere a line every ten seconds."""
        if not self.console.is_terminal:
            yield self._lines(title)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        ]
        with Progress(*columns, console=self.console) as bars:
            task = bars.add_task(title, total=None, note="")
            yield lambda done, total, note="": bars.update(task, completed=done, total=total, note=note)

    def _lines(self, title: str) -> Advance:
        started = last = time.monotonic()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            finished = done == total and now - started > 1.0  # short work needs no line of its own
            if finished or now - last >= self.SECONDS_BETWEEN_LINES:
                last = now
                self.say(f"{title} {done}/{total}  {note}".rstrip())

        return advance
