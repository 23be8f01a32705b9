"""How a rank learns that another has failed or is gone, whatever it is waiting for at the time.

Each rank beats once a second, in a thread of its own, in a store that all of them reach, and listens to the next rank.
The first that fails leaves its message there. So nobody waits longer than half a minute for a rank whose machine has
lost its power, nor until a timeout of the process group, which must be long: ranks wait for rank 0 while it evaluates.

What is in the store: `beat/RANK`, how often a rank has beaten; `faults`, how many have failed; `fault`, what the first
of them has to say, as JSON; `aware/RANK`, whether a rank knows of it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from tercet.collectives.ranks import Ranks

SECONDS = 1.0  # between two beats
SILENT = 30  # looks at a rank that does not beat, until it is taken for dead
GRACE = 20.0  # seconds that the main thread has to come to its next call and end by itself, once a fault is known
PATIENCE = 5.0  # seconds that a rank waits for the word of another before it ends
LOST = "Go on from the last checkpoint with the same command and --resume; the number of ranks may be another."


@dataclass(frozen=True)
class Fault:
    """What ended a training, as the first rank to know of it has said.

    Attributes:
        rank: who said it.
        machine: where.
        message: what.
        own: whether that rank has failed itself, or found another gone.
    """

    rank: int
    machine: str
    message: str
    own: bool = True

    def __str__(self) -> str:
        return f"rank {self.rank} has failed, and so no rank goes on: {self.message}" if self.own else self.message


class Pulse:
    """Beats for this rank, listens to the next one, and knows what has failed.

    Args:
        store: of torch.distributed, reached by all ranks; no other thread may use this connection for long.
        ranks: those that beat.
    """

    def __init__(self, store: Any, ranks: Ranks) -> None:
        self.store, self.ranks = store, ranks
        self.resting = threading.Event()
        self.known: Fault | None = None
        self.gone: list[int] = []
        self.thread = threading.Thread(target=self._beat, name="tercet-pulse", daemon=True)
        self.thread.start()

    def rest(self) -> None:
        """Stop beating and listening."""
        self.resting.set()
        if threading.current_thread() is not self.thread:
            self.thread.join(PATIENCE)

    def post(self, message: str, own: bool = True) -> None:
        """Leave a message for all ranks, unless another was first."""
        if self._count("faults", 1) == 1:
            self.store.set("fault", json.dumps(asdict(self._fault(message, own))))

    def fault(self) -> Fault | None:
        """What the first rank that failed has said; None if none has."""
        if self.known is None and self.store.check(["fault"]):
            self.known = Fault(**json.loads(self.store.get("fault")))
            self._count(f"aware/{self.ranks.rank}", 1)
        return self.known

    def ask(self) -> Fault | None:
        """The fault that makes another rank unreachable: its own word, or after some seconds that it is gone."""
        before, until = self._beats(), time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.fault() is not None:
                return self.known
            time.sleep(SECONDS / 5)
        self.gone = [rank for rank, beat in self._beats().items() if beat == before[rank] and rank != self.ranks.rank]
        if self.gone:
            self.post(_gone(self.gone), own=False)
        return self.fault()

    def linger(self) -> None:
        """Wait until the others know of the fault too: the store may end with this process."""
        until = time.monotonic() + PATIENCE
        others = [rank for rank in range(self.ranks.size) if rank not in (self.ranks.rank, *self.gone)]
        while time.monotonic() < until and not all(self._count(f"aware/{rank}", 0) for rank in others):
            time.sleep(SECONDS / 5)

    def _fault(self, message: str, own: bool) -> Fault:
        return Fault(self.ranks.rank, socket.gethostname(), message, own)

    def _beats(self) -> dict[int, int]:
        return {rank: self._count(f"beat/{rank}", 0) for rank in range(self.ranks.size)}

    def _count(self, key: str, more: int) -> int:
        return int(self.store.add(key, more))

    def _beat(self) -> None:
        listened, heard, silent = (self.ranks.rank + 1) % self.ranks.size, -1, 0
        while not self.resting.wait(SECONDS):
            try:
                self._count(f"beat/{self.ranks.rank}", 1)
                beat = self._count(f"beat/{listened}", 0)
                silent, heard = (silent + 1 if beat == heard else 0), beat
                if silent >= SILENT:
                    self.post(_gone([listened]), own=False)
                fault = self.fault()
            except (RuntimeError, OSError):
                fault = self.known = self._fault(f"the place where the ranks met has gone with rank 0. {LOST}", False)
            if fault is not None:
                self._end(fault)
                return

    def _end(self, fault: Fault) -> None:
        """End this process if its main thread does not: it may wait in a place that no exception reaches."""
        if not self.resting.wait(GRACE):
            sys.stderr.write(f"error: {fault}\n")
            sys.stderr.flush()
            os._exit(2)


def _gone(ranks: list[int]) -> str:
    named = "rank " + str(ranks[0]) if len(ranks) == 1 else "ranks " + ", ".join(map(str, ranks))
    verb = "has" if len(ranks) == 1 else "have"
    return f"{named} {verb} ended without a word: killed, out of memory, or the machine is gone. {LOST}"
