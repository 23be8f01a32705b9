"""Says that the loops are being compiled, which takes some seconds once for each machine and data type."""

from __future__ import annotations

import logging

from numba.core import event

PACKAGE = __name__.rpartition(".")[0]
logger = logging.getLogger("tercet")


class Announcer(event.Listener):
    """Hears of every function that is compiled, not of those found in the cache, and speaks once."""

    def __init__(self) -> None:
        self.has_spoken = False

    def on_start(self, event: event.Event) -> None:
        """Say it, if the function is one of ours."""
        function = event.data["dispatcher"].py_func
        if not self.has_spoken and function.__module__.startswith(PACKAGE):
            self.has_spoken = True
            logger.warning(
                "compiling the loops of the loss for this machine: some ten seconds, once; what is compiled is kept "
                "for later runs beside the package, or in your cache folder if that cannot be written to"
            )

    def on_end(self, event: event.Event) -> None:
        """Nothing more to say."""


announcer = Announcer()
event.register("numba:compile", announcer)
