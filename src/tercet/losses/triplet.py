"""Triplet losses over a batch: every triplet, or the mined ones, from embeddings and labels."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet import distances
from tercet.errors import InputError, TercetWarning
from tercet.kernels import MININGS, PENALTIES, REDUCTIONS, Rule
from tercet.kernels.rule import DEFAULT_TEMPERATURES, settled_temperature
from tercet.losses.base import BatchLoss, DistanceLike, check_execution, distance_setting
from tercet.losses.draws import Draws
from tercet.losses.given import triplet_margin_loss
from tercet.losses.inputs import as_plain, attempt, check_flag, faults_of
from tercet.losses.items import Items
from tercet.losses.margins import PerClassMargin, margin_module
from tercet.losses.presets import preset

DEFAULTS: dict[str, Any] = {"distance": "euclidean", "margin": 0.2, "normalize": False, "fallback": "skip"}
MANY = 1 << 20  # dimensions, where the largest distance between unit vectors may depend on their number


class TripletLoss(BatchLoss):
    """Triplet loss over all valid triplets of a batch, or over those that a rule mines.

    P(a) are the other items of anchor a's class, N(a) the items of other classes, d_ap = d(a, p), m the margin. A
    triplet costs penalty(z) with z = d_ap + m - d_an, which is max(0, z) (`hinge`), max(0, z)² (`squared-hinge`) or
    log(1 + exp(z)) (`softplus`). The loss is the sum of these costs over the mined triplets:

        all                      every p in P(a) and n in N(a)                       Hermans et al. 2017, eq. 6
        hard                     of each a the farthest p and the nearest n          Hermans et al. 2017, eq. 5
        semihard                 of each a and p the nearest n with d_an > d_ap      see below
        easy-positive            of each a the nearest p and the nearest n           Xuan et al. 2020, EPHN
        easy-positive-semihard   of each a the nearest p, and the nearest n with d_an > d_ap          ibid., EPSHN
        distance-weighted        of each a and p one n, drawn, far and near alike    Wu et al. 2017, section 4

    divided as `reduction` says: by the number of mined triplets (`mean`), of active ones, those with d_ap + m > d_an
    (`mean-active`, Hermans et al.'s "!= 0"), or not at all (`sum`). Softplus penalises every triplet, so with it
    `mean-active` is `mean`. A mean over nothing is 0.

    Two penalties take many distances of an anchor together, with temperature tau:

        logsumexp   sum over a, p of tau * log(1 + sum_n exp((d_ap - d_an + m) / tau))
        lifted      sum over a of tau * max(0, log sum_p exp(d_ap / tau) + log sum_n exp((m - d_an) / tau))

    The first is Sohn 2016's tuplet loss with a margin; its mean is over the pairs, and with minings other than `all`,
    which leave one negative, it is tau * softplus(z / tau). The second, for `all` alone, is Hermans et al. 2017's eq. 7
    at tau = 1; its mean is over the anchors that have both.

    `semihard` takes, for every anchor-positive pair, the nearest negative that is strictly farther than the positive,
    within the margin or not: the rule of TensorFlow Addons' TripletSemiHardLoss. A pair without one is left out
    (`fallback="skip"`) or takes the farthest negative (`fallback="farthest"`, as TensorFlow Addons does). FaceNet
    (Schroff et al. 2015, eq. 4) only asks for d_ap < d_an; its eq. 3 is the sum that `all` computes, with
    `squared-euclidean`. Other libraries mean other things by the word: every triplet with 0 < d_an - d_ap <= m
    (PyTorch Metric Learning), or one negative beyond the farthest positive (TensorFlow Similarity).

    `distance-weighted` draws n with probability in proportion to 1 / q(max(d_an, 0.5)) among negatives with
    d_an < 1.4, where q(d) is the density of distances between random points of the unit sphere, so that far and near
    negatives are drawn alike; it wants rows of unit length. The draw of a call depends on the seed, on the number of
    the call (`step`), and on the positions of anchor and positive in the batch, on nothing else.

    Other defaults differ too. `like` gives the settings of another library's own loss of the same mining; arguments
    that are given beside it win:

        like                      distance            margin   unit rows   reduction
        facenet                   squared-euclidean   0.2      yes         mean
        pytorch-metric-learning   euclidean           0.05     yes         mean-active
        sentence-transformers     euclidean           5        no          mean-active for `all`, else mean
        tensorflow-addons         euclidean           1        no          mean

    and for the last two's `semihard` the fallback `farthest`. FaceNet's is eq. 3 as a mean, as David Sandberg's
    `facenet` takes it; the paper writes a sum. A mining that the library lacks, or means otherwise, is refused. Values
    are equal where every anchor has a positive and a negative: with batch hard, sentence-transformers and TensorFlow
    Addons also count anchors that have none.

    The sum over all triplets needs no triplets: an anchor's few positives give thresholds t_p = d_ap + m, and each
    negative is compared with them once. With k_p negatives below t_p, of sum s_p, the hinge is sum_p (k_p t_p - s_p),
    and its gradient counts. The same idea makes ranking SVMs fast (Joachims 2006), and the squared hinge over all pairs
    log-linear (Rust and Hocking 2023).

    Time: three products of (B, D) by (D, B), forward and backward together, and O(log K) work a distance; with `all`,
    O(B²K) for softplus; two visits of the distances for logsumexp, lifted and distance-weighted. Memory:
    O(B·D + tile). The gradient is formed in the forward pass, so the loss cannot be differentiated twice. Half
    precision is computed in float32; autocast does not reach inside.

    Args:
        margin: m, finite and at least 0; 0.2 by default. On the unit sphere the Euclidean distance lies in [0, 2], its
            square in [0, 4], cosine in [0, 2]. A mapping from label to margin, or a sequence, array or tensor of the
            margins of labels 0, 1, …, gives each class its own, which its anchors take; `PerClassMargin` can learn
            them.
        mining: "all", "hard", "semihard", "easy-positive", "easy-positive-semihard" or "distance-weighted".
        distance: a name ("euclidean", "squared-euclidean", "cosine", "manhattan", "minkowski", "chebyshev",
            "jaccard"), an object such as `Minkowski(p=3)` or `Mahalanobis(learned=True, dim=D)`, or any symmetric
            function of rows, (N, D), (N, D) -> (N,); "euclidean" by default.
        penalty: "hinge", "squared-hinge", "softplus", "logsumexp" or "lifted".
        reduction: "mean-active", "mean" or "sum"; None means mean-active for `all` and mean for the others,
            which mean-active hurts (Hermans et al. 2017, table 1), and mean for learned margins.
        fallback: of the two semihard minings: "skip" (the default) or "farthest".
        temperature: tau; 0.1 by default for logsumexp, 1 for lifted. It belongs to these penalties alone.
        implementation: "auto", or the name of an implementation of the kernels, such as "torch", or "reference" (plain
            loops, for small batches). `plan` records the choice.
        normalize: whether rows are brought to unit length first (a zero row stays zero); False by default.
        learn_temperature: whether tau is trained, as log_scale = log(1 / tau), from `temperature` on. `logsumexp` grows
            with tau, by up to tau · log(1 + negatives), so a learned one falls unless something holds it.
        seed: of distance-weighted, from 0 to 2^63 - 1; 0 by default.
        statistics: "free", or "full": each call also counts hard, semi-hard and easy triplets and makes histograms of
            the distances, which costs another visit of them.
        across_ranks: whether the rows of all ranks are one batch: False, True, or "embeddings" where only the reference
            is the same on all; see `BatchLoss`.
        like: "facenet", "pytorch-metric-learning", "sentence-transformers" or "tensorflow-addons"; see above.

    Attributes:
        stats: `TripletStats` of the last call; None before.
        plan: how the last call was computed; None before.
        margins: `PerClassMargin`; None where one margin serves all.
        temperature: tau as it is now.
        step: of distance-weighted, the number of the next draw. Each call that forms a gradient makes one; a call
            without one (`torch.no_grad`, `per_anchor`) shows the next and does not count. It is saved with the state,
            and may be set.

    Raises:
        InputError: any setting is not allowed; all faults are named together.

    Example:
        >>> import torch
        >>> loss = TripletLoss(margin=1.0)
        >>> embeddings = torch.tensor([[0.0], [1.0], [1.5], [4.0]], requires_grad=True)
        >>> loss(embeddings, ["a", "a", "b", "b"])                      # five of eight triplets are active
        tensor(1.5000, grad_fn=<_FormedBackward>)
        >>> loss.stats.to_dict()["n_active"]
        5
        >>> loss.per_anchor(embeddings, ["a", "a", "b", "b"])           # the mean over each anchor's active triplets
        tensor([0.5000, 1.5000, 2.5000, 0.5000])
    """

    def __init__(
        self,
        margin: float | Mapping[Any, float] | Sequence[float] | Tensor | np.ndarray | PerClassMargin | None = None,
        mining: str = "all",
        distance: DistanceLike | None = None,
        penalty: str = "hinge",
        reduction: str | None = None,
        fallback: str | None = None,
        temperature: float | None = None,
        implementation: str = "auto",
        *,
        normalize: bool | None = None,
        learn_temperature: bool = False,
        seed: int | None = None,
        statistics: str = "free",
        across_ranks: bool | str = False,
        like: str | None = None,
    ) -> None:
        faults: list[str] = []
        asked = {
            "margin": margin,
            "distance": distance,
            "normalize": normalize,
            "reduction": reduction,
            "fallback": fallback,
        }
        settings = DEFAULTS | attempt(lambda: preset(like, mining), {}, faults)
        settings |= {name: value for name, value in asked.items() if value is not None}
        margins: PerClassMargin | None = attempt(lambda: margin_module(settings["margin"]), None, faults)
        settings.setdefault("reduction", _default_reduction(mining, margins))
        rule = Rule(
            attempt(lambda: distances.resolve(settings["distance"]), distances.Euclidean(), faults),
            mining,
            _number(settings["margin"], margins),
            penalty,
            settings["reduction"],
            settings["fallback"],
            settled_temperature(penalty, temperature),
            seed=0 if seed is None else seed,
        )
        faults += rule.faults() + _misplaced(rule, margins, learn_temperature, seed)
        faults += faults_of(
            lambda: check_flag("normalize", settings["normalize"]),
            lambda: check_flag("learn_temperature", learn_temperature),
            *check_execution(implementation, statistics, across_ranks),
        )
        if faults:
            raise InputError("\n".join(faults))
        super().__init__(
            rule,
            normalize=settings["normalize"],
            learn_temperature=learn_temperature,
            implementation=implementation,
            statistics=statistics,
            across_ranks=across_ranks,
        )
        self.margins = margins
        self.draws = Draws(rule.seed) if mining == "distance-weighted" else None
        self._given_margin = (settings["margin"],)  # in a tuple, so that a module is not registered twice
        _warn_of_margin(rule, margins, self.normalize)

    @property
    def step(self) -> int:
        """The number of the next draw, of mining `distance-weighted`."""
        if self.draws is None:
            raise AttributeError("step")  # nn.Module words it
        return self.draws.number

    @step.setter
    def step(self, number: int) -> None:
        if self.draws is None:
            raise InputError(
                f"step counts the draws of mining 'distance-weighted'; this mining is {self.rule.mining!r}."
            )
        self.draws.number = int(number)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, from which an equal loss can be built, parameters at their start.

        They are plain words and numbers, but for a distance that its name does not give, and a `PerClassMargin`: these
        are the objects themselves, so that a loss built from them shares their parameters. The arguments after
        `implementation` are named only where they are in use.
        """
        rule, margin = self.rule, self._given_margin[0]
        named = {
            "margin": margin if isinstance(margin, PerClassMargin) else _plain(margin),
            "mining": rule.mining,
            "distance": distance_setting(rule.distance),
            "penalty": rule.penalty,
            "reduction": rule.reduction,
            "fallback": rule.fallback,
            "temperature": rule.temperature if rule.has_temperature else None,
            "implementation": self.implementation,
        }
        further = {
            "normalize": self.normalize,
            "learn_temperature": self.log_scale is not None,
            "seed": rule.seed,
            "statistics": self.statistics,
            "across_ranks": self.across_ranks,
        }
        return named | {name: value for name, value in further.items() if value not in (False, 0, "free")}

    def triplets(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """`triplet_margin_loss` of N given triplets, three tensors of shape (N, D), with this loss's settings.

        Its mining, margins per class and a learned temperature have no say there.
        """
        rule = self.rule
        return triplet_margin_loss(
            anchor, positive, negative,
            margin=rule.margin, distance=rule.distance, penalty=rule.penalty, reduction=rule.reduction,
            temperature=rule.temperature if rule.has_temperature else None, normalize=self.normalize,
        )  # fmt: skip

    def _margins(self, items: Items) -> Tensor | None:
        if self.margins is None:
            return None
        if items.given_labels is None or items.relation is not None or items.labels.ndim > 1:
            raise InputError(
                "margins per class need one label for each anchor, whose class they go by; give labels, integers or "
                "strings, without a relation, or one margin for all."
            )
        return self.margins(items.given_labels)

    def _rule(self, temperature: Tensor | None) -> Rule:
        rule = super()._rule(temperature)
        return rule if self.draws is None else dataclasses.replace(rule, seed=self.draws.key())

    def _value(self, items: Items) -> Tensor:
        value = self._reduced(items)
        if self.draws is not None and (value.requires_grad or items.gradient_elsewhere):
            self.draws.number += 1
        reward = self._reward(items)
        if reward is None:
            return value
        weights = torch.ones_like(reward) if items.weights is None else items.weights
        total = weights.sum()
        return value - (weights * reward).sum() / torch.where(total > 0, total, 1)

    def _values(self, items: Items) -> Tensor:
        values, reward = super()._values(items), self._reward(items)
        return values if reward is None else values - reward

    def _reward(self, items: Items) -> Tensor | None:
        """What learned margins are rewarded by, nu * m_c(a), of shape (A,)."""
        if self.margins is None or not self.margins.nu:
            return None
        margins = self._margins(items)
        assert margins is not None
        return self.margins.nu * margins.to(items.dtype)


def _default_reduction(mining: str, margins: PerClassMargin | None) -> str:
    rewarded = margins is not None and margins.nu > 0
    return "mean-active" if mining == "all" and not rewarded else "mean"


def _number(margin: Any, margins: PerClassMargin | None) -> Any:
    """The rule's margin: the one for all, or the smallest of those per class, which take its place."""
    if margins is not None:
        return float(margins.values().detach().min())
    several = isinstance(margin, (Mapping, list, tuple)) or getattr(margin, "ndim", 0) > 0
    return DEFAULTS["margin"] if several else as_plain(margin)  # margins with a fault, which has been named


def _plain(margin: Any) -> Any:
    return dict(margin) if isinstance(margin, Mapping) else as_plain(margin)


def _misplaced(rule: Rule, margins: PerClassMargin | None, learn_temperature: bool, seed: int | None) -> list[str]:
    """Settings that would do nothing beside the others, or undo them."""
    found = []
    if learn_temperature and not rule.has_temperature and rule.penalty in PENALTIES:
        owners = " or ".join(repr(name) for name in PENALTIES if name in DEFAULT_TEMPERATURES)
        found.append(f"learn_temperature belongs to penalty {owners}; with penalty {rule.penalty!r} leave it out.")
    if seed == 0 and rule.mining != "distance-weighted" and rule.mining in MININGS:
        found.append(f"seed belongs to mining 'distance-weighted'; with mining {rule.mining!r} leave it out.")
    if margins is not None and margins.nu and rule.reduction != "mean" and rule.reduction in REDUCTIONS:
        found.append(
            f"margins learned with nu={margins.nu:g} go with reduction 'mean'; given is {rule.reduction!r}. Leave the "
            f"reduction out, or give PerClassMargin(..., nu=0)."
        )
    return found


def _warn_of_margin(rule: Rule, margins: PerClassMargin | None, normalize: bool) -> None:
    largest = rule.distance.largest
    if normalize:
        largest = min(largest, rule.distance.sphere_range(MANY))
    margin = rule.margin if margins is None else float(margins.values().detach().max())
    if margin >= largest:
        warnings.warn(
            f"a margin of {margin:g} can never be satisfied: the {rule.distance.name} distance is at most "
            f"{largest:g}, so every triplet stays active for ever. Choose a smaller margin.",
            TercetWarning,
            stacklevel=3,
        )
