"""Says that loops are being compiled, which takes some seconds once for each machine and data type.

Importing it is enough: from then on it listens to numba.
"""

from __future__ import annotations

import logging

from numba.core import event

LOOPS = {
    "tercet.kernels.": "the loss",
    "tercet.neighbors.": "the search",
    "tercet.evaluation.": "verification",
    "tercet.lmnn.": "LMNN",
}
"""Whose loops are compiled, by the packages that hold them."""
logger = logging.getLogger("tercet")


class Announcer(event.Listener):
    """Hears of every function that is compiled, not of those found in the cache, and speaks once of each package."""

    def __init__(self) -> None:
        self.spoken: set[str] = set()

    def on_start(self, event: event.Event) -> None:
        """Say it, if the function is one of ours."""
        module = event.data["dispatcher"].py_func.__module__
        for package, whose in LOOPS.items():
            if module.startswith(package) and package not in self.spoken:
                self.spoken.add(package)
                logger.warning(
                    "compiling the loops of %s for this machine: some ten seconds, once; what is compiled is kept for "
                    "later runs beside the package, or in your cache folder if that cannot be written to",
                    whose,
                )

    def on_end(self, event: event.Event) -> None:
        """Nothing more to say."""


announcer = Announcer()
event.register("numba:compile", announcer)
