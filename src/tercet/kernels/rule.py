"""What is to be computed (`Rule`, `Penalty`) and how (`Plan`): frozen, decided before data is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tercet.distances import Distance
from tercet.errors import InputError, check_choice

MININGS = ("all", "hard", "semihard")
REDUCTIONS = ("mean-active", "mean", "sum")
FALLBACKS = ("skip", "farthest")
IMPLEMENTATIONS = ("auto", "torch", "reference")
DEFAULT_TEMPERATURE = 0.1  # of logsumexp
MEMORY_BYTES = 16 << 20  # of one tile with its temporaries: large enough to be busy, small enough for a cache
BYTES_PER_ENTRY = 64  # of a tile: the distance, its bucket (int64), its moments (float64), masks and weights


@dataclass(frozen=True)
class Penalty:
    """A function of a triplet's argument z = d_ap + margin - d_an, and its slope.

    `degree` is 1 or 2 where the penalty is max(0, z)^degree: its sum over many triplets then follows from a
    few moments of the distances (Joachims 2006; Rust and Hocking 2023). Otherwise it is None, and every
    triplet is visited.
    """

    degree: int | None
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _softplus(z: Tensor) -> Tensor:
    return torch.logaddexp(z, z.new_zeros(()))  # not softplus(): beyond 20 it drops what float64 still sees


PENALTIES = {
    "hinge": Penalty(1, torch.relu, lambda z: (z > 0).to(z.dtype)),
    "squared-hinge": Penalty(2, lambda z: torch.relu(z).square(), lambda z: 2 * torch.relu(z)),
    "softplus": Penalty(None, _softplus, torch.sigmoid),
    # Of many negatives at once, see `mining.AllByLogSumExp`; of one, a softplus. `Rule.cost` scales it.
    "logsumexp": Penalty(None, _softplus, torch.sigmoid),
}


def settled_temperature(penalty: str, given: float | None) -> float:
    """The temperature of a rule: the one given, or the default of logsumexp; 1 for a penalty that has none."""
    if given is not None:
        return given
    return DEFAULT_TEMPERATURE if penalty == "logsumexp" else 1.0


@dataclass(frozen=True)
class Rule:
    """Which triplets are mined, what each costs, and how the costs are put together."""

    distance: Distance
    mining: str = "all"
    margin: float = 0.2
    penalty: str = "hinge"
    reduction: str = "mean-active"
    fallback: str = "skip"
    temperature: float = 1.0

    @property
    def cost(self) -> Penalty:
        """The penalty of one triplet; that of logsumexp is tau * softplus(z / tau)."""
        penalty, tau = PENALTIES[self.penalty], self.temperature
        if self.penalty != "logsumexp":
            return penalty
        return Penalty(None, lambda z: tau * penalty.value(z / tau), lambda z: penalty.slope(z / tau))

    @property
    def counts_active_only(self) -> bool:
        """Whether the mean is over active triplets only; softplus penalises every triplet it is given."""
        return self.reduction == "mean-active" and PENALTIES[self.penalty].degree is not None

    def faults(self) -> list[str]:
        """What is wrong with the settings, one sentence each."""
        found = []
        for name, given, allowed in (
            ("mining", self.mining, MININGS),
            ("penalty", self.penalty, tuple(PENALTIES)),
            ("reduction", self.reduction, REDUCTIONS),
            ("fallback", self.fallback, FALLBACKS),
        ):
            try:
                check_choice(name, given, allowed)
            except InputError as fault:
                found.append(str(fault))
        if self.fallback == "farthest" and self.mining != "semihard" and self.mining in MININGS:
            found.append(f"fallback 'farthest' belongs to mining 'semihard'; with mining {self.mining!r} leave it out.")
        number = isinstance(self.margin, (int, float)) and not isinstance(self.margin, bool)
        if not number or not math.isfinite(self.margin) or self.margin < 0:
            found.append(f"margin is {self.margin!r}; allowed is a finite number of at least 0.")
        if self.temperature != 1.0 and self.penalty != "logsumexp" and self.penalty in PENALTIES:
            found.append(f"temperature belongs to penalty 'logsumexp'; with penalty {self.penalty!r} leave it out.")
        if not (isinstance(self.temperature, (int, float)) and 0 < self.temperature < math.inf):
            found.append(f"temperature is {self.temperature!r}; allowed is a finite number above 0.")
        return found


@dataclass(frozen=True)
class Plan:
    """How triplets are reduced: by which implementation, in tiles of how many anchors and references."""

    implementation: str
    tile_rows: int
    tile_columns: int


@lru_cache(maxsize=256)
def make_plan(
    implementation: str, anchors: int, references: int, largest_class: int, memory_bytes: int = MEMORY_BYTES
) -> Plan:
    """The plan for these sizes; a row of a tile holds its columns' distances and its own thresholds."""
    check_choice("implementation", implementation, IMPLEMENTATIONS)
    entries = memory_bytes // BYTES_PER_ENTRY
    columns = max(1, min(references, 1024, entries))
    rows = max(1, min(anchors, entries // (columns + largest_class)))
    return Plan("torch" if implementation == "auto" else implementation, rows, columns)
