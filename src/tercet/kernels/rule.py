"""What is to be computed (`Rule`, `Penalty`) and how (`Plan`): frozen, decided before data is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tercet.distances import Distance
from tercet.errors import InputError, check_choice

MININGS = ("all", "hard", "semihard", "easy-positive", "easy-positive-semihard", "distance-weighted")
REDUCTIONS = ("mean-active", "mean", "sum")
FALLBACKS = ("skip", "farthest")
IMPLEMENTATIONS = ("auto", "numba", "triton", "torch", "reference")
SEMIHARD = ("semihard", "easy-positive-semihard")  # the minings that `fallback` belongs to
DEFAULT_TEMPERATURES = {"logsumexp": 0.1, "lifted": 1.0, "supcon": 0.1}  # the penalties that have one
DRAWN_FROM, DRAWN_BELOW = 0.5, 1.4  # distance-weighted: nearer negatives weigh no more, farther ones nothing
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
    # The next two are of many negatives, or positives and negatives, at once, see `mining.softmax`. Of one
    # triplet they are a softplus, which `Rule.cost` scales, and a hinge.
    "logsumexp": Penalty(None, _softplus, torch.sigmoid),
    "lifted": Penalty(1, torch.relu, lambda z: (z > 0).to(z.dtype)),
}
# Of an anchor's pairs, not of triplets: what other losses than the triplet loss are made of.
PAIR_PENALTIES = ("contrastive", "supcon")
SETS = ("logsumexp", "lifted", "supcon")  # penalties that take an anchor's negatives together, with mining `all`


def settled_temperature(penalty: str, given: float | None) -> float:
    """The temperature of a rule: the one given, or the penalty's default; 1 for a penalty that has none."""
    return DEFAULT_TEMPERATURES.get(penalty, 1.0) if given is None else given


@dataclass(frozen=True)
class Rule:
    """Which triplets are mined, what each costs, and how the costs are put together.

    The mining chooses triplets:

        all                      every valid one                                     Hermans et al. 2017, eq. 6
        hard                     of each anchor the farthest positive and the nearest negative           eq. 5
        semihard                 of each anchor and positive the nearest negative that is farther than it
        easy-positive            of each anchor the nearest positive and the nearest negative  Xuan et al. 2020
        easy-positive-semihard   of each anchor the nearest positive, and the nearest negative beyond it
        distance-weighted        of each anchor and positive one negative drawn at random, near ones more
                                 often: in proportion to 1 / q(max(d, 0.5)) where d < 1.4, with d their
                                 Euclidean distance and q its density between random unit vectors; a pair
                                 with no such negative is left out                     Wu et al. 2017

    Farther is strictly farther; of equals the lowest index is chosen. Without a negative beyond the positive,
    `fallback` takes none, or the farthest of all.

    The penalty says what they cost. With d_ap, d_an the distances of anchor a to its positives p and negatives
    n, m the margin and tau the temperature, an anchor's value is the sum of its terms:

        hinge, squared-hinge, softplus     a term for each mined triplet: a function of z = d_ap + m - d_an
        logsumexp      `all`: for each p with negatives, tau log(1 + sum_n exp((d_ap - d_an + m) / tau))
                       other minings: for each triplet, tau softplus(z / tau)
        lifted         tau max(0, log sum_p exp(d_ap / tau) + log sum_n exp((m - d_an) / tau)), one term if a
                       has both (Hermans et al. 2017, eq. 7, at tau = 1)
        supcon         log(sum_p exp(-d_ap / tau) + sum_n exp(-d_an / tau)) + mean_p d_ap / tau, one term if a
                       has a positive (Khosla et al. 2020, eq. 2, of the similarity -d); m plays no part
        contrastive    sum_p max(0, d_ap - positive_margin)² + sum_n max(0, m - d_an)², a term for each pair

    The reduction divides the sum of the anchors' values by the number of their terms (`mean`), by the number
    of terms above zero (`mean-active`; softplus, logsumexp and supcon are always above), or not (`sum`). For
    contrastive, `mean-active` is the mean over active positive pairs plus the mean over active negative ones.

    Attributes:
        distance: between rows.
        mining: one of MININGS.
        margin: m, unless a margin is given for each anchor.
        penalty: one of PENALTIES or PAIR_PENALTIES; lifted, supcon and contrastive go with mining `all`.
        reduction: one of REDUCTIONS.
        fallback: one of FALLBACKS, for the minings in SEMIHARD.
        temperature: tau, of the penalties in DEFAULT_TEMPERATURES.
        positive_margin: of contrastive.
        seed: of distance-weighted: with it the draw is decided.
    """

    distance: Distance
    mining: str = "all"
    margin: float = 0.2
    penalty: str = "hinge"
    reduction: str = "mean-active"
    fallback: str = "skip"
    temperature: float = 1.0
    positive_margin: float = 0.0
    seed: int = 0

    @property
    def cost(self) -> Penalty:
        """The penalty of one triplet; that of logsumexp is tau * softplus(z / tau)."""
        penalty, tau = PENALTIES[self.penalty], self.temperature
        if self.penalty != "logsumexp":
            return penalty
        return Penalty(None, lambda z: tau * penalty.value(z / tau), lambda z: penalty.slope(z / tau))

    @property
    def has_temperature(self) -> bool:
        """Whether the value depends on the temperature."""
        return self.penalty in DEFAULT_TEMPERATURES

    @property
    def counts_active_only(self) -> bool:
        """Whether the mean is over active terms only; softplus and its kin penalise all they are given."""
        return self.reduction == "mean-active" and self.penalty not in ("softplus", "logsumexp", "supcon")

    @property
    def divides_pairs_apart(self) -> bool:
        """Whether positive and negative pairs are summed, and divided, apart: two parts instead of one."""
        return self.penalty == "contrastive" and self.counts_active_only

    def faults(self, penalties: Iterable[str] = tuple(PENALTIES)) -> list[str]:
        """What is wrong with the settings, one sentence each, where the penalties named are on offer."""
        found, penalties = [], tuple(penalties)
        for name, given, allowed in (
            ("mining", self.mining, MININGS),
            ("penalty", self.penalty, penalties),
            ("reduction", self.reduction, REDUCTIONS),
            ("fallback", self.fallback, FALLBACKS),
        ):
            try:
                check_choice(name, given, allowed)
            except InputError as fault:
                found.append(str(fault))
        return found + self._misplaced(penalties) + self._numbers()

    def _misplaced(self, penalties: tuple[str, ...]) -> list[str]:
        """Settings that would do nothing, or mean nothing, beside the others."""
        found = []
        offered = {"mining": MININGS, "penalty": penalties}
        for setting, is_set, word, owners in (
            ("fallback 'farthest'", self.fallback == "farthest", "mining", SEMIHARD),
            ("seed", self.seed != 0, "mining", ("distance-weighted",)),
            ("temperature", self.temperature != 1.0, "penalty", tuple(DEFAULT_TEMPERATURES)),
            ("positive_margin", self.positive_margin != 0.0, "penalty", ("contrastive",)),
        ):
            given = getattr(self, word)
            if is_set and given in offered[word] and given not in owners:
                listed = " or ".join(repr(owner) for owner in owners if owner in offered[word])
                found.append(f"{setting} belongs to {word} {listed}; with {word} {given!r} leave it out.")
        if self.penalty in ("lifted", *PAIR_PENALTIES) and self.mining != "all" and self.mining in MININGS:
            found.append(f"penalty {self.penalty!r} goes with mining 'all'; given is mining {self.mining!r}.")
        return found

    def _numbers(self) -> list[str]:
        """Numbers that are out of range."""
        found = []
        for name in ("margin", "positive_margin"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                found.append(f"{name} is {getattr(self, name)!r}; allowed is a finite number of at least 0.")
        if not _is_number(self.temperature) or self.temperature <= 0:
            found.append(f"temperature is {self.temperature!r}; allowed is a finite number above 0.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            found.append(f"seed is {self.seed!r}; allowed is a whole number from 0 to 2^63 - 1.")
        return found


def _is_number(given: object) -> bool:
    return isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)


@dataclass(frozen=True)
class Plan:
    """How triplets are reduced: by which implementation, in tiles of how many anchors and references.

    Where several ranks divide the work, each plans its own tiles, and `ranks` is how many there are.
    """

    implementation: str
    tile_rows: int
    tile_columns: int
    ranks: int = 1


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
