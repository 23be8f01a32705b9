"""The settings of other libraries' triplet losses, by mining: what `TripletLoss(like=...)` stands for."""

from __future__ import annotations

from typing import Any

from tercet.errors import InputError, check_choice
from tercet.kernels import MININGS

Settings = dict[str, Any]

_FACENET = {"distance": "squared-euclidean", "margin": 0.2, "normalize": True, "reduction": "mean"}
_PML = {"distance": "euclidean", "margin": 0.05, "normalize": True, "reduction": "mean-active"}
_SBERT = {"distance": "euclidean", "margin": 5.0, "normalize": False, "reduction": "mean"}
_TFA = {"distance": "euclidean", "margin": 1.0, "normalize": False, "reduction": "mean"}
_FARTHEST = {"fallback": "farthest"}

PRESETS: dict[str, dict[str, Settings]] = {
    "facenet": dict.fromkeys(("all", "hard", "semihard"), _FACENET),
    "pytorch-metric-learning": dict.fromkeys(("all", "hard", "easy-positive", "easy-positive-semihard"), _PML),
    "sentence-transformers": {
        "all": {**_SBERT, "reduction": "mean-active"},
        "hard": _SBERT,
        "semihard": _SBERT | _FARTHEST,
    },
    "tensorflow-addons": {"hard": _TFA, "semihard": _TFA | _FARTHEST},
}
# Where a word of ours means something else there, a table of settings could only mislead.
_MEANS_OTHERWISE = {
    ("pytorch-metric-learning", "semihard"): "its semihard miner keeps every triplet with 0 < d_an - d_ap <= margin",
    ("pytorch-metric-learning", "distance-weighted"): "its miner draws from a generator of its own",
}


def preset(like: str | None, mining: str) -> Settings:
    """The settings that `like` stands for with this mining; none for None.

    Raises:
        InputError: an unknown name, or the library has no loss that equals the mining.
    """
    if like is None:
        return {}
    check_choice("like", like, PRESETS)
    if mining not in MININGS:
        return {}  # which is a fault of its own
    found = PRESETS[like].get(mining)
    if found is None:
        reason = _MEANS_OTHERWISE.get((like, mining), "it has no such loss")
        listed = ", ".join(repr(word) for word in PRESETS[like])
        raise InputError(
            f"like {like!r} has no settings for mining {mining!r}: {reason}. It has settings for {listed}; or leave "
            f"`like` out and give margin, distance, normalize and reduction themselves."
        )
    return found
