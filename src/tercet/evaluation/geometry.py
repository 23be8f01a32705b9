"""Geometry: how embeddings fill their space, whatever is asked of them.

Shapes: N items, D dimensions, singular values s_1 >= s_2 >= … of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tercet.data.randomness import keyed
from tercet.evaluation.classes import class_codes
from tercet.evaluation.pairs import all_pairs
from tercet.neighbors.vectors import as_vectors

MOST_PAIRS = 200_000  # of more, a seeded sample
MOST_PRODUCTS = 20_000_000_000  # for the spectrum, about a second's: of more, a seeded sample of the items
MOST_DOUBLE = 100_000_000  # numbers, 0.8 GB of float64; more are left as they are
ALPHA, T = 2, 2  # Wang and Isola's choice for both of their figures
ROUNDING = 1e-6  # of the largest singular value: what is below is no dimension


@dataclass(frozen=True)
class Geometry:
    """Figures of a set of embeddings, None where it cannot tell, with the reason in `missing`.

    Attributes:
        metrics: effective_rank, spectral_decay, alignment, uniformity, intra_inter_ratio.
        missing: the reason for each that is None.
        spectrum: s_i / sum of s of the centred rows, the largest first.
        note: what was sampled.
    """

    metrics: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)
    spectrum: list[float] = field(default_factory=list)
    note: str | None = None


def effective_rank(rows: Tensor) -> float:
    """exp(H(sigma / sum sigma)) of the singular values of centred rows, of shape (S, D) (Roy and Vetterli 2007, eq. 3).

    From 1, all on a line, to min(S - 1, D); 1 where all rows are one.
    """
    return _entropic(_singular_values(rows - rows.mean(dim=0)))


def _entropic(values: Tensor) -> float:
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total else 1.0


def geometry(embeddings: Any, labels: Any, seed: int = 0) -> Geometry:
    """The spectrum of the embeddings, and how near their classes and how even their directions are.

    * effective_rank: see there. Of the embeddings as they are; all others are of rows of length one.
    * spectral_decay: rho = KL(uniform || s / sum s), of the rows not centred; 0 is a flat spectrum (Roth et al. 2020,
      Revisiting Training Strategies and Generalization Performance in Deep Metric Learning, section 5).
    * alignment: mean over pairs of a class of ||x - y||² (Wang and Isola 2020, with alpha = 2); smaller is better.
    * uniformity: log of the mean over all pairs of exp(-2 ||x - y||²) (the same, with t = 2); smaller is more even.
    * intra_inter_ratio: mean distance of two items of a class, averaged over classes, over the mean distance of two
      classes' means (Roth et al. 2020).

    Time O(N D min(N, D) + P D), for P = 200,000 pairs at most and as many items as keep the first term below 2·10^10.

    Args:
        embeddings: of shape (N, D).
        labels: (N,).
        seed: of the pairs, where there are more.
    """
    rows = as_vectors(embeddings, "embeddings")
    codes = class_codes(labels, len(rows))
    names = ("effective_rank", "spectral_decay", "alignment", "uniformity", "intra_inter_ratio")
    if len(rows) < 2:
        return Geometry(dict.fromkeys(names), dict.fromkeys(names, f"needs at least 2 items; there are {len(rows)}"))
    some = _some_of(rows, seed)
    values = _singular_values(some - some.mean(dim=0))
    spectrum = (values / values.sum()).tolist() if values.sum() else []
    found: dict[str, float | None] = {"effective_rank": _entropic(values)}
    missing: dict[str, str] = {}
    zero = int((rows.norm(dim=1) == 0).sum())
    if zero:
        reason = f"embeddings without a direction, all zero: {zero}"
        return Geometry(found | dict.fromkeys(names[1:]), dict.fromkeys(names[1:], reason), spectrum)
    unit = nn.functional.normalize(rows.double() if rows.numel() <= MOST_DOUBLE else rows)
    found["spectral_decay"], missing["spectral_decay"] = _decay(nn.functional.normalize(some))
    pairs = all_pairs(unit, codes, "euclidean", MOST_PAIRS, seed)
    distance, same = pairs.distance.astype(np.float64), pairs.same
    kernel = np.exp(-T * np.square(distance))
    share = pairs.share_same
    parts = [part * kernel[kind].mean() for part, kind in ((share, same), (1 - share, ~same)) if kind.any()]
    found["uniformity"] = float(np.log(sum(parts)))
    found["alignment"] = float((distance[same] ** ALPHA).mean()) if same.any() else None
    missing["alignment"] = "no class has two members"
    found["intra_inter_ratio"], missing["intra_inter_ratio"] = _ratio(unit, codes, distance, same, pairs.left, seed)
    notes = [f"Alignment, uniformity and the intra/inter ratio are from {len(distance):,} pairs."] * pairs.sampled
    notes += [f"The spectrum is of {len(some):,} items."] * (len(some) < len(rows))
    missing = {name: reason for name, reason in missing.items() if found[name] is None}
    return Geometry({name: found[name] for name in names}, missing, spectrum, " ".join(notes) or None)


def _some_of(rows: Tensor, seed: int) -> Tensor:
    """All rows, or a seeded sample of as many as the spectrum is worth, float64."""
    dim = rows.shape[1]
    most = max(MOST_PRODUCTS // max(dim * dim, 1), min(int((MOST_PRODUCTS / max(dim, 1)) ** 0.5), dim), 2)
    if len(rows) <= most:
        return rows.double()
    drawn = np.sort(keyed(seed, "geometry", 1).choice(len(rows), most, replace=False))
    return rows[torch.from_numpy(drawn).to(rows.device)].double()


def _singular_values(rows: Tensor) -> Tensor:
    """Of rows (N, D), the largest first."""
    return torch.linalg.svdvals(rows.double().cpu())


def _decay(unit: Tensor) -> tuple[float | None, str]:
    values = _singular_values(unit)
    spanned = int((values > ROUNDING * values[0]).sum())
    if spanned < unit.shape[1]:
        return None, f"the embeddings span {spanned} of {unit.shape[1]} dimensions, which makes it infinite"
    share = values / values.sum()
    return float(-(share * len(share)).log().mean()), ""


def _ratio(
    unit: Tensor, codes: np.ndarray, distance: np.ndarray, same: np.ndarray, left: np.ndarray, seed: int
) -> tuple[float | None, str]:
    if not same.any():
        return None, "no class has two members"
    n_classes = int(codes.max()) + 1
    if n_classes < 2:
        return None, "there is a single class"
    of_pair = codes[left[same]]
    counts = np.bincount(of_pair, minlength=n_classes)
    sums = np.bincount(of_pair, distance[same], n_classes)
    intra = float((sums[counts > 0] / counts[counts > 0]).mean())
    totals = torch.zeros(n_classes, unit.shape[1], dtype=unit.dtype).index_add_(0, torch.from_numpy(codes), unit.cpu())
    means = totals / torch.from_numpy(np.bincount(codes))[:, None]
    if n_classes * (n_classes - 1) // 2 > MOST_PAIRS:
        one, other = keyed(seed, "geometry").integers(n_classes, size=(2, MOST_PAIRS))
        inter = float((means[one[one != other]] - means[other[one != other]]).norm(dim=1).mean())
    else:
        inter = float(nn.functional.pdist(means).mean())
    return (intra / inter, "") if inter > 0 else (None, "all classes have one mean")
