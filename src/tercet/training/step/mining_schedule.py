"""The schedule of online mining: which triplets of a batch count, and from which share of the run on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from tercet.errors import ConfigError, suggest

SCHEDULED = ("all", "hard", "semihard", "easy-positive", "easy-positive-semihard")
"""The minings that can follow each other. distance-weighted draws, and how often it did is part of the loss's state."""
FORM = "minings with the share of the run that each begins at, such as easy-positive:0,semihard:0.3,hard:0.7"


@dataclass(frozen=True)
class MiningSchedule:
    """Minings in their order, each with the share of the steps that it begins at; the first begins at 0."""

    stages: tuple[tuple[str, float], ...]

    def at(self, step: int, steps: int) -> str:
        """The mining of a step, counted from 0, of so many: that of the last stage with ceil(share · steps) <= step."""
        begun = [mining for mining, share in self.stages if math.ceil(round(share * steps, 6)) <= step]
        return begun[-1]


def parse_schedule(text: str) -> MiningSchedule:
    """The schedule that is written as `mining:share,mining:share,...`.

    Raises:
        ConfigError: it is not written so, or the shares do not rise from 0 to below 1; all faults are named together.
    """
    faults: list[str] = []
    stages = [stage for part in text.split(",") if (stage := _stage(part.strip(), faults)) is not None]
    shares = [share for _, share in stages]
    if not faults and (shares[0] != 0 or shares[-1] >= 1 or any(one >= other for one, other in pairwise(shares))):
        listed = ", ".join(f"{share:g}" for share in shares)
        faults.append(f"the shares are {listed}; they must rise from 0 to below 1")
    if faults:
        raise ConfigError(f"mining_schedule is {text!r}: {'; '.join(faults)}.")
    return MiningSchedule(tuple(stages))


def _stage(part: str, faults: list[str]) -> tuple[str, float] | None:
    mining, _, share = part.partition(":")
    try:
        number = float(share)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        faults.append(f"{part!r} is not a mining and a number; wanted are {FORM}")
    elif mining not in SCHEDULED:
        faults.append(f"{mining!r} is not one of {', '.join(SCHEDULED)}.{suggest(mining, SCHEDULED)}".rstrip("."))
    else:
        return mining, number
    return None
