"""Triplet losses over a batch: every triplet, or the mined ones, from embeddings and labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tercet import distances
from tercet.distances import Distance
from tercet.errors import InputError, TercetWarning, check_choice
from tercet.kernels import IMPLEMENTATIONS, Plan, Rule, TripletStats, reduce_triplets
from tercet.kernels.rule import settled_temperature
from tercet.losses.formed import with_gradient
from tercet.losses.inputs import check_alike, check_rows, working_dtype
from tercet.losses.labels import Labels, encode


class TripletLoss(nn.Module):
    """Triplet loss over all valid triplets of a batch, or over those that a rule mines.

    P(a) are the other items of anchor a's class, N(a) the items of other classes, d_ap = d(a, p), m the margin. A
    triplet costs penalty(z) with z = d_ap + m - d_an, which is max(0, z) (`hinge`), max(0, z)² (`squared-hinge`) or
    log(1 + exp(z)) (`softplus`). The loss is the sum of these costs over the mined triplets:

        all        every p in P(a) and n in N(a)                       Hermans et al. 2017, eq. 6
        hard       of each a the farthest p and the nearest n          Hermans et al. 2017, eq. 5
        semihard   of each a and p the nearest n with d_an > d_ap      see below

    divided as `reduction` says: by the number of mined triplets (`mean`), of active ones, those with d_ap + m > d_an
    (`mean-active`, Hermans et al.'s "!= 0"), or not at all (`sum`). Softplus penalises every triplet, so with it
    `mean-active` is `mean`. A mean over nothing is 0.

    The penalty `logsumexp`, with temperature tau, takes the negatives of a pair together, by their smooth maximum:

        all        sum over a, p of tau * log(1 + sum over n of exp((d_ap - d_an + m) / tau))

    (Sohn 2016's tuplet loss with a margin; kin to Hermans et al. 2017, eq. 7, which also sums over the positives).
    Its mean is over the pairs. With hard and semihard, which leave one negative, it is tau * softplus(z / tau).

    `semihard` takes, for every anchor-positive pair, the nearest negative that is strictly farther than the positive,
    within the margin or not: the rule of TensorFlow Addons' TripletSemiHardLoss. A pair without one is left out
    (`fallback="skip"`) or takes the farthest negative (`fallback="farthest"`, as TensorFlow Addons does). FaceNet
    (Schroff et al. 2015, eq. 4) only asks for d_ap < d_an; its eq. 3 is the sum that `all` computes, with
    `squared-euclidean`. Other libraries mean other things by the word: every triplet with 0 < d_an - d_ap <= m
    (PyTorch Metric Learning), or one negative beyond the farthest positive (TensorFlow Similarity). Other defaults
    differ too: there the distance may be of normalised embeddings; here nothing is normalised unless the distance is
    `cosine`.

    The sum over all triplets needs no triplets: an anchor's few positives give thresholds t_p = d_ap + m, and each
    negative is compared with them once. With k_p negatives below t_p, of sum s_p, the hinge is sum_p (k_p t_p - s_p),
    and its gradient counts. The same idea makes ranking SVMs fast (Joachims 2006), and the squared hinge over all pairs
    log-linear (Rust and Hocking 2023).

    Time: three products of (B, D) by (D, B), forward and backward together, and O(log K) work a distance;
    with `all`, O(B²K) for softplus and two visits of the distances for logsumexp. Memory: O(B·D + tile). The gradient
    is formed in the forward pass, so the loss cannot be differentiated twice. Half precision is computed in float32;
    autocast does not reach inside.

    Args:
        margin: m, finite and at least 0. On the unit sphere the Euclidean distance lies in [0, 2], its square
            in [0, 4], cosine in [0, 2].
        mining: "all", "hard" or "semihard".
        distance: a name ("euclidean", "squared-euclidean", "cosine", "manhattan", "minkowski"), an object
            such as `Minkowski(p=3)`, or any symmetric function of rows, (N, D), (N, D) -> (N,).
        penalty: "hinge", "squared-hinge", "softplus" or "logsumexp".
        reduction: "mean-active", "mean" or "sum"; None means mean-active for `all` and mean for the others,
            which mean-active hurts (Hermans et al. 2017, table 1).
        fallback: of `semihard`: "skip" or "farthest".
        temperature: tau of logsumexp, 0.1 by default; it belongs to that penalty alone.
        implementation: "auto", "torch", or "reference" (plain loops, for small batches). `plan` records the
            choice.

    Attributes:
        stats: `TripletStats` of the last call; None before.
        plan: how the last call was computed; None before.

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
    """

    def __init__(
        self,
        margin: float = 0.2,
        mining: str = "all",
        distance: str | Distance | Callable[[Tensor, Tensor], Tensor] = "euclidean",
        penalty: str = "hinge",
        reduction: str | None = None,
        fallback: str = "skip",
        temperature: float | None = None,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        if reduction is None:
            reduction = "mean-active" if mining == "all" else "mean"
        faults = []
        try:
            resolved = distances.resolve(distance)
        except InputError as fault:
            resolved = distances.Euclidean()
            faults.append(str(fault))
        temperature = settled_temperature(penalty, temperature)
        self.rule = Rule(resolved, mining, margin, penalty, reduction, fallback, temperature)
        faults += self.rule.faults()
        try:
            check_choice("implementation", implementation, IMPLEMENTATIONS)
        except InputError as fault:
            faults.append(str(fault))
        if faults:
            raise InputError("\n".join(faults))
        self.implementation = implementation
        self.stats: TripletStats | None = None
        self.plan: Plan | None = None
        if margin >= resolved.largest:
            warnings.warn(
                f"a margin of {margin:g} can never be satisfied: the {resolved.name} distance is at most "
                f"{resolved.largest:g}, so every triplet stays active for ever. Choose a smaller margin.",
                TercetWarning,
                stacklevel=2,
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as plain words and numbers, from which an equal loss can be built.

        A distance that was given as a function appears by its name alone.
        """
        rule = self.rule
        return {
            "margin": float(rule.margin),
            "mining": rule.mining,
            "distance": rule.distance.name,
            "penalty": rule.penalty,
            "reduction": rule.reduction,
            "fallback": rule.fallback,
            "temperature": rule.temperature if rule.penalty == "logsumexp" else None,
            "implementation": self.implementation,
        }

    def extra_repr(self) -> str:
        """The settings, as one writes them in the constructor."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    def forward(
        self,
        embeddings: Tensor,
        labels: Labels,
        *,
        reference: Tensor | None = None,
        reference_labels: Labels | None = None,
        ids: Labels | None = None,
        reference_ids: Labels | None = None,
    ) -> Tensor:
        """The loss as a 0-d tensor, with a graph to the embeddings and to the reference.

        Args:
            embeddings: the anchors, of shape (B, D).
            labels: their classes: B integers or strings, as a tensor, an array or a list.
            reference: of shape (M, D): positives and negatives come from here instead of from the batch.
            reference_labels: M labels, given with `reference`.
            ids: B integers or strings: rows of the same id are one item, never compared. By default each row
                of the batch is an item of its own, and no row of the reference is an item of the batch.
            reference_ids: M ids, given with `reference` and `ids`, for a reference that holds items of the
                batch.

        Returns:
            The loss, of the embeddings' dtype (float32 for half precision). Without a triplet it is 0, with
            zero gradients; if an embedding is not finite, it is NaN.

        Raises:
            InputError: shapes, lengths, dtypes or devices do not fit, or labels are missing.
        """
        embeddings = check_rows("embeddings", embeddings)
        _check_given_together(reference, reference_labels, ids, reference_ids)
        n_references = len(embeddings)
        if reference is not None:
            n_references = len(check_rows("reference", reference))
            check_alike("reference", reference, "embeddings", embeddings, rows=False)
        codes = _on_device(embeddings, "labels", labels, reference_labels, n_references)
        id_codes = (None, None) if ids is None else _on_device(embeddings, "ids", ids, reference_ids, n_references)
        given = [embeddings] if reference is None else [embeddings, reference]
        with torch.autocast(embeddings.device.type, enabled=False):
            tensors = [tensor.to(working_dtype(*given)) for tensor in given]
            need_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
            result = reduce_triplets(
                tensors[0].detach(),
                tensors[1].detach() if len(tensors) > 1 else None,
                codes[0],
                codes[1],
                self.rule,
                ids=id_codes[0],
                reference_ids=id_codes[1],
                need_gradient=need_gradient,
                implementation=self.implementation,
            )
        self.stats, self.plan = result.stats, result.plan
        value = result.value
        if need_gradient:
            formed = (result.gradient_anchors, result.gradient_references)
            value = with_gradient(value, tensors, [part for part in formed if part is not None])
        return value.to(working_dtype(embeddings))


def _check_given_together(
    reference: Tensor | None,
    reference_labels: Labels | None,
    ids: Labels | None,
    reference_ids: Labels | None,
) -> None:
    if (reference is None) != (reference_labels is None):
        given, missing = ("reference", "reference_labels")
        if reference is None:
            given, missing = missing, given
        raise InputError(f"{given} is given without {missing}; give both, or neither.")
    if reference is None and reference_ids is not None:
        raise InputError("reference_ids is given without reference; the batch's own ids are called ids.")
    if reference is not None and (ids is None) != (reference_ids is None):
        given, missing = ("ids", "reference_ids") if reference_ids is None else ("reference_ids", "ids")
        raise InputError(
            f"with a reference, {given} is given without {missing}; give both, or neither "
            f"(then no row of the reference is an item of the batch)."
        )


def _on_device(
    embeddings: Tensor, name: str, given: Labels, of_reference: Labels | None, n_references: int
) -> tuple[Tensor, Tensor | None]:
    codes, others = encode(name, given, len(embeddings), f"reference_{name}", of_reference, n_references)
    device = embeddings.device
    return codes.to(device), None if others is None else others.to(device)
