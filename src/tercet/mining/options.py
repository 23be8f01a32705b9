"""The rules of mining, typed and frozen. A field's name is its flag, and the line under it its help; no torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tercet.errors import InputError, check_choice

POSITIVES = ("easy", "random", "hard")
SEARCHES = ("auto", "exact", "approximate")


@dataclass(frozen=True)
class MiningOptions:
    """Which triplets are mined. d_ap and d_an are the distances of an anchor to its positive and to a negative.

    Raises:
        InputError: values out of range, all of them together.
    """

    positives: Literal["easy", "random", "hard"] = "random"
    """The nearest of the anchor's class, some drawn at random, or the farthest."""

    positives_per_anchor: int = 1
    """How many positives an anchor has; one with fewer takes them all."""

    negatives_per_anchor: int = 3
    """At most how many negatives an anchor has, with each of its positives; the nearest that all rules let through."""

    rank_from: int = 1
    """The first rank that may serve, counted from 1, the nearest of another class; more skips the very nearest, which \
are often label errors."""

    rank_to: int = 30
    """The last rank that may serve."""

    absolute_from: float | None = None
    """Only negatives with d_an - d_ap of at least this; below zero for negatives nearer than the positive."""

    absolute_to: float | None = None
    """Only negatives with d_an - d_ap of at most this."""

    relative_from: float | None = None
    """Only negatives with d_an >= d_ap * (1 + this)."""

    relative_to: float | None = None
    """Only negatives with d_an <= d_ap * (1 + this)."""

    per_class: int | None = None
    """At most so many negatives of one class for each anchor with each of its positives."""

    per_negative: int | None = None
    """An item is the negative of at most so many triplets, those of the smallest d_an."""

    duplicate_ratio: float = 0.1
    """Items nearer than this times the median distance to a nearest neighbour are near-duplicates, never negatives of \
each other; 0 leaves only those at distance zero."""

    suspect_neighbors: int = 10
    """How many of its nearest neighbours say whether an item is a likely label error; 0 suspects none."""

    suspect_share: float = 0.8
    """An item is a likely label error where this share of its neighbours has one other label."""

    search: Literal["auto", "exact", "approximate"] = "auto"
    """exact neighbours, or approximate ones through faiss; auto takes faiss beyond 50,000 items, where it can."""

    seed: int = 0
    """Decides the random positives."""

    def __post_init__(self) -> None:
        check_choice("positives", self.positives, POSITIVES)
        check_choice("search", self.search, SEARCHES)
        faults = [
            f"{name} is {given!r}, it must be {allowed}" for name, given, good, allowed in _rules(self) if not good
        ]
        faults += _reversed(self)
        if faults:
            raise InputError("; ".join(faults) + ".")


def _rules(options: MiningOptions) -> list[tuple[str, Any, bool, str]]:
    counts = ("positives_per_anchor", "negatives_per_anchor", "rank_from", "rank_to")
    rules = [(name, value := getattr(options, name), value >= 1, "1 or more") for name in counts]
    for name in ("per_class", "per_negative"):
        value = getattr(options, name)
        rules.append((name, value, value is None or value >= 1, "1 or more, or left open"))
    for name in ("absolute_from", "absolute_to"):
        value = getattr(options, name)
        rules.append((name, value, value is None or math.isfinite(value), "a finite number, or left open"))
    for name in ("relative_from", "relative_to"):
        value = getattr(options, name)
        good = value is None or -1 < value < math.inf
        rules.append((name, value, good, "a finite number above -1, or left open"))
    ratio, near, share = options.duplicate_ratio, options.suspect_neighbors, options.suspect_share
    rules.append(("duplicate_ratio", ratio, 0 <= ratio < math.inf, "a finite number, 0 or more"))
    rules.append(("suspect_neighbors", near, near == 0 or near >= 3, "3 or more, or 0 to suspect none"))
    rules.append(("suspect_share", share, 0.5 < share <= 1, "above 0.5 and at most 1"))
    rules.append(("seed", options.seed, 0 <= options.seed < 2**63, "0 or more and below 2**63"))
    return rules


def _reversed(options: MiningOptions) -> list[str]:
    """Ranges that end before they begin: nothing could be mined from them."""
    faults = []
    for name in ("rank", "absolute", "relative"):
        first, last = getattr(options, f"{name}_from"), getattr(options, f"{name}_to")
        if first is not None and last is not None and first > last:
            faults.append(f"{name}_from is {first!r} and {name}_to is {last!r}; the first must not be the larger")
    return faults
